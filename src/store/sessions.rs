//! The session store: chats and rate-limit windows. One arm per backend and method.

use super::embedded::{Call, Queue};
use super::{Begun, ChatKey, Generation, Owner, StoreError, Turn, Window};

/// A handle to the session store. All times are milliseconds since 1970, given by the caller.
#[derive(Debug, Clone)]
pub enum Sessions {
    /// The store's thread of this process.
    Embedded(Queue),
}

impl Sessions {
    /// Counts the hit, then reads the chat if it exists, has not expired and belongs to `owner`.
    /// Creates no chat.
    ///
    /// # Errors
    /// [`StoreError`]; the hit may have been counted nevertheless.
    pub async fn begin_chat(
        &self,
        now_ms: i64,
        chat: Option<ChatKey>,
        owner: Owner,
        window: Option<Window>,
    ) -> Result<Begun, StoreError> {
        match self {
            Sessions::Embedded(queue) => {
                let call = |reply| Call::BeginChat {
                    now_ms,
                    chat,
                    owner,
                    window,
                    reply,
                };
                queue.call(call).await
            }
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
        }
    }

    /// Whether the store answers: it reads a row.
    ///
    /// # Errors
    /// [`StoreError`] if it does not.
    pub async fn ping(&self) -> Result<(), StoreError> {
        match self {
            Sessions::Embedded(queue) => queue.call(|reply| Call::PingSessions { reply }).await,
        }
    }
}
