//! The memory sum: from `limits.memory` to every limit of the process, row by row.
//!
//! A row is a number of buffers, the bytes of each, and who owns them. What is shared or fixed is
//! taken off first; the rest is divided among streams and the connections that carry them. The
//! rows never add up to more than the memory, so a process that keeps to the limits keeps to the
//! sum; meeting a limit is an ordinary answer (413, 429, 503).

use std::fmt;
use std::sync::Arc;

use crate::config::Config;
use crate::limits::{CARRY_BYTES_MAX, EVENT_BYTES_MAX, PIECE_BYTES_MAX, Pool, READ_BYTES};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// Resident bytes of a server that has nothing to do: binary, runtimes, SQLite and its caches.
pub const IDLE_BYTES: usize = 8 * MIB;
/// Per worker: scratch for reading and for transcoded lines, both runtimes' queues and timers.
pub const WORKER_BYTES: usize = 64 * KIB;
/// A call in the store's queue, without the texts it carries (those are in the pools below).
pub const CALL_BYTES: usize = 2 * KIB;
/// An event longer than a stream's carry: the event as collected, and as transcoded.
pub const LONG_LINE_BYTES: usize = 2 * EVENT_BYTES_MAX;
/// Most long lines at once, however much memory there is: they are rare.
pub const LONG_LINES_MAX: usize = 4;
/// An open client connection: hyper's read and write buffers and its task (measured: 10.8 KiB).
pub const CONNECTION_BYTES: usize = 11 * KIB;
/// Connections beyond those that carry streams (a quarter more), for short requests.
pub const SPARE_CONNECTIONS: usize = 64;
/// A connection to a provider without TLS.
pub const PROVIDER_BYTES: usize = 2 * KIB;
/// What TLS adds to a connection: session state, and a record (16 KiB) that is not yet whole.
pub const TLS_BYTES: usize = 17 * KIB;
/// Bytes of its answer that each stream may remember whatever the others do; what goes beyond
/// comes from the pool of answers.
pub const ANSWER_BYTES_FIRST: usize = 4 * KIB;
/// A stream: provider connection, body state, the answer's first bytes, and a cut event.
pub const STREAM_BYTES: usize =
    PROVIDER_BYTES + 2 * KIB + ANSWER_BYTES_FIRST + CARRY_BYTES_MAX.next_multiple_of(KIB);
/// hyper's write buffer, grown because the client does not read.
pub const STALLED_BYTES: usize = 8 * KIB;
/// A server for fewer streams than this is a mistake in the configuration.
pub const STREAMS_MIN: usize = 16;

// Otherwise a worker's share would not hold its two scratch buffers.
const _: () = assert!(READ_BYTES + 2 * PIECE_BYTES_MAX <= WORKER_BYTES / 2);

/// One line of the sum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// What is held.
    pub what: &'static str,
    /// How many of them at most.
    pub count: usize,
    /// Bytes of each.
    pub bytes_each: usize,
    /// Who owns them, and why as many.
    pub why: &'static str,
}

impl Row {
    /// Bytes of all together.
    pub fn bytes(&self) -> usize {
        self.count * self.bytes_each
    }
}

/// The sum and the limits that follow from it. Limits are for the whole process.
#[derive(Debug, Clone)]
pub struct Budget {
    /// `limits.memory` in bytes.
    pub memory: usize,
    /// What the memory is for; adds up to no more than `memory`.
    pub rows: Vec<Row>,
    /// Streams running at once.
    pub streams_max: usize,
    /// Client connections open at once.
    pub connections_max: usize,
    /// Bytes of prompts and of histories in flight.
    pub prompt_bytes_max: usize,
    /// Bytes of request bodies being read or handled.
    pub body_bytes_max: usize,
    /// Bytes of answers beyond each stream's [`ANSWER_BYTES_FIRST`].
    pub answer_bytes_max_total: usize,
    /// Events at once that are longer than a stream's carry.
    pub long_lines_max: usize,
    /// Streams at once whose client does not read.
    pub stalled_max: usize,
    /// File descriptors that all of this takes, with some for files.
    pub files_max: usize,
}

