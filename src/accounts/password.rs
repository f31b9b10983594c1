//! Which passwords are taken.

use super::common;

/// Fewest Unicode code points of a password.
pub const PASSWORD_CHARS_MIN: usize = 8;
/// Most of them; what is longer is no password of anybody.
pub const PASSWORD_CHARS_MAX: usize = 128;

/// Whether a new password must be refused: too short, too long, of one kind of characters only
/// (ASCII letters, ASCII digits, anything else), or one of the most common. Allocates nothing.
pub fn is_weak(password: &str) -> bool {
    let chars = password.chars().take(PASSWORD_CHARS_MAX + 1).count();
    if !(PASSWORD_CHARS_MIN..=PASSWORD_CHARS_MAX).contains(&chars) {
        return true;
    }
    let letter = |c: char| c.is_ascii_alphabetic();
    let digit = |c: char| c.is_ascii_digit();
    let kinds = usize::from(password.contains(letter))
        + usize::from(password.contains(digit))
        + usize::from(password.contains(|c| !letter(c) && !digit(c)));
    kinds < 2 || common::contains(password)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weak_is_what_the_contract_says() {
        let longest = format!("a1{}", "密".repeat(126));
        for (password, weak) in [
            ("", true),
            ("a1b2c3d", true),
            ("a1b2c3d9", false),
            // Code points count, not bytes.
            ("密码是很长的1", true),
            ("密码是很长的十1", false),
            (&longest, false),
            (&format!("{longest}x"), true),
            // One kind of characters.
            ("kqzvwxjhpl", true),
            ("8402957316", true),
            ("密码密码密码密码", true),
            ("!?!?!?!?!?", true),
            ("kqzvwxjh pl", false),
            ("éééééééé", true),
            ("ééééééé1", false),
            // Digits and letters of other scripts are "anything else".
            ("١٢٣٤٥٦٧٨", true),
            ("ｋｑｚｖｗｘｊｈ", true),
            // Common ones, in any case.
            ("abcd1234", true),
            ("ABCD1234", true),
            ("P@ssw0rd", true),
            ("P@ssw0rd!", false),
            ("Password1", true),
            ("qwerty123", true),
            ("1qaz2wsx", true),
        ] {
            assert_eq!(is_weak(password), weak, "{password}");
        }
    }
}
