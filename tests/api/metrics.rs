//! The metrics as Prometheus reads them: the format holds, and what happens shows.

use std::collections::BTreeMap;

use crate::kit::provider::{Answer, delta};
use crate::kit::server::free_port;
use crate::kit::{Conn, Person, Provider, Reply, Server, request, seconds, until};

/// Samples by name and labels, and the kinds of the families.
struct Scrape {
    samples: BTreeMap<String, f64>,
    kinds: BTreeMap<String, String>,
}

fn ask(port: u16, line: &str) -> Reply {
    let mut conn = Conn::tcp(port);
    conn.send(&request(line, &[], None));
    conn.reply()
}

fn is_name(text: &str) -> bool {
    let mut chars = text.chars();
    chars
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Splits `{a="b",c="d"}` without its braces; a quote, a backslash and a line feed stand escaped.
fn labels(mut text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    while !text.is_empty() {
        let (name, rest) = text
            .split_once("=\"")
            .expect("a label has a value in quotes");
        assert!(is_name(name), "{name:?}");
        let mut value = String::new();
        let mut chars = rest.char_indices();
        let end = loop {
            let (at, c) = chars.next().expect("the quotes are closed");
            match c {
                '"' => break at + 1,
                '\\' => value.push(match chars.next().expect("something is escaped").1 {
                    'n' => '\n',
                    c @ ('\\' | '"') => c,
                    other => panic!("\\{other} is not allowed"),
                }),
                c => value.push(c),
            }
        };
        found.push((name.to_owned(), value));
        text = rest[end..].strip_prefix(',').unwrap_or(&rest[end..]);
    }
    found
}

impl Scrape {
    /// Reads the text exposition format, version 0.0.4, and checks what it demands.
    fn of(port: u16) -> Self {
        let reply = ask(port, "GET /metrics");
        assert_eq!(reply.status, 200);
        assert_eq!(
            reply.get("content-type"),
            Some("text/plain; version=0.0.4; charset=utf-8")
        );
        assert_eq!(reply.get("connection"), Some("close"));
        assert!(reply.body.ends_with('\n') && reply.whole);
        let (mut samples, mut kinds) = (BTreeMap::new(), BTreeMap::new());
        let mut family = String::new();
        for line in reply.body.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, words) = help.split_once(' ').expect("a help has words");
                assert!(is_name(name) && !words.is_empty(), "{line}");
                assert!(!kinds.contains_key(name), "{name} stands twice");
                family = name.to_owned();
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').expect("a type has a kind");
                assert_eq!(name, family, "the type follows the help");
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
                kinds.insert(name.to_owned(), kind.to_owned());
            } else {
                let (series, value) = line.rsplit_once(' ').expect("a sample has a value");
                let (name, inside) = match series.split_once('{') {
                    Some((name, rest)) => (name, rest.strip_suffix('}').expect("a brace closes")),
                    None => (series, ""),
                };
                let own = match kinds[&family].as_str() {
                    "histogram" => ["_bucket", "_sum", "_count"]
                        .iter()
                        .find_map(|end| name.strip_suffix(end)),
                    _ => Some(name),
                };
                assert_eq!(own, Some(family.as_str()), "{line} stands with its family");
                let labels = labels(inside);
                assert_eq!(
                    labels.iter().any(|(name, _)| name == "le"),
                    name.ends_with("_bucket")
                );
                let value: f64 = value.parse().expect("a value is a number");
                assert!(
                    samples.insert(series.to_owned(), value).is_none(),
                    "{series} stands twice"
                );
            }
        }
        let scrape = Self { samples, kinds };
        scrape.check_histograms();
        scrape
    }

    /// Buckets do not fall, and the last holds all.
    fn check_histograms(&self) {
        for (name, _) in self.kinds.iter().filter(|(_, kind)| *kind == "histogram") {
            let counts = self
                .samples
                .iter()
                .filter(|(series, _)| series.starts_with(&format!("{name}_count")));
            for (series, count) in counts {
                let own = series
                    .strip_prefix(&format!("{name}_count"))
                    .expect("it begins so");
                let own = own.trim_matches(['{', '}']);
                let mut buckets: Vec<(f64, f64)> = Vec::new();
                for (series, value) in &self.samples {
                    let Some(inside) = series.strip_prefix(&format!("{name}_bucket{{")) else {
                        continue;
                    };
                    let labels = labels(inside.trim_end_matches('}'));
                    let (le, others): (Vec<_>, Vec<_>) =
                        labels.into_iter().partition(|(name, _)| name == "le");
                    let others: Vec<String> =
                        others.iter().map(|(n, v)| format!("{n}=\"{v}\"")).collect();
                    if others.join(",") == own {
                        let bound = le[0]
                            .1
                            .replace("+Inf", "inf")
                            .parse()
                            .expect("a bound is a number");
                        buckets.push((bound, *value));
                    }
                }
                buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
                assert!(
                    buckets.is_sorted_by(|a, b| a.1 <= b.1),
                    "{series}: {buckets:?}"
                );
                assert_eq!(buckets.last(), Some(&(f64::INFINITY, *count)), "{series}");
            }
        }
    }

    fn get(&self, series: &str) -> f64 {
        self.samples.get(series).copied().unwrap_or(0.0)
    }
}

