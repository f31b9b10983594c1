//! The hasher's thread: takes one job after the other, and gives its memory back in between.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use subtle::ConstantTimeEq as _;
use tokio::sync::oneshot;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::arena::Arena;
use super::cost::{Cost, Parsed, Unusable};
use super::{Against, Password, Verdict};
use crate::clock;
use crate::entropy;
use crate::limits::Permit;
use crate::log::{self, Value};

/// Niceness on top of the process's own, at which a flood of logins leaves the streams' p99 alone.
const NICENESS: libc::c_int = 10;
/// Without a job for so long the memory goes back to the system.
const IDLE: Duration = Duration::from_secs(5);
const SALT_BYTES: usize = 16;
const OUTPUT_BYTES: usize = 32;
/// Users whose unusable hash has been logged; one more forgets the first.
const REPORTED_MAX: usize = 256;

pub(super) enum Message {
    Job(Job),
    Stop,
}

pub(super) struct Job {
    pub(super) password: Password,
    pub(super) work: Work,
    /// Nobody waits for the answer any more from then on.
    pub(super) deadline: Instant,
    /// This job's place in the queue.
    pub(super) place: Permit,
}

/// What is asked, and where the answer goes; the other end is dropped when the caller gives up.
pub(super) enum Work {
    Verify {
        against: Against,
        reply: oneshot::Sender<Verdict>,
    },
    Hash {
        reply: oneshot::Sender<String>,
    },
}

impl Work {
    fn is_moot(&self) -> bool {
        match self {
            Work::Verify { reply, .. } => reply.is_closed(),
            Work::Hash { reply } => reply.is_closed(),
        }
    }
}

/// The thread, seen from inside.
pub(super) struct Worker {
    jobs: Receiver<Message>,
    arena: Arena,
    memory_max: usize,
    reported: VecDeque<i64>,
}

impl Worker {
    pub(super) fn new(jobs: Receiver<Message>, arena: Arena, memory_max: usize) -> Self {
        Self {
            jobs,
            arena,
            memory_max,
            reported: VecDeque::new(),
        }
    }

    /// Ends when told to, or when nobody is left to ask.
    pub(super) fn run(mut self) {
        lower_priority();
        while let Some(Message::Job(job)) = self.next() {
            if clock::now() < job.deadline && !job.work.is_moot() {
                self.carry_out(job);
            }
        }
    }

    fn next(&mut self) -> Option<Message> {
        match self.jobs.try_recv() {
            Ok(message) => return Some(message),
            Err(TryRecvError::Disconnected) => return None,
            Err(TryRecvError::Empty) => {}
        }
        // What hashes of other costs have used beyond today's is not needed again soon.
        self.give_back(blocks(Cost::TODAY));
        if self.arena.is_touched(0) {
            match self.jobs.recv_timeout(IDLE) {
                Ok(message) => return Some(message),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => self.give_back(0),
            }
        }
        self.jobs.recv().ok()
    }

    fn give_back(&mut self, first: usize) {
        if let Err(error) = self.arena.give_back(first) {
            log::warn("memory kept", &[("cause", Value::Display(&error))]);
        }
    }

    fn carry_out(&mut self, job: Job) {
        let (password, place) = (job.password, job.place);
        // The place is free before the answer is there: who has it may come again at once, and this
        // thread may have to wait long for its next turn. A caller that has given up meanwhile has
        // dropped its end.
        match job.work {
            Work::Verify { against, reply } => {
                let verdict = self.verify(&against, &password);
                drop(place);
                let _: Result<(), Verdict> = reply.send(verdict);
            }
            Work::Hash { reply } => {
                let hash = hash(&mut self.arena, &password);
                drop(place);
                let _: Result<(), String> = reply.send(hash);
            }
        }
    }

    fn verify(&mut self, against: &Against, password: &Password) -> Verdict {
        let no = Verdict {
            matches: false,
            needs_rehash: false,
        };
        let dummy = match against {
            Against::Dummy(cost) if cost.fits(self.memory_max) => *cost,
            Against::Dummy(_) => Cost::TODAY,
            Against::Stored { user, hash } => match Parsed::new(hash, self.memory_max) {
                Ok(parsed) => return self.compare(&parsed, password),
                Err(why) => {
                    self.report(*user, why);
                    Cost::TODAY
                }
            },
        };
        let mut output = Zeroizing::new([0; OUTPUT_BYTES]);
        let blocks = self.arena.blocks(blocks(dummy));
        let argon2 = dummy.argon2();
        argon2
            .hash_password_into_with_memory(
                password.as_str().as_bytes(),
                &[0; SALT_BYTES],
                output.as_mut(),
                blocks,
            )
            .expect("the cost fits into the memory");
        // Whatever came out: nobody has this hash. It is looked at so that it is computed.
        std::hint::black_box(&output);
        no
    }

    fn compare(&mut self, parsed: &Parsed, password: &Password) -> Verdict {
        let stored = parsed.output();
        let mut output = Zeroizing::new(vec![0; stored.len()]);
        let blocks = self.arena.blocks(blocks(parsed.cost));
        let hashed = parsed.argon2.hash_password_into_with_memory(
            password.as_str().as_bytes(),
            parsed.salt(),
            &mut output,
            blocks,
        );
        hashed.expect("what was parsed has valid lengths, and fits into the memory");
        let matches = bool::from(output.ct_eq(stored));
        let is_today = parsed.cost == Cost::TODAY
            && stored.len() == OUTPUT_BYTES
            && parsed.salt().len() >= SALT_BYTES;
        Verdict {
            matches,
            needs_rehash: matches && !is_today,
        }
    }

    /// Logs a hash that nobody can log in with, once for each user as far as can be remembered.
    fn report(&mut self, user: i64, why: Unusable) {
        if self.reported.contains(&user) {
            return;
        }
        if self.reported.len() == REPORTED_MAX {
            self.reported.pop_front();
        }
        self.reported.push_back(user);
        let why = match why {
            Unusable::Malformed => "it is no Argon2 string".to_owned(),
            Unusable::TooLarge(cost) => format!(
                "{cost} asks for more than auth.hash_memory_max = {} bytes, or for too many passes",
                self.memory_max
            ),
        };
        let user = user.to_string();
        let fields = [("user", Value::Word(&user)), ("why", Value::Str(&why))];
        log::warn("stored password hash cannot be verified", &fields);
    }
}

/// A new PHC string, computed in `arena`, which holds at least today's blocks.
pub(super) fn hash(arena: &mut Arena, password: &Password) -> String {
    let salt: [u8; SALT_BYTES] = entropy::bytes();
    let mut output = Zeroizing::new([0; OUTPUT_BYTES]);
    let cost = Cost::TODAY;
    let blocks = arena.blocks(blocks(cost));
    let password = password.as_str().as_bytes();
    cost.argon2()
        .hash_password_into_with_memory(password, &salt, output.as_mut(), blocks)
        .expect("auth.hash_memory_max is at least what today's hashes take");
    let (salt, output) = (
        STANDARD_NO_PAD.encode(salt),
        STANDARD_NO_PAD.encode(*output),
    );
    format!("{cost}${salt}${output}")
}

fn blocks(cost: Cost) -> usize {
    cost.bytes() / argon2::Block::SIZE
}

/// On Linux a niceness belongs to the thread, not to the process (sched(7)).
#[expect(unsafe_code, reason = "the standard library knows no priorities")]
fn lower_priority() {
    // SAFETY: touches no memory. Whoever asks for less is never refused.
    unsafe { libc::nice(NICENESS) };
}
