//! The door to randomness: the only file that asks the system for it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom as _, SystemRandom};

/// Length of a [`token`] in characters.
const TOKEN_LENGTH: usize = 43;

/// `N` bytes from the system's generator.
///
/// # Panics
/// If the system has none to give (`getrandom` does not fail once it is initialised).
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    fill(&mut bytes);
    bytes
}

#[expect(clippy::disallowed_methods, reason = "this is the one place")]
fn fill(bytes: &mut [u8]) {
    SystemRandom::new()
        .fill(bytes)
        .expect("the system's random generator works");
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

/// Length of a UUID in characters.
pub const UUID_LENGTH: usize = 36;

/// Random UUIDs (version 4, RFC 9562) as text, so many one after another. They name requests, and must never be
/// secrets: each batch is asked for at once and stays in memory until it is used up.
pub fn uuids(count: usize) -> Vec<u8> {
    let mut random = vec![[0; 16]; count];
    fill(random.as_flattened_mut());
    let mut text = vec![0; count * UUID_LENGTH];
    for (bytes, text) in random.into_iter().zip(text.chunks_exact_mut(UUID_LENGTH)) {
        let uuid = uuid::Builder::from_random_bytes(bytes).into_uuid();
        uuid.hyphenated().encode_lower(text);
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
        let text = uuids(100);
        let ids: std::collections::HashSet<_> = text.chunks(UUID_LENGTH).collect();
        assert_eq!(ids.len(), 100);
        for id in ids {
            let read = uuid::Uuid::try_parse_ascii(id).unwrap();
            assert_eq!(read.get_version_num(), 4);
            assert_eq!(read.get_variant(), uuid::Variant::RFC4122);
        }
    }
}
