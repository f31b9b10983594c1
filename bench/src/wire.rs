//! Just enough HTTP/1.1 for the two ends of a measurement: heads, and the chunked framing.

/// A parsed head: the first line and what of the fields matters here.
#[derive(Debug, PartialEq)]
pub struct Head {
    /// Bytes of the head, with its blank line.
    pub bytes: usize,
    /// Second word of the first line: a request's target, a response's status.
    pub second: String,
    /// First word of the first line: a request's method, a response's version.
    pub first: String,
    /// `Content-Length`.
    pub length: Option<usize>,
    /// `Transfer-Encoding: chunked`.
    pub chunked: bool,
    /// `Connection: close`.
    pub close: bool,
}

/// The head at the start of `input`, once its blank line is there.
pub fn head(input: &[u8]) -> Option<Head> {
    let bytes = input.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&input[..bytes]);
    let mut lines = text.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let mut word = || words.next().unwrap_or_default().to_owned();
    let mut head = Head {
        bytes,
        first: word(),
        second: word(),
        length: None,
        chunked: false,
        close: false,
    };
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => head.length = value.parse().ok(),
            "transfer-encoding" => head.chunked = value.eq_ignore_ascii_case("chunked"),
            "connection" => head.close = value.eq_ignore_ascii_case("close"),
            _ => {}
        }
    }
    Some(head)
}

/// Takes the chunked framing off a body, however it is cut.
#[derive(Debug, Default)]
pub struct Dechunk {
    state: State,
}

#[derive(Debug, Default, Clone, Copy, PartialEq)]
enum State {
    /// Before a size line.
    #[default]
    Start,
    /// In its digits, with the size so far.
    Size(usize),
    /// Behind the digits, up to the line's end.
    Extension(usize),
    Data(usize),
    /// Behind the data, up to the line's end.
    DataEnd,
    /// In the trailer; `true` while the line is empty.
    Trailer(bool),
    Done,
}

impl Dechunk {
    /// Appends the body bytes of `input` to `out`; an error is a framing that makes no sense.
    pub fn feed(&mut self, mut input: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
        while let Some((&byte, rest)) = input.split_first() {
            if let State::Data(left) = self.state {
                let (data, after) = input.split_at(left.min(input.len()));
                out.extend_from_slice(data);
                self.state = match left - data.len() {
                    0 => State::DataEnd,
                    left => State::Data(left),
                };
                input = after;
                continue;
            }
            self.state = self.step(byte)?;
            input = rest;
        }
        Ok(())
    }

    fn step(&self, byte: u8) -> Result<State, String> {
        let size = if let State::Size(size) | State::Extension(size) = self.state {
            size
        } else {
            0
        };
        Ok(match (self.state, byte) {
            (State::Start | State::Size(_), b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = char::from(byte).to_digit(16).unwrap_or_default() as usize;
                State::Size((size << 4) + digit)
            }
            (State::Size(0) | State::Extension(0), b'\n') => State::Trailer(true),
            (State::Size(_) | State::Extension(_), b'\n') => State::Data(size),
            (State::Size(_) | State::Extension(_), _) => State::Extension(size),
            (State::DataEnd, b'\r') => State::DataEnd,
            (State::DataEnd, b'\n') => State::Start,
            (State::Trailer(empty), b'\r') => State::Trailer(empty),
            (State::Trailer(true), b'\n') => State::Done,
            (State::Trailer(_), byte) => State::Trailer(byte == b'\n'),
            (state, byte) => return Err(format!("byte {byte:#x} in {state:?}")),
        })
    }

    /// The last chunk and the trailer have been seen.
    pub fn done(&self) -> bool {
        self.state == State::Done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn framing_comes_off_at_every_cut() {
        let body = b"5\r\nhello\r\n1A;x=y\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\nX: y\r\n\r\n";
        for cut in 0..=body.len() {
            let (mut dechunk, mut out) = (Dechunk::default(), Vec::new());
            dechunk.feed(&body[..cut], &mut out).unwrap();
            dechunk.feed(&body[cut..], &mut out).unwrap();
            assert!(dechunk.done());
            assert_eq!(out, b"helloabcdefghijklmnopqrstuvwxyz");
        }
        assert!(Dechunk::default().feed(b"zz", &mut Vec::new()).is_err());
    }

    #[test]
    fn a_head_waits_for_its_end() {
        let text =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-length: 7\r\n\r\nrest";
        assert_eq!(head(&text[..text.len() - 5]), None);
        let head = head(text).unwrap();
        assert_eq!((head.second.as_str(), head.length), ("200", Some(7)));
        assert!(head.chunked && !head.close);
    }
}
