//! The rules of accounts: who may register, log in, and change what.

mod common;
pub mod device;
pub mod login;
pub mod password;
pub mod profile;
pub mod quota;
pub mod recovery;
pub mod register;
pub mod session;
mod verify;

use std::fmt;

use crate::http::address::Client;
use crate::model::Token;

/// Where a request comes from, and what it shows.
pub struct Browser<'a> {
    /// What its limits are counted by.
    pub client: Client,
    /// Its address, for the list of sessions.
    pub address: String,
    /// What it calls itself.
    pub user_agent: String,
    /// The cookie of its session.
    pub session: Option<Token>,
    /// The cookie that says that it has logged in before.
    pub device: Option<&'a str>,
}

/// Addresses and cookies have no place in a log.
impl fmt::Debug for Browser<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Browser")
    }
}
