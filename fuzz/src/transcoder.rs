//! What comes out of the transcoder does not depend on how its input was cut, is never longer
//! than it, is valid JSON line by line, and no input makes it panic.
#![no_main]

use cloudchat::limits::Pool;
use cloudchat::llm::transcoder::{Fault, Progress, Sink, Transcoder, write_line};
use libfuzzer_sys::fuzz_target;

struct Lines(Vec<u8>);

impl Sink for Lines {
    fn text(&mut self, escaped: &[u8]) {
        assert!(!escaped.is_empty());
        write_line(&mut self.0, escaped);
    }
}

fn run<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<u8>, Result<Progress, Fault>) {
    let pool = Pool::new(1);
    let mut transcoder = Transcoder::new();
    let mut lines = Lines(Vec::new());
    for piece in pieces {
        if transcoder.feed(piece, &pool, &mut lines).is_err() {
            break;
        }
    }
    let end = transcoder.end(&mut lines).map(|progress| Progress {
        events: false, // Which call saw the last event does depend on the cuts.
        ..progress
    });
    assert_eq!((transcoder.held(), pool.used()), (0, 0));
    (lines.0, end)
}

fuzz_target!(|input: &[u8]| {
    let Some((&length, stream)) = input.split_first() else {
        return;
    };
    let whole = run([stream].into_iter());
    assert_eq!(run(stream.chunks(usize::from(length).max(1))), whole);
    assert!(whole.0.len() <= stream.len());
    for line in whole.0.split_inclusive(|byte| *byte == b'\n') {
        let line: Result<&serde_json::value::RawValue, _> = serde_json::from_slice(line);
        assert!(line.is_ok_and(|line| line.get().starts_with("{\"text\":\"")));
    }
});
