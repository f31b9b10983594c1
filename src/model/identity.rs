//! What people call themselves: email addresses, phone numbers, display names, and what they type
//! to log in.

use std::borrow::Cow;
use std::fmt;

use super::address::{self, Forms};

/// Longest email address in code points (RFC 5321 §4.5.3.1.3, as errata 1690 reads it).
const EMAIL_CHARS_MAX: usize = 254;
/// Most bytes that such a one can be typed with: no character decomposes into more than 12 (UAX #15, section 3).
const EMAIL_BYTES_MAX: usize = 12 * EMAIL_CHARS_MAX;
const PHONE_CHARS_MAX: usize = 32;
const DISPLAY_NAME_CHARS_MAX: usize = 80;
/// Characters that would give an address structure in a mail's header.
const EMAIL_FORBIDDEN: &[char] = &['<', '>', '(', ')', '[', ']', ',', ';', ':', '\\', '"'];

/// An email address: lower case, in NFC, one `@`, a domain that there can be with a dot inside, nothing that is not
/// visible, and nothing that could break out of a mail's header.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Email(String);

impl Email {
    /// What a store holds: it was checked before it went in, by this service or by the one whose
    /// data it took over.
    pub fn stored(text: String) -> Self {
        Self(text)
    }

    /// Trims, lower-cases and composes `text`; `None` if that is no address we can use. The domain stays as it was
    /// typed, in Unicode or in ASCII, but is not mixed from both.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if text.len() > EMAIL_BYTES_MAX {
            return None;
        }
        let text = text.to_lowercase();
        if !address::is_stream_safe(&text) {
            return None;
        }
        let text = address::nfc(&text);
        let (local, typed) = text.split_once('@')?;
        let is_odd = |c: char| EMAIL_FORBIDDEN.contains(&c) || address::is_unseen(c);
        let (unicode, ascii) = address::domain(typed)?;
        let fits = !local.is_empty()
            && typed.contains('.')
            && (typed == unicode || typed == ascii)
            && !local.contains(is_odd)
            // As it is mailed to, which is never shorter.
            && local.chars().count() + 1 + ascii.len() <= EMAIL_CHARS_MAX;
        fits.then(|| Self(text.into_owned()))
    }

    /// The ways to write it that a store may hold it under.
    pub fn forms(&self) -> Forms<'_> {
        Forms::of(&self.0)
    }

    /// Where mails go: in NFC, the domain in ASCII. The same for all forms of one mailbox, so mails are counted by it.
    /// `None` if it cannot stand in an SMTP command (RFC 5321 section 4.1.2); the service before took in such addresses.
    pub fn mailbox(&self) -> Option<Cow<'_, str>> {
        let mailbox = self.forms().into_key();
        let is_odd = |c: char| c.is_whitespace() || c.is_control() || c == '<' || c == '>';
        let (_, domain) = mailbox.rsplit_once('@')?;
        // A domain that stays in Unicode is none; a server that takes it may make another one of it.
        let fits = domain.is_ascii()
            && !mailbox.contains(is_odd)
            && mailbox.chars().count() <= EMAIL_CHARS_MAX;
        fits.then_some(mailbox)
    }

    /// As stored.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A phone number, as typed: nothing is sent to it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Phone(String);

impl Phone {
    /// What a store holds: it was checked before it went in, by this service or by the one whose
    /// data it took over.
    pub fn stored(text: String) -> Self {
        Self(text)
    }

    /// Trims `text`; `None` if it is empty, longer than 32 code points, or holds an `@` (it would
    /// be taken for an email address at login) or control characters.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let fits = !text.is_empty()
            && !text.contains(|c: char| c == '@' || c.is_control())
            && text.chars().count() <= PHONE_CHARS_MAX;
        fits.then(|| Self(text.to_owned()))
    }

    /// As stored.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a user wants to be called.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct DisplayName(String);

impl DisplayName {
    /// What a store holds: it was checked before it went in, by this service or by the one whose
    /// data it took over.
    pub fn stored(text: String) -> Self {
        Self(text)
    }

    /// Trims `text`; `None` if it is empty, longer than 80 code points, or holds control
    /// characters.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let fits = !text.is_empty()
            && !text.contains(char::is_control)
            && text.chars().count() <= DISPLAY_NAME_CHARS_MAX;
        fits.then(|| Self(text.to_owned()))
    }

    /// As stored.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What someone types to log in or to ask for a new password. Any text is one: what cannot belong
/// to a user is an unknown identifier, which is counted and treated like a known one.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Identifier {
    /// It holds an `@`; trimmed, lower case, at most 254 code points.
    Email(String),
    /// It holds none; trimmed, at most 32 code points.
    Phone(String),
    /// Longer than any user's: its SHA-256, so that what is kept of it has a bound.
    Overlong([u8; 32]),
}

