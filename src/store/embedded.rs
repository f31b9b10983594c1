//! The store's thread: it alone owns the files, and takes calls from a bounded queue.
//!
//! An answer is sent after its commit, so what was answered survives a `kill -9`. A caller waits
//! `store.timeout_seconds`, or what is left to its request (`patience`), for room in the queue and the answer together. When it gives up, a read
//! is skipped, a write is carried out all the same, or rolled back if it is of use to its caller
//! only (`calls`).

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use super::calls::{Account, Login};
use super::chats::{RowLimits, SessionFile};
use super::logins;
use super::patience::Spending;
use super::schema::Upkeep;
use super::secrets::{AccountFile, Secrets};
use super::{
    Begun, ChatKey, Generation, OnEvent, Owner, Session, StoreError, Turn, Window, folder,
};
use crate::clock;
use crate::config;
use crate::metrics;
use crate::model::Token;

/// Pause between sweeps: 4 × 25 rows of each kind a second while there are expired ones.
const SWEEP_PAUSE: Duration = Duration::from_millis(250);
const SWEEP_PAUSE_IDLE: Duration = Duration::from_secs(1);
/// How long [`Embedded::stop`] waits for the thread.
const STOP_MAX: Duration = Duration::from_secs(10);
/// Least time a write waits for another process; at least twice the callers' own patience, so
/// that a turn is stored although nobody waits for it any more.
const BUSY_MIN: Duration = Duration::from_secs(5);

/// Where an answer goes; the receiving end is dropped when the caller gives up.
pub(super) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// Everything that can be asked of the store.
#[derive(Debug)]
pub(super) enum Call {
    BeginChat {
        now_ms: i64,
        chat: Option<ChatKey>,
        owner: Owner,
        windows: Vec<Window>,
        reply: Reply<Begun>,
    },
    OpenChat {
        expires_ms: i64,
        chat: ChatKey,
        owner: Owner,
        generation: Generation,
        new: bool,
        reply: Reply<()>,
    },
    SaveTurn {
        now_ms: i64,
        turn: Turn,
        reply: Reply<bool>,
    },
    ResetChat {
        chat: ChatKey,
        owner: Owner,
        reply: Reply<()>,
    },
    ChatUser {
        now_ms: i64,
        token: Token,
        reply: Reply<Option<Session>>,
    },
    PingSessions {
        reply: Reply<()>,
    },
    PingAccounts {
        reply: Reply<()>,
    },
    /// Of all files; answered with one line if one of them cannot be.
    BringUpToDate {
        reply: Reply<Result<(), String>>,
    },
    Login(Login),
    Account(Account),
}

impl Call {
    /// A read whose caller has gone; a write is never moot.
    fn is_moot(&self) -> bool {
        match self {
            Call::BeginChat { windows, reply, .. } => windows.is_empty() && reply.is_closed(),
            Call::ChatUser { reply, .. } => reply.is_closed(),
            Call::PingSessions { reply } | Call::PingAccounts { reply } => reply.is_closed(),
            Call::Login(call) => call.is_moot(),
            Call::Account(call) => call.is_moot(),
            Call::BringUpToDate { .. }
            | Call::OpenChat { .. }
            | Call::SaveTurn { .. }
            | Call::ResetChat { .. } => false,
        }
    }
}

#[derive(Debug)]
enum Message {
    /// The permit is this call's place in the queue.
    Call(Call, OwnedSemaphorePermit),
    Stop,
}

/// The way to the thread; cheap to clone.
#[derive(Clone)]
pub struct Queue {
    /// Free places. The channel itself has no bound, so whoever sends must hold a place.
    places: Arc<Semaphore>,
    sender: Sender<Message>,
    timeout: Duration,
}

impl Queue {
    /// Makes a call and waits for its answer.
    pub(super) async fn call<T>(
        &self,
        make: impl FnOnce(Reply<T>) -> Call,
    ) -> Result<T, StoreError> {
        let spending = Spending::begin(metrics::Store::Sqlite, self.timeout);
        match tokio::time::timeout_at(spending.deadline, self.call_patiently(make)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(StoreError::TimedOut),
        }
    }

    /// The same, however long it takes.
    async fn call_patiently<T>(
        &self,
        make: impl FnOnce(Reply<T>) -> Call,
    ) -> Result<T, StoreError> {
        let place = Arc::clone(&self.places).acquire_owned().await;
        // Closed: the store is stopping.
        let place = place.map_err(|_| StoreError::Unavailable)?;
        let (reply, answer) = oneshot::channel();
        // Both ends below go away with the thread.
        self.sender
            .send(Message::Call(make(reply), place))
            .map_err(|_| StoreError::Unavailable)?;
        answer.await.map_err(|_| StoreError::Unavailable)?
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Queue({} places free)", self.places.available_permits())
    }
}

