//! What these tests do with the servers besides.

use crate::kit::stores::{Accounts, Pair};
use crate::services::Services;

impl Services {
    /// Where servers of ours keep accounts and sessions.
    pub fn pair(&self, accounts: &str, sessions: &str) -> Pair {
        let accounts = Accounts::new(self.address(accounts), self.address("POSTGRES"));
        Pair {
            accounts: Some(accounts),
            sessions: Some(self.address(sessions).to_owned()),
            is_shared: false,
        }
    }
}
