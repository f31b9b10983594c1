//! What the stores are given and what they answer, besides chats and the words of `model`.

use std::fmt;

use crate::model::{Identifier, Letter, Token, User, UserId};

/// Which of two identities somebody else has already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Taken {
    /// The email address.
    pub email: bool,
    /// The phone number.
    pub phone: bool,
}

/// The answer to [`super::Accounts::register`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registered {
    /// The account is there, and survives a power cut.
    Done(UserId),
    /// Somebody has this email address; nothing was written.
    EmailTaken,
    /// Somebody has this phone number; nothing was written.
    PhoneTaken,
}

/// The answer to [`super::Accounts::use_reset_token`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenUse {
    /// The password was replaced; this token will never be accepted again.
    Done,
    /// Another request had used it before; nothing was written.
    Used,
    /// The user is gone or inactive; nothing was written.
    NoUser,
}

/// The answer to [`super::Accounts::update_profile`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Updated {
    /// The user as it is now.
    Done(User),
    /// Somebody else has this phone number; nothing was written.
    PhoneTaken,
    /// The user is gone.
    NoUser,
}

/// Whether a mail was put into the outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Posted {
    /// It will be sent, also after a restart.
    Queued,
    /// The outbox is full (`mail.queue_max`), which has been reported.
    Dropped,
}

/// A mail to be sent, leased to one sender for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxRow {
    /// For [`super::Accounts::finish_letter`] and [`super::Accounts::retry_letter`].
    pub id: i64,
    /// What it says.
    pub letter: Letter,
    /// To whom, if that was known when it was posted.
    pub user: Option<UserId>,
    /// What somebody typed who asked for a new password. Without this and without a user there
    /// is nobody to send it to.
    pub identifier: Option<Identifier>,
    /// When it was posted, milliseconds since 1970.
    pub created_ms: i64,
    /// How often it was claimed before.
    pub tries: u32,
}

/// A login to be remembered.
#[derive(Clone, PartialEq, Eq)]
pub struct NewSession {
    /// The cookie's value.
    pub token: Token,
    /// Who logged in.
    pub user: UserId,
    /// [`crate::model::Credential::session_start_ms`].
    pub start_ms: i64,
    /// It ends so long after its start.
    pub ttl_ms: i64,
    /// Where the login came from; cut to [`ADDRESS_CHARS_MAX`].
    pub address: String,
    /// What the browser calls itself; cut to [`USER_AGENT_CHARS_MAX`].
    pub user_agent: String,
    /// The session that the browser had before; it ends.
    pub replaces: Option<Token>,
}

/// Longest address of a session as stored, in code points.
pub const ADDRESS_CHARS_MAX: usize = 64;
/// Longest user agent of a session as stored, in code points.
pub const USER_AGENT_CHARS_MAX: usize = 200;
/// Sessions that one user may have; the one that started first ends for a further one.
pub const SESSIONS_PER_USER_MAX: u32 = 50;

/// Addresses have no place in a log.
impl fmt::Debug for NewSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NewSession(user {})", self.user)
    }
}

/// A live session. It counts only if the user [admits](User::admits) it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    /// Who is logged in.
    pub user: UserId,
    /// When it started, milliseconds since 1970.
    pub created_ms: i64,
    /// Whether the store has a record of it. One without (the replaced service has made it, or the record was evicted)
    /// may be of somebody whose sessions have ended: ask the account, then [`super::Sessions::note_session`].
    pub is_noted: bool,
}

/// A session as its user may see it.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionInfo {
    /// Names it among its user's sessions: 16 hex digits, of no use as a cookie.
    pub id: String,
    /// When it started, milliseconds since 1970.
    pub created_ms: i64,
    /// When it was last used, to about a minute.
    pub last_seen_ms: i64,
    /// Where the login came from.
    pub address: String,
    /// What the browser called itself.
    pub user_agent: String,
    pub(super) key: [u8; 32],
}

impl SessionInfo {
    /// Whether this is the session of that cookie.
    pub fn is(&self, token: &Token) -> bool {
        self.key == token.sha256()
    }
}

/// Addresses and keys have no place in a log.
impl fmt::Debug for SessionInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionInfo({})", self.id)
    }
}

/// A chat as its user may take it away.
#[derive(Clone, PartialEq, Eq)]
pub struct OwnChat {
    /// Where it stands among its user's chats, for [`super::Sessions::chats_of`].
    pub place: i64,
    /// When it ends, milliseconds since 1970.
    pub expires_ms: i64,
    /// As [`super::Found::messages`].
    pub messages: Vec<u8>,
}

/// Messages have no place in a log.
impl fmt::Debug for OwnChat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnChat({} bytes)", self.messages.len())
    }
}

/// The answer to [`super::Sessions::reserve`].
#[derive(Debug, PartialEq, Eq)]
pub enum Reserved {
    /// A hit was counted in each window.
    Done(Reservation),
    /// One is at its limit; no hit was counted in any.
    Over {
        /// The first such, by its place among the windows given.
        which: usize,
        /// Whole seconds until that one ends, at least 1.
        retry_after_s: u32,
    },
}

/// Hits that have been counted, and may be given back once. Dropping it leaves them counted.
#[derive(PartialEq, Eq)]
pub struct Reservation {
    /// Keys, and the ends of the windows that the hits were counted in: what has ended since and
    /// begun anew does not get them.
    pub(super) hits: Vec<(Vec<u8>, i64)>,
}

/// Keys hold addresses.
impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reservation({} hits)", self.hits.len())
    }
}
