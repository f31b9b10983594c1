//! One function per endpoint: from a request to a reply or an error.

pub mod chat;
pub mod status;
