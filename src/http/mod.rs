//! HTTP as this server speaks it: what a request holds and what a reply is. Knows no handler.

pub mod address;
pub mod body;
pub mod cookie;
pub mod fields;
pub mod origin;
pub mod reply;
pub mod request;
pub mod wire;
