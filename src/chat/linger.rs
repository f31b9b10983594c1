//! What is left of an answer that has failed: its connection, until the client has had time to take
//! the error line.
//!
//! Browsers and proxies throw away what arrives together with a break, so the break waits. By then
//! everything that the answer held has been given back.

use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use crate::app::App;
use crate::clock::{self, Timer};
use crate::http::body::{Broken, Chunk, Source};
use crate::http::wire::Wire;

/// Longest wait while the server ends. A worker then gives its connections a second more than turns
/// may take to be stored, and this one may have taken all of that.
const ENDING_WAIT_MAX: Duration = Duration::from_millis(900);

/// The wait, and the break.
pub struct Linger {
    app: Rc<App>,
    wire: Rc<Wire>,
    /// Set when the line has left: an ordinary wait begins then, and another with the server's end.
    until: Option<Instant>,
    is_ending: bool,
    timer: Timer,
}

/// As many of these may be there as connections.
const _: () = assert!(size_of::<Linger>() <= 64);

impl Linger {
    /// Begins when everything handed to hyper so far has left.
    pub fn new(app: Rc<App>, wire: Rc<Wire>) -> Self {
        let timer = Timer::new(clock::now() + app.shared.config.chat.break_wait);
        Self {
            app,
            wire,
            until: None,
            is_ending: false,
            timer,
        }
    }
}

impl Source for Linger {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Chunk, Broken>>> {
        ready!(self.wire.poll_flushed(cx));
        let wait = self.app.shared.config.chat.break_wait;
        let mut until = self.until.unwrap_or_else(|| clock::now() + wait);
        if self.app.is_ending() && !self.is_ending {
            self.is_ending = true;
            until = until.min(clock::now() + ENDING_WAIT_MAX);
        }
        self.until = Some(until);
        ready!(self.timer.poll(cx, until));
        Poll::Ready(Some(Err(Broken)))
    }
}