impl Identifier {
    /// `None` if nothing is left after trimming.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if text.is_empty() {
            return None;
        }
        let is_email = text.contains('@');
        let text = match is_email {
            true => text.to_lowercase(),
            false => text.to_owned(),
        };
        let chars_max = if is_email {
            EMAIL_CHARS_MAX
        } else {
            PHONE_CHARS_MAX
        };
        // A code point has at most four bytes, so most long texts need no counting.
        Some(
            if text.len() > 4 * chars_max || text.chars().count() > chars_max {
                Identifier::Overlong(super::secret::sha256(text.as_bytes()))
            } else if is_email {
                Identifier::Email(text)
            } else {
                Identifier::Phone(text)
            },
        )
    }

    /// What a user would be found by; `None`: no user can have this.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Identifier::Email(text) | Identifier::Phone(text) => Some(text),
            Identifier::Overlong(_) => None,
        }
    }

    /// Bytes that stand for what this identifier names and for nothing else, for limits and keyed hashes: the same for
    /// all forms of an address, at most 4 KiB.
    pub fn key_bytes(&self) -> Cow<'_, [u8]> {
        match self {
            Identifier::Email(text) => match Forms::of(text).into_key() {
                Cow::Borrowed(key) => Cow::Borrowed(key.as_bytes()),
                Cow::Owned(key) => Cow::Owned(key.into_bytes()),
            },
            Identifier::Phone(text) => Cow::Borrowed(text.as_bytes()),
            Identifier::Overlong(hash) => Cow::Borrowed(hash),
        }
    }
}

impl From<&super::User> for Identifier {
    /// What this user would type to log in; a user with neither address nor phone number is counted by its
    /// public name, which nobody can log in with.
    fn from(user: &super::User) -> Self {
        match (&user.email, &user.phone) {
            (Some(email), _) => email.into(),
            (None, Some(phone)) => phone.into(),
            (None, None) => Identifier::Phone(user.uid.clone()),
        }
    }
}

impl From<&Email> for Identifier {
    fn from(email: &Email) -> Self {
        Identifier::Email(email.0.clone())
    }
}

impl From<&Phone> for Identifier {
    fn from(phone: &Phone) -> Self {
        Identifier::Phone(phone.0.clone())
    }
}

