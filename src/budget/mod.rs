//! The memory sum: from `limits.memory` to every limit of the process, row by row.
//!
//! A row is a number of buffers, the bytes of each, and who owns them. What is shared or fixed is
//! taken off first; the rest is divided among streams and the connections that carry them. The
//! rows never add up to more than the memory, so a process that keeps to the limits keeps to the
//! sum; meeting a limit is an ordinary answer (413, 429, 503).

use std::fmt;
use std::sync::Arc;

use crate::config::Config;
use crate::limits::{CARRY_BYTES_MAX, EVENT_BYTES_MAX, PIECE_BYTES_MAX, Pool, READ_BYTES, Shares};

mod derive;

use derive::Needs;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// Resident bytes of a server that has worked and has nothing to do: binary, runtimes, SQLite and its caches.
/// Measured: 7.2 MiB a minute after 1,000 streams.
pub const IDLE_BYTES: usize = 7 * MIB + 256 * KIB;
/// Per worker: scratch for reading and for transcoded lines, both runtimes' queues and timers.
pub const WORKER_BYTES: usize = 64 * KIB;
/// A call in the store's queue, without the texts it carries (those are in the pools below).
pub const CALL_BYTES: usize = 2 * KIB;
/// The hasher beside the memory that it computes in: its thread's stack and scratch.
pub const HASHER_BYTES: usize = 64 * KIB;
/// A password waiting for the hasher (128 code points), and the hash that it is compared with.
pub const HASH_CALL_BYTES: usize = KIB;
/// The mail sender: one letter, and a connection with TLS (session, certificates, buffers that a
/// handshake has grown).
pub const MAIL_BYTES: usize = 64 * KIB;
/// The metrics: a thread with its runtime, four connections, the text as it is written and as it is
/// sent, and the cores' cells.
pub const METRICS_BYTES: usize = 512 * KIB;
/// A connection to PostgreSQL: the driver's two buffers of 8 KiB, its prepared statements, and TLS.
pub const DATABASE_BYTES: usize = 48 * KIB;
/// A core's client of Redis: its task, buffers that a history has grown, and TLS.
pub const REDIS_BYTES: usize = 256 * KIB;
/// Connections of such a client: one to each server of a cluster.
pub const REDIS_CONNECTIONS: usize = 16;
/// An event longer than a stream's carry: the event as collected, and as transcoded.
pub const LONG_LINE_BYTES: usize = 2 * EVENT_BYTES_MAX;
/// Most long lines at once, however much memory there is: they are rare.
pub const LONG_LINES_MAX: usize = 4;
/// An open client connection: hyper's read and write buffers of 8 KiB each, of which the pages that
/// were written to count, and its task. Measured: 10.9 KiB resident with request heads of up to
/// 4 KB, as browsers send them. A client that sends heads of 8 KB makes its own cost 4 KiB more.
pub const CONNECTION_BYTES: usize = 11 * KIB;
/// Connections beyond those that carry streams (an eighth more), for short requests.
pub const SPARE_CONNECTIONS: usize = 48;
/// A connection to a provider without TLS, and the state of the answer that it carries.
pub const PROVIDER_BYTES: usize = 2 * KIB;
/// What TLS adds to a connection that is read as fast as small records come: session state, a read
/// buffer of 4 KiB (measured together: 7.8 KiB), and the provider's certificates.
pub const TLS_BYTES: usize = 11 * KIB;
/// Bytes of its answer that each stream may remember whatever the others do; what goes beyond
/// comes from the pool of answers.
pub const ANSWER_BYTES_FIRST: usize = 2 * KIB;
/// A stream: provider connection and state, the answer's first bytes, and a cut event.
pub const STREAM_BYTES: usize =
    PROVIDER_BYTES + ANSWER_BYTES_FIRST + CARRY_BYTES_MAX.next_multiple_of(KIB);
/// hyper's write buffer, grown because the client does not read.
pub const STALLED_BYTES: usize = 8 * KIB;
/// What TLS adds to a stream whose client does not read, because full records (16 KiB) wait: one
/// decrypted, and rustls's read buffer, which has doubled up to the size that holds another.
pub const TLS_STALLED_BYTES: usize = (16 + 32) * KIB;
/// One stream of so many may stand still: readers that do not read are few, and what they cost is
/// several times what a stream costs.
pub const STREAMS_PER_STALLED: usize = 11;
/// One stream of so many may have a larger receive buffer, while no more than these run.
pub const STREAMS_PER_WIDE: usize = 64;
/// While more than half of a pool is used, one client may hold a quarter of it.
pub const SHARES: usize = 4;
/// An eighth of the pool of bodies is for bodies of so many bytes at most, such as those of logins.
pub const BODY_BYTES_SMALL: usize = 4 * KIB;
/// The same of the pool of prompts: a question of 2 KiB with a history of 6.
pub const PROMPT_BYTES_SMALL: usize = 16 * KIB;
/// A client's share of the connections, unless `server.connections_per_client_max` says otherwise.
pub const CONNECTION_SHARES: usize = 8;
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
    /// Of these, those of one client while more than half are used.
    pub connections_per_client_max: usize,
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
    /// Streams up to which each gets a larger receive buffer from its provider.
    pub wide_streams_max: usize,
    /// Permits (of [`Self::stalled_max`]) that such a stream takes when its client stalls.
    pub wide_stall_permits: usize,
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
    /// See [`Budget::wide_streams_max`].
    pub wide_streams_max: usize,
    /// See [`Budget::wide_stall_permits`].
    pub wide_stall_permits: usize,
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
            connections: Pool::shared(
                self.connections_max,
                Shares {
                    each_max: self.connections_per_client_max,
                    reserve: 0,
                    small_max: 0,
                },
            ),
            streams: Pool::new(self.streams_max),
            prompts: bytes_shared(self.prompt_bytes_max, PROMPT_BYTES_SMALL),
            bodies: bytes_shared(self.body_bytes_max, BODY_BYTES_SMALL),
            answers: bytes_shared(self.answer_bytes_max_total, 0),
            long_lines: Pool::new(self.long_lines_max),
            stalled: Pool::shared(
                self.stalled_max,
                Shares {
                    each_max: self.stalled_max.div_ceil(SHARES),
                    reserve: 0,
                    small_max: 0,
                },
            ),
            wide_streams_max: self.wide_streams_max,
            wide_stall_permits: self.wide_stall_permits,
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

    fn limits(&self) -> [(&'static str, usize, &'static str); 9] {
        [
            ("streams_max", self.streams_max, "chats answered at once"),
            (
                "connections_max",
                self.connections_max,
                "client connections",
            ),
            (
                "connections_per_client_max",
                self.connections_per_client_max,
                "of these, one client's while over half are used",
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
                "answers beyond 2 KiB each",
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

/// A pool of bytes in which one client has a share, and small requests a reserve.
fn bytes_shared(max: usize, small_max: usize) -> Arc<Pool> {
    let reserve = if small_max == 0 { 0 } else { max / 8 };
    Pool::shared(
        max,
        Shares {
            each_max: max / SHARES,
            reserve,
            small_max,
        },
    )
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    #[test]
    fn the_table_shows_every_row_and_limit() {
        let config = Config::load(Sources::default()).expect("the defaults are right");
        let budget = Budget::new(&config).expect("64M is enough");
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
}
