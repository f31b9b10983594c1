//! The letters: subject and text of each kind in each language, made into a message (RFC 5322).
//!
//! Nothing that a user has typed stands in a letter but the address it goes to: whoever registers
//! somebody else's address could have us send any text.

use mail_send::mail_builder::MessageBuilder;
use mail_send::mail_builder::headers::raw::Raw;

use crate::config::Language;
use crate::model::Letter;

/// Who writes, and in what language.
#[derive(Debug, Clone, Copy)]
pub struct Site<'a> {
    /// Stands in subjects and texts.
    pub name: &'a str,
    /// Stands before the sender's address.
    pub sender_name: &'a str,
    /// The sender's address; ASCII.
    pub from: &'a str,
    /// Of subject and text.
    pub language: Language,
}

/// The link that a [`Letter::Reset`] is about.
#[derive(Clone, Copy)]
pub struct Link<'a> {
    /// What stands before `/reset_password`, without a slash at the end.
    pub base_url: &'a str,
    /// The token, base64url.
    pub token: &'a str,
    /// How long it is good for, in minutes.
    pub minutes: u64,
}

/// One letter to one person.
pub struct Content<'a> {
    /// What it says.
    pub letter: Letter,
    /// Only a [`Letter::Reset`] has one.
    pub link: Option<Link<'a>>,
    /// The recipient's address.
    pub to: &'a str,
    /// Seconds since 1970.
    pub date: i64,
    /// Names this letter, also when it is sent again: letters and digits.
    pub id: &'a str,
}

/// The whole message, ready for `DATA` but for the doubling of dots.
pub fn message(site: &Site<'_>, content: &Content<'_>) -> Vec<u8> {
    let (subject, text) = words(site, content.letter, content.link.as_ref());
    let sender_name = one_line(site.sender_name);
    let domain = site.from.rsplit('@').next().unwrap_or_default();
    let message = MessageBuilder::new()
        .from((sender_name.as_str(), site.from))
        .to(content.to)
        .subject(one_line(&subject))
        .date(content.date)
        .message_id(format!("{}@{domain}", content.id))
        // No "I am on holiday" in return (RFC 3834).
        .header("Auto-Submitted", Raw::new("auto-generated"))
        .text_body(text);
    let mut bytes = Vec::new();
    message.serialize(&mut bytes);
    bytes
}

/// A name or subject as a header may hold it: control characters would end the header, and a second
/// line would begin another.
fn one_line(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(plain).collect()
}

fn words(site: &Site<'_>, letter: Letter, link: Option<&Link<'_>>) -> (String, String) {
    let name = one_line(site.name);
    let (title, text) = match site.language {
        Language::Zh => zh(&name, letter, link),
        Language::En => en(&name, letter, link),
    };
    (format!("{name} - {title}"), text)
}

fn zh(site: &str, letter: Letter, link: Option<&Link<'_>>) -> (&'static str, String) {
    let (title, said, advice) = match letter {
        Letter::Welcome => (
            "注册成功",
            format!("您已在{}注册成功。", spaced(site)),
            "如果这不是您本人的操作，请与我们联系。",
        ),
        Letter::Reset => {
            let (url, minutes) = shown(link);
            (
                "重置密码",
                format!("请在 {minutes} 分钟内打开以下链接，重新设置您的密码：\n\n{url}"),
                "如果这不是您本人的操作，请忽略本邮件，您的密码不会改变。",
            )
        }
        // Also sent when somebody else has done it at the user's request.
        Letter::ResetDone => (
            "密码重置成功",
            format!("您在{}的密码已更改。", spaced(site)),
            "如果这不是您本人的操作，也不是应您的要求，请立即与我们联系。",
        ),
        Letter::PasswordChanged => (
            "密码修改成功",
            format!("您在{}的密码已修改。", spaced(site)),
            "如果这不是您本人的操作，请立即与我们联系。",
        ),
    };
    (title, format!("您好：\n\n{said}\n\n{advice}\n\n{site}\n"))
}

fn en(site: &str, letter: Letter, link: Option<&Link<'_>>) -> (&'static str, String) {
    let (title, said, advice) = match letter {
        Letter::Welcome => (
            "Registration successful",
            format!("You have registered at {site}."),
            "If this was not you, please contact us.",
        ),
        Letter::Reset => {
            let (url, minutes) = shown(link);
            (
                "Reset your password",
                format!(
                    "To choose a new password, open this link within {minutes} minutes:\n\n{url}"
                ),
                "If you did not ask for this, ignore this mail; your password stays as it is.",
            )
        }
        Letter::ResetDone => (
            "Your password was reset",
            format!("Your password at {site} was changed."),
            "If you neither did this nor asked for it, please contact us at once.",
        ),
        Letter::PasswordChanged => (
            "Your password was changed",
            format!("Your password at {site} was changed."),
            "If this was not you, please contact us at once.",
        ),
    };
    (title, format!("Hello,\n\n{said}\n\n{advice}\n\n{site}\n"))
}

/// Latin letters stand apart from Chinese ones.
fn spaced(site: &str) -> String {
    let open = if site.starts_with(|c: char| c.is_ascii()) {
        " "
    } else {
        ""
    };
    let close = if site.ends_with(|c: char| c.is_ascii()) {
        " "
    } else {
        ""
    };
    format!("{open}{site}{close}")
}

