//! What CloudChat promises of a chat: one streamed answer per question, remembered.
//!
//! [`turn`] admits a question and decides what the client sees first; [`open`] asks the providers
//! in order until one sends text; [`answer`] is the response body, and [`linger`] what is left of one that
//! has failed; [`forget`] ends a history.

pub mod answer;
pub mod forget;
pub mod limits;
pub mod linger;
pub mod open;
pub mod turn;
mod unsent;
