//! `cloudchat backup` and `cloudchat restore`: the SQLite files of the data folder.

use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use clap::Args;
use rustix::process::geteuid;

use super::place::{self, Place};
use super::{Failure, owner, print};
use crate::clock::Clock;
use crate::store::backup::{self, Backup, Restored};

/// Begins the names that --keep gives and counts.
const PREFIX: &str = "cloudchat-";

#[derive(Args)]
pub(super) struct BackupArgs {
    /// Folder to make; with --keep: folder to make it in
    #[arg(value_name = "DEST")]
    to: PathBuf,
    /// Replace DEST if it is a backup; it is there all the time
    #[arg(long, conflicts_with = "keep")]
    replace: bool,
    /// Make a folder named by the time in DEST, and remove all but the newest N there
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    keep: Option<u16>,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
pub(super) struct RestoreArgs {
    /// Folder that `cloudchat backup` has made
    #[arg(value_name = "BACKUP")]
    from: PathBuf,
    #[command(flatten)]
    place: Place,
}

pub(super) fn back_up(args: &BackupArgs) -> Result<(), Failure> {
    let config = args.place.enter()?;
    let to = match args.keep {
        Some(_) => {
            backup::make_place(&args.to).map_err(Failure::Stopped)?;
            args.to.join(format!("{PREFIX}{}", label()))
        }
        None => args.to.clone(),
    };
    let bytes = backup::back_up(&config.store, &to, args.replace).map_err(Failure::Stopped)?;
    let mut text = format!("{}: {bytes} bytes, checked\n", to.display());
    if let Some(keep) = args.keep {
        let gone = backup::thin_out(&args.to, PREFIX, keep.into()).map_err(Failure::Stopped)?;
        if gone > 0 {
            text += &format!("{gone} older removed\n");
        }
    }
    print(&text)
}

pub(super) fn restore(args: &RestoreArgs) -> Result<(), Failure> {
    let config = args.place.load()?;
    let dir = &config.store.dir;
    if config.store.database.is_none() && geteuid().is_root() && !dir.exists() {
        let dir = dir.display();
        return Err(Failure::Mistakes(vec![format!(
            "{dir}: no such folder, and root would be its owner: install -d -m 700 -o USER {dir}, USER being the \
             server's"
        )]));
    }
    let open = || Backup::open(&config.store, &args.from).map_err(Failure::Stopped);
    // Root's own folders are closed to the user that this becomes; in all others that user, or another, might have
    // planted what only root may read.
    let of_root = owner::only_root_writes(&args.from).then(open).transpose()?;
    place::enter(&config.store)?;
    let backup = of_root.map_or_else(open, Ok)?;
    let Restored { aside, missing } =
        backup::restore(&config.store, backup, &label()).map_err(Failure::Stopped)?;
    let (dir, from) = (dir.display(), args.from.display());
    let before = |aside: &Path| format!("; what was there before is in {}", aside.display());
    let before = aside.as_deref().map_or_else(String::new, before);
    let mut text = format!("{dir}: restored from {from}{before}\n");
    for name in missing {
        text += &format!(
            "the backup has no {name}: conversations are gone, and everybody has to log in again\n"
        );
    }
    print(&text)
}

/// The time, to the second, as a name that sorts by age.
fn label() -> String {
    let ms = u64::try_from(Clock::System.wall_ms()).unwrap_or(0);
    let time = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(ms));
    time.to_string().replace(':', "")
}
