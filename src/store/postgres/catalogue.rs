//! The tables as PostgreSQL's catalogues describe them, and how they differ from what is expected.
//!
//! Only catalogues are read, and no function that opens a table: nothing here waits for a lock.

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::connection::{Connection, Trouble};

/// The tables that are looked at.
const TABLES: [&str; 6] = [
    "users",
    "credentials",
    "sessions",
    "secrets",
    "used_tokens",
    "outbox",
];

/// A table of the service that CloudChat replaces, as far as we use it.
struct Expected {
    table: &'static str,
    /// Name and type; `text` stands for VARCHAR without a length, too.
    columns: &'static [(&'static str, &'static str)],
    unique: &'static [Unique],
}

struct Unique {
    columns: &'static [&'static str],
    /// Must it have a condition, must it not, or either (`None`)?
    is_partial: Option<bool>,
    /// How the index is described to the operator.
    text: &'static str,
}

const OLD_SERVICE: [Expected; 2] = [
    Expected {
        table: "users",
        columns: &[
            ("id", "bigint"),
            ("uid", "text"),
            ("email", "text"),
            ("phone", "text"),
            ("display_name", "text"),
            ("is_active", "boolean"),
            ("created_at", "timestamp with time zone"),
        ],
        unique: &[
            Unique {
                columns: &["id"],
                is_partial: Some(false),
                text: "users(id)",
            },
            Unique {
                columns: &["uid"],
                is_partial: Some(false),
                text: "users(uid)",
            },
            Unique {
                columns: &["email"],
                is_partial: Some(false),
                text: "users(email)",
            },
            Unique {
                columns: &["phone"],
                is_partial: Some(false),
                text: "users(phone)",
            },
        ],
    },
    Expected {
        table: "credentials",
        columns: &[
            ("id", "bigint"),
            ("user_id", "bigint"),
            ("type", "text"),
            ("secret_hash", "text"),
            ("provider", "text"),
            ("provider_uid", "text"),
            ("created_at", "timestamp with time zone"),
        ],
        unique: &[
            Unique {
                columns: &["user_id", "type"],
                is_partial: Some(true),
                text: "credentials(user_id, type) WHERE type IN ('password', 'totp', 'webauthn') \
                       (idx_credentials_user_type_one)",
            },
            Unique {
                columns: &["provider", "provider_uid"],
                is_partial: None,
                text: "credentials(provider, provider_uid) (idx_credentials_oauth_unique)",
            },
        ],
    },
];

/// What we have added to them: table, column, and the schema that has it first.
const OURS: [(&str, &str, usize); 4] = [
    ("users", "sessions_not_before", 3),
    ("credentials", "changed_ms", 3),
    ("credentials", "writes", 3),
    ("credentials", "nfc_of", 4),
];

