//! The transcoder against recorded streams, the rules of the providers' protocol, and generated
//! streams. Needs nothing but this process.

mod bounds;
mod ends;
mod properties;
mod reference;
mod rules;
mod samples;
mod table;

use std::sync::Arc;

use cloudchat::limits::Pool;
use cloudchat::llm::transcoder::{Sink, Transcoder, write_line};

/// How a stream ended: the finish reason, or the fault as `Debug` names it.
type End = Result<String, String>;

/// Keeps what clients would get.
#[derive(Default)]
struct Lines(Vec<u8>);

impl Sink for Lines {
    fn text(&mut self, escaped: &[u8]) {
        assert!(!escaped.is_empty());
        write_line(&mut self.0, escaped);
    }
}

fn long_lines() -> Arc<Pool> {
    Pool::new(1)
}

/// The lines and the end of a stream that arrives in these pieces.
fn run<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (String, End) {
    let pool = long_lines();
    let mut transcoder = Transcoder::new();
    let mut lines = Lines::default();
    let mut fed = 0;
    let mut end = None;
    for piece in pieces {
        fed += piece.len();
        let result = transcoder.feed(piece, &pool, &mut lines);
        let result = result.map_err(|fault| format!("{fault:?}"));
        assert!(lines.0.len() <= fed, "more goes out than came in");
        match (&end, result) {
            (None, Ok(progress)) => end = progress.done.map(|f| Ok(f.as_str().to_owned())),
            (None, Err(fault)) => end = Some(Err(fault)),
            (Some(Ok(reason)), Ok(progress)) => {
                assert_eq!(progress.done.expect("the end stands").as_str(), reason);
                assert!(!progress.events);
            }
            (Some(end), result) => assert_eq!(&result.map(|_| String::new()), end),
        }
    }
    let last = transcoder.end(&mut lines);
    let last = last
        .map(|p| p.done.expect("the end has come").as_str().to_owned())
        .map_err(|fault| format!("{fault:?}"));
    assert_eq!(
        end.unwrap_or_else(|| last.clone()),
        last,
        "the verdict stands"
    );
    assert_eq!(
        (transcoder.held(), pool.used()),
        (0, 0),
        "all memory went back"
    );
    (String::from_utf8(lines.0).expect("lines are UTF-8"), last)
}

/// What clients read: the texts of the lines, joined.
fn joined(lines: &str) -> String {
    let insides = lines.lines().map(|line| {
        let inside = line.strip_prefix("{\"text\":\"");
        inside
            .and_then(|line| line.strip_suffix("\"}"))
            .expect("it is one of our lines")
    });
    serde_json::from_str(&format!("\"{}\"", insides.collect::<String>())).expect("a JSON string")
}

/// Asserts that cutting the stream anywhere, or everywhere, changes nothing.
fn assert_cuts_do_not_matter(stream: &[u8]) -> (String, End) {
    let whole = run([stream]);
    for at in 0..=stream.len() {
        assert_eq!(run([&stream[..at], &stream[at..]]), whole, "cut at {at}");
    }
    for length in [1, 2, 3, 7] {
        assert_eq!(run(stream.chunks(length)), whole, "in pieces of {length}");
    }
    whole
}
