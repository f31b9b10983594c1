//! What a provider answers: streams of events, refusals, and things that are neither.

/// What an answering provider sends, and whether it keeps the connection.
#[derive(Debug, Clone)]
pub struct Answer {
    pub bytes: Vec<u8>,
    pub keep: bool,
}

/// The head of a stream in chunks.
pub const STREAM_HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

/// One HTTP chunk.
pub fn chunk(data: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{:x}\r\n", data.len()).into_bytes();
    bytes.extend(data);
    bytes.extend(b"\r\n");
    bytes
}

/// The event that carries this text (the inside of a JSON string).
pub fn delta(escaped: &str) -> String {
    format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{escaped}\"}}}}]}}\n\n")
}

/// The events that end a stream.
pub fn finish(reason: &str) -> String {
    format!(
        "data: {{\"choices\":[{{\"index\":0,\"delta\":{{}},\"finish_reason\":\"{reason}\"}}]}}\n\n\
         data: [DONE]\n\n"
    )
}

/// A recorded stream of `tests/upstream`.
pub fn recorded(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/upstream/{name}.sse", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

impl Answer {
    /// A whole stream of these texts, with a clean end.
    pub fn texts(texts: &[&str]) -> Self {
        let events = texts.iter().map(|text| delta(text)).collect::<String>() + &finish("stop");
        Self::events(events.as_bytes())
    }

    /// These bytes of events as a chunked stream with a clean end.
    pub fn events(events: &[u8]) -> Self {
        let mut bytes = STREAM_HEAD.to_vec();
        bytes.extend(chunk(events));
        bytes.extend(b"0\r\n\r\n");
        Self { bytes, keep: true }
    }

    /// These bytes of events, cut off where they end.
    pub fn cut(events: &str) -> Self {
        let mut bytes = STREAM_HEAD.to_vec();
        bytes.extend(chunk(events.as_bytes()));
        Self { bytes, keep: false }
    }

    /// A refusal, or whatever is no stream. `headers` are lines with their CRLF.
    pub fn status(status: u16, headers: &str, body: &str) -> Self {
        let length = body.len();
        let head = format!("HTTP/1.1 {status} X\r\n{headers}Content-Length: {length}\r\n\r\n");
        Self {
            bytes: (head + body).into_bytes(),
            keep: true,
        }
    }

    /// Bytes as they are, then the end of the connection.
    pub fn raw(bytes: &[u8]) -> Self {
        Self {
            bytes: bytes.to_vec(),
            keep: false,
        }
    }
}