/// What a server does with the tables.
const RIGHTS: [(&str, &[&str]); 6] = [
    ("users", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("credentials", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("secrets", &["SELECT", "INSERT"]),
    ("used_tokens", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("outbox", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("schema_migrations", &["SELECT"]),
];

/// What is there.
#[derive(Debug)]
pub(super) struct Catalogue {
    /// Who we are to the server.
    role: String,
    /// Whether we may make tables in the schema that they would be made in; its name.
    schema: Option<(String, bool)>,
    /// What the database's texts are encoded in.
    encoding: String,
    tables: Vec<Table>,
}

#[derive(Debug)]
struct Table {
    name: String,
    /// `r` is a table.
    kind: String,
    owner: String,
    /// We are its owner, or a member of that role.
    is_ours: bool,
    columns: Vec<Column>,
    indexes: Vec<Index>,
}

#[derive(Debug)]
struct Column {
    name: String,
    kind: String,
    is_required: bool,
    has_default: bool,
}

#[derive(Debug)]
pub(super) struct Index {
    pub(super) name: String,
    is_unique: bool,
    /// Not so after a build that was cut short.
    pub(super) is_valid: bool,
    /// An expression has no name.
    columns: Vec<Option<String>>,
    is_partial: bool,
}

impl Catalogue {
    /// Reads all of it.
    pub async fn read(connection: &Connection) -> Result<Self, Trouble> {
        const NONE: &[(&(dyn tokio_postgres::types::ToSql + Sync), Type)] = &[];
        const WHO: &str = "SELECT current_user::text, current_schema()::text,
            coalesce(has_schema_privilege(current_schema(), 'CREATE'), false),
            current_setting('server_encoding')";
        const SEEN: &str =
            "SELECT c.oid, c.relname::text, c.relkind::text, pg_get_userbyid(c.relowner)::text,
                pg_has_role(c.relowner, 'USAGE')
            FROM unnest($1) AS name JOIN pg_catalog.pg_class c ON c.oid = to_regclass(name)";
        const COLUMNS: &str = "SELECT attname::text, format_type(atttypid, atttypmod), attnotnull,
                atthasdef OR attidentity <> ''
            FROM pg_catalog.pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped";
        const INDEXES: &str = "SELECT i.relname::text, indisunique, indisvalid, indpred IS NOT NULL,
                ARRAY(SELECT attname::text FROM generate_series(0, indnkeyatts - 1) AS place
                      LEFT JOIN pg_catalog.pg_attribute ON attrelid = indrelid AND attnum = indkey[place]
                          AND attnum > 0
                      ORDER BY place)
            FROM pg_catalog.pg_index JOIN pg_catalog.pg_class i ON i.oid = indexrelid WHERE indrelid = $1";
        let who = connection.once(WHO, NONE).await?;
        let who = who.first().ok_or(Trouble::NoConnection)?;
        let schema: Option<String> = who.try_get(1)?;
        let may_make: bool = who.try_get(2)?;
        let mut tables = Vec::new();
        let names: &[&str] = &TABLES;
        for row in connection.once(SEEN, &[(&names, Type::TEXT_ARRAY)]).await? {
            let oid: u32 = row.try_get(0)?;
            let of_table: &[(&(dyn tokio_postgres::types::ToSql + Sync), Type)] =
                &[(&oid, Type::OID)];
            let columns = connection.once(COLUMNS, of_table).await?;
            let indexes = connection.once(INDEXES, of_table).await?;
            tables.push(Table {
                name: row.try_get(1)?,
                kind: row.try_get(2)?,
                owner: row.try_get(3)?,
                is_ours: row.try_get(4)?,
                columns: columns.iter().map(to_column).collect::<Result<_, _>>()?,
                indexes: indexes.iter().map(to_index).collect::<Result<_, _>>()?,
            });
        }
        Ok(Self {
            role: who.try_get(0)?,
            schema: schema.map(|name| (name, may_make)),
            encoding: who.try_get(3)?,
            tables,
        })
    }

    fn table(&self, name: &str) -> Option<&Table> {
        self.tables.iter().find(|table| table.name == name)
    }

    fn has_column(&self, table: &str, column: &str) -> bool {
        self.table(table)
            .is_some_and(|table| table.column(column).is_some())
    }

    /// Neither of the two tables that matter is there.
    pub fn is_empty(&self) -> bool {
        self.table("users").is_none() && self.table("credentials").is_none()
    }

    /// The tables have the form that schema 2 of ours gave them.
    pub fn is_schema_2(&self) -> bool {
        self.has_column("credentials", "password_hash")
            && self.has_column("credentials", "writes")
            && !self.has_column("credentials", "type")
    }

    /// An index of that name, or one without a condition on these very columns.
    pub fn index(&self, table: &str, name: &str, columns: &[&str]) -> Option<&Index> {
        let indexes = &self.table(table)?.indexes;
        let named = indexes.iter().find(|index| index.name == name);
        named.or_else(|| {
            indexes
                .iter()
                .find(|index| index.is_valid && !index.is_partial && index.is_on(columns))
        })
    }

    /// Where the tables differ from those of the service that CloudChat replaces, with what we have added up to
    /// this schema: a line for each.
    pub fn differences(&self, schema: usize) -> Vec<String> {
        let mut lines = Vec::new();
        for expected in &OLD_SERVICE {
            let name = expected.table;
            let Some(table) = self.table(name) else {
                lines.push(format!("{name}: this table is missing"));
                continue;
            };
            if table.kind != "r" {
                lines.push(format!("{name}: this is no ordinary table"));
                continue;
            }
            table.compare(expected, &mut lines);
        }
        for (table, column, since) in OURS {
            let is_there = self.has_column(table, column);
            if self.table(table).is_some() && is_there != (since <= schema) {
                let what = if is_there { "there already" } else { "missing" };
                lines.push(format!("{table}: column {column} is {what}"));
            }
        }
        for name in ["secrets", "used_tokens", "outbox"] {
            match (self.table(name).is_some(), schema >= 3) {
                (true, false) => lines.push(format!(
                    "{name}: a table of this name is there already, and is not ours"
                )),
                (false, true) => lines.push(format!("{name}: this table is missing")),
                _ => {}
            }
        }
        lines
    }

    /// What a migration must be allowed to do and is not, or what the tables could not hold: a line for each.
    pub fn obstacles(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if !holds_all_texts(&self.encoding) {
            let encoding = &self.encoding;
            lines.push(format!(
                "the database is encoded in {encoding}, which lacks most characters: make another one (createdb -E UTF8 \
                 -T template0 …), move the data there (pg_dump … | psql …), and name it in DATABASE_URL"
            ));
        }
        let role = &self.role;
        for table in &self.tables {
            let Table { name, owner, .. } = table;
            if !table.is_ours && ["users", "credentials"].contains(&name.as_str()) {
                lines.push(format!(
                    "{name} belongs to the role {owner}, of which {role} is no member: \
                     GRANT {owner} TO {role}, or migrate as {owner}"
                ));
            }
        }
        match &self.schema {
            None => lines.push("there is no schema to make tables in (search_path)".to_owned()),
            Some((schema, false)) => lines.push(format!(
                "{role} may make no tables in the schema {schema}: \
                 GRANT CREATE ON SCHEMA {schema} TO {role}"
            )),
            Some((_, true)) => {}
        }
        lines
    }
}

impl Table {
    fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    fn compare(&self, expected: &Expected, lines: &mut Vec<String>) {
        let table = &self.name;
        for (name, kind) in expected.columns {
            let Some(column) = self.column(name) else {
                lines.push(format!("{table}: column {name} is missing"));
                continue;
            };
            let found = column.kind.as_str();
            if found != *kind && !(*kind == "text" && found == "character varying") {
                lines.push(format!("{table}: column {name} is {found}, not {kind}"));
            }
        }
        if self.column("id").is_some_and(|id| !id.has_default) {
            lines.push(format!("{table}: column id has no default (a sequence)"));
        }
        let is_known = |column: &&Column| {
            let ours = OURS
                .iter()
                .any(|(of, name, _)| of == table && *name == column.name);
            ours || expected
                .columns
                .iter()
                .any(|(name, _)| *name == column.name)
        };
        for column in self.columns.iter().filter(|column| !is_known(column)) {
            if column.is_required && !column.has_default {
                let name = &column.name;
                lines.push(format!(
                    "{table}: column {name} is none that we know, must not be NULL, and has no default"
                ));
            }
        }
        for unique in expected.unique {
            let mut fit = self.indexes.iter().filter(|index| {
                index.is_unique
                    && index.is_on(unique.columns)
                    && unique.is_partial.is_none_or(|is| is == index.is_partial)
            });
            let text = unique.text;
            match fit.next() {
                None => lines.push(format!("{table}: there is no unique index on {text}")),
                Some(index) if !index.is_valid && !fit.any(|index| index.is_valid) => {
                    let name = &index.name;
                    lines.push(format!("{table}: the unique index {name} is not valid"));
                }
                Some(_) => {}
            }
        }
    }
}

impl Index {
    fn is_on(&self, columns: &[&str]) -> bool {
        let names = self.columns.iter().map(Option::as_deref);
        names.eq(columns.iter().copied().map(Some))
    }
}

fn to_column(row: &Row) -> Result<Column, tokio_postgres::Error> {
    Ok(Column {
        name: row.try_get(0)?,
        kind: row.try_get(1)?,
        is_required: row.try_get(2)?,
        has_default: row.try_get(3)?,
    })
}

fn to_index(row: &Row) -> Result<Index, tokio_postgres::Error> {
    Ok(Index {
        name: row.try_get(0)?,
        is_unique: row.try_get(1)?,
        is_valid: row.try_get(2)?,
        is_partial: row.try_get(3)?,
        columns: row.try_get(4)?,
    })
}

/// Whether texts of all languages can be stored in this encoding. `SQL_ASCII` means bytes, whatever they are.
pub(super) fn holds_all_texts(encoding: &str) -> bool {
    matches!(encoding, "UTF8" | "SQL_ASCII")
}

/// What this role lacks to serve, as the commands that give it: one line, or none.
pub(super) async fn missing_rights(connection: &Connection) -> Result<Option<String>, Trouble> {
    const MISSING: &str = "SELECT current_user::text,
            ARRAY(SELECT kind || ' ON ' || name FROM unnest($1, $2) AS wanted (name, kind)
                  WHERE NOT coalesce(has_table_privilege(to_regclass(name)::oid, kind), false)),
            ARRAY(SELECT sequence FROM unnest($3) AS owner,
                         pg_get_serial_sequence(owner, 'id') AS sequence
                  WHERE sequence IS NOT NULL AND NOT has_sequence_privilege(sequence, 'USAGE'))";
    let wanted = RIGHTS
        .iter()
        .flat_map(|(table, kinds)| kinds.iter().map(move |kind| (*table, *kind)));
    let (names, kinds): (Vec<&str>, Vec<&str>) = wanted.unzip();
    let with_id = vec!["users", "credentials"];
    let rows = connection
        .once(
            MISSING,
            &[
                (&names, Type::TEXT_ARRAY),
                (&kinds, Type::TEXT_ARRAY),
                (&with_id, Type::TEXT_ARRAY),
            ],
        )
        .await?;
    let row = rows.first().ok_or(Trouble::NoConnection)?;
    let (role, tables): (String, Vec<String>) = (row.try_get(0)?, row.try_get(1)?);
    let sequences: Vec<String> = row.try_get(2)?;
    let sequences = sequences
        .into_iter()
        .map(|name| format!("USAGE ON SEQUENCE {name}"));
    let missing: Vec<String> = tables.into_iter().chain(sequences).collect();
    Ok((!missing.is_empty()).then(|| {
        let missing = missing.join(", ");
        format!("the role {role} lacks rights: GRANT each of {missing} TO {role}")
    }))
}
