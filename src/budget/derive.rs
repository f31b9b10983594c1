//! The sum itself: what is fixed, what grows with the memory, and how many streams fit in the rest.

use super::{
    Budget, CALL_BYTES, CONNECTION_BYTES, CONNECTION_SHARES, DATABASE_BYTES, HASH_CALL_BYTES,
    HASHER_BYTES, IDLE_BYTES, LONG_LINE_BYTES, LONG_LINES_MAX, MAIL_BYTES, METRICS_BYTES,
    PROVIDER_BYTES, REDIS_BYTES, REDIS_CONNECTIONS, Row, SPARE_CONNECTIONS, STALLED_BYTES,
    STREAM_BYTES, STREAMS_MIN, STREAMS_PER_STALLED, STREAMS_PER_WIDE, TLS_BYTES, TLS_STALLED_BYTES,
    WORKER_BYTES,
};
use crate::config::Config;
use crate::llm::prompt;
use crate::log;

/// What the sum depends on besides the memory.
#[derive(Debug, Clone)]
pub(super) struct Needs {
    pub(super) workers: usize,
    calls: usize,
    /// Connections to PostgreSQL.
    database_connections: usize,
    /// Clients of Redis.
    redis_clients: usize,
    /// Whether there are metrics.
    has_metrics: bool,
    /// What the hasher computes in, its queue, and its thread.
    hasher_bytes: usize,
    /// Idle provider connections, and the bytes of all of them.
    idle_connections: usize,
    idle_bytes_each: usize,
    /// Texts for `guideMode`.
    guide_bytes: usize,
    prompt_bytes: usize,
    body_bytes: usize,
    answer_bytes: usize,
    stream_bytes: usize,
    stalled_bytes: usize,
    /// What a larger receive buffer adds.
    widened_bytes: usize,
    /// As configured; 0: a part of all.
    connections_per_client: usize,
}

/// How a stream's bytes depend on whether providers speak TLS.
struct Transport {
    connection_bytes: usize,
    stalled_bytes: usize,
}

impl Transport {
    /// One provider with TLS is enough: all streams may go to it.
    fn of(tls: bool) -> Self {
        match tls {
            false => Self {
                connection_bytes: 0,
                stalled_bytes: 0,
            },
            true => Self {
                connection_bytes: TLS_BYTES,
                stalled_bytes: TLS_STALLED_BYTES,
            },
        }
    }
}

impl Needs {
    pub(super) fn of(config: &Config) -> Self {
        let transport = Transport::of(config.providers.iter().any(|provider| provider.tls));
        Self {
            workers: config.server.workers,
            calls: config.store.queue_max,
            database_connections: config.store.database.as_ref().map_or(0, |database| {
                config.server.workers * database.connections_per_core
            }),
            redis_clients: match config.store.redis {
                Some(_) => config.server.workers,
                None => 0,
            },
            has_metrics: config.metrics.is_some(),
            hasher_bytes: config.auth.hash_memory_max
                + HASHER_BYTES
                + config.auth.hash_queue_max * HASH_CALL_BYTES,
            idle_connections: config.server.workers
                * config.upstream.idle_max
                * config.providers.len(),
            idle_bytes_each: PROVIDER_BYTES + transport.connection_bytes,
            guide_bytes: config
                .chat
                .guides
                .iter()
                .map(|guide| guide.text.len())
                .sum(),
            prompt_bytes: config.chat.history_bytes_max
                + config.server.chat_body_bytes_max
                + largest_guide(config),
            body_bytes: config
                .server
                .chat_body_bytes_max
                .max(config.server.auth_body_bytes_max),
            answer_bytes: config.chat.answer_bytes_max,
            stream_bytes: STREAM_BYTES + transport.connection_bytes,
            // The send buffer towards the client and the receive buffer from the provider; the
            // kernel doubles what is asked for (socket(7)).
            stalled_bytes: STALLED_BYTES
                + transport.stalled_bytes
                + 2 * config.server.socket_buffer_bytes
                + 2 * config.upstream.socket_buffer_bytes,
            widened_bytes: 2
                * (config.upstream.receive_buffer_bytes - config.upstream.socket_buffer_bytes),
            connections_per_client: config.server.connections_per_client_max,
        }
    }

