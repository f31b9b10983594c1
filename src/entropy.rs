//! The door to randomness: the only file that asks the system for it.

use std::cell::RefCell;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom as _, SystemRandom};

/// Length of a [`token`] in characters.
const TOKEN_LENGTH: usize = 43;

/// `N` bytes from the system's generator.
///
/// # Panics
/// If the system has none to give (`getrandom` does not fail once it is initialised).
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .expect("the system's random generator works");
    bytes
}

/// 32 random bytes as 43 characters of base64url: a cookie's value.
pub fn token() -> String {
    URL_SAFE_NO_PAD.encode(bytes::<32>())
}

/// Whether a text looks like a [`token`]. No character ends the look early, so that the compiler looks at many
/// at once.
pub fn is_token(text: &str) -> bool {
    let is_base64url = |byte: u8| byte.is_ascii_alphanumeric() | (byte == b'-') | (byte == b'_');
    let and = |all, byte| all & is_base64url(byte);
    text.len() == TOKEN_LENGTH && text.bytes().fold(true, and)
}

/// Length of a [`uuid`] in characters.
pub const UUID_LENGTH: usize = 36;

/// A random UUID (version 4, RFC 9562) as text. Names requests, and must never be a secret: its bytes are
/// asked for in batches that stay in memory.
pub fn uuid() -> [u8; UUID_LENGTH] {
    const BATCH: usize = 64;
    thread_local! {
        static LEFT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    let id = LEFT.with_borrow_mut(|left| {
        if left.is_empty() {
            left.extend_from_slice(&bytes::<{ 16 * BATCH }>());
        }
        let mut id = [0; 16];
        id.copy_from_slice(&left[left.len() - 16..]);
        left.truncate(left.len() - 16);
        id
    });
    hyphenated(*uuid::Builder::from_random_bytes(id).as_uuid().as_bytes())
}

/// A UUID in its usual form. The library writes digit after digit, which is one in a hundred of what the
/// shortest request costs; this writes two at a time.
fn hyphenated(id: [u8; 16]) -> [u8; UUID_LENGTH] {
    const PAIRS: [[u8; 2]; 256] = {
        let digits = b"0123456789abcdef";
        let mut pairs = [[0; 2]; 256];
        let mut byte = 0;
        while byte < 256 {
            pairs[byte] = [digits[byte >> 4], digits[byte & 0xf]];
            byte += 1;
        }
        pairs
    };
    const PLACES: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];
    let mut text = [b'-'; UUID_LENGTH];
    for (byte, at) in id.into_iter().zip(PLACES) {
        text[at..at + 2].copy_from_slice(&PAIRS[usize::from(byte)]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_differ_and_have_their_length() {
        let (a, b) = (token(), token());
        assert_eq!((a.len(), b.len()), (TOKEN_LENGTH, TOKEN_LENGTH));
        assert_ne!(a, b);
        let ids: std::collections::HashSet<_> = (0..100).map(|_| uuid()).collect();
        assert_eq!(ids.len(), 100);
        for id in ids {
            let read = uuid::Uuid::try_parse_ascii(&id).unwrap();
            assert_eq!(read.get_version_num(), 4);
            assert_eq!(read.get_variant(), uuid::Variant::RFC4122);
        }
    }

    proptest::proptest! {
        #[test]
        fn a_uuid_is_written_as_the_library_writes_it(id: [u8; 16]) {
            let text = hyphenated(id);
            let expect = uuid::Uuid::from_bytes(id).hyphenated().to_string();
            proptest::prop_assert_eq!(str::from_utf8(&text).unwrap(), expect);
        }
    }
}
