//! The account store: users, their credentials, mails to be sent, and the secrets that all servers
//! of a site share. One arm per backend and method.

use std::fmt;
use std::sync::Arc;

use super::embedded::{Call, Queue};
use super::postgres::Pool;
use super::secrets::Secrets;
use super::{OutboxRow, Posted, Registered, StoreError, Taken, TokenUse, Updated};
use crate::model::{
    Credential, DisplayName, Email, Identifier, NewUser, PasswordHash, Phone, Token, User, UserId,
};

/// A handle to the account store. All times are milliseconds since 1970, given by the caller.
/// Each answer to a write is given after its commit. What registers, sets a password or posts a
/// request is rolled back if its caller has had [`StoreError::TimedOut`] by then; other writes may
/// still be carried out after that. All other errors mean that nothing was written, unless a connection
/// to a server has died between a commit and its answer.
#[derive(Clone)]
pub enum Accounts {
    /// The store's thread of this process.
    Sqlite {
        /// The thread's queue.
        queue: Queue,
        /// Read at start; they never change.
        secrets: Arc<Secrets>,
    },
    /// A PostgreSQL server.
    Postgres {
        /// This core's connections.
        pool: Pool,
        /// Read at start; they never change.
        secrets: Arc<Secrets>,
    },
}

/// Secrets.
impl Accounts {
    /// The key for everything this site signs or pseudonymises; random, made once.
    pub fn hmac_key(&self) -> &[u8; 32] {
        &self.secrets().hmac_key
    }

    /// The key of `cc_dev` cookies.
    pub fn device_key(&self) -> &[u8; 32] {
        &self.secrets().device_key
    }

    /// The key that picks the dummy for an unknown identifier.
    pub fn mix_key(&self) -> &[u8; 32] {
        &self.secrets().mix_key
    }

    fn secrets(&self) -> &Secrets {
        match self {
            Accounts::Sqlite { secrets, .. } | Accounts::Postgres { secrets, .. } => secrets,
        }
    }
}

