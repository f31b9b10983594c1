//! A store whose sessions are in Redis, under keys of its own.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use cloudchat::config::{self, Config, Sources};
use cloudchat::store::{Backend, Stores};
use tempfile::TempDir;

use super::services::Services;
pub use super::words::*;

/// The servers: the ends of their variables.
const SERVERS: [&str; 3] = ["REDIS", "REDIS_CLUSTER", "REDIS_SENTINEL"];

/// A running store on one of the servers.
pub struct Open<const SERVER: usize> {
    _folder: TempDir,
    backend: Backend,
    pub stores: Stores,
}

impl<const SERVER: usize> Open<SERVER> {
    pub fn fresh() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = shared().address(SERVERS[SERVER]);
        let backend = Backend::start(&settings(&folder, url), quiet).unwrap();
        Self {
            stores: backend.connect(),
            backend,
            _folder: folder,
        }
    }

    pub fn stop(self) {
        self.backend.stop().unwrap();
    }
}

/// Nothing is to be reported.
pub fn quiet(event: &'static str, detail: String) {
    panic!("{event}: {detail}");
}

/// Settings with a prefix that no other store has.
pub fn settings(folder: &TempDir, url: &str) -> config::Store {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let text = format!("[redis]\nurl = \"{url}\"\nkey_prefix = \"t{number}:\"\n");
    with(folder, &text)
}

/// The settings of this file.
pub fn with(folder: &TempDir, text: &str) -> config::Store {
    let file = folder.path().join("config.toml");
    std::fs::write(&file, text).unwrap();
    let sources = Sources {
        file: Some(&file),
        data_dir: Some(folder.path()),
        ..Sources::default()
    };
    Config::load(sources).unwrap().store
}

/// Servers that all tests use which do not harm them.
pub fn shared() -> &'static Services {
    static SHARED: OnceLock<Services> = OnceLock::new();
    SHARED.get_or_init(|| Services::start("redis,cluster,sentinel"))
}
