//! The schema in PostgreSQL: from an empty database, from the tables of the service that CloudChat replaces,
//! or from those of our own last version.
//!
//! Servers of both kinds go on working meanwhile. What changes a table that is in use does so in one transaction
//! that changes catalogues only, and waits for each table for half a second at most before it lets others
//! pass and tries again; indexes are built concurrently. One process migrates at a time.

use std::time::Duration;

use super::catalogue::{Catalogue, missing_rights};
use super::connection::{Connection, Server, Trouble};
use crate::clock;
use crate::config::Database;
use crate::entropy;
use crate::store::OnEvent;

/// The number of the schema that this version works on.
const SCHEMA: usize = 4;

const OLD_SERVICE: &str = include_str!("../../../sql/postgres/0001_old_service.sql");
const ACCOUNTS: &str = include_str!("../../../sql/postgres/0003_accounts.sql");
const FROM_0002: &str = include_str!("../../../sql/postgres/0003_accounts_from_0002.sql");
const TRIGGERS: &str = include_str!("../../../sql/postgres/0003_triggers.sql");
const NFC: &str = include_str!("../../../sql/postgres/0004_nfc.sql");

/// Fails if a password cannot be put in the place of another one; writes nothing.
const TRY: &str = "INSERT INTO credentials (user_id, type) SELECT 0, 'password' WHERE FALSE
    ON CONFLICT (user_id, type) WHERE type IN ('password', 'totp', 'webauthn') DO NOTHING";

/// Indexes that nothing depends on: table, name, columns (none: an expression), definition.
const INDEXES: [(&str, &str, &[&str], &str); 4] = [
    (
        "credentials",
        "cloudchat_credentials_by_user",
        &["user_id"],
        "credentials (user_id)",
    ),
    ("users", "idx_users_email_ci", &[], "users (lower(email))"),
    (
        "sessions",
        "idx_sessions_user",
        &["user_id"],
        "sessions (user_id)",
    ),
    (
        "sessions",
        "idx_sessions_expires",
        &["expires_at"],
        "sessions (expires_at)",
    ),
];

/// Held by the process that migrates: "cloudcha" in ASCII, so that no other program means the same.
const LOCK: i64 = 0x636c_6f75_6463_6861;

/// For all of it.
const TIMEOUT: Duration = Duration::from_secs(1800);
/// Others that want a table wait behind us for so long at most.
const LIMITS: &str = "SET LOCAL lock_timeout = '500ms'; SET LOCAL statement_timeout = '600s'";
/// Pause between two tries, at least, and at most twice this: what has queued up behind us passes first.
const PAUSE: Duration = Duration::from_millis(1000);
/// Without the tables after so long: it says why it takes so long, and later gives up.
const PATIENCE: Duration = Duration::from_secs(15);
const TRIES_TIMEOUT: Duration = Duration::from_secs(900);

/// A step of a migration, carried out or foreseen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Its name.
    pub name: &'static str,
    /// What it does to which table, a line each.
    pub changes: Vec<String>,
}

/// Whether the schema is the one that this version works on, and this role may. Err: one line with what to do.
pub(super) async fn check(connection: &Connection) -> Result<(), String> {
    let found = applied(connection)
        .await
        .map_err(|error| error.to_string())?;
    match found.cmp(&SCHEMA) {
        std::cmp::Ordering::Equal => {}
        std::cmp::Ordering::Less => {
            return Err(format!(
                "its schema is {found}, this cloudchat needs {SCHEMA}: run `cloudchat migrate`"
            ));
        }
        std::cmp::Ordering::Greater => return Err(newer(found)),
    }
    let missing = missing_rights(connection).await;
    match missing.map_err(|error| error.to_string())? {
        Some(line) => Err(line),
        None => Ok(()),
    }
}

fn newer(found: usize) -> String {
    format!(
        "made by a newer cloudchat (schema {found}, this one knows {SCHEMA}); start the newer one"
    )
}

/// The number of the schema that is there.
async fn applied(connection: &Connection) -> Result<usize, Trouble> {
    const SELECT: &str = "SELECT coalesce(max(number), 0) FROM schema_migrations";
    match connection.once(SELECT, &[]).await {
        Ok(rows) => {
            let number = rows
                .first()
                .map(|row| row.try_get::<_, i32>(0))
                .transpose()?;
            Ok(number.and_then(|n| n.try_into().ok()).unwrap_or(0))
        }
        Err(trouble) if trouble.is_no_table() => Ok(0),
        Err(trouble) => Err(trouble),
    }
}

/// Where a database stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Empty,
    OldService,
    Schema2,
    Schema3,
    Done,
}

