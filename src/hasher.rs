//! The door to Argon2: one thread of lowered priority, one block of memory, one bounded queue.
//!
//! Hashing takes some 16 ms of a core and 19 MiB, so it never runs where streams do. The block is
//! mapped once and counts in the memory sum; its pages go back to the system while nobody logs in.
//! Whoever finds the queue full is told so at once, and nobody waits for longer than
//! `auth.hash_seconds_max`: a login storm costs its own callers, not the streams beside it.
//!
//! What is stored is a PHC string. Any Argon2 string that fits into the block is verified; new
//! ones are made with [`Cost::TODAY`], and [`Verdict::needs_rehash`] tells where that differs.

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use zeroize::Zeroize as _;

use crate::clock;
use crate::config;
use crate::limits::Pool;

mod arena;
mod cost;
mod mix;
mod worker;

pub use cost::Cost;
pub use mix::Mix;

use arena::Arena;
use worker::{Job, Message, Work, Worker};

/// A password as a client sent it: wiped from memory when dropped, and never shown.
pub struct Password(String);

impl Drop for Password {
    /// Once in the program: many futures drop one at several places.
    #[inline(never)]
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl Password {
    /// Takes the text over, so that no second copy stays behind.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password")
    }
}

/// What a password is compared with.
#[derive(Clone, PartialEq, Eq)]
pub enum Against {
    /// What the store holds for a user.
    Stored {
        /// The user's id, for the log line if the hash cannot be used.
        user: i64,
        /// A PHC string.
        hash: String,
    },
    /// Nothing: the same work as for a hash of this cost, and never a match. For identifiers that
    /// no user has, so that time does not tell them apart; see [`Cost::dummy`].
    Dummy(Cost),
}

/// Hashes have no place in a log.
impl fmt::Debug for Against {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Against::Stored { user, .. } => write!(f, "Stored(user {user})"),
            Against::Dummy(cost) => write!(f, "Dummy({cost})"),
        }
    }
}

/// What verifying a password has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// The password is the right one.
    pub matches: bool,
    /// It is, and its hash was not made as new ones are: hash it anew and replace the stored one.
    pub needs_rehash: bool,
}

/// The queue is full, or the deadline has passed: 503, try again in a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busy;

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("too many passwords are being checked")
    }
}

impl std::error::Error for Busy {}

/// The way to the thread; cheap to clone.
#[derive(Clone)]
pub struct Hasher {
    sender: Sender<Message>,
    /// A unit per job in the queue or under work. The channel itself has no bound.
    places: Arc<Pool>,
    timeout: Duration,
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hasher({} of {})", self.places.used(), self.places.max())
    }
}

impl Hasher {
    /// Compares a password with what the store holds, or does the same work for nothing.
    ///
    /// A stored hash that is malformed, or larger than `auth.hash_memory_max`, matches nothing
    /// after the work of one of today's; the log names the user once.
    ///
    /// # Errors
    /// [`Busy`], at once if the queue is full, else at the deadline.
    pub async fn verify(&self, against: Against, password: Password) -> Result<Verdict, Busy> {
        let make = |reply| Work::Verify { against, reply };
        self.call(password, make).await
    }

    /// A new PHC string for this password, with a salt of its own and [`Cost::TODAY`].
    ///
    /// # Errors
    /// As [`verify`](Self::verify).
    pub async fn hash(&self, password: Password) -> Result<String, Busy> {
        self.call(password, |reply| Work::Hash { reply }).await
    }

    /// Passwords waiting or under work, and how many may be.
    pub fn queue(&self) -> (usize, usize) {
        (self.places.used(), self.places.max())
    }

    async fn call<T>(
        &self,
        password: Password,
        make: impl FnOnce(oneshot::Sender<T>) -> Work,
    ) -> Result<T, Busy> {
        let deadline = clock::now() + self.timeout;
        let place = self.places.take(1).ok_or(Busy)?;
        let (reply, answer) = oneshot::channel();
        let job = Job {
            password,
            work: make(reply),
            deadline,
            place,
        };
        // The thread is there as long as the process serves.
        self.sender.send(Message::Job(job)).map_err(|_| Busy)?;
        let answered = tokio::time::timeout_at(deadline, answer).await;
        answered.map_err(|_| Busy)?.map_err(|_| Busy)
    }
}

/// The running thread of this process.
#[derive(Debug)]
pub struct Running {
    hasher: Hasher,
    thread: JoinHandle<()>,
    /// Closed when the thread has ended, however.
    ended: watch::Receiver<()>,
}

impl Running {
    /// Maps the memory and starts the thread.
    ///
    /// # Errors
    /// One line that says what the system refuses.
    pub fn start(settings: &config::Auth) -> Result<Self, String> {
        let arena = Arena::new(settings.hash_memory_max)
            .map_err(|error| format!("auth.hash_memory_max: cannot be mapped: {error}"))?;
        let (sender, jobs) = mpsc::channel();
        let (alive, ended) = watch::channel(());
        let worker = Worker::new(jobs, arena, settings.hash_memory_max);
        let thread = std::thread::Builder::new()
            .name("hasher".to_owned())
            .spawn(move || {
                // Dropped last, also when the thread panics: only then is it known to have ended.
                let _ends = alive;
                worker.run();
            })
            .map_err(|error| format!("cannot start the hasher's thread: {error}"))?;
        Ok(Self {
            hasher: Hasher {
                sender,
                places: Pool::new(settings.hash_queue_max),
                timeout: settings.hash_timeout,
            },
            thread,
            ended,
        })
    }

    /// A handle for one core.
    pub fn connect(&self) -> Hasher {
        self.hasher.clone()
    }

    /// Resolves when the thread has ended: after [`stop`](Self::stop), or because it panicked,
    /// which should end the process with an error.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut ended = self.ended.clone();
        // Nothing is ever sent: it changes only by being closed.
        async move { while ended.changed().await.is_ok() {} }
    }

    /// Ends the thread after what it is at; what is still queued gets [`Busy`].
    ///
    /// # Errors
    /// The thread had panicked.
    pub fn stop(self) -> Result<(), String> {
        // Fails if the thread has gone; joining tells how.
        drop(self.hasher.sender.send(Message::Stop));
        self.thread
            .join()
            .map_err(|_| "the hasher's thread panicked".to_owned())
    }
}

/// A PHC string as [`Hasher::hash`] makes it, computed on the calling thread in memory of its own:
/// for a command that hashes once and ends.
///
/// # Errors
/// The system does not give the memory.
pub fn hash_once(password: &Password) -> Result<String, String> {
    Ok(worker::hash(&mut arena_for_today()?, password))
}

fn arena_for_today() -> Result<Arena, String> {
    let bytes = Cost::TODAY.bytes();
    Arena::new(bytes).map_err(|error| format!("cannot map {bytes} bytes: {error}"))
}

/// The median time that one hash of [`Cost::TODAY`] takes on the calling thread, over so many.
///
/// # Errors
/// The system does not give the memory.
pub fn measure(hashes: usize) -> Result<Duration, String> {
    let mut arena = arena_for_today()?;
    let password = Password::new("measured".to_owned());
    // The first one pays for the pages.
    worker::hash(&mut arena, &password);
    let mut times: Vec<Duration> = (0..hashes.max(1))
        .map(|_| {
            let begin = clock::now();
            worker::hash(&mut arena, &password);
            begin.elapsed()
        })
        .collect();
    times.sort_unstable();
    Ok(times[times.len() / 2])
}
