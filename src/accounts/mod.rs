//! The rules of accounts: what a password must be.

mod common;
pub mod password;
