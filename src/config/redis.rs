//! The `[redis]` table: the Redis that holds logins, chats and limits. The variables are those of the
//! service that CloudChat replaces.

use std::path::PathBuf;
use std::time::Duration;

use super::Secret;
use super::read::{Reader, Section, quoted};
use super::service_url::ServiceUrl;

const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;
/// Longest prefix: it stands before every key.
const PREFIX_BYTES_MAX: usize = 32;
const DATABASE_MAX: u8 = 255;

/// The Redis that holds logins, chats and limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redis {
    /// How its servers stand together.
    pub kind: RedisKind,
    /// Whether the connection is TLS from its first byte.
    pub tls: bool,
    /// Host names or addresses with their ports; 1 to 16; of `Single` exactly one.
    pub hosts: Vec<(String, u16)>,
    /// For `AUTH`; without one it is the server's default user.
    pub user: Option<String>,
    /// For `AUTH`.
    pub password: Option<Secret>,
    /// `SELECT`ed; 0 for a cluster.
    pub database: u8,
    /// Stands before every key, so that several services can share a Redis; up to 32 bytes, no
    /// braces (those say what a cluster keeps together) and no blanks.
    pub key_prefix: String,
    /// What sentinels ask for; `None`: the same as the servers, empty: nothing.
    pub sentinel_password: Option<Secret>,
    /// Authorities that vouch for its servers (PEM); without it: those of the operating system.
    pub ca_file: Option<PathBuf>,
    /// How long connecting may take, 0.05 to 60 s.
    pub connect_timeout: Duration,
    /// How long a call may take, 0.05 to 60 s.
    pub timeout: Duration,
}

impl Redis {
    /// Where it is, for the operator; without the user and the password.
    pub fn shown(&self) -> String {
        let hosts = self
            .hosts
            .iter()
            .map(|(host, port)| format!("{host}:{port}"));
        format!("Redis at {}", hosts.collect::<Vec<_>>().join(", "))
    }
}

/// How the servers of a [`Redis`] stand together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisKind {
    /// One server.
    Single,
    /// The hosts are sentinels; the server is the one that they call the master of this name.
    Sentinel(String),
    /// The hosts are some nodes of a cluster.
    Cluster,
}

/// The table and its variables; `None` without a URL or host. All keys are read in any case, so that
/// mistakes in them show.
pub fn read(reader: &mut Reader<'_>, warnings: &mut Vec<String>) -> Option<Redis> {
    let mut section = reader.section("redis");
    let url = section.text("url", |text| match text {
        "" => Ok(None),
        _ => redis(text).map(Some),
    });
    let host = variable(&mut section, "REDIS_HOST", super::parse::host);
    let port = variable(&mut section, "REDIS_PORT", |text| {
        let number = text.trim().parse().ok().filter(|port| *port > 0);
        number.ok_or_else(|| format!("{} is not allowed; 1 to 65535", quoted(text)))
    });
    let database = variable(&mut section, "REDIS_DB", |text| {
        let number = text.trim().parse().ok();
        number.ok_or_else(|| format!("{} is not allowed; 0 to {DATABASE_MAX}", quoted(text)))
    });
    let password = section.text(("password", "REDIS_PASSWORD"), |text| Ok(text.to_owned()));
    let password = password.filter(|text| !text.is_empty()).map(Secret);
    let key_prefix = section.text("key_prefix", |text| {
        let fine = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'{' | b'}');
        if text.len() > PREFIX_BYTES_MAX || !text.bytes().all(fine) {
            return Err(format!(
                "is no prefix (up to {PREFIX_BYTES_MAX} visible ASCII characters without braces)"
            ));
        }
        Ok(text.to_owned())
    });
    let sentinel_password = section.text("sentinel_password", |text| Ok(text.to_owned()));
    let ca_file = section.text("ca_file", |text| Ok(text.to_owned()));
    let ca_file = ca_file.filter(|text| !text.is_empty()).map(PathBuf::from);
    let connect_timeout = section.seconds("connect_seconds", 1.0, 0.05..=60.0);
    let timeout = section.seconds(("timeout_seconds", "REDIS_TIMEOUT"), 2.0, 0.05..=60.0);
    let in_file = url.flatten();
    let redis = match host {
        // The variables describe one server; it stands instead of what the file names.
        Some(host) => Some(Redis {
            hosts: vec![(host, port.unwrap_or(PORT))],
            ..single()
        }),
        None => {
            if port.is_some() {
                warnings.push("REDIS_PORT is not used without REDIS_HOST".into());
            }
            if in_file.is_none() && (database.is_some() || password.is_some()) {
                warnings.push(
                    "REDIS_DB and REDIS_PASSWORD are not used without REDIS_HOST or redis.url"
                        .into(),
                );
            }
            in_file
        }
    };
    let Some(redis) = redis else {
        section.finish();
        return None;
    };
    if redis.kind == RedisKind::Cluster && database.is_some_and(|number| number != 0) {
        let what = "a cluster has database 0 only";
        section.reader.variable_mistake("REDIS_DB", what);
    }
    section.finish();
    Some(Redis {
        password: password.or(redis.password),
        database: database.unwrap_or(redis.database),
        key_prefix: key_prefix.unwrap_or_default(),
        sentinel_password: sentinel_password.map(Secret),
        ca_file,
        connect_timeout,
        timeout,
        ..redis
    })
}

