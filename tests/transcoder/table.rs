//! Tables of streams and of what they mean.

use super::assert_cuts_do_not_matter;

pub const STOP: Result<&str, &str> = Ok("stop");

/// The end of a complete answer.
pub const END: &str = "data: {\"choices\":[{\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";

/// One delta as providers write it, without line end.
pub fn delta(text: &str) -> String {
    format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}}}}]}}")
}

/// Each row: a stream, the escaped texts of its lines joined with `|`, and the end.
pub fn check(rows: &[(&str, &str, Result<&str, &str>)]) {
    for (stream, texts, end) in rows {
        check_bytes(stream.as_bytes(), texts, *end);
    }
}

pub fn check_bytes(stream: &[u8], texts: &str, end: Result<&str, &str>) {
    let (out, found) = assert_cuts_do_not_matter(stream);
    let lines: Vec<&str> = out
        .lines()
        .map(|line| {
            line.trim_start_matches("{\"text\":\"")
                .trim_end_matches("\"}")
        })
        .collect();
    let shown = String::from_utf8_lossy(stream);
    assert_eq!(lines.join("|"), texts, "{shown}");
    assert_eq!(
        found,
        end.map(str::to_owned).map_err(str::to_owned),
        "{shown}"
    );
}

/// Each row: the data of one event between `a` and `b`, the texts, the end.
pub fn check_data(rows: &[(&str, &str, Result<&str, &str>)]) {
    for (data, texts, end) in rows {
        let stream = format!("{}\n\ndata: {data}\n\n{}\n\n{END}", delta("a"), delta("b"));
        check_bytes(stream.as_bytes(), texts, *end);
    }
}
