//! `cloudchat migrate`: brings the schema in PostgreSQL up to what this version needs.

use std::path::PathBuf;

use clap::Args;

use super::{Failure, place, print, read, tell};
use crate::store;

#[derive(Args)]
pub(super) struct MigrateArgs {
    /// Configuration file, as for serve
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Only tell what would be done: reads the catalogues and locks no table
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(args: &MigrateArgs) -> Result<(), Failure> {
    let (config, _) = read(args.config.as_deref(), &[], None)?;
    place::name(&config.store);
    let Some(database) = &config.store.database else {
        return Err(Failure::Mistakes(vec![
            "database.url (DATABASE_URL) names no server; files of the data folder are migrated \
             when the server starts"
                .to_owned(),
        ]));
    };
    let done = store::migrate(database, args.dry_run, tell).map_err(Failure::Stopped)?;
    let mut text = match (done.is_empty(), args.dry_run) {
        (true, _) => "Nothing to do: the schema is up to date.\n".to_owned(),
        (false, true) => "Would apply:\n".to_owned(),
        (false, false) => "Applied:\n".to_owned(),
    };
    for step in done {
        text += &format!("  {}\n", step.name);
        for change in step.changes {
            text += &format!("    {change}\n");
        }
    }
    print(&text)
}