/// A variable that belongs to no key of the file.
fn variable<T>(
    section: &mut Section<'_, '_>,
    name: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Option<T> {
    let text = section.reader.variable(name)?;
    parse(&text)
        .map_err(|what| section.reader.variable_mistake(name, what))
        .ok()
}

fn single() -> Redis {
    Redis {
        kind: RedisKind::Single,
        tls: false,
        hosts: Vec::new(),
        user: None,
        password: None,
        database: 0,
        key_prefix: String::new(),
        sentinel_password: None,
        ca_file: None,
        connect_timeout: Duration::ZERO,
        timeout: Duration::ZERO,
    }
}

fn redis(text: &str) -> Result<Redis, String> {
    let url = ServiceUrl::parse(text).ok_or(
        "is no URL of the form redis://user:password@host:port/number (what is no letter or digit \
         in user and password as %XX)",
    )?;
    let (tls, kind) = match url.scheme.as_str() {
        "redis" => (false, RedisKind::Single),
        "rediss" => (true, RedisKind::Single),
        "redis-sentinel" | "rediss-sentinel" => {
            let service = url.query.iter().find(|(name, _)| name == "service");
            let service = service.filter(|(_, service)| !service.is_empty());
            let (_, service) = service.ok_or("names no master: add ?service=mymaster")?;
            (
                url.scheme.starts_with("rediss"),
                RedisKind::Sentinel(service.clone()),
            )
        }
        "redis-cluster" | "rediss-cluster" => {
            (url.scheme.starts_with("rediss"), RedisKind::Cluster)
        }
        _ => {
            return Err(
                "begins with none of redis://, rediss://, redis-sentinel://, \
                        rediss-sentinel://, redis-cluster://, rediss-cluster://"
                    .into(),
            );
        }
    };
    let is_sentinel = matches!(kind, RedisKind::Sentinel(_));
    if let Some((name, _)) = url
        .query
        .iter()
        .find(|(name, _)| !is_sentinel || name != "service")
    {
        return Err(format!(
            "has a parameter that means nothing here: {}",
            quoted(name)
        ));
    }
    if url.hosts.is_empty() || url.hosts.iter().any(|(host, _)| host.starts_with('/')) {
        return Err("names no host".into());
    }
    if kind == RedisKind::Single && url.hosts.len() > 1 {
        return Err("names several hosts; use redis-sentinel:// or redis-cluster://".into());
    }
    let number = match url.path.as_str() {
        "" => Some(0),
        path => path.parse::<u8>().ok(),
    };
    let database =
        number.ok_or_else(|| format!("its database is no number from 0 to {DATABASE_MAX}"))?;
    if kind == RedisKind::Cluster && database != 0 {
        return Err("a cluster has database 0 only".into());
    }
    let port = if is_sentinel { SENTINEL_PORT } else { PORT };
    let hosts = url.hosts.into_iter();
    Ok(Redis {
        kind,
        tls,
        hosts: hosts
            .map(|(host, own)| (host, own.unwrap_or(port)))
            .collect(),
        user: Some(url.user).filter(|user| !user.is_empty()),
        password: url.password.filter(|text| !text.is_empty()).map(Secret),
        database,
        ..single()
    })
}
