//! The `cc_dev` cookie: proof that this browser has logged in as this user before.
//!
//! It is `<uid>.<nonce>.<HMAC-SHA256>`. The HMAC also covers the time at which the password was
//! chosen, so another password voids all of a user's cookies without a list of them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;

use crate::entropy;
use crate::model::Credential;

/// Longest cookie that is looked at; ours have 79 bytes.
const COOKIE_BYTES_MAX: usize = 128;
/// Length of a nonce: 16 random bytes as base64url.
const NONCE_CHARS: usize = 22;

/// A new cookie for a browser that has just logged in.
pub fn issue(key: &[u8; 32], credential: &Credential) -> String {
    let nonce = URL_SAFE_NO_PAD.encode(entropy::bytes::<16>());
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let tag = hmac::sign(&key, &message(credential, &nonce));
    let tag = URL_SAFE_NO_PAD.encode(tag);
    format!("{}.{nonce}.{tag}", credential.uid)
}

/// The nonce of a cookie that was issued to this user under the present password. Missing,
/// foreign, outdated and invented cookies are all alike.
pub fn recognise<'a>(
    key: &[u8; 32],
    cookie: Option<&'a str>,
    credential: Option<&Credential>,
) -> Option<&'a str> {
    let (cookie, credential) = cookie.zip(credential)?;
    if cookie.len() > COOKIE_BYTES_MAX {
        return None;
    }
    let (uid, rest) = cookie.split_once('.')?;
    let (nonce, tag) = rest.split_once('.')?;
    let tag = URL_SAFE_NO_PAD.decode(tag).ok()?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let message = message(credential, nonce);
    // Compares in constant time.
    let is_ours = hmac::verify(&key, &message, &tag).is_ok();
    (uid == credential.uid && nonce.len() == NONCE_CHARS && is_ours).then_some(nonce)
}

fn message(credential: &Credential, nonce: &str) -> Vec<u8> {
    let changed = credential.password_changed_ms.to_be_bytes();
    let parts = [b"cc_dev", credential.uid.as_bytes(), nonce.as_bytes()];
    [&parts.join(&b'.')[..], b".", &changed].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::UserId;

    fn user(uid: &str, password_changed_ms: i64) -> Credential {
        Credential {
            user: UserId(1),
            uid: uid.into(),
            hash: None,
            password_changed_ms,
            is_active: true,
            sessions_not_before_ms: 0,
        }
    }

    #[test]
    fn only_the_own_cookie_under_the_present_password_is_known() {
        let (key, alice) = ([7; 32], user("b0b5d8f178f1", 5));
        let cookie = issue(&key, &alice);
        let [uid, nonce, tag] = cookie.split('.').collect::<Vec<_>>()[..] else {
            panic!("three parts: {cookie}");
        };
        assert_eq!(
            (uid, nonce.len(), tag.len()),
            (alice.uid.as_str(), NONCE_CHARS, 43)
        );
        assert_ne!(issue(&key, &alice), cookie, "each has a nonce of its own");
        fn known(key: &[u8; 32], cookie: &str, user: &Credential) -> bool {
            recognise(key, Some(cookie), Some(user)).is_some()
        }
        assert_eq!(recognise(&key, Some(&cookie), Some(&alice)), Some(nonce));
        assert!(!known(&[8; 32], &cookie, &alice), "another site's key");
        assert!(!known(&key, &cookie, &user("b0b5d8f178f1", 6)), "voided");
        assert!(!known(&key, &cookie, &user("000000000000", 5)), "foreign");
        assert_eq!(recognise(&key, None, Some(&alice)), None);
        assert_eq!(recognise(&key, Some(&cookie), None), None);
        let other = "A".repeat(NONCE_CHARS);
        for invented in [
            String::new(),
            "..".into(),
            format!("{uid}.{other}.{tag}"),
            format!("{uid}.{nonce}."),
            format!("{uid}.{nonce}"),
            format!("{uid}.{nonce}.{tag}.x"),
            format!("000000000000.{nonce}.{tag}"),
            cookie.replace(tag, &"A".repeat(43)),
            cookie.clone() + &"A".repeat(100),
        ] {
            assert!(!known(&key, &invented, &alice), "{invented}");
        }
    }
}
