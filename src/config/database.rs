//! The `[database]` table: the PostgreSQL server that holds the accounts, as libpq's URLs name it.

use std::path::PathBuf;
use std::time::Duration;

use super::Secret;
use super::read::Reader;
use super::service_url::{self, ServiceUrl};

const PORT: u16 = 5432;
/// Schemes of libpq, and of SQLAlchemy with the drivers of the service that CloudChat replaces.
const SCHEMES: [&str; 6] = [
    "postgresql",
    "postgres",
    "postgresql+psycopg2",
    "postgresql+psycopg",
    "postgres+psycopg2",
    "postgres+psycopg",
];

/// The PostgreSQL server that holds the accounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database {
    /// Host names, addresses or folders of Unix sockets, with their ports; 1 to 16, tried in order.
    pub hosts: Vec<(String, u16)>,
    /// Not empty.
    pub user: String,
    /// Without one the server must not ask for any.
    pub password: Option<Secret>,
    /// The database's name; not empty.
    pub name: String,
    /// How the connection is protected.
    pub tls: DatabaseTls,
    /// PEM file with the authorities that vouch for the server; without one the operating
    /// system's list.
    pub ca_file: Option<PathBuf>,
    /// Whether only a server that takes writes will do (`target_session_attrs=read-write`).
    pub is_writable: bool,
    /// How statements are prepared.
    pub statements: Statements,
    /// Connections of each core: its share of `database.pool_size`, at least one.
    pub connections_per_core: usize,
    /// How long connecting may take, 0.05 to 60 s.
    pub connect_timeout: Duration,
    /// How long a call may take, waiting for a connection included, 0.05 to 60 s.
    pub timeout: Duration,
}

impl Database {
    /// Where it is, for the operator; without the user and the password.
    pub fn shown(&self) -> String {
        let hosts = self
            .hosts
            .iter()
            .map(|(host, port)| match host.contains(':') {
                true => format!("[{host}]:{port}"),
                false => format!("{host}:{port}"),
            });
        let hosts: Vec<String> = hosts.collect();
        format!("PostgreSQL at {}, database {}", hosts.join(","), self.name)
    }
}

/// How the connection to the database is protected, as libpq's `sslmode` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatabaseTls {
    /// Not at all.
    Disable,
    /// If the server offers it; its certificate is not verified.
    Prefer,
    /// In any case; its certificate is not verified, unless `sslrootcert` is given.
    Require,
    /// The certificate must come from an authority.
    VerifyCa,
    /// It must also bear the host's name.
    VerifyFull,
}

/// How statements are prepared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Statements {
    /// As `Named`, until the server turns out not to keep them; then as `Unnamed`.
    Auto,
    /// Once per connection. PgBouncer must be 1.21 or later, with `max_prepared_statements` > 0.
    Named,
    /// Anew with each call, in the same round trip.
    Unnamed,
}

/// The table and its variable; `None` without a URL. All keys are read in any case, so that mistakes
/// in them show.
pub fn read(
    reader: &mut Reader<'_>,
    workers: usize,
    warnings: &mut Vec<String>,
) -> Option<Database> {
    let mut section = reader.section("database");
    let url = section.text(("url", "DATABASE_URL"), |text| match text {
        "" => Ok(None),
        _ => database(text).map(Some),
    });
    let statements = [
        ("auto", Statements::Auto),
        ("named", Statements::Named),
        ("unnamed", Statements::Unnamed),
    ];
    let statements = section.choice("statements", &statements);
    let pool_size: usize = section.integer("pool_size", 10, 1..=1000);
    let connect_timeout = section.seconds("connect_seconds", 1.0, 0.05..=60.0);
    let timeout = section.seconds("timeout_seconds", 2.0, 0.05..=60.0);
    section.finish();
    let (database, ignored) = url.flatten()?;
    if !ignored.is_empty() {
        let names = ignored.join(", ");
        warnings.push(format!("database.url: parameters not used: {names}"));
    }
    let far =
        |(host, _): &(String, u16)| !host.starts_with('/') && !super::parse::is_loopback(host);
    let is_plain = matches!(database.tls, DatabaseTls::Disable | DatabaseTls::Prefer);
    if is_plain && database.hosts.iter().any(far) {
        warnings.push(
            "database.url: without sslmode=verify-full whoever sits between can read and change \
             what goes to the database"
                .into(),
        );
    }
    Some(Database {
        statements,
        connections_per_core: (pool_size / workers).max(1),
        connect_timeout,
        timeout,
        ..database
    })
}

