//! Where a command works: the configuration of the server, and its store.

use std::path::PathBuf;

use clap::Args;

use super::{Failure, owner, read, tell};
use crate::config::{Config, Store};
use crate::store::Backend;

/// `--config` and `--data-dir`.
#[derive(Args)]
pub(super) struct Place {
    /// Configuration file, as for serve
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder for the stored data, as for serve
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

impl Place {
    /// The configuration.
    pub(super) fn load(&self) -> Result<Config, Failure> {
        let (config, _) = read(self.config.as_deref(), &[], self.data_dir.as_deref())?;
        Ok(config)
    }

    /// The configuration of a store that is there. The process is its files' owner from here on.
    pub(super) fn enter(&self) -> Result<Config, Failure> {
        let config = self.load()?;
        enter(&config.store)?;
        if !Backend::is_made(&config.store) {
            return Err(Failure::Mistakes(vec![format!(
                "{}: no accounts here: the server makes them when it is first started; if it has been, give --data-dir \
                 or --config as to the server",
                config.store.dir.display()
            )]));
        }
        Ok(config)
    }
}

/// Becomes the owner of the store's files, and says which store it is.
pub(super) fn enter(store: &Store) -> Result<(), Failure> {
    match owner::of(store).map_err(Failure::Stopped)? {
        Some(owner) => {
            let name = owner.name();
            tell("store", format!("{}, as its owner {name}", shown(store)));
            owner.become_it().map_err(Failure::Stopped)
        }
        None => {
            name(store);
            Ok(())
        }
    }
}

/// Says which store it is, on stderr.
pub(super) fn name(store: &Store) {
    tell("store", shown(store));
}

fn shown(store: &Store) -> String {
    let dir = || store.dir.display().to_string();
    if store.database.is_none() && store.redis.is_none() {
        return dir();
    }
    let accounts = store
        .database
        .as_ref()
        .map_or_else(dir, |database| database.shown());
    let sessions = store.redis.as_ref().map_or_else(dir, |redis| redis.shown());
    format!("accounts in {accounts}; sessions in {sessions}")
}
