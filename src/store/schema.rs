//! The schema of a SQLite file: steps in order, each applied once; `user_version` is how many have been.
//!
//! All that is missing goes into one transaction, so that two processes that start together and a process that
//! is killed half-way do no harm. A step that makes tables anew is preceded by a copy of the file. What a step
//! makes can be compared with what a file holds ([`odd`]).

use std::path::Path;

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::{backup, sqlite};

/// A step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Migration {
    pub sql: &'static str,
    /// Tables that are made anew and must come through with all of their rows.
    pub rebuilds: &'static [&'static str],
}

impl Migration {
    /// One that only adds.
    pub const fn adds(sql: &'static str) -> Self {
        Self { sql, rebuilds: &[] }
    }
}

/// What to do about a file that an earlier version has made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upkeep {
    /// Bring it up to date: no other process uses it, or only one of this version.
    Now,
    /// Leave it as it is until [`super::Backend::bring_up_to_date`]: a server of that version uses it.
    Later,
    /// Leave it as it is and refuse: such a server may use it. Nor is a missing file made.
    Never,
}

/// Applies what is missing, if that is to be done now; whether it is still to be done.
///
/// Err: one line on why the file cannot be used.
pub(super) fn open(
    connection: &mut Connection,
    path: &Path,
    migrations: &[Migration],
    upkeep: Upkeep,
) -> Result<bool, String> {
    let known = migrations.len();
    let applied = applied(connection).map_err(|error| sqlite::explain(&error))?;
    if applied > known {
        return Err(newer(applied, known));
    }
    if applied == known {
        return Ok(false);
    }
    match upkeep {
        // Nobody can use a file that has no tables.
        Upkeep::Later if applied == 0 => {}
        Upkeep::Never if applied == 0 => {
            return Err(
                "it holds nothing yet: the server makes its tables when it is started".to_owned(),
            );
        }
        Upkeep::Now => {}
        Upkeep::Later => return Ok(true),
        Upkeep::Never => {
            return Err(format!(
                "its schema is {applied}, this cloudchat needs {known}: the server brings it up to date when it is \
                 started or reloaded with this version"
            ));
        }
    }
    migrate(connection, path, migrations)?;
    Ok(false)
}

/// Applies what is missing.
///
/// Err: one line; the file is as before.
pub(super) fn migrate(
    connection: &mut Connection,
    path: &Path,
    migrations: &[Migration],
) -> Result<(), String> {
    let failed = |error: rusqlite::Error| sqlite::explain(&error);
    let applied = applied(connection).map_err(failed)?;
    let is_missing = |(n, step): &(usize, &Migration)| *n >= applied && !step.rebuilds.is_empty();
    let rebuilding = migrations.iter().enumerate().rfind(is_missing);
    if let Some((n, _)) = rebuilding
        && applied > 0
    {
        let dir = path.parent().unwrap_or(Path::new("."));
        backup::before_schema(path, &dir.join(format!("before-schema-{}", n + 1)))?;
    }
    // Within a transaction this would do nothing.
    connection
        .pragma_update(None, "foreign_keys", rebuilding.is_none())
        .map_err(failed)?;
    let outcome = apply(connection, migrations);
    let restored = connection.pragma_update(None, "foreign_keys", true);
    outcome.and_then(|()| restored.map_err(failed))
}

fn applied(connection: &Connection) -> rusqlite::Result<usize> {
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    Ok(usize::try_from(version).unwrap_or(0))
}

fn newer(found: usize, known: usize) -> String {
    format!(
        "made by a newer cloudchat (schema {found}, this one knows {known}); \
         start the newer one, or choose another data folder"
    )
}

fn apply(connection: &mut Connection, migrations: &[Migration]) -> Result<(), String> {
    let failed = |error: rusqlite::Error| sqlite::explain(&error);
    let known = migrations.len();
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(failed)?;
    // Another process may have been faster.
    let applied = applied(&transaction).map_err(failed)?;
    if applied > known {
        return Err(newer(applied, known));
    }
    for (number, step) in migrations.iter().enumerate().skip(applied) {
        let before = rows(&transaction, step.rebuilds).map_err(failed)?;
        transaction.execute_batch(step.sql).map_err(failed)?;
        let after = rows(&transaction, step.rebuilds).map_err(failed)?;
        if before != after {
            let number = number + 1;
            return Err(format!(
                "step {number} of the schema would lose rows ({before:?} became {after:?}); nothing was changed"
            ));
        }
    }
    let orphans: i64 = transaction
        .query_row("SELECT count(*) FROM pragma_foreign_key_check", [], |row| {
            row.get(0)
        })
        .map_err(failed)?;
    if orphans > 0 {
        return Err(format!(
            "{orphans} rows belong to nothing (PRAGMA foreign_key_check); nothing was changed"
        ));
    }
    transaction
        .pragma_update(None, "user_version", known as i64)
        .and_then(|()| transaction.commit())
        .map_err(failed)
}

