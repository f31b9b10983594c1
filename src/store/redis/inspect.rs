//! What `cloudchat doctor` wants to know of Redis. Nothing is changed.

use fred::clients::Client;
use fred::interfaces::ClientLike as _;
use fred::types::config::{Config, PerformanceConfig};
use fred::types::{ClusterHash, CustomCommand, Value};
use tokio::time::timeout;

use super::start::START_TIMEOUT;
use super::{client_config, connection_config};
use crate::config::Redis;

/// What was seen, of any one node of a cluster. `None`: we may not ask for it (`CONFIG`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisFacts {
    /// Major and minor number.
    pub version: (u32, u32),
    /// `maxmemory`; 0 = none.
    pub memory_max: u64,
    /// What is in use.
    pub memory_used: u64,
    /// Keys of all its databases that never expire; none of ours is one.
    pub keys_for_ever: u64,
    /// `maxmemory-policy`.
    pub policy: Option<String>,
    /// It writes down what it holds, one way or another.
    pub persists: Option<bool>,
    /// The last time it did, that went well.
    pub writes_well: bool,
    /// It follows another one, and takes no writes of its own.
    pub is_replica: bool,
}

/// Connects and looks. Blocks, for a few seconds at most.
///
/// # Errors
/// One line that names the server and why it cannot be looked at.
pub fn inspect(redis: &Redis) -> Result<RedisFacts, String> {
    let named = |why: &dyn std::fmt::Display| format!("{}: {why}", redis.shown());
    let config = Config {
        fail_fast: true,
        ..client_config(redis)?
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build()
        .map_err(|error| format!("runtime: {error}"))?;
    let performance = PerformanceConfig {
        default_command_timeout: redis.timeout,
        ..PerformanceConfig::default()
    };
    let look = async {
        let client = Client::new(
            config,
            Some(performance),
            Some(connection_config(redis)),
            None,
        );
        client.init().await?;
        let info: String = ask(&client, "INFO", &[]).await?.convert()?;
        // Who may not ask for settings still gets what INFO says.
        let mut settings = Vec::new();
        for name in ["appendonly", "save", "maxmemory-policy"] {
            let answer = ask(&client, "CONFIG", &["GET", name]).await.ok();
            let pair = answer.and_then(|answer| answer.into_map().ok());
            let value = pair.and_then(|pair| pair.iter().next()?.1.as_string());
            settings.push((name, value));
        }
        Ok::<_, fred::error::Error>((info, settings))
    };
    let outcome = runtime.block_on(async { timeout(START_TIMEOUT, look).await });
    runtime.shutdown_background();
    let (info, settings) = outcome
        .map_err(|_| named(&"no answer in time"))?
        .map_err(|error| named(&error))?;
    let field = |name: &str| {
        let mut lines = info.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
    };
    let number = |name: &str| field(name).and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut version = field("redis_version")
        .unwrap_or_default()
        .split('.')
        .map(|n| n.parse().unwrap_or(0));
    let setting = |name: &str| {
        let mut settings = settings.iter();
        settings.find(|(known, _)| *known == name)?.1.clone()
    };
    let persists = setting("appendonly").zip(setting("save"));
    Ok(RedisFacts {
        version: (version.next().unwrap_or(0), version.next().unwrap_or(0)),
        memory_max: number("maxmemory"),
        memory_used: number("used_memory"),
        keys_for_ever: info.lines().filter_map(keys_for_ever).sum(),
        policy: setting("maxmemory-policy")
            .or_else(|| field("maxmemory_policy").map(str::to_owned)),
        persists: persists.map(|(appends, save)| appends == "yes" || !save.is_empty()),
        writes_well: [
            "rdb_last_bgsave_status",
            "aof_last_write_status",
            "aof_last_bgrewrite_status",
        ]
        .iter()
        .all(|name| field(name).is_none_or(|status| status == "ok")),
        is_replica: field("role") == Some("slave"),
    })
}

/// Of a line such as `db0:keys=5,expires=3,avg_ttl=0`: 2.
fn keys_for_ever(line: &str) -> Option<u64> {
    let (database, counts) = line.strip_prefix("db")?.split_once(':')?;
    database.parse::<u32>().ok()?;
    let count = |name: &str| -> Option<u64> {
        let mut counts = counts.split(',').filter_map(|count| count.split_once('='));
        counts.find(|(known, _)| *known == name)?.1.parse().ok()
    };
    count("keys")?.checked_sub(count("expires")?)
}

async fn ask(
    client: &Client,
    command: &'static str,
    arguments: &[&str],
) -> Result<Value, fred::error::Error> {
    let command = CustomCommand::new_static(command, ClusterHash::Random, false);
    let arguments = arguments.iter().map(|text| (*text).to_owned()).collect();
    client.custom::<Value, String>(command, arguments).await
}
