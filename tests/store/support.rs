//! A store in a folder of its own, and short words for its calls.

use std::path::Path;
use std::time::Duration;

use cloudchat::config;
use cloudchat::store::{Backend, Stores};
use tempfile::TempDir;

pub use super::words::*;

/// A running store.
pub struct Open {
    pub folder: TempDir,
    pub backend: Backend,
    pub stores: Stores,
}

impl Open {
    pub fn fresh() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut config::Store)) -> Self {
        Self::at(tempfile::tempdir().unwrap(), change)
    }

    pub fn at(folder: TempDir, change: impl FnOnce(&mut config::Store)) -> Self {
        let mut settings = settings(folder.path());
        change(&mut settings);
        let backend = Backend::start(&settings, |_, _| ()).unwrap();
        let stores = backend.connect();
        Self {
            folder,
            backend,
            stores,
        }
    }

    /// A second process on the same folder, as far as the files can tell.
    pub fn beside(other: &Open) -> Backend {
        Backend::start(&settings(other.folder.path()), |_, _| ()).unwrap()
    }

    pub fn stop(self) -> TempDir {
        self.backend.stop().unwrap();
        self.folder
    }

    /// Stops it and opens the same folder with other settings.
    pub fn again(self, change: impl FnOnce(&mut config::Store)) -> Self {
        Self::at(self.stop(), change)
    }
}

pub fn settings(dir: &Path) -> config::Store {
    config::Store {
        database: None,
        redis: None,
        dir: dir.to_owned(),
        chats_max: 20_000,
        windows_max: 100_000,
        sessions_max: 100_000,
        lives: config::Lives::default(),
        outbox_max: 1000,
        disk_bytes_max: 1 << 30,
        queue_max: 256,
        timeout: Duration::from_secs(2),
        request_max: Duration::from_millis(2500),
    }
}