fn shown(link: Option<&Link<'_>>) -> (String, u64) {
    let link = link.map(|link| {
        let url = format!("{}/reset_password?token={}", link.base_url, link.token);
        (url, link.minutes)
    });
    link.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use mail_parser::{MessageParser, MimeHeaders as _};

    use super::*;

    const LINK: Link<'static> = Link {
        base_url: "https://www.example.com/app",
        token: "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNO-_",
        minutes: 15,
    };

    fn site(language: Language) -> Site<'static> {
        Site {
            name: "RendaZhang 网站",
            sender_name: "张人大",
            from: "noreply@example.com",
            language,
        }
    }

    fn message_of(site: &Site<'_>, letter: Letter) -> Vec<u8> {
        let content = Content {
            letter,
            link: (letter == Letter::Reset).then_some(LINK),
            to: "alice@example.org",
            date: 1_752_421_640,
            id: "0123abcd",
        };
        message(site, &content)
    }

    #[test]
    fn subjects_are_those_of_the_contract() {
        for (language, letter, subject) in [
            (Language::Zh, Letter::Welcome, "RendaZhang 网站 - 注册成功"),
            (Language::Zh, Letter::Reset, "RendaZhang 网站 - 重置密码"),
            (
                Language::Zh,
                Letter::ResetDone,
                "RendaZhang 网站 - 密码重置成功",
            ),
            (
                Language::Zh,
                Letter::PasswordChanged,
                "RendaZhang 网站 - 密码修改成功",
            ),
            (
                Language::En,
                Letter::Welcome,
                "RendaZhang 网站 - Registration successful",
            ),
            (
                Language::En,
                Letter::Reset,
                "RendaZhang 网站 - Reset your password",
            ),
        ] {
            let bytes = message_of(&site(language), letter);
            let parsed = MessageParser::new().parse(&bytes).unwrap();
            assert_eq!(parsed.subject(), Some(subject));
        }
    }

    #[test]
    fn a_letter_is_what_rfc_5322_asks_for() {
        for language in [Language::Zh, Language::En] {
            for letter in Letter::ALL {
                let bytes = message_of(&site(language), letter);
                assert!(bytes.is_ascii(), "7-bit servers take it");
                let text = String::from_utf8(bytes.clone()).unwrap();
                assert!(
                    text.split("\r\n")
                        .all(|line| line.len() <= 78 && !line.contains('\n'))
                );
                let parsed = MessageParser::new().parse(&bytes).unwrap();
                let from = parsed.from().and_then(|from| from.first()).unwrap();
                assert_eq!(
                    (from.name(), from.address()),
                    (Some("张人大"), Some("noreply@example.com"))
                );
                let to = parsed.to().and_then(|to| to.first()).unwrap();
                assert_eq!((to.name(), to.address()), (None, Some("alice@example.org")));
                assert_eq!(parsed.message_id(), Some("0123abcd@example.com"));
                assert_eq!(parsed.date().unwrap().to_timestamp(), 1_752_421_640);
                let encoding = parsed.parts[0].content_transfer_encoding().unwrap();
                assert!(
                    matches!(encoding, "quoted-printable" | "base64"),
                    "{encoding}"
                );
                let body = parsed.body_text(0).unwrap();
                let link = "https://www.example.com/app/reset_password?token=\
                            abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNO-_";
                assert_eq!(body.contains(link), letter == Letter::Reset);
                assert_eq!(body.contains("15"), letter == Letter::Reset);
                assert!(body.contains("RendaZhang 网站"));
            }
        }
    }

    #[test]
    fn names_cannot_add_a_header() {
        for name in [
            "A\r\nBcc: evil@example.net",
            "A\nBcc: evil@example.net",
            "A\rBcc: evil@example.net",
            "A\r\n\r\nBcc: evil@example.net",
            "\" <evil@example.net>, \"",
            "a, b@c.d",
            "A\u{85}Bcc: x\u{2028}Bcc: y\0\u{202e}",
            "=?utf-8?Q?A=0D=0ABcc:_x?=",
            "😀\r\n Bcc: evil@example.net",
            "张\r\nBcc: evil@example.net",
        ] {
            let site = Site {
                name,
                sender_name: name,
                ..site(Language::Zh)
            };
            let bytes = message_of(&site, Letter::Welcome);
            let parsed = MessageParser::new().parse(&bytes).unwrap();
            let names: Vec<_> = parsed
                .headers()
                .iter()
                .map(|h| h.name().to_owned())
                .collect();
            let expected = [
                "From",
                "To",
                "Subject",
                "Date",
                "Message-ID",
                "Auto-Submitted",
                "MIME-Version",
                "Content-Type",
                "Content-Transfer-Encoding",
            ];
            assert_eq!(names.len(), expected.len(), "{name:?}: {names:?}");
            assert!(
                names.iter().all(|name| expected.contains(&name.as_str())),
                "{names:?}"
            );
            let from = parsed.from().unwrap();
            assert_eq!(from.iter().count(), 1, "{name:?}");
            assert_eq!(from.first().unwrap().address(), Some("noreply@example.com"));
            assert_eq!(parsed.to().unwrap().iter().count(), 1);
        }
    }
}