/// A table, index or trigger: its type, name and table, and its SQL without comments.
type Object = [String; 4];

/// What SQLite's ANALYZE makes, with its statistics.
const STATISTICS: &str = "CREATE TABLE sqlite_stat1(tbl,idx,stat)";

/// What a file holds that these steps do not make, or lacks that they make; `None` if it is exactly theirs.
pub(super) fn odd(file: &Connection, steps: &[Migration]) -> rusqlite::Result<Option<String>> {
    let ours = Connection::open_in_memory()?;
    // As in `migrate`.
    ours.pragma_update(None, "foreign_keys", false)?;
    for step in steps {
        ours.execute_batch(step.sql)?;
    }
    let (ours, found) = (objects(&ours)?, objects(file)?);
    let named = |[kind, name, ..]: &Object| format!("{kind} {name:?}");
    let strange = found.iter().find(|object| !ours.contains(object));
    let missing = ours.iter().find(|object| !found.contains(object));
    Ok(match (strange, missing) {
        (Some(strange), _) => Some(format!("{} is none of cloudchat's", named(strange))),
        (None, Some(missing)) => Some(format!("{} is missing", named(missing))),
        (None, None) if found.len() != ours.len() => Some("something stands twice".to_owned()),
        (None, None) => None,
    })
}

fn objects(file: &Connection) -> rusqlite::Result<Vec<Object>> {
    let mut statement =
        file.prepare("SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_schema")?;
    let objects = statement.query_map([], |row| {
        let sql: String = row.get(3)?;
        Ok([row.get(0)?, row.get(1)?, row.get(2)?, plain(&sql)])
    })?;
    let ours = |object: &rusqlite::Result<Object>| !matches!(object, Ok(o) if o[3] == STATISTICS);
    objects.filter(ours).collect()
}

/// SQL as SQLite understands it: without comments, which a later version may word otherwise, and with one blank
/// where there are several.
fn plain(sql: &str) -> String {
    let mut plain = String::with_capacity(sql.len());
    let mut rest = sql;
    while let Some(c) = rest.chars().next() {
        // What begins with so many bytes, and goes on up to that end, or to the end of all.
        let (begin, end, is_blank) = match c {
            '\'' | '"' | '`' => (1, &rest[..1], false),
            '[' => (1, "]", false),
            '-' if rest.starts_with("--") => (2, "\n", true),
            '/' if rest.starts_with("/*") => (2, "*/", true),
            c => (c.len_utf8(), "", c.is_ascii_whitespace()),
        };
        let at = rest[begin..].find(end);
        let bytes = at.map_or(rest.len(), |at| begin + at + end.len());
        match is_blank {
            true if plain.ends_with(' ') => {}
            true => plain.push(' '),
            false => plain += &rest[..bytes],
        }
        rest = &rest[bytes..];
    }
    plain
}

/// How many rows each of these tables has.
fn rows(transaction: &Transaction<'_>, tables: &[&str]) -> rusqlite::Result<Vec<i64>> {
    let count = |table: &&str| {
        let sql = format!("SELECT count(*) FROM {table}");
        transaction.query_row(&sql, [], |row| row.get(0))
    };
    tables.iter().map(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_blanks_are_no_part_of_a_statement() {
        for (sql, expected) in [
            (
                "CREATE TABLE a (b, -- it's\n    c) STRICT",
                "CREATE TABLE a (b, c) STRICT",
            ),
            ("a/* b' */c\td\r\n e", "a c d e"),
            (
                "CHECK (a IN ('x -- y', \"p  q\"))",
                "CHECK (a IN ('x -- y', \"p  q\"))",
            ),
            ("'it''s' /**/ [ - ] `--`", "'it''s' [ - ] `--`"),
            ("a - b / c", "a - b / c"),
            ("'not ended -- ", "'not ended -- "),
            ("--", " "),
            ("/*", " "),
            ("密 -- 码", "密 "),
        ] {
            assert_eq!(plain(sql), expected, "{sql:?}");
        }
    }
}
