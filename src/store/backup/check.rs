//! What a file of a backup has to be: whole, of a schema that this program knows, and nothing but what it makes.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::{Kept, named};
use crate::store::schema;

/// Whether the file is whole, and no newer than this program; `shown` is its name for the operator. And, if that
/// `is_strict`, whether it holds exactly the tables, indexes and triggers that its version of this program makes: a
/// trigger of somebody else's would be carried out by the server.
pub(super) fn whole(path: &Path, shown: &Path, file: Kept, is_strict: bool) -> Result<(), String> {
    match inspect(path, file, is_strict) {
        Ok(None) => Ok(()),
        Ok(Some(why)) => Err(named(shown, &why)),
        Err(error) => Err(named(shown, &format_args!("damaged: {error}"))),
    }
}

/// What is wrong with it.
fn inspect(path: &Path, file: Kept, is_strict: bool) -> rusqlite::Result<Option<String>> {
    let copy = open(path)?;
    let found: String = copy.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if found != "ok" {
        return Ok(Some(format!("damaged: {found}")));
    }
    let version: i64 = copy.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let version = usize::try_from(version).unwrap_or(0);
    let why = match file.migrations.get(..version) {
        _ if version == 0 => "no data of cloudchat",
        None => "made by a newer cloudchat; restore it with that one",
        Some(_) if !is_strict => return Ok(None),
        Some(steps) => {
            let odd = schema::odd(&copy, steps)?;
            return Ok(odd.map(|odd| odd + "; such a file is not restored"));
        }
    };
    Ok(Some(why.to_owned()))
}

/// For reading. A file whose log is switched on wants to be writable even so.
fn open(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let file = Connection::open_with_flags(path, flags)?;
    file.pragma_update(None, "trusted_schema", false)?;
    file.pragma_update(None, "query_only", true)?;
    Ok(file)
}