/// A server with metrics, and their port.
fn start(provider: &Provider, settings: &str) -> (Server, u16) {
    let port = free_port();
    let settings = format!("metrics.listen = \"127.0.0.1:{port}\"\nserver.workers = 2\n{settings}");
    (Server::start(provider, &settings), port)
}

#[test]
fn what_happens_shows_in_the_sums() {
    let provider = Provider::answering(|n, _| match n {
        3 => Answer::status(503, "", "no"),
        4 => Answer::cut(&delta("cut")),
        _ => Answer::texts(&["one", "two", "three"]),
    });
    let (server, port) = start(&provider, "");
    let before = Scrape::of(port);
    for n in 0..3 {
        // On connections of their own, so that both cores get some.
        assert_eq!(server.chat("Hi", &[]).status, 200, "{n}");
        assert_eq!(server.get("/nowhere").status, 404);
    }
    assert_eq!(server.chat("Hi", &[]).status, 503);
    assert!(!server.chat("Hi", &[]).whole);
    assert_eq!(Person::new(&server).me(), 401);
    Person::logged_in(&server, "ada@example.org");
    let after = until("all to be counted", || {
        let after = Scrape::of(port);
        (after.get("cloudchat_streams_ended_total{reason=\"error\"}") > 0.0).then_some(after)
    });
    let moved = |series: &str| after.get(series) - before.get(series);
    for (series, by) in [
        (
            "cloudchat_requests_total{route=\"/deepseek_chat\",status=\"200\"}",
            4.0,
        ),
        (
            "cloudchat_requests_total{route=\"/deepseek_chat\",status=\"503\"}",
            1.0,
        ),
        ("cloudchat_requests_total{route=\"-\",status=\"404\"}", 3.0),
        (
            "cloudchat_requests_total{route=\"/auth/me\",status=\"401\"}",
            1.0,
        ),
        (
            "cloudchat_requests_total{route=\"/auth/login\",status=\"200\"}",
            1.0,
        ),
        ("cloudchat_streams_started_total", 4.0),
        ("cloudchat_streams_ended_total{reason=\"done\"}", 3.0),
        ("cloudchat_streams_ended_total{reason=\"error\"}", 1.0),
        ("cloudchat_streams_ended_total{reason=\"gone\"}", 0.0),
        ("cloudchat_tokens_total", 10.0),
        ("cloudchat_first_text_seconds_count", 4.0),
        (
            "cloudchat_provider_errors_total{provider=\"scripted\",cause=\"overloaded\"}",
            1.0,
        ),
        (
            "cloudchat_provider_errors_total{provider=\"scripted\",cause=\"broken\"}",
            1.0,
        ),
    ] {
        assert_eq!(moved(series), by, "{series}");
    }
    let stores = ["sqlite", "postgresql", "redis"].map(|store| {
        moved(&format!(
            "cloudchat_store_call_seconds_count{{store=\"{store}\"}}"
        ))
    });
    assert!(stores.iter().sum::<f64>() >= 10.0, "{stores:?}");
    for (series, least) in [
        ("cloudchat_limit_max{limit=\"streams\"}", 16.0),
        ("cloudchat_limit_max{limit=\"hash_queue\"}", 32.0),
        ("cloudchat_memory_max_bytes{owner=\"streams\"}", 100_000.0),
        ("process_resident_memory_bytes", 1e6),
        ("process_open_fds", 5.0),
        (
            "cloudchat_provider_breaker{provider=\"scripted\",state=\"closed\"}",
            1.0,
        ),
    ] {
        assert!(
            after.get(series) >= least,
            "{series}: {}",
            after.get(series)
        );
    }
}