    /// The budget, or `None` if the memory is too small.
    pub(super) fn budget(&self, memory: usize) -> Option<Budget> {
        let mut sum = Sum {
            rows: Vec::new(),
            left: memory,
        };
        sum.take(
            "idle base",
            1,
            IDLE_BYTES,
            "binary, runtimes, SQLite and its caches",
        )?;
        sum.take(
            "workers",
            self.workers,
            WORKER_BYTES,
            "scratch buffers, queue, timers of a core",
        )?;
        sum.take(
            "log",
            1,
            log::BYTES_MAX,
            "lines on their way to stderr, their thread",
        )?;
        sum.take(
            "store queue",
            self.calls,
            CALL_BYTES,
            "calls waiting for the store's thread",
        )?;
        if self.database_connections > 0 {
            sum.take(
                "database connections",
                self.database_connections,
                DATABASE_BYTES,
                "database.pool_size: buffers, statements, TLS",
            )?;
        }
        if self.redis_clients > 0 {
            sum.take(
                "Redis clients",
                self.redis_clients,
                REDIS_BYTES,
                "one per core: tasks, buffers, TLS",
            )?;
        }
        sum.take(
            "idle provider connections",
            self.idle_connections,
            self.idle_bytes_each,
            "kept warm per core and provider",
        )?;
        sum.take(
            "password hasher",
            1,
            self.hasher_bytes,
            "auth.hash_memory_max, its queue and thread",
        )?;
        sum.take(
            "mail sender",
            1,
            MAIL_BYTES,
            "a letter and a connection with TLS",
        )?;
        if self.has_metrics {
            sum.take(
                "metrics",
                1,
                METRICS_BYTES,
                "metrics.listen: thread, text, cells",
            )?;
        }
        if self.guide_bytes > 0 {
            sum.take(
                "guides",
                1,
                self.guide_bytes,
                "chat.guide: texts for guideMode",
            )?;
        }

        // The share grows evenly with the memory, so that more memory never means fewer streams;
        // what is left of it beyond whole lines stays in the remainder.
        let share = (memory / 16).clamp(LONG_LINE_BYTES, LONG_LINES_MAX * LONG_LINE_BYTES);
        let long_lines_max = share / LONG_LINE_BYTES;
        sum.take(
            "long lines",
            long_lines_max,
            LONG_LINE_BYTES,
            "an event, collected and transcoded",
        )?;
        sum.left = sum
            .left
            .checked_sub(share - long_lines_max * LONG_LINE_BYTES)?;

        // Each pool holds at least two of the largest it may be asked for.
        let prompt_bytes_max = (memory / 32).max(2 * self.prompt_bytes);
        let body_bytes_max = (memory / 64).max(2 * self.body_bytes);
        let answer_bytes_max_total = (memory / 32).max(2 * self.answer_bytes);
        sum.take(
            "prompts",
            prompt_bytes_max,
            1,
            "prompts and histories in flight, bytes shared",
        )?;
        sum.take(
            "request bodies",
            body_bytes_max,
            1,
            "bodies being read, bytes shared",
        )?;
        sum.take(
            "answers",
            answer_bytes_max_total,
            1,
            "remembered beyond 2 KiB each, bytes shared",
        )?;

        let streams_max = self.streams_in(sum.left);
        if streams_max < STREAMS_MIN {
            return None;
        }
        let (connections_max, stalled_max) = (connections(streams_max), stalled(streams_max));
        sum.take(
            "connections",
            connections_max,
            CONNECTION_BYTES,
            "hyper's buffers and task",
        )?;
        sum.take(
            "streams",
            streams_max,
            self.stream_bytes,
            "provider connection, answer, cut event",
        )?;
        sum.take(
            "stalled streams",
            stalled_max,
            self.stalled_bytes,
            "grown buffers, TLS records, kernel sockets",
        )?;
        Some(Budget {
            memory,
            rows: sum.rows,
            streams_max,
            connections_max,
            connections_per_client_max: match self.connections_per_client {
                0 => connections_max / CONNECTION_SHARES,
                configured => configured,
            },
            prompt_bytes_max,
            body_bytes_max,
            answer_bytes_max_total,
            long_lines_max,
            stalled_max,
            wide_streams_max: streams_max / STREAMS_PER_WIDE,
            wide_stall_permits: (self.stalled_bytes + self.widened_bytes)
                .div_ceil(self.stalled_bytes),
            files_max: connections_max
                + streams_max
                + self.idle_connections
                + self.database_connections
                + self.redis_clients * REDIS_CONNECTIONS
                + 64,
        })
    }

