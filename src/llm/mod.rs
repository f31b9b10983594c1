//! The model providers' protocol, pure: bytes in, bytes out. It never waits, never reads a clock,
//! and allocates nothing per forwarded event.
//!
//! Text stays in the JSON-escaped form in which the provider sent it, from the event
//! ([`transcoder`]) over what is remembered ([`history`]) to the next request ([`prompt`]).

mod event;
pub mod history;
pub mod prompt;
mod shape;
pub mod sse;
mod template;
pub mod transcoder;

pub use event::{Finish, ProviderError};
pub use template::TEMPLATE_BYTES_MAX;
