//! What the running server takes from the heap: per forwarded event, per chat, per open stream. The
//! server runs inside the test, so that its threads' allocations, hyper's and tokio's included, can
//! be counted.

mod chats;
mod client;
mod counting;
mod events;
mod heap;
mod rig;