/// Users and credentials.
impl Accounts {
    /// Who has these already. [`Accounts::register`] decides; this saves the hash of a password that
    /// would be thrown away.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn taken(&self, email: &Email, phone: Option<&Phone>) -> Result<Taken, StoreError> {
        match self {
            Accounts::Sqlite { queue, .. } => queue.taken(email.clone(), phone.cloned()).await,
            Accounts::Postgres { pool, .. } => pool.taken(email, phone).await,
        }
    }

    /// Makes the account: user, credential and welcome mail in one transaction, under a new `uid`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn register(&self, now_ms: i64, user: NewUser) -> Result<Registered, StoreError> {
        match self {
            Accounts::Sqlite { queue, .. } => queue.register(now_ms, user).await,
            Accounts::Postgres { pool, .. } => pool.register(now_ms, user).await,
        }
    }

    /// What a login under this identifier is checked against.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn credential(
        &self,
        identifier: &Identifier,
    ) -> Result<Option<Credential>, StoreError> {
        match self {
            Accounts::Sqlite { queue, .. } => queue.credential(identifier.clone()).await,
            Accounts::Postgres { pool, .. } => pool.credential(identifier).await,
        }
    }

    /// The same of a known user: read again after a session was written.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn credential_of(&self, user: UserId) -> Result<Option<Credential>, StoreError> {
        match self {
            Accounts::Sqlite { queue, .. } => queue.credential_of(user).await,
            Accounts::Postgres { pool, .. } => pool.credential_of(user).await,
        }
    }

    /// A user by number.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn user(&self, user: UserId) -> Result<Option<User>, StoreError> {
        match self {
            Accounts::Sqlite { queue, .. } => queue.user(user).await,
            Accounts::Postgres { pool, .. } => pool.user(user).await,
        }
    }

    /// Stores another hash of the same password, unless the stored one is no longer `old` (`false`).
    /// Sessions and `cc_dev` cookies stay valid.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn rehash(
        &self,
        user: UserId,
        old: &PasswordHash,
        new: PasswordHash,
    ) -> Result<bool, StoreError> {
        match self {
            Accounts::Sqlite { queue, .. } => queue.rehash(user, old.clone(), new).await,
            Accounts::Postgres { pool, .. } => pool.rehash(user, old, &new).await,
        }
    }

    /// Replaces (or first gives) the password of an active user, once for each token: records the
    /// token as used, posts the mail and, with `end_sessions`, ends every session there is, all in
    /// one transaction.
    ///
    /// # Errors
    /// [`StoreError`]; then the token is still good, unless the time ran out during the commit itself.
    pub async fn use_reset_token(
        &self,
        now_ms: i64,
        token: &Token,
        user: UserId,
        new: PasswordHash,
        end_sessions: bool,
    ) -> Result<TokenUse, StoreError> {
        match self {
            Accounts::Sqlite { queue, .. } => {
                queue
                    .use_reset_token(now_ms, token.sha256(), user, new, end_sessions)
                    .await
            }
            Accounts::Postgres { pool, .. } => {
                pool.use_reset_token(now_ms, token.sha256(), user, &new, end_sessions)
                    .await
            }
        }
    }

    /// Replaces the password of an active user, unless the stored hash is no longer `old` (`None`);
    /// ends every session there is and posts the mail. The answer is the new state: a session that
    /// starts at its [`Credential::session_start_ms`] lives.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn change_password(
        &self,
        now_ms: i64,
        user: UserId,
        old: &PasswordHash,
        new: PasswordHash,
    ) -> Result<Option<Credential>, StoreError> {
        match self {
            Accounts::Sqlite { queue, .. } => {
                queue.change_password(now_ms, user, old.clone(), new).await
            }
            Accounts::Postgres { pool, .. } => pool.change_password(now_ms, user, old, new).await,
        }
    }

    /// Gives the user this password, whatever it was, ends every session there is, and posts
    /// [`crate::model::Letter::ResetDone`]: whoever sets it is not the user, who should know.
    /// `false`: there is no such user.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn set_password(
        &self,
        now_ms: i64,
        user: UserId,
        new: PasswordHash,
    ) -> Result<bool, StoreError> {
        match self {
            Accounts::Sqlite { queue, .. } => queue.set_password(now_ms, user, new).await,
            Accounts::Postgres { pool, .. } => pool.set_password(now_ms, user, &new).await,
        }
    }

    /// Changes what is given: `Some(None)` removes it, `None` leaves it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn update_profile(
        &self,
        user: UserId,
        display_name: Option<Option<DisplayName>>,
        phone: Option<Option<Phone>>,
    ) -> Result<Updated, StoreError> {
        match self {
            Accounts::Sqlite { queue, .. } => queue.update_profile(user, display_name, phone).await,
            Accounts::Postgres { pool, .. } => pool.update_profile(user, display_name, phone).await,
        }
    }

    /// Deletes the account with its credential and waiting mails; email address and phone number are
    /// free at once. `false`: there is no such user. This comes first: with it all sessions, reset
    /// tokens and chats of the user are dead, wherever the process is killed before
    /// [`super::Sessions::end_sessions_of`], `drop_reset_tokens` and `delete_chats_of` remove them.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn delete_user(&self, user: UserId) -> Result<bool, StoreError> {
        match self {
            Accounts::Sqlite { queue, .. } => queue.delete_user(user).await,
            Accounts::Postgres { pool, .. } => pool.delete_user(user).await,
        }
    }

    /// Lets the user log in, or not; the latter ends every session there is, for good. `false`: there
    /// is no such user.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn set_active(
        &self,
        now_ms: i64,
        user: UserId,
        is_active: bool,
    ) -> Result<bool, StoreError> {
        match self {
            Accounts::Sqlite { queue, .. } => queue.set_active(now_ms, user, is_active).await,
            Accounts::Postgres { pool, .. } => pool.set_active(now_ms, user, is_active).await,
        }
    }

    /// Ends every session there is: `sessions_not_before` is now later than their starts. `false`:
    /// there is no such user.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn end_sessions_before_now(
        &self,
        now_ms: i64,
        user: UserId,
    ) -> Result<bool, StoreError> {
        match self {
            Accounts::Sqlite { queue, .. } => queue.end_sessions_before_now(now_ms, user).await,
            Accounts::Postgres { pool, .. } => pool.end_sessions_before_now(now_ms, user).await,
        }
    }

    /// Up to `rows_max` users with larger numbers than `after`, in order.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn list_users(&self, after: UserId, rows_max: u32) -> Result<Vec<User>, StoreError> {
        match self {
            Accounts::Sqlite { queue, .. } => queue.list_users(after, rows_max).await,
            Accounts::Postgres { pool, .. } => pool.list_users(after, rows_max).await,
        }
    }

    /// The users whose email address, phone number, `uid` or number this is. More than one if one's
    /// phone number is another's number: then the caller must ask.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn find_users(&self, text: &str) -> Result<Vec<User>, StoreError> {
        match self {
            Accounts::Sqlite { queue, .. } => queue.find_users(text.to_owned()).await,
            Accounts::Postgres { pool, .. } => pool.find_users(text).await,
        }
    }

    /// How many passwords are hashed with which parameters, which is what stands before the salt
    /// (`$argon2id$v=19$m=65536,t=3,p=4`; empty for a text that has no salt), the commonest first, at most 16; on PostgreSQL in a sample of about a
    /// MiB of the table. What it costs has a bound however many users there are.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn hash_mix(&self) -> Result<Vec<(String, u32)>, StoreError> {
        match self {
            Accounts::Sqlite { queue, .. } => queue.hash_mix().await,
            Accounts::Postgres { pool, .. } => pool.hash_mix().await,
        }
    }
}

