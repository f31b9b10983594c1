//! The passwords that guessers try first, searched in the text as it is compiled in.
//!
//! `data/common-passwords` holds the list, where it comes from, and its licence.

use std::cmp::Ordering;

/// One password a line, lower case, sorted by bytes.
const LIST: &str = include_str!("../../data/common-passwords/list.txt");

/// Whether this is one of them, in upper or lower case. Allocates nothing.
pub(super) fn contains(password: &str) -> bool {
    let list = LIST.as_bytes();
    let (mut low, mut high) = (0, list.len());
    while low < high {
        // Both ends stand at the beginning of a line, or at the end of the list.
        let middle = low.midpoint(high);
        let start = memchr::memrchr(b'\n', &list[low..middle]).map_or(low, |at| low + at + 1);
        let end = memchr::memchr(b'\n', &list[start..]).map_or(list.len(), |at| start + at);
        let lower = password.bytes().map(|byte| byte.to_ascii_lowercase());
        match lower.cmp(list[start..end].iter().copied()) {
            Ordering::Less => high = start,
            Ordering::Equal => return true,
            Ordering::Greater => low = end + 1,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_long_compact_and_sorted() {
        let words: Vec<&str> = LIST.lines().collect();
        assert!(words.len() >= 3000, "{} passwords", words.len());
        assert!(LIST.len() <= 40_000, "{} bytes", LIST.len());
        assert!(LIST.ends_with('\n') && words.is_sorted_by(|a, b| a < b));
        for word in words {
            assert!(word.len() >= 8 && word.is_ascii() && *word == word.to_ascii_lowercase());
        }
    }

    #[test]
    fn every_password_is_found_and_its_neighbours_are_not() {
        for word in LIST.lines() {
            assert!(
                contains(word) && contains(&word.to_ascii_uppercase()),
                "{word}"
            );
            for other in [
                format!("{word}\n"),
                format!("{word}\u{1}"),
                format!(" {word}"),
            ] {
                assert!(!contains(&other), "{other}");
            }
            let shorter = &word[..word.len() - 1];
            assert_eq!(contains(shorter), LIST.lines().any(|word| word == shorter));
        }
        for word in ["", "\n", "a", "~~~~~~~~~~", "\u{ffff}", LIST] {
            assert!(!contains(word), "{word}");
        }
    }
}
