//! The session store in Redis: one server, what sentinels call the master, or a cluster.
//!
//! Each core has a client of its own, with one connection to each server, that connects when the core
//! begins and again whenever it must. A call has a deadline (`redis.timeout_seconds`, or what is
//! left to its request, see `patience`) and is one round trip for all its commands ([`ask::Ask`]); it
//! fails at once while there is no connection, and is never tried again, because it may count
//! something. What belongs together is one script on one key, or on two of one slot, so that it holds
//! on a cluster too.

mod ask;
mod chats;
mod inspect;
mod keys;
mod live;
mod sessions;
mod start;
mod sweep;
mod tokens;
mod windows;

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fred::interfaces::ClientLike as _;
use fred::types::Value;
use fred::types::config::{
    ClusterDiscoveryPolicy, Config, ConnectionConfig, PerformanceConfig, Server, ServerConfig,
    TcpConfig, UnresponsiveConfig,
};
use rustls::ClientConfig;
use tokio::sync::Semaphore;
use tokio::time::timeout_at;

use super::health::Health;
use super::patience::Spending;
use super::{OnEvent, StoreError, roots};
use crate::clock;
use crate::config::{self, RedisKind};
use crate::metrics;
use ask::Ask;
pub use inspect::{RedisFacts, inspect};
use keys::Keys;
use live::Slot;
use sweep::Sweep;

/// From a lost connection to the next attempt, and from each to the next; fred adds up to 50 ms.
const RECONNECT_MS: u32 = 200;
/// How often a connection is looked at that owes an answer.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// How long a key written by a health check stays.
const PING_LIFE_MS: i64 = 60_000;

/// The session store of this process.
pub(super) struct Redis {
    shared: Arc<Shared>,
}

/// What all cores share.
struct Shared {
    config: Config,
    connection: ConnectionConfig,
    performance: PerformanceConfig,
    timeout: Duration,
    /// Calls of one core that wait for their answers.
    calls_max: usize,
    keys: Keys,
    /// The old service's sessions live as long as ours.
    lives: config::Lives,
    /// Whether all keys can be looked at in one place.
    is_one: bool,
    sweep: Mutex<Sweep>,
    health: Mutex<Health>,
}

impl Redis {
    /// Tries to connect once. A server that is not there is reported and waited for; one that does not
    /// let us in is an error.
    ///
    /// Err: one line that names the server and what is wrong.
    pub fn start(
        settings: &config::Store,
        redis: &config::Redis,
        on_event: OnEvent,
    ) -> Result<Self, String> {
        let shared = Arc::new(Shared {
            config: client_config(redis)?,
            connection: connection_config(redis),
            // No time-out of fred's own: each call has its deadline here already.
            performance: PerformanceConfig::default(),
            timeout: redis.timeout,
            calls_max: settings.queue_max,
            keys: Keys {
                prefix: redis.key_prefix.clone(),
            },
            lives: settings.lives,
            is_one: redis.kind != RedisKind::Cluster,
            sweep: Mutex::default(),
            health: Mutex::new(Health::new("Redis", on_event)),
        });
        if let Err(error) = start::try_to_connect(&shared) {
            if let Some(refusal) = start::refusal(redis, &error) {
                return Err(refusal);
            }
            shared.health().failed(clock::now(), &error);
        }
        Ok(Self { shared })
    }

    /// A way to it for one core.
    pub fn connect(&self) -> Link {
        Link(Arc::new(Core {
            shared: Arc::clone(&self.shared),
            slot: Mutex::default(),
            calls: Semaphore::new(self.shared.calls_max),
        }))
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Redis")
    }
}

fn client_config(redis: &config::Redis) -> Result<Config, String> {
    let hosts = redis.hosts.iter();
    let hosts: Vec<Server> = hosts.map(|(host, port)| Server::new(host, *port)).collect();
    let password = redis.password.as_ref().map(|secret| secret.0.clone());
    let server = match &redis.kind {
        RedisKind::Single => ServerConfig::Centralized {
            server: hosts.first().ok_or("redis.url: names no host")?.clone(),
        },
        RedisKind::Sentinel(service) => ServerConfig::Sentinel {
            hosts,
            service_name: service.clone(),
            username: None,
            password: match &redis.sentinel_password {
                Some(secret) => Some(secret.0.clone()).filter(|text| !text.is_empty()),
                None => password.clone(),
            },
        },
        RedisKind::Cluster => ServerConfig::Clustered {
            hosts,
            // A node that is named may be the one that is gone.
            policy: ClusterDiscoveryPolicy::UseCache,
        },
    };
    Ok(Config {
        // While the server is away the client goes on trying.
        fail_fast: false,
        username: redis.user.clone(),
        password,
        server,
        database: match redis.kind {
            RedisKind::Cluster => None,
            _ => Some(redis.database).filter(|number| *number != 0),
        },
        tls: match redis.tls {
            true => Some(tls(redis)?.into()),
            false => None,
        },
        ..Config::default()
    })
}