#[test]
fn a_running_stream_shows_and_its_delay_is_measured() {
    let provider = Provider::played();
    let (server, port) = start(&provider, "");
    let mut conn = server.connect();
    conn.ask("Hi", &[]);
    let mut call = provider.call();
    call.accept().text("first");
    assert_eq!(conn.head().status, 200);
    conn.line();
    for n in 0..20 {
        call.text("more");
        assert!(conn.line().is_some(), "{n}");
    }
    let now = Scrape::of(port);
    assert_eq!(now.get("cloudchat_streams_open"), 1.0);
    assert_eq!(now.get("cloudchat_limit_used{limit=\"streams\"}"), 1.0);
    assert_eq!(
        now.get("cloudchat_tokens_total"),
        21.0,
        "counted while the stream runs"
    );
    assert!(now.get("cloudchat_memory_used_bytes{owner=\"streams\"}") > 0.0);
    let (count, sum) = (
        now.get("cloudchat_added_delay_seconds_count"),
        now.get("cloudchat_added_delay_seconds_sum"),
    );
    assert!((10.0..=21.0).contains(&count), "{count}");
    assert!(sum > 0.0 && sum / count < 0.05, "{sum} s for {count}");
    drop(conn);
    call.closed_at();
    until("the stream to end", || {
        let now = Scrape::of(port);
        (now.get("cloudchat_streams_open") == 0.0
            && now.get("cloudchat_streams_ended_total{reason=\"gone\"}") == 1.0)
            .then_some(())
    });
}

#[test]
fn an_open_breaker_shows() {
    let provider = Provider::answering(|_, _| Answer::status(500, "", "no"));
    let (server, port) = start(&provider, "upstream.breaker_failures_max = 2");
    for _ in 0..2 {
        assert_eq!(server.chat("Hi", &[]).status, 503);
    }
    let now = Scrape::of(port);
    for (state, is) in [("open", 1.0), ("closed", 0.0), ("half_open", 0.0)] {
        let series =
            format!("cloudchat_provider_breaker{{provider=\"scripted\",state=\"{state}\"}}");
        assert_eq!(now.samples.get(&series), Some(&is), "{state}");
    }
}

#[test]
fn the_listener_serves_nothing_else_and_outlives_those_who_hang() {
    let provider = Provider::friendly();
    let (server, port) = start(&provider, "");
    assert_eq!(ask(port, "GET /").status, 404);
    assert_eq!(ask(port, "GET /test").status, 404);
    assert_eq!(ask(port, "POST /metrics").status, 405);
    assert_eq!(server.get("/metrics").status, 404, "and not to the public");
    // More than there may be, who say nothing: they are let go after 5 s.
    let hanging: Vec<Conn> = (0..6).map(|_| Conn::tcp(port)).collect();
    let took = seconds(|| drop(Scrape::of(port)));
    assert!(took < 9.0, "{took} s");
    drop(hanging);
    assert_eq!(server.chat("Hi", &[]).status, 200);
}

#[test]
fn an_address_that_others_can_reach_is_refused() {
    let folder = tempfile::tempdir().expect("there is room");
    let file = folder.path().join("config.toml");
    for (listen, says) in [
        ("0.0.0.0:9500", "is no loopback address"),
        ("localhost:9500", "is no address such as"),
    ] {
        std::fs::write(&file, format!("metrics.listen = {listen:?}\n")).expect("it is writable");
        let file = file.to_str().expect("its name is UTF-8");
        let (code, _, errors) = crate::kit::server::run(&["check", "--config", file], &[]);
        assert_eq!(code, 2, "{listen}");
        assert!(
            errors.contains("metrics.listen") && errors.contains(says),
            "{errors}"
        );
    }
}

#[test]
fn the_memory_line_of_the_old_service() {
    let provider = Provider::friendly();
    let config = format!(
        "log.format = \"json\"\nlog.memory_seconds = 1\n{}",
        provider.row()
    );
    let server = Server::with(&config, &[("ENABLE_SCHEDULER", "1")]);
    let lines = until("two lines", || {
        let log = server.log();
        let lines: Vec<serde_json::Value> = log
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .filter(|line: &serde_json::Value| line["event"] == "memory")
            .collect();
        (lines.len() >= 2).then_some(lines)
    });
    for line in &lines {
        let rss = line["rss_bytes"].as_u64().expect("a number");
        assert!(
            rss > 1_000_000 && line["peak_bytes"].as_u64() >= Some(rss),
            "{line}"
        );
    }
    let silent = Server::start(&provider, "");
    assert!(!silent.log().contains("event=memory"));
}
