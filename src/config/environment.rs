//! Variables as settings: without quotes around a value, without what container links leave there, and with a hint
//! where a name is nearly one of ours.

use std::cell::RefCell;

use super::read::{Lookup, distance, quoted};

/// What a container link's port begins with; a port of ours is a number.
const LINKS: [&str; 3] = ["tcp://", "udp://", "sctp://"];
/// Letters that a name may lack at its end, or have there beyond ours: `REDIS_PASS`, `SMTP_USERNAME`.
const LETTERS_MAX: usize = 4;

/// The environment, and what was asked of it.
pub struct Environment<'a> {
    lookup: Lookup<'a>,
    /// Names of ours, each once.
    asked: RefCell<Vec<String>>,
    /// A warning for each variable that a link has set.
    links: RefCell<Vec<String>>,
}

impl<'a> Environment<'a> {
    /// What `lookup` finds.
    pub fn new(lookup: Lookup<'a>) -> Self {
        Self {
            lookup,
            asked: RefCell::default(),
            links: RefCell::default(),
        }
    }

    /// A variable of ours. An empty one counts as not set, as in `NAME=` of an env file; so does one that
    /// Docker or Kubernetes has set for a service of that name, which is warned about.
    pub fn get(&self, name: &str) -> Option<String> {
        note(&self.asked, name.to_owned());
        let value = self.outside(name)?;
        if is_link(name, &value) {
            let value = quoted(&value);
            note(
                &self.links,
                format!("{name} is not used: {value} is a container link's (Kubernetes, Docker)"),
            );
            return None;
        }
        Some(value)
    }

    /// A variable that is the system's, not ours.
    pub fn outside(&self, name: &str) -> Option<String> {
        let value = (self.lookup)(name)?;
        let value = unquoted(&value);
        (!value.is_empty()).then(|| value.to_owned())
    }

    /// What links have set, and those of `names` that are nearly one of ours: one that was asked for, or one of
    /// `others`. No value is shown: it may be a secret.
    pub fn warnings(&self, names: &[String], others: &[&str]) -> Vec<String> {
        let mut warnings = self.links.take();
        let asked = self.asked.borrow();
        let ours = || {
            asked
                .iter()
                .map(String::as_str)
                .chain(others.iter().copied())
        };
        for name in names {
            if ours().any(|known| known == name) {
                continue;
            }
            let near = ours().filter(|known| is_near(name, known) && self.outside(known).is_none());
            if let Some(known) = near.min_by_key(|known| distance(name, known)) {
                let name = quoted(name);
                warnings.push(format!(
                    "the variable {name} means nothing; did you mean {known}?"
                ));
            }
        }
        warnings
    }
}

fn note(list: &RefCell<Vec<String>>, text: String) {
    let mut list = list.borrow_mut();
    if !list.contains(&text) {
        list.push(text);
    }
}

/// Docker's `--env-file` keeps the quotes that shells and systemd take off.
fn unquoted(value: &str) -> &str {
    let text = value.trim();
    let inside = |quote: char| text.strip_prefix(quote)?.strip_suffix(quote);
    inside('"').or_else(|| inside('\'')).unwrap_or(value)
}

/// Whether a link to the service `redis` has set this: `REDIS_PORT=tcp://10.43.1.2:6379`, `REDIS_NAME=/web/redis`.
fn is_link(name: &str, value: &str) -> bool {
    if name.ends_with("_PORT") {
        return LINKS.iter().any(|scheme| value.starts_with(scheme));
    }
    let service = value
        .strip_prefix('/')
        .and_then(|path| path.rsplit_once('/'));
    let service = service.map(|(_, alias)| alias.to_ascii_uppercase().replace('-', "_"));
    service.is_some_and(|service| name.strip_suffix("_NAME") == Some(&service))
}

