//! What every test stands on: the real binary, a raw HTTP client, and a provider played by the test.

pub mod answer;
pub mod beside;
pub mod browser;
pub mod client;
pub mod doctor;
pub mod nginx;
mod own;
pub mod person;
pub mod provider;
pub mod reply;
pub mod server;
pub mod stores;

pub use beside::Beside;
pub use browser::Browser;
pub use client::{Conn, question, request};
pub use doctor::Doctor;
pub use person::{PASSWORD, Person, fails, is_weak};
pub use provider::{Call, Provider};
pub use reply::Reply;
pub use server::Server;

use std::thread;
use std::time::Duration;

use cloudchat::clock;

/// How long anything in these tests may take before it counts as hanging.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Asks again until the answer is `Some`; for what only shows itself when looked at.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = clock::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain for: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Seconds that `work` takes.
pub fn seconds(work: impl FnOnce()) -> f64 {
    let start = clock::now();
    work();
    start.elapsed().as_secs_f64()
}

/// Lets time pass, where it is the passing of time that is tested.
pub fn pass(seconds: f64) {
    thread::sleep(Duration::from_secs_f64(seconds));
}
