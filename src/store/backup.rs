//! Copies of the SQLite files, made while servers use them, and the way back.
//!
//! A copy is one read transaction (`VACUUM INTO`), so it is consistent, whole, and has no logs beside
//! it. Sessions are copied before accounts: what ended sessions between the two is then in the copy
//! of the accounts, and they stay dead after a restore. A backup is worth nothing that would not be restored, so it
//! has to pass the same checks.

use std::fmt::Display;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::schema::Migration;
use super::{chats, folder, secrets};
use crate::config;

mod check;
mod restore;

pub use restore::{Backup, Restored, restore};

/// How long a copy waits for a server that holds the file locked.
const BUSY: Duration = Duration::from_secs(10);

/// A file of the data folder.
#[derive(Debug, Clone, Copy)]
struct Kept {
    name: &'static str,
    /// Those that this program knows.
    migrations: &'static [Migration],
}

const SESSIONS: Kept = Kept {
    name: chats::FILE_NAME,
    migrations: chats::MIGRATIONS,
};
const ACCOUNTS: Kept = Kept {
    name: secrets::FILE_NAME,
    migrations: secrets::MIGRATIONS,
};

/// The files that these settings keep, in the order in which they are copied.
fn kept(settings: &config::Store) -> Result<Vec<Kept>, String> {
    if settings.database.is_some() {
        return Err(
            "the accounts are in PostgreSQL: use pg_dump and pg_restore for the database \
             (sessions and chats live for days at most, and are not worth a backup of their own)"
                .to_owned(),
        );
    }
    Ok(match settings.redis {
        Some(_) => vec![ACCOUNTS],
        None => vec![SESSIONS, ACCOUNTS],
    })
}

/// Copies the files of the data folder into a new folder `to`, for its owner only, and checks the
/// copies; bytes copied. The folder appears whole or not at all. One that is there already is an error
/// or, with `replaces`, exchanged for the new one if it is a backup. Servers may run meanwhile.
///
/// # Errors
/// One line that names what cannot be read, written or replaced, or which copy is damaged.
pub fn back_up(settings: &config::Store, to: &Path, replaces: bool) -> Result<u64, String> {
    let files = kept(settings)?;
    for file in &files {
        let path = settings.dir.join(file.name);
        if !path.is_file() {
            return Err(format!(
                "{}: no such file; is this the server's data folder?",
                path.display()
            ));
        }
    }
    let is_there = fs::symlink_metadata(to).is_ok();
    if is_there && !replaces {
        return Err(format!(
            "{} is there already: choose another name, or add --replace",
            to.display()
        ));
    }
    replaceable(to, is_there)?;
    let partial = beside(to, "partial");
    let made = make_private(&partial).and_then(|()| {
        let mut bytes = 0;
        for file in &files {
            let (from, copied) = (settings.dir.join(file.name), partial.join(file.name));
            bytes += copy(&from, &copied, *file, true)?;
        }
        sync(&partial)?;
        publish(&partial, to, is_there)?;
        Ok(bytes)
    });
    if made.is_err() {
        // Nobody is served by half a backup.
        drop(fs::remove_dir_all(&partial));
    }
    made
}

/// Makes the folder that backups are made in, for this user only, unless it is there.
///
/// # Errors
/// One line: it cannot be made.
pub fn make_place(dir: &Path) -> Result<(), String> {
    folder::make_private(dir)
}

/// Copies a file, before its schema changes, into a folder `to` that [`restore`] takes, in the place of an
/// earlier one. The program that made the file must restore it.
///
/// # Errors
/// One line that names what cannot be read or written.
pub(super) fn before_schema(from: &Path, to: &Path) -> Result<(), String> {
    let file = [SESSIONS, ACCOUNTS]
        .into_iter()
        .find(|file| from.ends_with(file.name))
        .ok_or("it is none of ours")?;
    let is_there = fs::symlink_metadata(to).is_ok();
    replaceable(to, is_there)?;
    let partial = beside(to, "partial");
    let made = make_private(&partial).and_then(|()| {
        copy(from, &partial.join(file.name), file, false)?;
        sync(&partial)?;
        publish(&partial, to, is_there)
    });
    if made.is_err() {
        // Half a copy serves no purpose.
        drop(fs::remove_dir_all(&partial));
    }
    made
}

