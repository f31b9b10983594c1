//! The session store: logins, reset tokens, chats and rate-limit windows. One arm per backend and
//! method.

use super::embedded::{Call, Queue};
use super::redis::Link;
use super::{
    ADDRESS_CHARS_MAX, Begun, ChatKey, Generation, NewSession, OwnChat, Owner, Reservation,
    Reserved, Session, SessionInfo, StoreError, Turn, USER_AGENT_CHARS_MAX, Window,
};
use crate::model::{Token, UserId};

/// Length of a [`SessionInfo::id`].
const SESSION_ID_CHARS: usize = 16;
/// Chats deleted by one call, so that no other call waits long for it.
const CHATS_AT_ONCE: u32 = 25;

/// A handle to the session store. All times are milliseconds since 1970, given by the caller.
#[derive(Debug, Clone)]
pub enum Sessions {
    /// The store's thread of this process.
    Embedded(Queue),
    /// Redis.
    Redis(Link),
}

impl Sessions {
    /// Counts a hit in each window, or in none if one of them is full, then reads the chat if it exists, has not expired and belongs to `owner`.
    /// Creates no chat.
    ///
    /// # Errors
    /// [`StoreError`]; the hits may have been counted nevertheless.
    pub async fn begin_chat(
        &self,
        now_ms: i64,
        chat: Option<ChatKey>,
        owner: Owner,
        windows: Vec<Window>,
    ) -> Result<Begun, StoreError> {
        if chat.is_none() && windows.is_empty() {
            // Nothing to ask for.
            return Ok(Begun::Ready { chat: None });
        }
        match self {
            Sessions::Embedded(queue) => {
                let call = |reply| Call::BeginChat {
                    now_ms,
                    chat,
                    owner,
                    windows,
                    reply,
                };
                queue.call(call).await
            }
            Sessions::Redis(link) => link.begin_chat(now_ms, chat, owner, windows).await,
        }
    }

    /// The provider has accepted: makes the chat (`new`) or lets it live for `ttl_ms` from now.
    /// One that is gone or was reset since (another generation) is left alone.
    ///
    /// # Errors
    /// [`StoreError`]; after [`StoreError::TimedOut`] the chat may have been written.
    pub async fn open_chat(
        &self,
        now_ms: i64,
        chat: ChatKey,
        owner: Owner,
        generation: Generation,
        ttl_ms: i64,
        new: bool,
    ) -> Result<(), StoreError> {
        match self {
            Sessions::Embedded(queue) => {
                let call = |reply| Call::OpenChat {
                    expires_ms: now_ms.saturating_add(ttl_ms),
                    chat,
                    owner,
                    generation,
                    new,
                    reply,
                };
                queue.call(call).await
            }
            Sessions::Redis(link) => {
                link.open_chat(now_ms, chat, owner, generation, ttl_ms, new)
                    .await
            }
        }
    }

    /// Adds an exchange to its chat, trims the history and renews the expiry. Carried out even if
    /// the caller gives up waiting, once there was room in the queue. `false`: the chat is gone or
    /// was reset since, nothing was stored.
    ///
    /// # Errors
    /// [`StoreError`]; after [`StoreError::TimedOut`] the turn may still be stored.
    pub async fn save_turn(&self, now_ms: i64, turn: Turn) -> Result<bool, StoreError> {
        match self {
            Sessions::Embedded(queue) => {
                let call = |reply| Call::SaveTurn {
                    now_ms,
                    turn,
                    reply,
                };
                queue.call(call).await
            }
            Sessions::Redis(link) => link.save_turn(now_ms, turn).await,
        }
    }

    /// Forgets the history of this owner's chat; turns that are running will not be stored. The
    /// chat itself stays, under a new generation. Does nothing to a foreign or unknown chat.
    ///
    /// # Errors
    /// [`StoreError`]; after [`StoreError::TimedOut`] it may still be carried out.
    pub async fn reset_chat(&self, chat: ChatKey, owner: Owner) -> Result<(), StoreError> {
        match self {
            Sessions::Embedded(queue) => {
                let call = |reply| Call::ResetChat { chat, owner, reply };
                queue.call(call).await
            }
            Sessions::Redis(link) => link.reset_chat(chat, owner).await,
        }
    }