/// The counters that hold the process to a [`Budget`]; one set per process, shared by the cores.
#[derive(Debug, Clone)]
pub struct Pools {
    /// Client connections.
    pub connections: Arc<Pool>,
    /// Streams.
    pub streams: Arc<Pool>,
    /// Bytes of prompts and histories in flight.
    pub prompts: Arc<Pool>,
    /// Bytes of request bodies.
    pub bodies: Arc<Pool>,
    /// Bytes of answers beyond each stream's first ones.
    pub answers: Arc<Pool>,
    /// Long lines.
    pub long_lines: Arc<Pool>,
    /// Streams whose client does not read.
    pub stalled: Arc<Pool>,
}

impl Budget {
    /// Derives all limits from the configured memory.
    ///
    /// # Errors
    /// One line that names `limits.memory` and the least it can be.
    pub fn new(config: &Config) -> Result<Self, String> {
        let needs = Needs::of(config);
        needs.budget(config.memory).ok_or_else(|| {
            // Ends: with enough memory every need is met.
            let least = (1..)
                .find(|mib| needs.budget(mib * MIB).is_some())
                .expect("some amount of memory is enough");
            format!(
                "limits.memory: {} bytes are too few for {STREAMS_MIN} streams with {} workers; \
                 at least \"{least}M\" is needed",
                config.memory, needs.workers
            )
        })
    }

    /// A fresh set of counters with these limits.
    pub fn pools(&self) -> Pools {
        Pools {
            connections: Pool::new(self.connections_max),
            streams: Pool::new(self.streams_max),
            prompts: Pool::new(self.prompt_bytes_max),
            bodies: Pool::new(self.body_bytes_max),
            answers: Pool::new(self.answer_bytes_max_total),
            long_lines: Pool::new(self.long_lines_max),
            stalled: Pool::new(self.stalled_max),
        }
    }

    /// Bytes of the memory that no row uses.
    pub fn remainder(&self) -> usize {
        self.memory - self.rows.iter().map(Row::bytes).sum::<usize>()
    }

    /// The sum and the limits as a text to read.
    pub fn table(&self) -> String {
        self.to_string()
    }

    fn limits(&self) -> [(&'static str, usize, &'static str); 8] {
        [
            ("streams_max", self.streams_max, "chats answered at once"),
            (
                "connections_max",
                self.connections_max,
                "client connections",
            ),
            (
                "prompt_bytes_max",
                self.prompt_bytes_max,
                "prompts in flight",
            ),
            ("body_bytes_max", self.body_bytes_max, "request bodies"),
            (
                "answer_bytes_max_total",
                self.answer_bytes_max_total,
                "answers beyond 4 KiB each",
            ),
            ("long_lines_max", self.long_lines_max, "long events at once"),
            (
                "stalled_max",
                self.stalled_max,
                "streams whose client does not read",
            ),
            ("files_max", self.files_max, "file descriptors needed"),
        ]
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |what: &str, count: &str, each: &str, all: usize, why: &str| {
            let all = grouped(all);
            writeln!(f, "  {what:<26}{count:>11}{each:>13}{all:>15}  {why}")
        };
        line(
            "memory",
            "count",
            "bytes each",
            self.memory,
            "limits.memory",
        )?;
        for row in &self.rows {
            let (count, each) = (grouped(row.count), grouped(row.bytes_each));
            line(row.what, &count, &each, row.bytes(), row.why)?;
        }
        line("remainder", "", "", self.remainder(), "not used by any row")?;
        for (name, limit, what) in self.limits() {
            writeln!(f, "  {name:<26}{:>39}  {what}", grouped(limit))?;
        }
        Ok(())
    }
}

/// A number with a comma between groups of three digits.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// What the sum depends on besides the memory.
#[derive(Debug, Clone)]
struct Needs {
    workers: usize,
    calls: usize,
    /// Idle provider connections, and the bytes of all of them.
    idle_connections: usize,
    idle_bytes_each: usize,
    prompt_bytes: usize,
    body_bytes: usize,
    answer_bytes: usize,
    stream_bytes: usize,
    stalled_bytes: usize,
}