/// Removes the oldest folders in `dir` whose names begin with `prefix`, and which hold nothing but
/// backups, until `keep` are left; names sort by age. How many went.
///
/// # Errors
/// One line that names what cannot be read or removed.
pub fn thin_out(dir: &Path, prefix: &str, keep: usize) -> Result<usize, String> {
    let entries = fs::read_dir(dir).map_err(|error| named(dir, &error))?;
    let paths = entries.flatten().map(|entry| entry.path());
    let mut backups: Vec<PathBuf> = paths
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(prefix) && !name.contains(".partial-") && is_backup(path)
        })
        .collect();
    backups.sort();
    let surplus = backups.len().saturating_sub(keep);
    for path in &backups[..surplus] {
        fs::remove_dir_all(path).map_err(|error| named(path, &error))?;
    }
    Ok(surplus)
}

/// Copies one file in one read transaction, and checks the copy; its bytes.
fn copy(from: &Path, to: &Path, file: Kept, is_strict: bool) -> Result<u64, String> {
    // SQLite would make it readable for everybody; an empty file is taken as it is.
    private_file(to).map_err(|error| named(to, &error))?;
    let failed = |error: rusqlite::Error| named(from, &error);
    // Only reads, but a write-ahead log wants its index to be writable.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let source = Connection::open_with_flags(from, flags).map_err(failed)?;
    source.busy_timeout(BUSY).map_err(failed)?;
    let name = to.to_str().ok_or("the backup's name is no UTF-8")?;
    source.execute("VACUUM INTO ?1", [name]).map_err(failed)?;
    check::whole(to, from, file, is_strict)?;
    let copied = File::open(to).and_then(|copied| {
        copied.sync_all()?;
        copied.metadata()
    });
    let copied = copied.map_err(|error| named(to, &error))?;
    Ok(copied.len())
}

fn replaceable(to: &Path, is_there: bool) -> Result<(), String> {
    match is_there && !is_backup(to) {
        true => Err(format!(
            "{} is no backup, and is not replaced",
            to.display()
        )),
        false => Ok(()),
    }
}

/// A folder that holds our files and nothing else.
fn is_backup(path: &Path) -> bool {
    let known = |name: &std::ffi::OsStr| name == SESSIONS.name || name == ACCOUNTS.name;
    fs::read_dir(path).is_ok_and(|entries| {
        let mut names = entries.flatten().map(|entry| entry.file_name()).peekable();
        names.peek().is_some() && names.all(|name| known(&name))
    })
}

/// Gives the finished folder its name, at once.
fn publish(partial: &Path, to: &Path, is_there: bool) -> Result<(), String> {
    let flags = match is_there {
        true => RenameFlags::EXCHANGE,
        false => RenameFlags::NOREPLACE,
    };
    renameat_with(CWD, partial, CWD, to, flags)
        .map_err(|error| named(to, &io::Error::from(error)))?;
    if is_there {
        // The name now holds the one of before.
        fs::remove_dir_all(partial).map_err(|error| named(partial, &error))?;
    }
    match to.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync(parent),
        _ => sync(Path::new(".")),
    }
}

fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

fn make_private(path: &Path) -> Result<(), String> {
    let made = DirBuilder::new().mode(0o700).create(path);
    made.map_err(|error| format!("{}: cannot make this folder: {error}", path.display()))
}

fn sync(dir: &Path) -> Result<(), String> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|error| named(dir, &error))
}

/// What is said of a file or folder; made once for all of the many places.
#[cold]
fn named(path: &Path, what: &dyn Display) -> String {
    format!("{}: {what}", path.display())
}

/// A name for what is not finished, beside the one that it will have.
fn beside(path: &Path, what: &str) -> PathBuf {
    with_suffix(path, &format!(".{what}-{}", std::process::id()))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
