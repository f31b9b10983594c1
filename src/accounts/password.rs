//! Which passwords are taken, and what of them is hashed.
//!
//! The same characters may be typed as other code points, as a keyboard or a system will have it. Passwords are hashed
//! in NFC, and what is typed is composed before it is compared. Older hashes, and those of the service that shares the
//! table, are of what was typed then ([`PasswordHash::is_nfc`]). Each login compares once.

use super::common;
use crate::app::App;
use crate::error::Error;
use crate::hasher::Password;
use crate::model::{PasswordHash, nfc};

/// Fewest Unicode code points of a password.
pub const PASSWORD_CHARS_MIN: usize = 8;
/// Most of them; what is longer is no password of anybody.
pub const PASSWORD_CHARS_MAX: usize = 128;
/// Most that one can be typed with: no character decomposes into more than four (UAX #15, section 3).
pub const TYPED_CHARS_MAX: usize = 4 * PASSWORD_CHARS_MAX;

/// Why a new password must be refused: it is too `short` or too `long`, it has one of the `kinds` of characters
/// only (ASCII letters, ASCII digits, anything else), or it is one of the most `common`. Allocates nothing.
pub fn weakness(password: &str) -> Option<&'static str> {
    let chars = password.chars().take(PASSWORD_CHARS_MAX + 1).count();
    if chars < PASSWORD_CHARS_MIN {
        return Some("short");
    }
    if chars > PASSWORD_CHARS_MAX {
        return Some("long");
    }
    let letter = |c: char| c.is_ascii_alphabetic();
    let digit = |c: char| c.is_ascii_digit();
    let kinds = usize::from(password.contains(letter))
        + usize::from(password.contains(digit))
        + usize::from(password.contains(|c| !letter(c) && !digit(c)));
    if kinds < 2 {
        return Some("kinds");
    }
    common::contains(password).then_some("common")
}

/// A password that may be used from now on, composed. Err: why it is refused, see [`weakness`].
pub fn chosen(typed: &str) -> Result<Password, &'static str> {
    if is_longer(typed, TYPED_CHARS_MAX) {
        return Err("long");
    }
    let password = Password::new(nfc(typed).into_owned());
    match weakness(password.as_str()) {
        None => Ok(password),
        Some(reason) => Err(reason),
    }
}

/// What a hash is compared with, or the work for none. `None`, whatever the hash is: longer than any password.
pub fn to_compare(typed: &str, hash: Option<&PasswordHash>) -> Option<Password> {
    if is_longer(typed, TYPED_CHARS_MAX) {
        return None;
    }
    // Made always, so that the time does not tell which form is asked for.
    let composed = Password::new(nfc(typed).into_owned());
    let fits = !is_longer(typed, PASSWORD_CHARS_MAX);
    let composed_fits = !is_longer(composed.as_str(), PASSWORD_CHARS_MAX);
    if composed_fits && (!fits || hash.is_some_and(PasswordHash::is_nfc)) {
        return Some(composed);
    }
    fits.then(|| Password::new(typed.to_owned()))
}

#[inline(never)]
fn is_longer(text: &str, chars_max: usize) -> bool {
    text.chars().nth(chars_max).is_some()
}

/// The hash of a password.
///
/// # Errors
/// Busy.
pub async fn hash(app: &App, password: Password) -> Result<PasswordHash, Error> {
    // An older password is hashed anew as it was typed, which nearly always is NFC.
    let composed = Password::new(nfc(password.as_str()).into_owned());
    let is_nfc = composed.as_str() == password.as_str();
    let hash = app
        .hasher
        .hash(password)
        .await
        .map_err(|_| Error::NO_ROOM)?;
    Ok(match is_nfc {
        true => PasswordHash::of_nfc(hash),
        false => PasswordHash::new(hash),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_form_is_compared_and_which_is_too_long_does_not_depend_on_the_hash() {
        let hashes = [
            None,
            Some(PasswordHash::new(String::new())),
            Some(PasswordHash::of_nfc(String::new())),
        ];
        let compared = |typed: &str| {
            let forms = hashes
                .each_ref()
                .map(|hash| to_compare(typed, hash.as_ref()));
            forms.map(|form| form.map(|form| form.as_str().to_owned()))
        };
        let (composed, typed) = ("caf\u{e9} au lait", "cafe\u{301} au lait");
        let each = |of: [&str; 3]| of.map(|text| Some(text.to_owned()));
        assert_eq!(compared(typed), each([typed, typed, composed]));
        assert_eq!(compared(composed), each([composed; 3]));
        // Longer as typed, or longer when composed, than any: then the other one is meant.
        let (long, short) = ("e\u{301}".repeat(128), "\u{e9}".repeat(128));
        assert_eq!(compared(&long), each([short.as_str(); 3]));
        let short = "\u{958}".repeat(128);
        assert_eq!(compared(&short), each([short.as_str(); 3]));
        for nobodys in [
            "a".repeat(129),
            "\u{e9}".repeat(129),
            "e\u{301}".repeat(257),
        ] {
            assert_eq!(compared(&nobodys), [None, None, None]);
        }
    }

    #[test]
    fn what_is_chosen_is_composed_first() {
        let chosen = |typed: &str| chosen(typed).map(|password| password.as_str().to_owned());
        assert_eq!(chosen("cafe\u{301} 123").as_deref(), Ok("caf\u{e9} 123"));
        assert_eq!(chosen("cafe\u{301} 12"), Err("short"), "seven code points");
        assert!(chosen(&format!("1{}", "e\u{301}".repeat(127))).is_ok());
        assert!(chosen(&format!("1{}", "e\u{301}".repeat(128))).is_err());
    }

    #[test]
    fn weak_is_what_the_contract_says() {
        let longest = format!("a1{}", "密".repeat(126));
        for (password, why) in [
            ("", Some("short")),
            ("a1b2c3d", Some("short")),
            ("a1b2c3d9", None),
            // Code points count, not bytes.
            ("密码是很长的1", Some("short")),
            ("密码是很长的十1", None),
            (&longest, None),
            (&format!("{longest}x"), Some("long")),
            // One kind of characters.
            ("kqzvwxjhpl", Some("kinds")),
            ("8402957316", Some("kinds")),
            ("密码密码密码密码", Some("kinds")),
            ("!?!?!?!?!?", Some("kinds")),
            ("kqzvwxjh pl", None),
            ("éééééééé", Some("kinds")),
            ("ééééééé1", None),
            // Digits and letters of other scripts are "anything else".
            ("١٢٣٤٥٦٧٨", Some("kinds")),
            ("ｋｑｚｖｗｘｊｈ", Some("kinds")),
            // Common ones, in any case.
            ("abcd1234", Some("common")),
            ("ABCD1234", Some("common")),
            ("P@ssw0rd", Some("common")),
            ("P@ssw0rd!", None),
            ("Password1", Some("common")),
            ("qwerty123", Some("common")),
            ("1qaz2wsx", Some("common")),
        ] {
            assert_eq!(weakness(password), why, "{password}");
        }
    }
}
