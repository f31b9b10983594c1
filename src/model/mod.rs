//! The words that rules and stores share: identities as people type them, users, secrets in the
//! form they may be stored in. Knows no HTTP and no SQL.
//!
//! Input is parsed into these types once, at the edge; what has the type keeps to its bounds.

mod address;
mod identity;
mod secret;

use std::fmt;

use serde::Serialize;

pub use address::{Forms, nfc};
pub use identity::{DisplayName, Email, Identifier, Phone};
pub use secret::{PasswordHash, Token};

/// The number of a user; never given to another one, not even after the user was deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(pub i64);

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A user as stored. Times are milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its number.
    pub id: UserId,
    /// Its public name: 12 hex digits, random.
    pub uid: String,
    /// As registered, unique; one that the service before took in may be of any form. None: the account was
    /// made by another login.
    pub email: Option<Email>,
    /// At most 32 code points, unless the service before took it in; unique.
    pub phone: Option<Phone>,
    /// At most 80 code points, with the same exception.
    pub display_name: Option<DisplayName>,
    /// Whether the user may log in.
    pub is_active: bool,
    /// When it registered; None: not written down.
    pub created_ms: Option<i64>,
    /// Sessions that started before this are dead.
    pub sessions_not_before_ms: i64,
}

impl User {
    /// Whether a session that started then is alive, as far as the account has a say in it.
    pub fn admits(&self, session_created_ms: i64) -> bool {
        self.is_active && session_created_ms >= self.sessions_not_before_ms
    }

    /// What people get to see of it, in JSON.
    pub fn shown(&self) -> Shown<'_> {
        Shown {
            id: self.id.0,
            uid: &self.uid,
            email: self.email.as_ref().map(Email::as_str),
            phone: self.phone.as_ref().map(Phone::as_str),
            display_name: self.display_name.as_ref().map(DisplayName::as_str),
            is_active: self.is_active,
        }
    }
}

/// A user as the user and the operator see it; the names and their order are the contract's.
#[derive(Debug, Clone, Copy, Serialize)]
#[expect(missing_docs, reason = "each is the field of `User` with this name")]
pub struct Shown<'a> {
    pub id: i64,
    pub uid: &'a str,
    pub email: Option<&'a str>,
    pub phone: Option<&'a str>,
    pub display_name: Option<&'a str>,
    pub is_active: bool,
}

/// What a login is checked against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// Whose it is.
    pub user: UserId,
    /// The user's public name.
    pub uid: String,
    /// None: this user has no password, and cannot log in with one.
    pub hash: Option<PasswordHash>,
    /// When the person chose this password; 0 if that is not known. A rehash of the same one leaves it. Never
    /// the same for two passwords that we have stored, so what is signed over it (`cc_dev`) is void after a
    /// change. A reset by the service that shares the table moves it where it can be told from a rehash.
    pub password_changed_ms: i64,
    /// Whether the user may log in.
    pub is_active: bool,
    /// Sessions that started before this are dead.
    pub sessions_not_before_ms: i64,
}

impl Credential {
    /// The start of a session that this credential opens. `now_ms` is a time taken *before* the
    /// credential was read: then every later change of the password, deactivation or revocation
    /// has a later `sessions_not_before`, and the session dies of it even if it is written
    /// afterwards.
    pub fn session_start_ms(&self, now_ms: i64) -> i64 {
        now_ms.max(self.sessions_not_before_ms)
    }
}

/// Someone who registers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewUser {
    /// Free or not: the store decides.
    pub email: Email,
    /// The same.
    pub phone: Option<Phone>,
    /// Shown to the user.
    pub display_name: Option<DisplayName>,
    /// Of the password.
    pub hash: PasswordHash,
    /// Whether a [`Letter::Welcome`] is posted with the account.
    pub welcome: bool,
}

/// A kind of mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Letter {
    /// You have registered.
    Welcome,
    /// Here is the link to choose a new password.
    Reset,
    /// The password was replaced by way of such a link, or by the operator.
    ResetDone,
    /// The password was changed by someone who knew the old one.
    PasswordChanged,
}

impl Letter {
    /// Every kind.
    pub const ALL: [Letter; 4] = [
        Letter::Welcome,
        Letter::Reset,
        Letter::ResetDone,
        Letter::PasswordChanged,
    ];

    /// Its name in stores and log lines.
    pub fn name(self) -> &'static str {
        match self {
            Letter::Welcome => "welcome",
            Letter::Reset => "reset",
            Letter::ResetDone => "reset_done",
            Letter::PasswordChanged => "password_changed",
        }
    }

    /// The kind of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|letter| letter.name() == name)
    }
}
