//! Which passwords are taken.

use super::common;

/// Fewest Unicode code points of a password.
pub const PASSWORD_CHARS_MIN: usize = 8;
/// Most of them; what is longer is no password of anybody.
pub const PASSWORD_CHARS_MAX: usize = 128;

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

#[cfg(test)]
mod tests {
    use super::*;

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