/// The URL, and the names of its parameters that mean nothing here.
fn database(text: &str) -> Result<(Database, Vec<String>), String> {
    let url = ServiceUrl::parse(text).ok_or(
        "is no URL of the form postgresql://user:password@host:port/name?sslmode=… (what is no \
         letter or digit in user and password as %XX)",
    )?;
    if !SCHEMES.contains(&url.scheme.as_str()) {
        return Err(format!("does not begin with {}://", SCHEMES[0]));
    }
    let (mut hosts, mut user, mut password, mut name) =
        (url.hosts, url.user, url.password, url.path);
    let (mut tls, mut ca_file, mut is_writable) = (DatabaseTls::Prefer, None, false);
    let (mut port, mut ignored) = (PORT, Vec::new());
    for (parameter, value) in url.query {
        let wrong = |what: &str| format!("its parameter {parameter} {what}");
        match parameter.as_str() {
            "host" => {
                let names = value.split(',').map(service_url::name);
                let names: Option<Vec<_>> = names.map(|name| Some((name?, None))).collect();
                hosts = names.ok_or_else(|| wrong("is no host name, address or absolute path"))?;
            }
            "port" => {
                let number = value.parse().ok().filter(|port| *port > 0);
                port = number.ok_or_else(|| wrong("is no port, 1 to 65535"))?;
            }
            "user" => user = value,
            "password" => password = Some(value),
            "dbname" => name = value,
            "sslmode" => {
                tls = match value.as_str() {
                    "disable" => DatabaseTls::Disable,
                    "allow" | "prefer" => DatabaseTls::Prefer,
                    "require" => DatabaseTls::Require,
                    "verify-ca" => DatabaseTls::VerifyCa,
                    "verify-full" => DatabaseTls::VerifyFull,
                    _ => {
                        let what = "must be disable, prefer, require, verify-ca or verify-full";
                        return Err(wrong(what));
                    }
                }
            }
            "sslrootcert" if value == "system" => tls = DatabaseTls::VerifyFull,
            "sslrootcert" => {
                let path = PathBuf::from(value);
                std::fs::File::open(&path)
                    .map_err(|error| wrong(&format!("cannot be opened: {error}")))?;
                ca_file = Some(path);
            }
            "target_session_attrs" => {
                is_writable = match value.as_str() {
                    "any" => false,
                    "read-write" | "primary" => true,
                    _ => return Err(wrong("must be any or read-write")),
                }
            }
            _ => ignored.push(parameter),
        }
    }
    for (what, missing) in [
        ("host", hosts.is_empty()),
        ("user", user.is_empty()),
        ("database name", name.is_empty()),
    ] {
        if missing {
            return Err(format!("names no {what}"));
        }
    }
    // What libpq does for the sake of old files.
    if tls == DatabaseTls::Require && ca_file.is_some() {
        tls = DatabaseTls::VerifyCa;
    }
    let hosts = hosts.into_iter();
    let database = Database {
        hosts: hosts
            .map(|(host, own)| (host, own.unwrap_or(port)))
            .collect(),
        user,
        password: password.filter(|text| !text.is_empty()).map(Secret),
        name,
        tls,
        ca_file,
        is_writable,
        statements: Statements::Auto,
        connections_per_core: 0,
        connect_timeout: Duration::ZERO,
        timeout: Duration::ZERO,
    };
    Ok((database, ignored))
}
