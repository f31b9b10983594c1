//! The account store: the secrets that all servers of a site share.

use std::fmt;
use std::sync::Arc;

use super::StoreError;
use super::embedded::{Call, Queue};

/// A handle to the account store.
#[derive(Clone)]
pub enum Accounts {
    /// The store's thread of this process.
    Sqlite {
        /// The thread's queue.
        queue: Queue,
        /// Read at start; it never changes.
        hmac_key: Arc<[u8; 32]>,
    },
}

impl Accounts {
    /// The key for everything this site signs or pseudonymises; random, made once.
    pub fn hmac_key(&self) -> &[u8; 32] {
        match self {
            Accounts::Sqlite { hmac_key, .. } => hmac_key,
        }
    }

    /// Whether the store answers: it reads a row.
    ///
    /// # Errors
    /// [`StoreError`] if it does not.
    pub async fn ping(&self) -> Result<(), StoreError> {
        match self {
            Accounts::Sqlite { queue, .. } => {
                queue.call(|reply| Call::PingAccounts { reply }).await
            }
        }
    }
}

/// The key stays hidden.
impl fmt::Debug for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Accounts")
    }
}
