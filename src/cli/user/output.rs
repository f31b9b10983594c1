//! What `cloudchat user` prints, as text or as JSON. No secret is among it.

use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;

use crate::model::{Shown, User};

/// The last millisecond of the year 9999: RFC 3339 knows no later one.
const MS_MAX: u64 = 253_402_300_799_999;

/// What `show` tells besides the user.
pub(super) struct Details {
    pub has_password: bool,
    /// None: it has none, or it is not known when it was chosen.
    pub password_changed_ms: Option<i64>,
    /// Those that the user could go on with.
    pub sessions: usize,
}

/// What a command has done.
#[derive(Serialize)]
pub(super) struct Change<'a> {
    pub done: &'static str,
    pub id: i64,
    pub uid: &'a str,
    pub sessions_ended: u32,
}

#[derive(Serialize)]
struct UserJson<'a> {
    #[serde(flatten)]
    user: Shown<'a>,
    created_at: Option<String>,
}

#[derive(Serialize)]
struct DetailsJson<'a> {
    #[serde(flatten)]
    user: UserJson<'a>,
    password_changed_at: Option<String>,
    sessions: usize,
}

impl<'a> UserJson<'a> {
    fn of(user: &'a User) -> Self {
        Self {
            user: user.shown(),
            created_at: user.created_ms.map(time),
        }
    }
}

/// The first line of a list as text.
pub(super) fn header() -> String {
    row("ID", "UID", "STATE", "CREATED", "EMAIL", "PHONE", "NAME")
}

/// A user in one line.
pub(super) fn line(user: &User, json: bool) -> String {
    let known = UserJson::of(user);
    if json {
        return json_line(&known);
    }
    let UserJson { user, created_at } = known;
    row(
        &user.id.to_string(),
        &shown(user.uid),
        state(user.is_active),
        created_at.as_deref().unwrap_or("-"),
        &shown(user.email.unwrap_or("-")),
        &shown(user.phone.unwrap_or("-")),
        &shown(user.display_name.unwrap_or("-")),
    )
}

/// All about a user.
pub(super) fn show(user: &User, details: &Details, json: bool) -> String {
    let password_changed_at = details.password_changed_ms.map(time);
    let known = UserJson::of(user);
    if json {
        return json_line(&DetailsJson {
            user: known,
            password_changed_at,
            sessions: details.sessions,
        });
    }
    let UserJson { user, created_at } = known;
    let password = match (details.has_password, password_changed_at) {
        (false, _) => "none".to_owned(),
        (true, Some(at)) => format!("set {at}"),
        (true, None) => "set".to_owned(),
    };
    [
        ("id", user.id.to_string()),
        ("uid", shown(user.uid)),
        ("email", shown(user.email.unwrap_or("-"))),
        ("phone", shown(user.phone.unwrap_or("-"))),
        ("display name", shown(user.display_name.unwrap_or("-"))),
        ("state", state(user.is_active).to_owned()),
        ("created", created_at.unwrap_or_else(|| "-".to_owned())),
        ("password", password),
        ("sessions", details.sessions.to_string()),
    ]
    .iter()
    .map(|(name, value)| format!("{name:<13} {value}\n"))
    .collect()
}

/// What has been done to whom.
pub(super) fn change(change: &Change<'_>, user: &User, json: bool) -> String {
    if json {
        return json_line(change);
    }
    let Change { done, uid, .. } = change;
    let name = name(user);
    let ended = match change.sessions_ended {
        0 => String::new(),
        ended => format!(", sessions ended: {ended}"),
    };
    format!("{done}: {name} (uid {uid}){ended}\n")
}

/// What a user is called in a sentence: by its address, or else its phone number.
pub(super) fn name(user: &User) -> String {
    let Shown { email, phone, .. } = user.shown();
    shown(email.or(phone).unwrap_or("a user without address"))
}

/// Text of a user, with what could move a terminal's cursor or turn its text around escaped.
pub(super) fn shown(text: &str) -> String {
    escaped(text, false)
}

/// The escape is Rust's, or JSON's, which has room for four digits; none of these characters needs more.
fn escaped(text: &str, in_json: bool) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match (is_unsafe(c), u32::from(c)) {
            (false, _) => safe.push(c),
            (true, c) if in_json => safe += &format!("\\u{c:04x}"),
            (true, c) => safe += &format!("\\u{{{c:x}}}"),
        }
    }
    safe
}

/// Control characters, those that end a line or a paragraph, and those that say which way text runs (Bidi_Control).
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn row(
    id: &str,
    uid: &str,
    state: &str,
    created: &str,
    email: &str,
    phone: &str,
    name: &str,
) -> String {
    format!("{id:<7} {uid:<12} {state:<8} {created:<20} {email}  {phone}  {name}\n")
}

fn state(is_active: bool) -> &'static str {
    match is_active {
        true => "active",
        false => "disabled",
    }
}

fn time(ms: i64) -> String {
    let ms = u64::try_from(ms).unwrap_or(0).min(MS_MAX);
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(ms)).to_string()
}

fn json_line(value: &impl Serialize) -> String {
    let text = serde_json::to_string(value).expect("numbers and text can be JSON");
    // What is escaped stands in strings only.
    escaped(&text, true) + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_time_and_any_text_can_be_shown() {
        assert_eq!(time(0), "1970-01-01T00:00:00Z");
        assert_eq!(time(i64::MIN), "1970-01-01T00:00:00Z");
        assert_eq!(time(i64::MAX), "9999-12-31T23:59:59Z");
        assert_eq!(shown("a\u{1b}[2Jb\n密"), "a\\u{1b}[2Jb\\u{a}密");
        assert_eq!(shown("a\u{202e}b\u{2066}é"), "a\\u{202e}b\\u{2066}é");
        let text = "a\u{1b}\"\u{7f}\u{9b}b\u{202e}\u{2028}密";
        let line = json_line(&text);
        assert_eq!(line, "\"a\\u001b\\\"\\u007f\\u009bb\\u202e\\u2028密\"\n");
        assert_eq!(
            serde_json::from_str::<String>(&line).expect("it is JSON"),
            text
        );
    }
}