impl Origin {
    /// Err: a line for each difference from all that we know.
    async fn of(connection: &Connection, catalogue: &Catalogue) -> Result<Self, Vec<String>> {
        let found = applied(connection).await;
        let found = found.map_err(|error| vec![error.to_string()])?;
        let origin = match found {
            // An earlier version may have recorded its first file, which changes nothing here, and failed then.
            0 | 1 if catalogue.is_empty() => Self::Empty,
            0 | 1 => Self::OldService,
            2 if catalogue.is_schema_2() => return Ok(Self::Schema2),
            2 => {
                return Err(vec![
                    "schema_migrations says 2, but the tables are not what that version made"
                        .to_owned(),
                ]);
            }
            3 => Self::Schema3,
            SCHEMA => Self::Done,
            _ => return Err(vec![newer(found)]),
        };
        let differences = match origin {
            Self::Empty => Vec::new(),
            _ => catalogue.differences(found),
        };
        match differences.is_empty() {
            true => Ok(origin),
            false => Err(differences),
        }
    }

    /// What is to be done about the tables, in this order.
    fn changes(self) -> &'static [Change] {
        match self {
            Self::Empty => &[FROM_NOTHING, TO_NFC],
            Self::OldService => &[FROM_OLD_SERVICE, TO_NFC],
            Self::Schema2 => &[FROM_SCHEMA_2, TO_NFC],
            Self::Schema3 => &[TO_NFC],
            Self::Done => &[],
        }
    }
}

/// What leads to a schema of this number.
struct Change {
    number: usize,
    name: &'static str,
    lines: &'static [&'static str],
    sql: &'static [&'static str],
}

impl Change {
    fn step(&self) -> Step {
        let changes = self.lines.iter().map(|line| (*line).to_owned());
        Step {
            name: self.name,
            changes: changes.collect(),
        }
    }
}

const MADE: &str =
    "new tables users, credentials and sessions, as the service has them that CloudChat replaces";
const OURS: &str = "new tables secrets, used_tokens and outbox";
const USERS: &str =
    "users: email may be NULL; new column sessions_not_before BIGINT NOT NULL DEFAULT 0";
const CREDENTIALS: &str = "credentials: new columns changed_ms and writes, BIGINT NOT NULL DEFAULT 0; new triggers \
    cloudchat_password_made and cloudchat_password_replaced, which set changed_ms";

const FROM_NOTHING: Change = Change {
    number: 3,
    name: "0003_accounts",
    lines: &[MADE, OURS, USERS, CREDENTIALS],
    sql: &[OLD_SERVICE, ACCOUNTS, TRIGGERS],
};
const FROM_OLD_SERVICE: Change = Change {
    number: 3,
    name: "0003_accounts",
    lines: &[OURS, USERS, CREDENTIALS],
    sql: &[ACCOUNTS, TRIGGERS],
};
const FROM_SCHEMA_2: Change = Change {
    number: 3,
    name: "0003_accounts_from_0002",
    lines: &[
        "users: email and created_at may be NULL; without the column updated_at",
        "credentials: new columns id, type ('password' in each row), provider and provider_uid; \
         password_hash is called secret_hash; without updated_at; other unique indexes and triggers",
        "sessions: new columns id, user_agent, ip and revoked_at; id is called session_id",
        "without the table hash_mix",
    ],
    sql: &[FROM_0002, TRIGGERS],
};
const TO_NFC: Change = Change {
    number: 4,
    name: "0004_nfc",
    lines: &["credentials: new column nfc_of TEXT"],
    sql: &[NFC],
};

/// Brings the schema up to date, or only tells what that would do (`is_trial`): then catalogues are read,
/// and nothing else.
///
/// # Errors
/// Lines on what is wrong; the first names the server. An index that could not be built is left to the next
/// run, all else is done or not at all.
pub fn migrate(
    database: &Database,
    is_trial: bool,
    on_event: OnEvent,
) -> Result<Vec<Step>, String> {
    let server = Server::new(database, on_event)?;
    super::wait_for(database, TIMEOUT, async {
        let text = |error: Trouble| error.to_string();
        let connection = server.connect().await.map_err(text)?;
        let guard = match is_trial {
            true => None,
            false => Some(guard(&server).await.map_err(text)?),
        };
        let catalogue = Catalogue::read(&connection).await.map_err(text)?;
        let origin = Origin::of(&connection, &catalogue).await;
        let origin = origin.map_err(|lines| lines.join("\n  "))?;
        let changes = origin.changes();
        let mut steps = Vec::new();
        if let Some(first) = changes.first() {
            let obstacles = catalogue.obstacles();
            if !obstacles.is_empty() {
                return Err(obstacles.join("\n  "));
            }
            if !is_trial {
                let done = change(&connection, changes, on_event).await;
                done.map_err(|error| format!("{}: {error}", first.name))?;
            }
            steps.extend(changes.iter().map(Change::step));
        }
        let catalogue = match is_trial {
            true => catalogue,
            false => Catalogue::read(&connection).await.map_err(text)?,
        };
        steps.extend(indexes(&connection, &catalogue, is_trial).await?);
        connection.abort();
        if let Some(guard) = guard {
            guard.abort();
        }
        Ok(steps)
    })
}