    /// The most streams whose buffers, with their connections', fit into `bytes`.
    fn streams_in(&self, bytes: usize) -> usize {
        let fits = |streams: usize| {
            connections(streams) * CONNECTION_BYTES
                + streams * self.stream_bytes
                + stalled(streams) * self.stalled_bytes
                <= bytes
        };
        // Bisect between what fits (or is nothing) and what cannot.
        let (mut low, mut high) = (0, bytes / self.stream_bytes + 1);
        while high - low > 1 {
            let middle = low.midpoint(high);
            if fits(middle) {
                low = middle;
            } else {
                high = middle;
            }
        }
        low
    }
}

/// What the longest guide takes in a prompt, escaped as it stands there.
fn largest_guide(config: &Config) -> usize {
    let guides = config.chat.guides.iter();
    let bytes = guides.map(|guide| prompt::guide_bytes(&guide.text));
    bytes.max().unwrap_or_default()
}

/// Connections allowed for so many streams.
fn connections(streams: usize) -> usize {
    streams + streams / 8 + SPARE_CONNECTIONS
}

/// Streams of so many that may stand still at once.
fn stalled(streams: usize) -> usize {
    streams.div_ceil(STREAMS_PER_STALLED)
}

/// Rows so far and the bytes they leave.
struct Sum {
    rows: Vec<Row>,
    left: usize,
}

impl Sum {
    fn take(
        &mut self,
        what: &'static str,
        count: usize,
        bytes_each: usize,
        why: &'static str,
    ) -> Option<()> {
        self.left = self.left.checked_sub(count.checked_mul(bytes_each)?)?;
        self.rows.push(Row {
            what,
            count,
            bytes_each,
            why,
        });
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::{KIB, MIB};

    fn needs(workers: usize, tls: bool) -> Needs {
        let transport = Transport::of(tls);
        Needs {
            has_metrics: false,
            workers,
            calls: 256,
            database_connections: workers,
            redis_clients: 0,
            hasher_bytes: 19 * MIB + HASHER_BYTES + 32 * HASH_CALL_BYTES,
            idle_connections: workers * 4,
            idle_bytes_each: PROVIDER_BYTES + transport.connection_bytes,
            guide_bytes: 0,
            prompt_bytes: 320 * KIB,
            body_bytes: 256 * KIB,
            answer_bytes: 32 * KIB,
            stream_bytes: STREAM_BYTES + transport.connection_bytes,
            stalled_bytes: STALLED_BYTES + transport.stalled_bytes + 4 * 8 * KIB,
            widened_bytes: 2 * (32 - 8) * KIB,
            connections_per_client: 0,
        }
    }

    #[test]
    fn the_default_serves_a_thousand_streams() {
        let plain = needs(2, false).budget(64 * MIB).expect("64M is enough");
        let tls = needs(2, true).budget(64 * MIB).expect("64M is enough");
        assert!(plain.streams_max >= 1000, "{plain}");
        assert!(tls.streams_max >= 700, "{tls}");
        assert!(plain.connections_max > plain.streams_max && plain.stalled_max >= 100);
        assert!(tls.stalled_max >= 64, "{tls}");
        assert_eq!(
            (plain.long_lines_max, plain.pools().streams.max()),
            (2, plain.streams_max)
        );
    }

    #[test]
    fn the_rows_add_up_and_grow_with_the_memory() {
        for workers in 1..=64 {
            let needs = needs(workers, workers % 2 == 0);
            let mut before: Option<[usize; 7]> = None;
            for memory in (16 * MIB..=1024 * MIB).step_by(MIB + 4099) {
                let Some(budget) = needs.budget(memory) else {
                    assert!(before.is_none(), "more memory was too small");
                    continue;
                };
                let sum: usize = budget.rows.iter().map(Row::bytes).sum();
                assert!(sum <= memory, "{budget}");
                assert_eq!(sum + budget.remainder(), memory);
                assert!(budget.streams_max >= STREAMS_MIN);
                assert!((1..=LONG_LINES_MAX).contains(&budget.long_lines_max));
                let limits = [
                    budget.streams_max,
                    budget.connections_max,
                    budget.prompt_bytes_max,
                    budget.body_bytes_max,
                    budget.answer_bytes_max_total,
                    budget.long_lines_max,
                    budget.stalled_max,
                ];
                if let Some(before) = before {
                    assert!(
                        limits
                            .iter()
                            .zip(before)
                            .all(|(now, before)| *now >= before)
                    );
                }
                before = Some(limits);
            }
            assert!(before.is_some(), "1G is enough for {workers} workers");
        }
    }

    #[test]
    fn a_hopeless_memory_gives_none() {
        assert!(needs(1, false).budget(0).is_none());
        assert!(needs(1, false).budget(31 * MIB).is_none());
        assert!(needs(64, true).budget(36 * MIB).is_none());
    }
}
