//! The door to randomness: the only file that asks the system for it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom as _, SystemRandom};

/// Length of a [`token`] in characters.
pub const TOKEN_LENGTH: usize = 43;

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

/// A random UUID (version 4, RFC 9562).
pub fn uuid() -> uuid::Uuid {
    uuid::Builder::from_random_bytes(bytes()).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_differ_and_have_their_length() {
        let (a, b) = (token(), token());
        assert_eq!((a.len(), b.len()), (TOKEN_LENGTH, TOKEN_LENGTH));
        assert_ne!(a, b);
        assert_eq!(uuid().get_version_num(), 4);
    }
}