/// Mails to be sent.
impl Accounts {
    /// Notes that somebody asked for a new password. Whether there is such a user is found out at
    /// sending time, so this costs the same either way.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn post_reset_request(
        &self,
        now_ms: i64,
        identifier: &Identifier,
    ) -> Result<Posted, StoreError> {
        match self {
            Accounts::Sqlite { queue, .. } => {
                queue.post_reset_request(now_ms, identifier.clone()).await
            }
            Accounts::Postgres { pool, .. } => pool.post_reset_request(now_ms, identifier).await,
        }
    }

    /// Takes up to `rows_max` mails that are due, those first that are due longest. Nobody else gets
    /// them before `lease_ms` have passed; a sender that dies leaves them to the next one. One that would wait for longer
    /// than two of the longest pauses ([`LETTER_PAUSE_MS_MAX`](super::LETTER_PAUSE_MS_MAX)) is due: the clock was set back.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn claim_letters(
        &self,
        now_ms: i64,
        lease_ms: i64,
        rows_max: u32,
    ) -> Result<Vec<OutboxRow>, StoreError> {
        match self {
            Accounts::Sqlite { queue, .. } => queue.claim_letters(now_ms, lease_ms, rows_max).await,
            Accounts::Postgres { pool, .. } => pool.claim_letters(now_ms, lease_ms, rows_max).await,
        }
    }

    /// Removes a mail: it was sent, or will never be.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn finish_letter(&self, id: i64) -> Result<(), StoreError> {
        match self {
            Accounts::Sqlite { queue, .. } => queue.finish_letter(id).await,
            Accounts::Postgres { pool, .. } => pool.finish_letter(id).await,
        }
    }

    /// Lets a mail be claimed again from `next_ms` on.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn retry_letter(&self, id: i64, next_ms: i64) -> Result<(), StoreError> {
        match self {
            Accounts::Sqlite { queue, .. } => queue.retry_letter(id, next_ms).await,
            Accounts::Postgres { pool, .. } => pool.retry_letter(id, next_ms).await,
        }
    }

    /// Makes every mail due, even those that are claimed or put off: for a sender that has none in
    /// hand, on a store that its server has for itself. Does nothing on one that servers share: there
    /// a mail waits for the end of its lease.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn release_letters(&self, now_ms: i64) -> Result<(), StoreError> {
        match self {
            Accounts::Sqlite { queue, .. } => queue.release_letters(now_ms).await,
            Accounts::Postgres { .. } => Ok(()),
        }
    }

    /// Whether the store answers and takes writes: it reads a row. A file is
    /// written to, too, once in 10 s at most; PostgreSQL says whether it would be.
    ///
    /// # Errors
    /// [`StoreError`] if it does not.
    pub async fn ping(&self) -> Result<(), StoreError> {
        match self {
            Accounts::Sqlite { queue, .. } => {
                queue.call(|reply| Call::PingAccounts { reply }).await
            }
            Accounts::Postgres { pool, .. } => pool.ping().await,
        }
    }
}

/// Keys stay hidden.
impl fmt::Debug for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Accounts")
    }
}
