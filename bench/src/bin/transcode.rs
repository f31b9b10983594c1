//! Runs a recorded stream through the server's transcoder over and over, for callgrind.
//!
//! Each event is handed over by itself, as a paced provider's arrive; nothing else happens, so two
//! runs of different length tell the instructions per event to the last one. Prints the number of
//! events in the recording.
//!
//! ```text
//! valgrind --tool=callgrind target/release/transcode --file tests/upstream/deepseek.sse --times 1000
//! ```

use std::fs;

use bench::args::{Args, fail};
use cloudchat::limits::Pool;
use cloudchat::llm::transcoder::{Sink, Transcoder, write_line};

const USAGE: &str = "transcode --file FILE [--times N]";

/// What a core does with the text: the lines go into its scratch buffer.
struct Lines(Vec<u8>);

impl Sink for Lines {
    fn text(&mut self, escaped: &[u8]) {
        write_line(&mut self.0, escaped);
    }
}

fn main() {
    let args = Args::read(USAGE, &["file", "times"], &[]);
    let file = args.text("file").unwrap_or_else(|| fail(USAGE));
    let stream = fs::read(file).unwrap_or_else(|error| fail(&format!("{file}: {error}")));
    let events = events(&stream);
    let pool = Pool::new(0);
    let mut lines = Lines(Vec::with_capacity(stream.len()));
    for _ in 0..args.number("times", 1_u64) {
        let mut transcoder = Transcoder::new();
        for event in &events {
            if let Err(fault) = transcoder.feed(event, &pool, &mut lines) {
                fail(&format!("{file}: {fault}"));
            }
            lines.0.clear();
        }
    }
    println!("{}", events.len());
}

/// The events of a recording, each with its blank line.
fn events(stream: &[u8]) -> Vec<&[u8]> {
    let (mut events, mut from) = (Vec::new(), 0);
    for at in 0..stream.len() {
        if stream[from..=at].ends_with(b"\n\n") {
            events.push(&stream[from..=at]);
            from = at + 1;
        }
    }
    events
}