fn tls(redis: &config::Redis) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| format!("TLS: {error}"))?
        .with_root_certificates(roots::load("redis.ca_file", redis.ca_file.as_deref())?)
        .with_no_client_auth())
}

fn connection_config(redis: &config::Redis) -> ConnectionConfig {
    ConnectionConfig {
        connection_timeout: redis.connect_timeout,
        internal_command_timeout: redis.connect_timeout,
        // What was sent may have been carried out.
        max_command_attempts: 1,
        tcp: TcpConfig {
            nodelay: Some(true),
            ..TcpConfig::default()
        },
        unresponsive: UnresponsiveConfig {
            // Longer than any call waits, so that it is the connection that is at fault.
            max_timeout: Some(redis.timeout + LOOK_INTERVAL),
            interval: LOOK_INTERVAL,
        },
        ..ConnectionConfig::default()
    }
}

impl Shared {
    fn health(&self) -> MutexGuard<'_, Health> {
        // Nothing panics while it is held, and a wrong report would do no harm.
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One core's way to Redis; cheap to clone.
#[derive(Clone)]
pub struct Link(Arc<Core>);

struct Core {
    shared: Arc<Shared>,
    /// Its clients are made on the runtime that they are first asked for.
    slot: Mutex<Slot>,
    calls: Semaphore,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Link")
    }
}

impl Link {
    fn keys(&self) -> &Keys {
        &self.0.shared.keys
    }

    /// All answers of a round trip, in the order of what was asked.
    async fn ask<const N: usize>(&self, asks: [Ask; N]) -> Result<[Value; N], StoreError> {
        let answers = self.ask_all(asks.into()).await?;
        answers
            .try_into()
            .map_err(|_| self.failed(&"answers are missing"))
    }

    /// The only answer.
    async fn ask_one(&self, ask: Ask) -> Result<Value, StoreError> {
        let [answer] = self.ask([ask]).await?;
        Ok(answer)
    }

    async fn ask_all(&self, asks: Vec<Ask>) -> Result<Vec<Value>, StoreError> {
        if asks.is_empty() {
            return Ok(Vec::new());
        }
        let spending = Spending::begin(metrics::Store::Redis, self.0.shared.timeout);
        // A server that hangs must not gather calls without end.
        let Ok(_permit) = self.0.calls.try_acquire() else {
            return Err(self.failed(&"too many calls wait for an answer"));
        };
        // Boxed here, because fred's futures are large: every one around it would hold that much, and be
        // copied with it several times before it is first polled.
        let trip = Box::pin(self.round_trip(asks));
        match timeout_at(spending.deadline, trip).await {
            Ok(Ok(answers)) => {
                self.0.shared.health().succeeded(clock::now);
                Ok(answers)
            }
            Ok(Err(error)) if *error.kind() == fred::error::ErrorKind::Timeout => {
                self.failed(&"no answer in time");
                Err(StoreError::TimedOut)
            }
            // fred's texts hold what the server has said and addresses, never arguments.
            Ok(Err(error)) => {
                self.0.note(&error);
                Err(self.failed(&error))
            }
            Err(_) => {
                self.failed(&"no answer in time");
                Err(StoreError::TimedOut)
            }
        }
    }

    async fn round_trip(&self, mut asks: Vec<Ask>) -> Result<Vec<Value>, fred::error::Error> {
        let live = self.0.live();
        if !live.client.is_connected() {
            // Only who comes before the first connection waits for it.
            if live.was_connected.load(Ordering::Relaxed) {
                let kind = fred::error::ErrorKind::IO;
                return Err(fred::error::Error::new(kind, "not connected"));
            }
            live.client.wait_for_connect().await?;
        }
        live.was_connected.store(true, Ordering::Relaxed);
        if let [_] = asks[..]
            && let Some(ask) = asks.pop()
        {
            return Ok(vec![ask.send(&live.client).await?]);
        }
        let pipeline = live.client.pipeline();
        for ask in asks {
            // Boxed, or the way above would hold room for both.
            let _queued = Box::pin(ask.send(&pipeline)).await?;
        }
        let answers: Value = pipeline.all().await?;
        Ok(ask::elements(answers))
    }

    /// Begins to connect, on the runtime that this is called on.
    pub(super) fn begin(&self) {
        self.0.live();
    }

    fn failed(&self, cause: &dyn fmt::Display) -> StoreError {
        self.0.shared.health().failed(clock::now(), cause)
    }

    /// Whether it can be written to: without that nobody can log in.
    pub(super) async fn ping(&self) -> Result<(), StoreError> {
        let ping = Ask::set(self.keys().ping(), "1".to_owned(), PING_LIFE_MS);
        self.ask_one(ping).await.map(drop)
    }
}