impl Needs {
    fn of(config: &Config) -> Self {
        let tls_bytes = if config.providers.iter().any(|provider| provider.tls) {
            TLS_BYTES
        } else {
            0
        };
        Self {
            workers: config.server.workers,
            calls: config.store.queue_max,
            idle_connections: config.server.workers
                * config.upstream.idle_max
                * config.providers.len(),
            idle_bytes_each: PROVIDER_BYTES + tls_bytes,
            prompt_bytes: config.chat.history_bytes_max + config.server.chat_body_bytes_max,
            body_bytes: config
                .server
                .chat_body_bytes_max
                .max(config.server.auth_body_bytes_max),
            answer_bytes: config.chat.answer_bytes_max,
            stream_bytes: STREAM_BYTES + tls_bytes,
            // The send buffer towards the client and the receive buffer from the provider; the
            // kernel doubles what is asked for (socket(7)).
            stalled_bytes: STALLED_BYTES
                + 2 * config.server.socket_buffer_bytes
                + 2 * config.upstream.socket_buffer_bytes,
        }
    }

    /// The budget, or `None` if the memory is too small.
    fn budget(&self, memory: usize) -> Option<Budget> {
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
            "store queue",
            self.calls,
            CALL_BYTES,
            "calls waiting for the store's thread",
        )?;
        sum.take(
            "idle provider connections",
            self.idle_connections,
            self.idle_bytes_each,
            "kept warm per core and provider",
        )?;
        // The password hasher's arena gets its row here, together with the accounts.

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
            "remembered beyond 4 KiB each, bytes shared",
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
            "grown and kernel socket buffers",
        )?;
        Some(Budget {
            memory,
            rows: sum.rows,
            streams_max,
            connections_max,
            prompt_bytes_max,
            body_bytes_max,
            answer_bytes_max_total,
            long_lines_max,
            stalled_max,
            files_max: connections_max + streams_max + self.idle_connections + 64,
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

/// Connections allowed for so many streams.
fn connections(streams: usize) -> usize {
    streams + streams / 4 + SPARE_CONNECTIONS
}

/// Streams of so many that may stand still at once.
fn stalled(streams: usize) -> usize {
    streams.div_ceil(2)
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

    fn needs(workers: usize, tls: bool) -> Needs {
        let tls_bytes = if tls { TLS_BYTES } else { 0 };
        Needs {
            workers,
            calls: 256,
            idle_connections: workers * 4,
            idle_bytes_each: PROVIDER_BYTES + tls_bytes,
            prompt_bytes: 320 * KIB,
            body_bytes: 256 * KIB,
            answer_bytes: 32 * KIB,
            stream_bytes: STREAM_BYTES + tls_bytes,
            stalled_bytes: STALLED_BYTES + 4 * 8 * KIB,
        }
    }

    #[test]
    fn the_default_serves_a_thousand_streams() {
        let plain = needs(2, false).budget(64 * MIB).expect("64M is enough");
        let tls = needs(2, true).budget(64 * MIB).expect("64M is enough");
        assert!(plain.streams_max >= 1000, "{plain}");
        assert!(tls.streams_max >= 700, "{tls}");
        assert!(plain.connections_max > plain.streams_max && plain.stalled_max >= 500);
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
    fn the_table_shows_every_row_and_limit() {
        let budget = needs(2, true).budget(64 * MIB).expect("64M is enough");
        let table = budget.table();
        for row in &budget.rows {
            assert!(table.contains(row.what) && table.contains(&grouped(row.bytes())));
        }
        for (name, limit, _) in budget.limits() {
            assert!(table.contains(name) && table.contains(&grouped(limit)));
        }
        assert!(table.contains(&grouped(budget.remainder())));
        assert_eq!((grouped(0), grouped(999)), ("0".into(), "999".into()));
        assert_eq!(grouped(67_108_864), "67,108,864");
    }

    #[test]
    fn a_hopeless_memory_gives_none() {
        assert!(needs(1, false).budget(0).is_none());
        assert!(needs(1, false).budget(12 * MIB).is_none());
        assert!(needs(64, true).budget(16 * MIB).is_none());
    }
}
