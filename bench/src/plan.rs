//! What the stream client was told to do, and when each request is due.

use std::net::{SocketAddr, ToSocketAddrs};

use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::args::{Args, fail};
use crate::behaviour::Behaviour;
use crate::{certificate, clock, frame, listen};

/// See the usage text of `streams`.
pub const OPTIONS: &[&str] = &[
    "url",
    "target",
    "tls-ca",
    "streams",
    "ramp",
    "threads",
    "tokens",
    "rate",
    "bytes",
    "sim",
    "message",
    "turns",
    "turn-seconds",
    "warmup",
    "seconds",
    "timeout",
    "hold",
    "ready-deltas",
    "slow",
    "slow-bytes-per-second",
    "abort",
    "abort-deltas",
    "pid",
];
/// Options without a value.
pub const FLAGS: &[&str] = &["hold-until-line", "abort-reset"];

/// What all streams have in common.
pub struct Plan {
    /// Where to connect to.
    pub addr: SocketAddr,
    /// `Host` of the requests.
    pub host: String,
    /// Target of the requests.
    pub path: String,
    /// For `https`: how, and the name that the certificate must have.
    pub tls: Option<(TlsConnector, ServerName<'static>)>,
    /// The provider's own format instead of the contract's.
    pub sse: bool,
    /// What the simulator is asked for, without the stream's number.
    pub message: String,
    /// The same, as it will understand it.
    pub asked: Behaviour,
    /// When what is due.
    pub schedule: Schedule,
    /// Streams at once.
    pub streams: usize,
    /// Requests of each, one after the other on its connection.
    pub turns: usize,
    /// The measurement ends so long after its start.
    pub seconds_ns: Option<u64>,
    /// An answer may take so long, from when it was due.
    pub timeout_ns: u64,
    /// Deltas that make a stream ready.
    pub ready_deltas: u64,
    /// The first so many streams read slowly.
    pub slow: usize,
    /// How slowly.
    pub slow_bytes: usize,
    /// The last so many streams are closed from here.
    pub abort: usize,
    /// After so many deltas.
    pub abort_deltas: u64,
    /// By a reset.
    pub abort_reset: bool,
    /// Threads that share the streams.
    pub threads: usize,
}

/// When requests are due; fixed beforehand, whatever the answers do.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    /// `CLOCK_MONOTONIC` when the first request is due.
    pub start_ns: u64,
    /// The first requests of all streams are spread evenly over this.
    pub ramp_ns: u64,
    /// Time between two requests of one stream.
    pub turn_ns: u64,
    /// How long after the start recording begins.
    pub warmup_ns: u64,
    /// The number of streams.
    pub streams: usize,
}

impl Schedule {
    /// When a stream's request is due.
    pub fn due_ns(&self, stream: usize, turn: usize) -> u64 {
        let share = self.ramp_ns as f64 * stream as f64 / self.streams.max(1) as f64;
        self.start_ns + share as u64 + self.turn_ns * turn as u64
    }

    /// From when on times are recorded.
    pub fn record_from_ns(&self) -> u64 {
        self.start_ns + self.warmup_ns
    }
}

impl Plan {
    /// Reads the options; a mistake ends the program.
    pub fn read(args: &Args) -> Self {
        let url = args
            .text("url")
            .unwrap_or_else(|| fail("--url URL is needed; see --help"));
        let (scheme, rest) = url.split_once("://").unwrap_or_default();
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let addr = host.to_socket_addrs().ok().and_then(|mut all| all.next());
        let tls = match scheme {
            "http" => None,
            "https" => Some(tls(args, host)),
            _ => fail("--url: http:// or https://, please"),
        };
        let sse = match args.text("target").unwrap_or("ours") {
            "ours" => false,
            "sse" => true,
            other => fail(&format!("--target: {other} is neither ours nor sse")),
        };
        let message = message(args);
        let asked = Behaviour::default().asked_by(message.as_bytes());
        let streams = args.number("streams", 1);
        let ready = if args.has("hold") || args.has("hold-until-line") {
            args.number("tokens", 1)
        } else {
            1
        };
        Self {
            addr: addr.unwrap_or_else(|| fail(&format!("--url: {host} is no host:port"))),
            host: host.to_owned(),
            path: format!("/{path}"),
            tls,
            sse,
            message,
            asked: asked.unwrap_or_else(|mistake| fail(&format!("--sim or --message: {mistake}"))),
            schedule: Schedule {
                start_ns: clock::monotonic_ns() + 10_000_000,
                ramp_ns: ns(args, "ramp", 0.0),
                turn_ns: ns(args, "turn-seconds", 1.0),
                warmup_ns: ns(args, "warmup", 0.0),
                streams,
            },
            streams,
            turns: args.number("turns", 1).max(1),
            seconds_ns: args.has("seconds").then(|| ns(args, "seconds", 0.0)),
            timeout_ns: ns(args, "timeout", 120.0),
            ready_deltas: args.number("ready-deltas", ready),
            slow: args.number("slow", 0),
            slow_bytes: args.number("slow-bytes-per-second", 1).max(1),
            abort: args.number("abort", 0),
            abort_deltas: args.number("abort-deltas", 1),
            abort_reset: args.has("abort-reset"),
            threads: args.number("threads", listen::cores()).max(1),
        }
    }

