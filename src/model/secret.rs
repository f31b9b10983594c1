//! Secrets that pass through: tokens, and passwords in the form in which they are stored. Neither
//! shows itself in `Debug`.

use std::fmt;

use crate::entropy;

/// A random secret that its holder shows to be recognised: the value of a `cc_auth` cookie, or
/// the token in a mailed link. 32 random bytes as 43 characters of base64url.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A new one.
    #[expect(
        clippy::new_without_default,
        reason = "no two are the same, so there is no default one"
    )]
    pub fn new() -> Self {
        Self(entropy::token())
    }

    /// `None` if `text` does not look like one, and so is unknown without asking a store.
    pub fn parse(text: &str) -> Option<Self> {
        entropy::is_token(text).then(|| Self(text.to_owned()))
    }

    /// The secret itself, for its holder only.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What the embedded stores keep instead: whoever reads a file cannot use it.
    pub fn sha256(&self) -> [u8; 32] {
        sha256(self.0.as_bytes())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// A password's Argon2 hash as a PHC string, such as `$argon2id$v=19$m=19456,t=2,p=1$…$…`, and which form of the
/// password it is of.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash {
    phc: String,
    is_nfc: bool,
}

/// Bytes of a hash that tell it from others: 66 of its 256 random bits.
const MARK_BYTES: usize = 11;

impl PasswordHash {
    /// Of a password as it was typed. Takes the text as it is; whoever verifies against it finds out whether it is
    /// one.
    pub fn new(phc: String) -> Self {
        Self { phc, is_nfc: false }
    }

    /// Of a password in NFC ([`super::nfc`]).
    pub fn of_nfc(phc: String) -> Self {
        Self { phc, is_nfc: true }
    }

    /// What a store holds: the PHC string, and what [`mark`](Self::mark) was when it was written. The mark of another
    /// hash counts for nothing, so whoever writes a hash without it, as the service does that shares the table, has
    /// written that of a password as typed.
    pub fn stored(phc: String, mark: Option<&str>) -> Self {
        let made = Self::of_nfc(phc);
        match made.mark() {
            own if own == mark && own.is_some() => made,
            _ => Self::new(made.phc),
        }
    }

    /// What is stored beside a hash of a password in NFC, and beside no other: the hash's end.
    pub fn mark(&self) -> Option<&str> {
        let start = self.phc.len().checked_sub(MARK_BYTES)?;
        self.phc.get(start..).filter(|_| self.is_nfc)
    }

    /// The PHC string.
    pub fn as_str(&self) -> &str {
        &self.phc
    }

    /// Whether it is of the password in NFC, not as it was typed.
    pub fn is_nfc(&self) -> bool {
        self.is_nfc
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash")
    }
}

pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest
        .as_ref()
        .try_into()
        .expect("a SHA-256 digest has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_43_characters_of_base64url() {
        let token = Token::new();
        assert_eq!(Token::parse(token.as_str()).as_ref(), Some(&token));
        assert_ne!(Token::new(), token);
        let hex: String = Token::parse(&"A".repeat(43))
            .unwrap()
            .sha256()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(
            hex,
            "0f007385b6f9d4b7eeb2748605afe1a984a0a3bfa3f014d09e2a784ce9e5cd1a"
        );
        for text in ["", &"A".repeat(42), &"A".repeat(44), &"+".repeat(43)] {
            assert_eq!(Token::parse(text), None, "{text}");
        }
        // 43 bytes, but not 43 characters of ours.
        assert_eq!(Token::parse(&format!("é{}", "A".repeat(41))), None);
    }

    #[test]
    fn a_hash_is_known_for_one_of_nfc_by_its_own_mark_only() {
        let phc = || "$argon2id$v=19$m=19456,t=2,p=1$c2FsdA$aGFzaGhhc2g".to_owned();
        let made = PasswordHash::of_nfc(phc());
        assert_eq!(made.mark(), Some("aGFzaGhhc2g"));
        assert_eq!(PasswordHash::new(phc()).mark(), None);
        for (mark, is_nfc) in [
            (made.mark(), true),
            (None, false),
            (Some(""), false),
            (Some("aGFzaGhhc2h"), false),
            (Some("g"), false),
        ] {
            assert_eq!(
                PasswordHash::stored(phc(), mark).is_nfc(),
                is_nfc,
                "{mark:?}"
            );
        }
        // The service that shares the table may hold anything.
        for odd in ["", "short", "密密密密密密"] {
            assert!(!PasswordHash::stored(odd.to_owned(), Some("")).is_nfc());
            assert!(!PasswordHash::stored(odd.to_owned(), None).is_nfc());
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let shown = format!("{:?} {:?}", Token::new(), PasswordHash::new("x".into()));
        assert_eq!(shown, "Token PasswordHash");
    }
}
