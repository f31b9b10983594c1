//! The first connection, made when the server starts so that wrong settings show.

use std::time::Duration;

use fred::clients::Client;
use fred::error::{Error, ErrorKind};
use fred::interfaces::ClientLike as _;
use fred::types::config::Config;

use super::Shared;
use super::ask::Ask;
use crate::config::{self, RedisKind};

/// For the first connection, so that wrong settings show when the server starts.
pub(super) const START_TIMEOUT: Duration = Duration::from_secs(3);
/// Does all that the other scripts do, on a key that is gone afterwards.
const TRY: &str = include_str!("scripts/try.lua");
/// What the program sends, and what its scripts call.
const COMMANDS: &str = "+ping +select +eval +get +mget +set +del +pttl +pexpire +hget +hmget +hgetall +hset +hdel +hincrby +scan";
const CLUSTER_COMMANDS: &str = " +cluster|slots +cluster|info";

/// Why a server cannot start on this error, in one line; `None`: it may go away by itself.
pub(super) fn refusal(redis: &config::Redis, error: &Error) -> Option<String> {
    let details = error.details();
    // The last two are how 7 and 6 say it of what a script calls.
    let lacks_rights = details.starts_with("NOPERM")
        || details.contains("ACL failure in script")
        || details.contains("The user executing the script");
    if lacks_rights {
        let user = redis.user.as_deref().unwrap_or("default");
        let prefix = &redis.key_prefix;
        let cluster = match redis.kind {
            RedisKind::Cluster => CLUSTER_COMMANDS,
            RedisKind::Single | RedisKind::Sentinel(_) => "",
        };
        return Some(format!(
            "{}: {error}; it needs: ACL SETUSER {user} ~{prefix}* {COMMANDS}{cluster}",
            redis.shown()
        ));
    }
    // Sentinels' answers have a kind of their own.
    let is_refused = matches!(
        error.kind(),
        ErrorKind::Auth | ErrorKind::Config | ErrorKind::InvalidArgument
    ) || ["NOAUTH", "WRONGPASS"]
        .iter()
        .any(|word| details.starts_with(word));
    is_refused.then(|| format!("{}: {error}", redis.shown()))
}

/// Connects once and tries what calls will do, on a thread of its own: this may be a runtime's.
pub(super) fn try_to_connect(shared: &Shared) -> Result<(), Error> {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(1)
            .build()?;
        let config = Config {
            fail_fast: true,
            ..shared.config.clone()
        };
        let attempt = async {
            let client = Client::new(
                config,
                Some(shared.performance.clone()),
                Some(shared.connection.clone()),
                None,
            );
            client.init().await?;
            let trial = Ask::script(TRY, [shared.keys.trial()], []);
            trial.send(&client).await
        };
        let outcome =
            runtime.block_on(async { tokio::time::timeout(START_TIMEOUT, attempt).await });
        runtime.shutdown_background();
        match outcome {
            Ok(answer) => answer.map(drop),
            Err(_) => Err(Error::new(ErrorKind::Timeout, "no answer in time")),
        }
    };
    let outcome = std::thread::scope(|scope| scope.spawn(run).join());
    outcome.unwrap_or_else(|_| Err(Error::new(ErrorKind::Unknown, "a thread panicked")))
}