    /// Whether the store answers and takes writes: it writes, to a file once in
    /// 10 s at most.
    ///
    /// # Errors
    /// [`StoreError`] if it does not.
    pub async fn ping(&self) -> Result<(), StoreError> {
        match self {
            Sessions::Embedded(queue) => queue.call(|reply| Call::PingSessions { reply }).await,
            Sessions::Redis(link) => link.ping().await,
        }
    }
}

/// Logins.
impl Sessions {
    /// Remembers a login and ends the session it replaces, whoever's that was; the first-started ones
    /// of this user end above [`SESSIONS_PER_USER_MAX`](super::SESSIONS_PER_USER_MAX), the ones that
    /// expire first above `store.sessions_max`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn create_session(&self, new: NewSession) -> Result<(), StoreError> {
        match self {
            Sessions::Embedded(queue) => queue.create_session(cut(new)).await,
            Sessions::Redis(link) => link.create_session(cut(new)).await,
        }
    }

    /// The session of this cookie, unless it has expired. Notes about once a minute that a noted one is used.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn session(&self, now_ms: i64, token: &Token) -> Result<Option<Session>, StoreError> {
        match self {
            Sessions::Embedded(queue) => queue.session(now_ms, token.clone()).await,
            Sessions::Redis(link) => link.session(now_ms, token).await,
        }
    }

    /// Makes a record of a session that has none, and that its account admits.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn note_session(
        &self,
        now_ms: i64,
        token: &Token,
        session: &Session,
    ) -> Result<(), StoreError> {
        match self {
            Sessions::Embedded(_) => Ok(()),
            Sessions::Redis(link) => link.note_session(now_ms, token, session.user).await,
        }
    }

    /// The session of this cookie, which says whose chats it leads to, as far as this store knows. The
    /// account store need not answer. Where both are one process's files, a session that its account
    /// does not admit any more is none.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn chat_user(
        &self,
        now_ms: i64,
        token: &Token,
    ) -> Result<Option<Session>, StoreError> {
        match self {
            Sessions::Embedded(queue) => {
                let token = token.clone();
                let call = |reply| Call::ChatUser {
                    now_ms,
                    token,
                    reply,
                };
                queue.call(call).await
            }
            Sessions::Redis(link) => link.chat_user(now_ms, token).await,
        }
    }

    /// Ends the session of this cookie; whose it was.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn end_session(&self, token: &Token) -> Result<Option<UserId>, StoreError> {
        match self {
            Sessions::Embedded(queue) => queue.end_session(token.clone()).await,
            Sessions::Redis(link) => link.end_session(token).await,
        }
    }

    /// The user's sessions, the newest first; at most 50.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn sessions_of(
        &self,
        now_ms: i64,
        user: UserId,
    ) -> Result<Vec<SessionInfo>, StoreError> {
        match self {
            Sessions::Embedded(queue) => queue.sessions_of(now_ms, user).await,
            Sessions::Redis(link) => link.sessions_of(now_ms, user).await,
        }
    }

    /// Ends this user's session with that [`SessionInfo::id`]. `false`: there is none.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn end_session_by_id(&self, user: UserId, id: &str) -> Result<bool, StoreError> {
        match self {
            Sessions::Embedded(queue) => {
                queue
                    .end_session_by_id(user, id.chars().take(SESSION_ID_CHARS + 1).collect())
                    .await
            }
            Sessions::Redis(link) => link.end_session_by_id(user, id).await,
        }
    }

    /// Ends the user's sessions but the one excepted; how many. Costs these only, however many others
    /// there are. In Redis those that no record of ours names end later, when all keys have been looked at in the
    /// background ([`Sessions::swept`]); they are not counted. By then there may be new ones: those that have begun at
    /// `before_ms` or after it live.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn end_sessions_of(
        &self,
        user: UserId,
        except: Option<&Token>,
        before_ms: i64,
    ) -> Result<u32, StoreError> {
        match self {
            Sessions::Embedded(queue) => queue.end_sessions_of(user, except.cloned()).await,
            Sessions::Redis(link) => link.end_sessions_of(user, except, before_ms).await,
        }
    }

    /// Waits until [`Sessions::end_sessions_of`] has done all that it does in the background: a minute for most, if
    /// nobody else ends sessions meanwhile. For a process that is about to end.
    pub async fn swept(&self) {
        match self {
            Sessions::Embedded(_) => {}
            Sessions::Redis(link) => link.swept().await,
        }
    }

    /// Remembers a mailed token for `ttl_ms`, a day at most; the user's older ones are dropped.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn put_reset_token(
        &self,
        now_ms: i64,
        token: &Token,
        user: UserId,
        ttl_ms: i64,
    ) -> Result<(), StoreError> {
        match self {
            Sessions::Embedded(queue) => {
                queue
                    .put_reset_token(now_ms, token.sha256(), user, ttl_ms)
                    .await
            }
            Sessions::Redis(link) => {
                link.put_reset_token(now_ms, token.sha256(), user, ttl_ms)
                    .await
            }
        }
    }

    /// Whose token this is, unless it has expired.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn reset_token(
        &self,
        now_ms: i64,
        token: &Token,
    ) -> Result<Option<UserId>, StoreError> {
        match self {
            Sessions::Embedded(queue) => queue.reset_token(now_ms, token.sha256()).await,
            Sessions::Redis(link) => link.reset_token(now_ms, token).await,
        }
    }

    /// Drops the user's tokens, among them the one that was `used`: the old service's are known by
    /// themselves only.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn drop_reset_tokens(
        &self,
        user: UserId,
        used: Option<&Token>,
    ) -> Result<(), StoreError> {
        match self {
            Sessions::Embedded(queue) => queue.drop_reset_tokens(user).await,
            Sessions::Redis(link) => link.drop_reset_tokens(user, used).await,
        }
    }
}

