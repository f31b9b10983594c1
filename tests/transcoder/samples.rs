//! Every recorded stream, cut at every byte offset and byte by byte: what comes out is the text
//! that stands here.

use cloudchat::llm::transcoder::Fault;

use super::{assert_cuts_do_not_matter, joined};

fn check(file: &str, lines: usize, text: &str, end: Result<&str, Fault>) {
    let path = format!("{}/tests/upstream/{file}", env!("CARGO_MANIFEST_DIR"));
    let stream = std::fs::read(&path).expect("the sample is part of the repository");
    let (out, found) = assert_cuts_do_not_matter(&stream);
    assert_eq!(joined(&out), text, "{file}");
    assert_eq!(out.lines().count(), lines, "{file}");
    assert_eq!(found, end.map(str::to_owned), "{file}");
}
