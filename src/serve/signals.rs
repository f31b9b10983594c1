//! The signals that a server listens to.

use std::io::{self, IsTerminal as _};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGTERM, SIGINT, SIGHUP, SIGUSR1 and SIGUSR2. Made before anything is served, or one that comes right
/// after would end the process with its streams.
#[derive(Debug)]
pub struct Signals {
    pub(super) runtime: tokio::runtime::Runtime,
    pub(super) heard: Heard,
}

/// The signals, as they come in.
#[derive(Debug)]
pub struct Heard {
    term: Signal,
    int: Signal,
    hup: Signal,
    usr2: Signal,
    /// Asks other servers to open their log files again, of which there are none here: heard, so that it ends
    /// nothing, and never looked at.
    _usr1: Signal,
    /// Whether a terminal was there at the start, which may hang up.
    has_terminal: bool,
}

impl Signals {
    /// From now on they do not end the process by themselves.
    ///
    /// # Errors
    /// The system has no resources for it.
    pub fn listen() -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("runtime: {error}"))?;
        let hear = |kind, name| signal(kind).map_err(|error| format!("{name}: {error}"));
        let heard = {
            let _entered = runtime.enter();
            Heard {
                term: hear(SignalKind::terminate(), "SIGTERM")?,
                int: hear(SignalKind::interrupt(), "SIGINT")?,
                hup: hear(SignalKind::hangup(), "SIGHUP")?,
                usr2: hear(SignalKind::user_defined2(), "SIGUSR2")?,
                _usr1: hear(SignalKind::user_defined1(), "SIGUSR1")?,
                has_terminal: io::stdin().is_terminal(),
            }
        };
        Ok(Self { runtime, heard })
    }
}

impl Heard {
    /// What the next signal asks for.
    pub async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.term.recv() => Told::Stop,
            _ = self.int.recv() => Told::Stop,
            _ = self.usr2.recv() => Told::Upgrade,
            // As other servers take it, but for its first meaning.
            _ = self.hup.recv() => match self.has_hung_up() {
                true => Told::Stop,
                false => Told::Upgrade,
            },
        }
    }

    /// As [`Heard::next`], deaf to SIGUSR2 and SIGHUP; one that comes meanwhile is heard later.
    pub async fn stop(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }

    /// Whether the terminal that was there is gone.
    fn has_hung_up(&self) -> bool {
        self.has_terminal && !io::stdin().is_terminal()
    }
}

/// What somebody wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// The process is to end.
    Stop,
    /// It is to be replaced by a new one.
    Upgrade,
}