/// Limits, and chats that go with their user.
impl Sessions {
    /// Counts a hit in each window, or in none if one is at its limit.
    ///
    /// # Errors
    /// [`StoreError`]; after [`StoreError::TimedOut`] the hits may have been counted.
    pub async fn reserve(&self, now_ms: i64, windows: &[Window]) -> Result<Reserved, StoreError> {
        match self {
            Sessions::Embedded(queue) => queue.reserve(now_ms, windows.to_vec()).await,
            Sessions::Redis(link) => link.reserve(now_ms, windows).await,
        }
    }

    /// Gives the hits back to the windows that they were counted in, as far as these still run; neither
    /// starts nor prolongs one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn release(&self, reservation: Reservation) -> Result<(), StoreError> {
        match self {
            Sessions::Embedded(queue) => queue.release(reservation).await,
            Sessions::Redis(link) => link.release(reservation).await,
        }
    }

    /// Deletes this owner's chat; turns that are running will not be stored. Does nothing to a
    /// foreign or unknown one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn delete_chat(&self, chat: ChatKey, owner: Owner) -> Result<(), StoreError> {
        match self {
            Sessions::Embedded(queue) => queue.delete_chat(chat, owner).await,
            Sessions::Redis(link) => link.delete_chat(chat, owner).await,
        }
    }

    /// Up to `rows_max` live chats of this user that come after this [`OwnChat::place`], in order; the
    /// first ones come after `i64::MIN`. Each may be as long as histories are
    /// (`chat.history_bytes_max`).
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn chats_of(
        &self,
        now_ms: i64,
        user: UserId,
        after: i64,
        rows_max: u32,
    ) -> Result<Vec<OwnChat>, StoreError> {
        match self {
            Sessions::Embedded(queue) => queue.chats_of(now_ms, user, after, rows_max).await,
            Sessions::Redis(link) => link.chats_of(now_ms, user, after, rows_max).await,
        }
    }

    /// Deletes all chats of this user, a few at a time.
    ///
    /// # Errors
    /// [`StoreError`]; some may be left.
    pub async fn delete_chats_of(&self, user: UserId) -> Result<(), StoreError> {
        match self {
            Sessions::Embedded(queue) => {
                while queue.delete_chats_of(user, CHATS_AT_ONCE).await? == CHATS_AT_ONCE {}
                Ok(())
            }
            Sessions::Redis(link) => link.delete_chats_of(user).await,
        }
    }
}

/// What a browser says of itself is stored as far as it fits.
fn cut(new: NewSession) -> NewSession {
    let head = |text: String, chars_max| match text.char_indices().nth(chars_max) {
        Some((end, _)) => text[..end].to_owned(),
        None => text,
    };
    NewSession {
        address: head(new.address, ADDRESS_CHARS_MAX),
        user_agent: head(new.user_agent, USER_AGENT_CHARS_MAX),
        ..new
    }
}