/// Who somebody is has no place in a log.
macro_rules! hidden {
    ($($name:ident),*) => { $(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(stringify!($name))
            }
        }
    )* };
}
hidden!(Email, Phone, DisplayName, Identifier);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn emails() {
        for (text, expect) in [
            (" Alice@Example.COM ", Some("alice@example.com")),
            ("a@b.c", Some("a@b.c")),
            ("ünï@exämple.org", Some("ünï@exämple.org")),
            ("Ä@Ö.Ü", Some("ä@ö.ü")),
            ("a+b'c@sub.example.com", Some("a+b'c@sub.example.com")),
            ("", None),
            ("a", None),
            ("@b.c", None),
            ("a@", None),
            ("a@bc", None),
            ("a@.bc", None),
            ("a@bc.", None),
            ("a@.b.c", None),
            ("a@b@c.d", None),
            ("a b@c.d", None),
            ("a@b\u{a0}.c", None),
            ("a@b.c\u{3000}d", None),
            ("a\0@b.c", None),
            ("a@b\r\n.c", None),
            ("a\u{7f}@b.c", None),
            ("a<@b.c", None),
            ("\"a\"@b.c", None),
            ("a@[1.2]", None),
            ("a,b@c.d", None),
            ("a;b@c.d", None),
            ("a:b@c.d", None),
            ("a\\b@c.d", None),
            ("(a)@b.c", None),
            // Composed, and as typed: in Unicode or in ASCII.
            (
                "Gra\u{308}fin@Bu\u{308}cher.example",
                Some("gräfin@bücher.example"),
            ),
            (
                "info@XN--bcher-kva.example",
                Some("info@xn--bcher-kva.example"),
            ),
            ("info@bücher.xn--p1ai", None),
            ("a@ｅxample.com", None),
            ("a@例。cn", None),
            // What is not seen, or turns around what is.
            ("\u{200b}alice@example.com", None),
            ("al\u{200d}ice@example.com", None),
            ("alice\u{2066}@example.com", None),
            ("bob@example.com\u{feff}", None),
            ("carol@exam\u{ad}ple.com", None),
            ("dave@exa\u{202e}mple.com", None),
            ("a\u{e0041}@b.c", None),
            // Domains that there cannot be.
            ("eve@example..com", None),
            ("fay@-x.com", None),
            ("fay@x-.com", None),
            ("a@b.-c", None),
            ("a@b!.c", None),
            ("a@xn--zzzzzzzz99.c", None),
        ] {
            let email = Email::parse(text);
            assert_eq!(email.as_ref().map(Email::as_str), expect, "{text:?}");
        }
        let of_length = |n: usize| format!("{}@b.c", "é".repeat(n - 4));
        assert!(Email::parse(&of_length(254)).is_some());
        assert!(Email::parse(&of_length(255)).is_none());
        let domain = format!("{}.b.c", "ü".repeat(20));
        let ascii_bytes = address::domain(&domain).unwrap().1.len();
        let of_length = |n: usize| format!("{}@{domain}", "a".repeat(n - 1 - ascii_bytes));
        assert!(Email::parse(&of_length(254)).is_some(), "in ASCII");
        assert!(Email::parse(&of_length(255)).is_none());
        // Lower-casing may make a text longer; what is stored counts.
        assert!(Email::parse(&format!("{}@b.c", "İ".repeat(250))).is_none());
    }

    #[test]
    fn mails_go_to_the_domain_in_ascii() {
        for (stored, mailbox) in [
            ("a@b.c", Some("a@b.c")),
            ("a@[1.2.3.4]", Some("a@[1.2.3.4]")),
            ("info@bücher.example", Some("info@xn--bcher-kva.example")),
            (
                "info@bu\u{308}cher.example",
                Some("info@xn--bcher-kva.example"),
            ),
            (
                "info@xn--bcher-kva.example",
                Some("info@xn--bcher-kva.example"),
            ),
            (
                "gra\u{308}fin@bücher.example",
                Some("gräfin@xn--bcher-kva.example"),
            ),
            ("a@exam\u{ad}ple.com", None),
            ("bob@example.com\u{feff}", None),
            ("a b@c.d", None),
            ("a@b>.c", None),
            ("nobody", None),
        ] {
            let email = Email::stored(stored.to_owned());
            assert_eq!(email.mailbox().as_deref(), mailbox, "{stored:?}");
        }
    }

    proptest! {
        /// Whatever is taken for an address: each of its forms is one, and stands for the same mailbox; what is mailed to
        /// is ASCII where the local part is; and no text makes it panic.
        #[test]
        fn forms_of_an_address_are_addresses(
            local in "[a-zäA\u{301}Σ.]{1,6}",
            domain in "(xn--)?([a-z0-9üßΣ\u{308}\u{ad}中Ａİ.\\-]{1,12}|\\PC{1,12}|(?s).{0,8})\\.[a-z]{2}",
        ) {
            let Some(email) = Email::parse(&format!("{local}@{domain}")) else {
                return Ok(());
            };
            let forms = email.forms();
            prop_assert_eq!(forms.all()[0], email.as_str());
            let mailbox = email.mailbox().map(Cow::into_owned);
            prop_assert!(mailbox.as_ref().is_some_and(|to| to.is_ascii() == email.0.split('@').next().unwrap_or_default().is_ascii()));
            for form in forms.all() {
                let other = Email::parse(form);
                prop_assert_eq!(other.as_ref().map(Email::as_str), Some(form));
                prop_assert_eq!(other.and_then(|other| other.mailbox().map(Cow::into_owned)), mailbox.clone());
            }
        }
    }

    #[test]
    fn phones_and_names() {
        for (text, phone, name) in [
            (" +1 (5) ", Some("+1 (5)"), Some("+1 (5)")),
            ("a@b", None, Some("a@b")),
            ("  ", None, None),
            ("a\0b", None, None),
            ("a\nb", None, None),
            ("a\u{85}b", None, None),
            ("张人大", Some("张人大"), Some("张人大")),
        ] {
            assert_eq!(
                Phone::parse(text).as_ref().map(Phone::as_str),
                phone,
                "{text:?}"
            );
            let found = DisplayName::parse(text);
            assert_eq!(found.as_ref().map(DisplayName::as_str), name, "{text:?}");
        }
        let of = |n: usize| "字".repeat(n);
        assert!(Phone::parse(&of(32)).is_some() && Phone::parse(&of(33)).is_none());
        assert!(DisplayName::parse(&of(80)).is_some() && DisplayName::parse(&of(81)).is_none());
    }

    #[test]
    fn any_text_is_an_identifier_and_users_are_found_by_theirs() {
        let find = |text| Identifier::parse(text).unwrap();
        assert_eq!(find(" A@B.C\n"), (&Email::parse("a@b.c").unwrap()).into());
        assert_eq!(find(" +1 "), (&Phone::parse("+1").unwrap()).into());
        assert_eq!(Identifier::parse(" \t"), None);
        assert_eq!(find("a@@\0").as_str(), Some("a@@\0"));
        let (long, longer) = ("1".repeat(33), "1".repeat(60_000));
        assert_eq!(find(&long).as_str(), None);
        assert_ne!(find(&long).key_bytes(), find(&longer).key_bytes());
        assert_eq!(find(&longer).key_bytes().len(), 32);
        let email = format!("{}@b.c", "😀".repeat(250));
        assert_eq!(find(&email), (&Email::parse(&email).unwrap()).into());
        assert!(find(&email).key_bytes().len() <= 1016);
        // All forms of an address are counted together.
        let unicode = find("info@bücher.example");
        assert_eq!(
            unicode.key_bytes(),
            find("info@xn--bcher-kva.example").key_bytes()
        );
        assert_eq!(unicode.as_str(), Some("info@bücher.example"));
    }

    #[test]
    fn nobody_is_named_in_a_log() {
        let shown = format!(
            "{:?} {:?} {:?} {:?}",
            Email::parse("a@b.c"),
            Phone::parse("1"),
            DisplayName::parse("x"),
            Identifier::parse("a@b.c"),
        );
        assert_eq!(
            shown,
            "Some(Email) Some(Phone) Some(DisplayName) Some(Identifier)"
        );
    }
}