/// Whether somebody who means `ours` may have written `name`. Other programs' names (`IMAP_HOST`, `SFTP_PORT`,
/// `APP_NAME`, `XAI_API_KEY`) must not look like that.
fn is_near(name: &str, ours: &str) -> bool {
    let name = name.to_ascii_uppercase();
    let (Some((first, rest)), Some((our_first, our_rest))) =
        (name.split_once('_'), ours.split_once('_'))
    else {
        return false;
    };
    let is_cut = |long: &str, short: &str| {
        let more = long.strip_prefix(short).unwrap_or("_");
        more.len() <= LETTERS_MAX && more.bytes().all(|byte| byte.is_ascii_alphabetic())
    };
    let sorted = |word: &str| {
        let mut letters = word.as_bytes().to_vec();
        letters.sort_unstable();
        letters
    };
    let is_first_near = || {
        // Short words are others' soon; two letters that changed places are not.
        sorted(first) == sorted(our_first)
            || our_first.len() >= 5 && distance(first, our_first) <= 1
    };
    let is_rest_near = || {
        distance(rest, our_rest) <= (our_rest.len() / 3).min(2) || sorted(rest) == sorted(our_rest)
    };
    is_cut(&name, ours)
        || is_cut(ours, &name)
        || first == our_first && lacks_a_word(rest, our_rest)
        || is_first_near() && is_rest_near()
}

/// Whether a word is missing: `DEEPSEEK_API`, `FRONTEND_URL`. (What comes before is the same.)
fn lacks_a_word(rest: &str, ours: &str) -> bool {
    let mut words = ours.split('_');
    let is_within = rest.split('_').all(|word| words.any(|our| our == word));
    is_within && rest.split('_').count() + 1 == ours.split('_').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_go_in_pairs() {
        for (value, expect) in [
            ("\"sk-abc\"", "sk-abc"),
            ("'sk-abc' \r", "sk-abc"),
            ("\"'sk'\"", "'sk'"),
            ("\"\"", ""),
            ("\"", "\""),
            ("\"sk", "\"sk"),
            ("\"sk'", "\"sk'"),
            (" a b ", " a b "),
            ("a\"b\"", "a\"b\""),
        ] {
            assert_eq!(unquoted(value), expect, "{value}");
        }
    }

    #[test]
    fn links_are_what_docker_and_kubernetes_write() {
        for (name, value, expect) in [
            ("REDIS_PORT", "tcp://10.43.1.2:6379", true),
            ("SMTP_PORT", "udp://10.43.1.3:25", true),
            ("REDIS_PORT", "6379", false),
            ("REDIS_HOST", "tcp://10.43.1.2:6379", false),
            ("MAIL_SENDER_NAME", "/cloudchat/mail-sender", true),
            ("MAIL_SENDER_NAME", "/cloudchat/mail", false),
            ("AUTH_COOKIE_NAME", "cc_auth", false),
            ("DATABASE_URL", "/a/database_url", false),
        ] {
            assert_eq!(is_link(name, value), expect, "{name}={value}");
        }
    }

    #[test]
    fn a_name_is_near_when_it_was_meant() {
        for (name, ours) in [
            ("DEEPSEEK_API", "DEEPSEEK_API_KEY"),
            ("DEEPSEEK_KEY", "DEEPSEEK_API_KEY"),
            ("DEEPSEEK_APIKEY", "DEEPSEEK_API_KEY"),
            ("DEEPSEEK_API_KEYS", "DEEPSEEK_API_KEY"),
            ("DEPSEEK_API_KEY", "DEEPSEEK_API_KEY"),
            ("deepseek_api_key", "DEEPSEEK_API_KEY"),
            ("DEEPSEEK_URL", "DEEPSEEK_BASE_URL"),
            ("SMPT_HOST", "SMTP_HOST"),
            ("SMTP_USERNAME", "SMTP_USER"),
            ("SMTP_PASSWORD", "SMTP_PASS"),
            ("REDIS_PASS", "REDIS_PASSWORD"),
            ("REDIS_HOTS", "REDIS_HOST"),
            ("DATABASE_URI", "DATABASE_URL"),
            ("COOKIE_SECURED", "COOKIE_SECURE"),
            ("MAX_HIST", "MAX_HISTORY"),
            ("SESSION_TTL", "SESSION_TTL_SECONDS"),
            ("FRONTEND_URL", "FRONTEND_BASE_URL"),
        ] {
            assert!(is_near(name, ours), "{name} for {ours}");
        }
    }
}