/// The thread before it runs: the files that it will own are opened one by one.
pub(super) struct Files<'a> {
    settings: &'a config::Store,
    upkeep: Upkeep,
    on_event: OnEvent,
    busy: Duration,
    sessions: Option<SessionFile>,
    accounts: Option<AccountFile>,
    queue: Queue,
    calls: Receiver<Message>,
}

impl<'a> Files<'a> {
    pub(super) fn new(settings: &'a config::Store, upkeep: Upkeep, on_event: OnEvent) -> Self {
        let (sender, calls) = mpsc::channel();
        Self {
            settings,
            upkeep,
            on_event,
            busy: BUSY_MIN.max(settings.timeout * 2),
            sessions: None,
            accounts: None,
            queue: Queue {
                places: Arc::new(Semaphore::new(settings.queue_max)),
                sender,
                timeout: settings.timeout,
            },
            calls,
        }
    }

    pub(super) fn open_accounts(&mut self) -> Result<(Queue, Secrets), String> {
        let settings = self.settings;
        self.make_folder()?;
        let (file, secrets) = AccountFile::open(
            &settings.dir,
            settings.outbox_max,
            self.busy,
            self.upkeep,
            self.on_event,
        )?;
        self.accounts = Some(file);
        Ok((self.queue.clone(), secrets))
    }

    /// Where files may be made.
    fn make_folder(&self) -> Result<(), String> {
        match self.upkeep {
            Upkeep::Never => Ok(()),
            Upkeep::Now | Upkeep::Later => folder::make(&self.settings.dir),
        }
    }

    pub(super) fn open_sessions(&mut self) -> Result<Queue, String> {
        let settings = self.settings;
        self.make_folder()?;
        let limits = RowLimits {
            chats_max: settings.chats_max.try_into().unwrap_or(i64::MAX),
            windows_max: settings.windows_max.try_into().unwrap_or(i64::MAX),
            sessions_max: settings.sessions_max.try_into().unwrap_or(i64::MAX),
        };
        let bytes_max = settings.disk_bytes_max.try_into().unwrap_or(i64::MAX);
        let file = SessionFile::open(
            &settings.dir,
            limits,
            settings.lives,
            bytes_max,
            self.busy,
            self.upkeep,
            self.on_event,
        )?;
        self.sessions = Some(file);
        Ok(self.queue.clone())
    }

    /// Hands the files to a thread of their own; `None` if none was opened.
    pub(super) fn start(self) -> Result<Option<Embedded>, String> {
        if self.sessions.is_none() && self.accounts.is_none() {
            return Ok(None);
        }
        let (alive, ended) = watch::channel(());
        let (running, done) = mpsc::channel();
        let worker = Worker {
            calls: self.calls,
            places: Arc::clone(&self.queue.places),
            places_max: self.settings.queue_max,
            sessions: self.sessions,
            accounts: self.accounts,
        };
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || {
                // Dropped last, also when the thread panics: only then is it known to have ended.
                let _ends = (alive, running);
                worker.run();
            })
            .map_err(|error| format!("cannot start the store's thread: {error}"))?;
        Ok(Some(Embedded {
            queue: self.queue,
            thread,
            done,
            ended,
        }))
    }
}

/// The thread, seen from outside.
#[derive(Debug)]
pub(super) struct Embedded {
    queue: Queue,
    thread: JoinHandle<()>,
    /// Disconnected when the thread has ended, however.
    done: Receiver<()>,
    /// The same for asynchronous waiting.
    ended: watch::Receiver<()>,
}

impl Embedded {
    pub(super) fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut ended = self.ended.clone();
        // Nothing is ever sent: it changes only by being closed.
        async move { while ended.changed().await.is_ok() {} }
    }

    pub(super) async fn bring_up_to_date(&self) -> Result<(), String> {
        let done = self
            .queue
            .call_patiently(|reply| Call::BringUpToDate { reply });
        done.await.map_err(|error| error.to_string())?
    }

    pub(super) fn stop(self) -> Result<(), String> {
        self.queue.places.close();
        // Fails if the thread has gone; joining tells how.
        drop(self.queue.sender.send(Message::Stop));
        match self.done.recv_timeout(STOP_MAX) {
            Err(RecvTimeoutError::Timeout) => Err(format!(
                "the store did not finish within {} s",
                STOP_MAX.as_secs()
            )),
            Ok(()) | Err(RecvTimeoutError::Disconnected) => self
                .thread
                .join()
                .map_err(|_| "the store's thread panicked".to_owned()),
        }
    }
}

