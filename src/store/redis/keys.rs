//! The names of everything in Redis. Each stands behind `redis.key_prefix`, and each has an end.
//!
//! ```text
//! sess:<cookie>             number of the user who is logged in; shared with the old service
//! cc:sess:{sess:<cookie>}   "user created ends seen": what we know of it, in the same slot
//! user_sess:<user>          hash: cookie → "created ends seen⏎address⏎user agent"
//! pwreset2:<SHA-256>        "user ends": whom a mailed token is for
//! cc:pwreset:<user>         SHA-256 of the user's last token
//! pwreset:<token>           the old service's tokens; read only
//! chat:<SHA-256 of cc_app>  hash: owner, generation, messages, ends
//! cc:chats:<user>           hash: chat → "made ends", the latter at the latest
//! cc:rl:<key>               hash: hits, ends; a rate-limit window
//! cc:ping                   written by health checks
//! cc:try                    made and deleted when a server starts
//! ```
//!
//! Times are milliseconds since 1970.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::model::{Token, UserId};
use crate::store::ChatKey;

/// Makes the names.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    pub prefix: String,
}

impl Keys {
    fn key(&self, kind: &str, name: &str) -> String {
        let mut key = String::with_capacity(self.prefix.len() + kind.len() + name.len());
        key.push_str(&self.prefix);
        key.push_str(kind);
        key.push_str(name);
        key
    }

    pub fn session(&self, token: &str) -> String {
        self.key("sess:", token)
    }

    /// A pattern for the keys of all sessions, as SCAN takes it.
    pub fn of_sessions(&self) -> String {
        let mut pattern = String::new();
        for c in self.session("").chars() {
            // All but letters and digits, some of which mean something else then.
            if c.is_ascii_punctuation() {
                pattern.push('\\');
            }
            pattern.push(c);
        }
        pattern.push('*');
        pattern
    }

    /// The session of such a key.
    pub fn token<'a>(&self, key: &'a str) -> Option<&'a str> {
        key.strip_prefix(&self.prefix)?.strip_prefix("sess:")
    }

    /// A session's own key, and that of what we know of it.
    pub fn both(&self, token: &str) -> [String; 2] {
        let session = self.session(token);
        // In a cluster only what is between braces counts for the slot.
        let mut facts = String::with_capacity(self.prefix.len() + session.len() + 10);
        facts.push_str(&self.prefix);
        facts.push_str("cc:sess:{");
        facts.push_str(&session);
        facts.push('}');
        [session, facts]
    }

    pub fn sessions_of(&self, user: UserId) -> String {
        self.key("user_sess:", &user.0.to_string())
    }

    pub fn reset_token(&self, sha256_hex: &str) -> String {
        self.key("pwreset2:", sha256_hex)
    }

    pub fn old_reset_token(&self, token: &Token) -> String {
        self.key("pwreset:", token.as_str())
    }

    pub fn reset_token_of(&self, user: UserId) -> String {
        self.key("cc:pwreset:", &user.0.to_string())
    }

    pub fn chat(&self, member: &str) -> String {
        self.key("chat:", member)
    }

    pub fn chats_of(&self, user: i64) -> String {
        self.key("cc:chats:", &user.to_string())
    }

    pub fn window(&self, key: &[u8]) -> String {
        self.key("cc:rl:", &URL_SAFE_NO_PAD.encode(key))
    }

    pub fn ping(&self) -> String {
        self.key("cc:", "ping")
    }

    pub fn trial(&self) -> String {
        self.key("cc:", "try")
    }
}

/// A chat as a member of a set, and as the end of its key.
pub(super) fn member(chat: ChatKey) -> String {
    URL_SAFE_NO_PAD.encode(chat.0)
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