/// Waits until no other process migrates. The lock lasts as long as the transaction of this connection, so it
/// holds through a PgBouncer in transaction mode. Only statements of the simple protocol are sent: what the other
/// protocol keeps until the next one would keep a snapshot, too, for whose end the building of an index waits.
async fn guard(server: &Server) -> Result<Connection, Trouble> {
    let connection = server.connect().await?;
    let lock = format!(
        "BEGIN; SET LOCAL idle_in_transaction_session_timeout = 0;
         DO $$ BEGIN
             IF NOT pg_try_advisory_xact_lock({LOCK}) THEN
                 RAISE SQLSTATE '55P03';
             END IF;
         END $$"
    );
    loop {
        match connection.batch(&lock).await {
            Ok(()) => return Ok(connection),
            Err(trouble) if trouble.is_lock_in_use() => connection.batch("ROLLBACK").await?,
            Err(trouble) => return Err(trouble),
        }
        tokio::time::sleep(pause()).await;
    }
}

/// One to two times [`PAUSE`], by chance.
fn pause() -> Duration {
    let [chance] = entropy::bytes::<1>();
    PAUSE + PAUSE * u32::from(chance) / 256
}

/// Changes the tables in one transaction, as often as it takes to get at them.
async fn change(
    connection: &Connection,
    changes: &[Change],
    on_event: OnEvent,
) -> Result<(), Trouble> {
    let mut steps = String::new();
    for Change {
        number, name, sql, ..
    } in changes
    {
        steps += &sql.join("\n");
        steps += &format!(
            "; INSERT INTO schema_migrations (number, name) VALUES ({number}, '{name}');\n"
        );
    }
    let whole = format!(
        "BEGIN; {LIMITS};
         CREATE TABLE IF NOT EXISTS schema_migrations (
             number     INTEGER PRIMARY KEY,
             name       TEXT NOT NULL,
             applied_at TIMESTAMPTZ NOT NULL DEFAULT now()
         );
         {steps}
         {TRY};
         COMMIT"
    );
    let begun = clock::now();
    let mut has_told = false;
    loop {
        let tried = connection.batch(&whole).await;
        let Err(trouble) = tried else { return Ok(()) };
        connection.batch("ROLLBACK").await?;
        let passed = clock::now().saturating_duration_since(begun);
        if !trouble.is_lock_in_use() || passed >= TRIES_TIMEOUT {
            return Err(trouble);
        }
        if passed >= PATIENCE && !has_told {
            has_told = true;
            let detail = "transactions of others have kept users or credentials in use for 15 s; it goes on trying for \
                 15 minutes (pg_stat_activity shows them)";
            on_event("waiting for tables", detail.to_owned());
        }
        tokio::time::sleep(pause()).await;
    }
}

/// Builds the indexes that are missing, and anew those whose build was cut short.
async fn indexes(
    connection: &Connection,
    catalogue: &Catalogue,
    is_trial: bool,
) -> Result<Option<Step>, String> {
    let mut changes = Vec::new();
    for (table, name, columns, definition) in INDEXES {
        let found = catalogue.index(table, name, columns);
        if found.is_some_and(|index| index.is_valid) {
            continue;
        }
        // It may not even be there when nothing was done.
        changes.push(format!(
            "{table}: new index {name} ON {definition}, built concurrently"
        ));
        if is_trial {
            continue;
        }
        let built = build(
            connection,
            name,
            definition,
            found.map(|index| index.name.as_str()),
        );
        built.await.map_err(|error| {
            format!("{name} is not built: {error}; all else is done, run `cloudchat migrate` again")
        })?;
    }
    Ok((!changes.is_empty()).then_some(Step {
        name: "indexes",
        changes,
    }))
}

/// Builds an index in the place of one that is not valid, as often as it takes: it waits for transactions that
/// are older than itself, and the server may have a limit for that (`lock_timeout`).
async fn build(
    connection: &Connection,
    name: &str,
    definition: &str,
    invalid: Option<&str>,
) -> Result<(), Trouble> {
    let drop_it = format!("DROP INDEX CONCURRENTLY IF EXISTS {name}");
    let create = format!("CREATE INDEX CONCURRENTLY {name} ON {definition}");
    let begun = clock::now();
    // A build that fails leaves one behind.
    let mut drop_first = invalid.map(|name| format!("DROP INDEX CONCURRENTLY IF EXISTS {name}"));
    loop {
        let tried = async {
            if let Some(drop_it) = &drop_first {
                connection.batch(drop_it).await?;
            }
            connection.batch(&create).await
        };
        let Err(trouble) = tried.await else {
            return Ok(());
        };
        let passed = clock::now().saturating_duration_since(begun);
        if !trouble.is_lock_in_use() || passed >= TRIES_TIMEOUT {
            return Err(trouble);
        }
        drop_first = Some(drop_it.clone());
        tokio::time::sleep(pause()).await;
    }
}
