//! The way back: the files of a backup in the place of the data folder's.
//!
//! What is checked is the copy, which stands in the data folder already: nobody else can change it any more.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::{
    ACCOUNTS, Kept, beside, check, folder, kept, make_private, named, private_file, sync,
    with_suffix,
};
use crate::config;

/// SQLite's logs, which belong to exactly one state of their file.
const LOGS: [&str; 2] = ["-wal", "-shm"];
/// What holds a part of the file's data while it is in use, or after a crash.
const HELD_BACK: [&str; 2] = ["-wal", "-journal"];

/// The open files of a backup.
#[derive(Debug)]
pub struct Backup {
    dir: PathBuf,
    files: Vec<(Kept, File)>,
    missing: Vec<&'static str>,
}

impl Backup {
    /// Opens those files that these settings keep.
    ///
    /// # Errors
    /// One line: it is no backup, or cannot be read.
    pub fn open(settings: &config::Store, dir: &Path) -> Result<Self, String> {
        let (mut files, mut missing) = (Vec::new(), Vec::new());
        for file in kept(settings)? {
            let path = dir.join(file.name);
            match open(&path) {
                Ok(opened) => files.push((file, opened)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => missing.push(file.name),
                Err(error) => return Err(named(&path, &error)),
            }
            let logs = HELD_BACK.map(|log| with_suffix(&path, log));
            let held_back = |log: &&PathBuf| fs::metadata(log).is_ok_and(|log| log.len() > 0);
            if let Some(log) = logs.iter().find(held_back) {
                return Err(named(
                    log,
                    &"this belongs to a file in use; use a folder that `cloudchat backup` has made",
                ));
            }
        }
        if missing.contains(&ACCOUNTS.name) {
            return Err(format!(
                "{} holds no {}: it is no backup",
                dir.display(),
                ACCOUNTS.name
            ));
        }
        Ok(Self {
            dir: dir.to_owned(),
            files,
            missing,
        })
    }
}

/// A file, not what a link leads to.
fn open(path: &Path) -> io::Result<File> {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    match opened.metadata()?.is_file() {
        true => Ok(opened),
        false => Err(io::Error::other("this is no file")),
    }
}

/// What a restore has done.
#[derive(Debug)]
pub struct Restored {
    /// Where that is which was there before, if there was anything.
    pub aside: Option<PathBuf>,
    /// Files that the backup did not have, and of which there are none now.
    pub missing: Vec<&'static str>,
}

/// Puts the files of a backup into the data folder, after checking them. What was there before is
/// kept in a new folder in it, named by `label`.
///
/// # Errors
/// One line: the backup is not whole, newer than this program or not like what it makes, a server uses the data, or
/// something cannot be written. All is as before then, unless the line says otherwise.
pub fn restore(
    settings: &config::Store,
    mut backup: Backup,
    label: &str,
) -> Result<Restored, String> {
    let dir = &settings.dir;
    let mut made = Made::default();
    let missing_folders = dir.ancestors().take_while(|dir| !dir.exists());
    made.folders.extend(missing_folders.map(Path::to_owned));
    made.folders.reverse();
    folder::make(dir)?;
    // Everything that takes room or time, or can be wrong, comes before the first change.
    for (file, from) in &mut backup.files {
        let fresh = beside(&dir.join(file.name), "restored");
        made.files.push(fresh.clone());
        copy(from, &fresh).map_err(|error| named(&fresh, &error))?;
        check::whole(&fresh, &backup.dir.join(file.name), *file, true)?;
    }
    let files = kept(settings)?;
    for file in &files {
        close_logs(&dir.join(file.name))?;
    }
    let aside = dir.join(format!("before-restore-{label}"));
    let is_there = |file: &Kept| {
        let mut names = ["", LOGS[0], LOGS[1]].iter();
        names.any(|log| with_suffix(&dir.join(file.name), log).exists())
    };
    let had_any = files.iter().any(is_there);
    if had_any {
        make_private(&aside)?;
        made.folders.push(aside.clone());
    }
    let fresh = made.files.len();
    for file in &files {
        let (path, kept) = (dir.join(file.name), aside.join(file.name));
        if path.exists() {
            fs::hard_link(&path, &kept).map_err(|error| named(&path, &error))?;
            made.files.push(kept);
        }
    }
    // From here on there is a way forward only.
    made.folders.clear();
    made.files.truncate(fresh);
    for file in &files {
        let path = dir.join(file.name);
        exchange(&path, &aside).map_err(|error| {
            let aside = aside.display();
            let half = "the restore is half done, the data of before is in";
            named(&path, &format_args!("{error}; {half} {aside}"))
        })?;
    }
    sync(dir)?;
    Ok(Restored {
        aside: had_any.then_some(aside),
        missing: backup.missing,
    })
}

/// Puts the fresh file, or none, in the place of the one of before, whose logs go with it.
fn exchange(path: &Path, aside: &Path) -> io::Result<()> {
    for log in LOGS {
        let log = with_suffix(path, log);
        if log.exists() {
            fs::rename(&log, aside.join(log.file_name().unwrap_or_default()))?;
        }
    }
    let fresh = beside(path, "restored");
    match fresh.exists() {
        true => fs::rename(&fresh, path),
        false if path.exists() => fs::remove_file(path),
        false => Ok(()),
    }
}

/// What has been made on the way: removed again when this is dropped.
#[derive(Default)]
struct Made {
    /// Each with what SQLite may have made beside it.
    files: Vec<PathBuf>,
    /// What stands in another comes later; those that hold something stay.
    folders: Vec<PathBuf>,
}

impl Drop for Made {
    fn drop(&mut self) {
        for file in &self.files {
            for log in ["", "-wal", "-shm", "-journal"] {
                // Most have their last names by now, or were never made.
                fs::remove_file(with_suffix(file, log)).unwrap_or_default();
            }
        }
        for folder in self.folders.iter().rev() {
            fs::remove_dir(folder).unwrap_or_default();
        }
    }
}

fn copy(from: &mut File, to: &Path) -> io::Result<()> {
    if to.exists() {
        // Of a restore that was killed.
        fs::remove_file(to)?;
    }
    let mut target = private_file(to)?;
    io::copy(from, &mut target)?;
    target.sync_all()
}

/// Takes the logs into the file, which fails while anybody else has it open. A damaged file has none
/// that matter.
fn close_logs(path: &Path) -> Result<(), String> {
    if !path.exists() {
        return Ok(());
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let closed = Connection::open_with_flags(path, flags).and_then(|file| {
        file.busy_timeout(Duration::ZERO)?;
        file.pragma_update_and_check(None, "journal_mode", "delete", |row| {
            row.get::<_, String>(0)
        })
    });
    let code = closed
        .as_ref()
        .err()
        .and_then(rusqlite::Error::sqlite_error_code);
    match (closed, code) {
        (Ok(mode), _) if mode == "delete" => Ok(()),
        (_, Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt)) => Ok(()),
        (Ok(_), _) | (_, Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)) => {
            Err(named(path, &"a server uses it; stop it first"))
        }
        (Err(error), _) => Err(named(path, &error)),
    }
}
