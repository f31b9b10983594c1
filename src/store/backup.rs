//! Copies of the SQLite files, made while servers use them, and the way back.
//!
//! A copy is one read transaction (`VACUUM INTO`), so it is consistent, whole, and has no logs beside
//! it. Sessions are copied before accounts: what ended sessions between the two is then in the copy
//! of the accounts, and they stay dead after a restore.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::{chats, secrets, sqlite};
use crate::config;

/// How long a copy waits for a server that holds the file locked.
const BUSY: Duration = Duration::from_secs(10);
/// SQLite's logs, which belong to exactly one state of their file.
const LOGS: [&str; 2] = ["-wal", "-shm"];

/// A file of the data folder.
#[derive(Debug, Clone, Copy)]
struct Kept {
    name: &'static str,
    /// Migrations that this program knows.
    known: usize,
}

const SESSIONS: Kept = Kept {
    name: chats::FILE_NAME,
    known: chats::MIGRATIONS.len(),
};
const ACCOUNTS: Kept = Kept {
    name: secrets::FILE_NAME,
    known: secrets::MIGRATIONS.len(),
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
    if is_there && !is_backup(to) {
        return Err(format!(
            "{} is no backup, and is not replaced",
            to.display()
        ));
    }
    let partial = beside(to, "partial");
    let made = make_private(&partial).and_then(|()| {
        let mut bytes = 0;
        for file in &files {
            bytes += copy(
                &settings.dir.join(file.name),
                &partial.join(file.name),
                *file,
            )?;
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
    if is_there && !is_backup(to) {
        return Err(format!(
            "{} is no backup, and is not replaced",
            to.display()
        ));
    }
    let partial = beside(to, "partial");
    let made = make_private(&partial).and_then(|()| {
        copy(from, &partial.join(file.name), file)?;
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
    let named = |what: &Path, error: io::Error| format!("{}: {error}", what.display());
    let entries = fs::read_dir(dir).map_err(|error| named(dir, error))?;
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
        fs::remove_dir_all(path).map_err(|error| named(path, error))?;
    }
    Ok(surplus)
}

/// Puts the files of a backup into the data folder, after checking them. What was there before is
/// kept in a new folder in it, named by `label`; that folder, if there was anything.
///
/// # Errors
/// One line: the backup is not whole or newer than this program, a server uses the data, or
/// something cannot be written. Nothing has been replaced then, unless the line says so.
pub fn restore(
    settings: &config::Store,
    from: &Path,
    label: &str,
) -> Result<Option<PathBuf>, String> {
    let files = kept(settings)?;
    let dir = &settings.dir;
    if !from.join(ACCOUNTS.name).is_file() {
        return Err(format!(
            "{} holds no {}: it is no backup",
            from.display(),
            ACCOUNTS.name
        ));
    }
    for file in files.iter().filter(|file| from.join(file.name).is_file()) {
        check(&from.join(file.name), *file)?;
    }
    sqlite::make_folder(dir)?;
    for file in &files {
        close_logs(&dir.join(file.name))?;
    }
    let failed = |what: &Path| {
        let what = what.display().to_string();
        move |error: io::Error| format!("{what}: {error}")
    };
    // Everything that takes room or time comes before the first change.
    for file in files.iter().filter(|file| from.join(file.name).is_file()) {
        let fresh = beside(&dir.join(file.name), "restored");
        let put = copy_plain(&from.join(file.name), &fresh, dir);
        put.map_err(failed(&fresh))?;
    }
    let aside = dir.join(format!("before-restore-{label}"));
    let had_any = files.iter().any(|file| dir.join(file.name).exists());
    if had_any {
        make_private(&aside)?;
        let owner = fs::metadata(dir).map_err(failed(dir))?;
        give(&aside, &owner).map_err(failed(&aside))?;
    }
    for file in &files {
        let path = dir.join(file.name);
        if path.exists() {
            fs::hard_link(&path, aside.join(file.name)).map_err(failed(&path))?;
        }
        for log in LOGS {
            let log = with_suffix(&path, log);
            if log.exists() {
                let name = log.file_name().unwrap_or_default();
                fs::rename(&log, aside.join(name)).map_err(failed(&log))?;
            }
        }
        let fresh = beside(&path, "restored");
        let put = match fresh.exists() {
            true => fs::rename(&fresh, &path),
            false if path.exists() => fs::remove_file(&path),
            false => Ok(()),
        };
        put.map_err(|error| {
            format!(
                "{}: {error}; the restore is half done, the data of before is in {}",
                path.display(),
                aside.display()
            )
        })?;
    }
    sync(dir)?;
    Ok(had_any.then_some(aside))
}

/// Copies one file in one read transaction, and checks the copy; its bytes.
fn copy(from: &Path, to: &Path, file: Kept) -> Result<u64, String> {
    // SQLite would make it readable for everybody; an empty file is taken as it is.
    private_file(to).map_err(|error| format!("{}: {error}", to.display()))?;
    let failed = |error: rusqlite::Error| format!("{}: {error}", from.display());
    // Only reads, but a write-ahead log wants its index to be writable.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let source = Connection::open_with_flags(from, flags).map_err(failed)?;
    source.busy_timeout(BUSY).map_err(failed)?;
    let name = to.to_str().ok_or("the backup's name is no UTF-8")?;
    source.execute("VACUUM INTO ?1", [name]).map_err(failed)?;
    check(to, file)?;
    let copied = File::open(to).and_then(|copied| {
        copied.sync_all()?;
        copied.metadata()
    });
    let copied = copied.map_err(|error| format!("{}: {error}", to.display()))?;
    Ok(copied.len())
}

/// Whether the copy is whole, and no newer than this program.
fn check(path: &Path, file: Kept) -> Result<(), String> {
    let inspect = || -> rusqlite::Result<(String, i64)> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let copy = Connection::open_with_flags(path, flags)?;
        let found = copy.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        let version = copy.pragma_query_value(None, "user_version", |row| row.get(0))?;
        Ok((found, version))
    };
    let named = |what: &str| format!("{}: {what}", path.display());
    let (found, version) = inspect().map_err(|error| named(&format!("damaged: {error}")))?;
    if found != "ok" {
        return Err(named(&format!("damaged: {found}")));
    }
    match usize::try_from(version) {
        Ok(1..) if version as u64 <= file.known as u64 => Ok(()),
        Ok(1..) => Err(named("made by a newer cloudchat; restore it with that one")),
        _ => Err(named("no data of cloudchat")),
    }
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
        (Ok(_), _) | (_, Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)) => Err(
            format!("{}: a server uses it; stop it first", path.display()),
        ),
        (Err(error), _) => Err(format!("{}: {error}", path.display())),
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
        .map_err(|error| format!("{}: {}", to.display(), io::Error::from(error)))?;
    if is_there {
        // The name now holds the one of before.
        fs::remove_dir_all(partial).map_err(|error| format!("{}: {error}", partial.display()))?;
    }
    match to.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync(parent),
        _ => sync(Path::new(".")),
    }
}

fn copy_plain(from: &Path, to: &Path, dir: &Path) -> io::Result<()> {
    if to.exists() {
        // Of a restore that was killed.
        fs::remove_file(to)?;
    }
    let mut target = private_file(to)?;
    io::copy(&mut File::open(from)?, &mut target)?;
    give(to, &fs::metadata(dir)?)?;
    target.sync_all()
}

/// To the folder's owner: a restore may be run by root.
fn give(path: &Path, owner: &fs::Metadata) -> io::Result<()> {
    let own = fs::metadata(path)?;
    if (own.uid(), own.gid()) == (owner.uid(), owner.gid()) {
        return Ok(());
    }
    chown(path, Some(owner.uid()), Some(owner.gid()))
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
    synced.map_err(|error| format!("{}: {error}", dir.display()))
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