    /// The number that the stamps of one request's answer carry.
    pub fn id(&self, stream: usize, turn: usize) -> u64 {
        (turn * self.streams + stream) as u64 % frame::STREAMS_MAX
    }

    /// One request, ready to be sent.
    pub fn request(&self, stream: usize, turn: usize, cookie: Option<&str>) -> Vec<u8> {
        let mut message = self.message.clone();
        if self.asked.stamp {
            message += &format!(" id={}", self.id(stream, turn));
        }
        let body = if self.sse {
            serde_json::json!({"model": "deepseek-flash", "stream": true,
                "messages": [{"role": "user", "content": message}]})
        } else {
            serde_json::json!({"message": message})
        };
        let (body, Self { path, host, .. }) = (body.to_string(), self);
        let cookie = cookie.map_or_else(String::new, |pair| format!("Cookie: {pair}\r\n"));
        // An address of its own, so that limits per client do not shape the measurement.
        let (a, b, c) = (stream >> 16 & 255, stream >> 8 & 255, stream & 255);
        let length = body.len();
        format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n\
             X-Forwarded-For: 10.{a}.{b}.{c}\r\n{cookie}Content-Length: {length}\r\n\r\n{body}"
        )
        .into_bytes()
    }
}

/// What the simulator is asked for: a whole text, or put together from the options.
fn message(args: &Args) -> String {
    if let Some(message) = args.text("message") {
        return message.to_owned();
    }
    let endless = args.has("seconds").then(|| frame::DELTAS_MAX.to_string());
    let tokens = args.text("tokens").map(str::to_owned).or(endless);
    let mut message = "sim: stamp=1".to_owned();
    for (key, value) in [
        ("tokens", tokens.as_deref()),
        ("rate", args.text("rate")),
        ("bytes", args.text("bytes")),
    ] {
        if let Some(value) = value {
            message += &format!(" {key}={value}");
        }
    }
    if args.has("hold") || args.has("hold-until-line") {
        message += " hold=1";
    }
    if let Some(more) = args.text("sim") {
        message += &format!(" {more}");
    }
    message
}

fn tls(args: &Args, host: &str) -> (TlsConnector, ServerName<'static>) {
    let file = args.text("tls-ca");
    let connector = certificate::connector(file.unwrap_or_else(|| fail("https:// needs --tls-ca")));
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let name = ServerName::try_from(name.to_owned());
    let name = name.unwrap_or_else(|_| fail(&format!("--url: {host} has no name to check")));
    (connector, name)
}

fn ns(args: &Args, name: &str, default: f64) -> u64 {
    (args.number(name, default).max(0.0) * 1e9) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_are_spread_and_turns_follow() {
        let schedule = Schedule {
            start_ns: 1_000,
            ramp_ns: 400,
            turn_ns: 5_000,
            warmup_ns: 70,
            streams: 4,
        };
        let firsts: Vec<_> = (0..4).map(|stream| schedule.due_ns(stream, 0)).collect();
        assert_eq!(firsts, [1_000, 1_100, 1_200, 1_300]);
        assert_eq!(schedule.due_ns(3, 2), 11_300);
        assert_eq!(schedule.record_from_ns(), 1_070);
    }
}