/// The thread, seen from inside.
struct Worker {
    calls: Receiver<Message>,
    places: Arc<Semaphore>,
    places_max: usize,
    sessions: Option<SessionFile>,
    accounts: Option<AccountFile>,
}

impl Worker {
    /// Ends when told to, or when nobody is left to call.
    fn run(mut self) {
        let mut sweep_at = clock::now();
        let mut wall = clock::Wall::default();
        loop {
            let wait = sweep_at.saturating_duration_since(clock::now());
            match self.calls.recv_timeout(wait) {
                Ok(Message::Call(call, place)) => self.take(call, place),
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => break,
            }
            if clock::now() >= sweep_at {
                let (now_ms, was_set_back) = wall.look();
                let sessions = self.sessions.as_mut().is_some_and(|file| {
                    file.ends_late |= was_set_back;
                    file.sweep(now_ms)
                });
                let accounts = self
                    .accounts
                    .as_mut()
                    .is_some_and(|file| file.sweep(now_ms));
                let more = sessions || accounts;
                let pause = if more { SWEEP_PAUSE } else { SWEEP_PAUSE_IDLE };
                sweep_at = clock::now() + pause;
            }
        }
        self.drain();
        self.sessions.iter_mut().for_each(SessionFile::checkpoint);
        self.accounts.iter_mut().for_each(AccountFile::checkpoint);
    }

    /// Places are no longer given out; those that are taken are calls in the queue, or about to be.
    fn drain(&mut self) {
        while self.places.available_permits() < self.places_max {
            match self.calls.recv_timeout(Duration::from_millis(1)) {
                Ok(Message::Call(call, place)) => self.take(call, place),
                Ok(Message::Stop) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn take(&mut self, call: Call, place: OwnedSemaphorePermit) {
        drop(place);
        if !call.is_moot() {
            self.carry_out(call);
        }
    }

    fn bring_up_to_date(&mut self) -> Result<(), String> {
        // What others want of the accounts may be gone after the first step, what they want of sessions is not.
        if let Some(sessions) = &mut self.sessions {
            sessions.file.bring_up_to_date()?;
        }
        match &mut self.accounts {
            Some(accounts) => accounts.file.bring_up_to_date(),
            None => Ok(()),
        }
    }

    /// Nobody has a handle to a file that is not open; who called all the same would learn that the
    /// store is unavailable, because the reply is dropped.
    fn carry_out(&mut self, call: Call) {
        match call {
            Call::Account(call) => {
                if let Some(accounts) = &mut self.accounts {
                    call.carry_out(accounts);
                }
            }
            Call::PingAccounts { reply } => {
                if let Some(accounts) = &mut self.accounts {
                    answer(reply, accounts.ping());
                }
            }
            Call::BringUpToDate { reply } => answer(reply, Ok(self.bring_up_to_date())),
            call => {
                if let Some(sessions) = &mut self.sessions {
                    carry_out(call, sessions, self.accounts.as_mut());
                }
            }
        }
    }
}

/// What is asked of the session file.
fn carry_out(call: Call, sessions: &mut SessionFile, accounts: Option<&mut AccountFile>) {
    match call {
        Call::BeginChat {
            now_ms,
            chat,
            owner,
            windows,
            reply,
        } => answer(reply, sessions.begin(now_ms, chat, owner, windows)),
        Call::OpenChat {
            expires_ms,
            chat,
            owner,
            generation,
            new,
            reply,
        } => {
            let opened = sessions.open_chat(expires_ms, chat, owner, generation, new);
            answer(reply, opened);
        }
        Call::SaveTurn {
            now_ms,
            turn,
            reply,
        } => answer(reply, sessions.save(now_ms, &turn)),
        Call::ResetChat { chat, owner, reply } => answer(reply, sessions.reset(chat, owner)),
        Call::ChatUser {
            now_ms,
            token,
            reply,
        } => answer(reply, logins::chat_user(now_ms, token, sessions, accounts)),
        Call::PingSessions { reply } => answer(reply, sessions.ping()),
        Call::Login(call) => call.carry_out(sessions),
        // Of the other file; `Worker::carry_out` has them.
        Call::PingAccounts { .. } | Call::Account(_) | Call::BringUpToDate { .. } => {}
    }
}

/// A caller that gave up meanwhile has dropped its end, and the answer with it.
pub(super) fn answer<T>(reply: Reply<T>, outcome: Result<T, StoreError>) {
    drop(reply.send(outcome));
}
