//! The signals that a server listens to.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGTERM, SIGINT and SIGUSR2. Made before anything is served, or one that comes right after would
/// end the process with its streams.
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
    usr2: Signal,
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
                usr2: hear(SignalKind::user_defined2(), "SIGUSR2")?,
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
        }
    }

    /// As [`Heard::next`], deaf to SIGUSR2; one that comes meanwhile is heard later.
    pub async fn stop(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
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
