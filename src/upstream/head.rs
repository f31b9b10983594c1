//! The head of a provider's response (RFC 9112), parsed strictly and without I/O: what could be
//! read in two ways is refused, because the connection behind it is used again.

use httparse::{EMPTY_HEADER, Header, Response, Status};

/// Most header fields in one head; some gateways add dozens.
const FIELDS_MAX: usize = 128;
/// Longest wait that a provider may ask for, in seconds.
const RETRY_AFTER_MAX: u64 = 3600;

/// How the body's end is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLength {
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// `Content-Length`, in bytes; 0 for a status that has no body.
    Known(u64),
    /// The connection's end.
    UntilClose,
}

/// What matters of a response head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The status code, 100 to 999.
    pub status: u16,
    /// How long the body is.
    pub length: BodyLength,
    /// Whether the connection may serve another request when the body has ended.
    pub keep_alive: bool,
    /// `Content-Type: text/event-stream` without a content coding.
    pub event_stream: bool,
    /// `Retry-After` in seconds, 1 to 3600; dates are ignored.
    pub retry_after: Option<u32>,
}

/// Why a head is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadError {
    /// Not the head of an HTTP/1 response.
    Syntax,
    /// More than [`FIELDS_MAX`] fields.
    TooManyFields,
    /// `Content-Length` that is no number, or several different ones.
    ContentLength,
    /// `Transfer-Encoding` other than one `chunked`, or one in HTTP/1.0.
    TransferEncoding,
    /// Both `Content-Length` and `Transfer-Encoding`.
    TwoLengths,
}

impl HeadError {
    /// A word for log lines.
    pub fn code(self) -> &'static str {
        match self {
            HeadError::Syntax => "head-syntax",
            HeadError::TooManyFields => "head-too-many-fields",
            HeadError::ContentLength => "head-content-length",
            HeadError::TransferEncoding => "head-transfer-encoding",
            HeadError::TwoLengths => "head-two-lengths",
        }
    }
}

/// Parses the head at the front of `bytes`: the head and its length, or `None` if it is not
/// complete yet. The caller bounds `bytes` (`limits::HEAD_BYTES_MAX`).
///
/// # Errors
/// [`HeadError`]; more bytes do not help.
pub fn parse(bytes: &[u8]) -> Result<Option<(Head, usize)>, HeadError> {
    let mut fields = [EMPTY_HEADER; FIELDS_MAX];
    let mut response = Response::new(&mut fields);
    let length = match response.parse(bytes) {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooManyFields),
        Err(_) => return Err(HeadError::Syntax),
    };
    let status = response.code.ok_or(HeadError::Syntax)?;
    let version = response.version.ok_or(HeadError::Syntax)?;
    if status < 100 {
        return Err(HeadError::Syntax);
    }
    Ok(Some((read(status, version, response.headers)?, length)))
}

fn read(status: u16, version: u8, fields: &[Header<'_>]) -> Result<Head, HeadError> {
    let (mut length, mut chunked) = (None, false);
    let (mut close, mut kept) = (false, false);
    let (mut event_stream, mut coded, mut retry_after) = (false, false, None);
    for field in fields {
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        if is("content-length") {
            length = Some(content_length(length, field.value)?);
        } else if is("transfer-encoding") {
            if chunked || version == 0 || !field.value.eq_ignore_ascii_case(b"chunked") {
                return Err(HeadError::TransferEncoding);
            }
            chunked = true;
        } else if is("connection") {
            close |= has_token(field.value, b"close");
            kept |= has_token(field.value, b"keep-alive");
        } else if is("content-type") {
            event_stream = is_event_stream(field.value);
        } else if is("content-encoding") {
            coded |= !field.value.eq_ignore_ascii_case(b"identity");
        } else if is("retry-after") {
            retry_after = seconds(field.value);
        }
    }
    let length = match (length, chunked) {
        (Some(_), true) => return Err(HeadError::TwoLengths),
        _ if status < 200 || status == 204 || status == 304 => BodyLength::Known(0),
        (Some(n), false) => BodyLength::Known(n),
        (None, true) => BodyLength::Chunked,
        (None, false) => BodyLength::UntilClose,
    };
    Ok(Head {
        status,
        length,
        keep_alive: !close && (version == 1 || kept) && length != BodyLength::UntilClose,
        event_stream: event_stream && !coded,
        retry_after,
    })
}

/// One `Content-Length` line; a repeated value (RFC 9110, 8.6) must repeat exactly.
fn content_length(before: Option<u64>, value: &[u8]) -> Result<u64, HeadError> {
    let mut length = before;
    for element in value.split(|byte| *byte == b',') {
        let n = number(element.trim_ascii()).ok_or(HeadError::ContentLength)?;
        if length.is_some_and(|known| known != n) {
            return Err(HeadError::ContentLength);
        }
        length = Some(n);
    }
    length.ok_or(HeadError::ContentLength)
}

/// Decimal digits and nothing else; `u64::from_str` would take a sign.
fn number(digits: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(digits).ok()?;
    (!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| digits.parse().ok())?
}

fn has_token(value: &[u8], token: &[u8]) -> bool {
    value
        .split(|byte| *byte == b',')
        .any(|element| element.trim_ascii().eq_ignore_ascii_case(token))
}

fn is_event_stream(value: &[u8]) -> bool {
    value
        .split(|byte| *byte == b';')
        .next()
        .is_some_and(|essence| {
            essence
                .trim_ascii()
                .eq_ignore_ascii_case(b"text/event-stream")
        })
}

fn seconds(value: &[u8]) -> Option<u32> {
    let seconds = number(value.trim_ascii())?.clamp(1, RETRY_AFTER_MAX);
    u32::try_from(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLAIN: Head = Head {
        status: 200,
        length: BodyLength::UntilClose,
        keep_alive: false,
        event_stream: false,
        retry_after: None,
    };

    fn head(lines: &str) -> Result<Option<Head>, HeadError> {
        parse(lines.as_bytes()).map(|found| found.map(|(head, _)| head))
    }

    #[test]
    fn fields() {
        let check = |fields: &str, expect: Head| {
            assert_eq!(
                head(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n")),
                Ok(Some(expect)),
                "{fields}"
            );
        };
        let kept = Head {
            length: BodyLength::Known(5),
            keep_alive: true,
            ..PLAIN
        };
        check("", PLAIN);
        check("Content-Length: 5\r\n", kept);
        check("content-length: 5\r\nContent-Length: 5, 5\r\n", kept);
        check(
            "Content-Length: 5\r\nConnection: foo, Close\r\n",
            Head {
                keep_alive: false,
                ..kept
            },
        );
        check(
            "Transfer-Encoding: Chunked\r\n",
            Head {
                length: BodyLength::Chunked,
                ..kept
            },
        );
        check(
            "Content-Type: Text/Event-Stream ; charset=utf-8\r\n",
            Head {
                event_stream: true,
                ..PLAIN
            },
        );
        check(
            "Content-Type: text/event-stream\r\nContent-Encoding: gzip\r\n",
            PLAIN,
        );
        check("Content-Type: text/event-streams\r\n", PLAIN);
        check(
            "Retry-After: 20\r\n",
            Head {
                retry_after: Some(20),
                ..PLAIN
            },
        );
        check(
            "Retry-After: 0\r\n",
            Head {
                retry_after: Some(1),
                ..PLAIN
            },
        );
        check("Retry-After: 99999999999999999999\r\n", PLAIN);
        check(
            "Retry-After: 4294967295\r\n",
            Head {
                retry_after: Some(3600),
                ..PLAIN
            },
        );
        check("Retry-After: Fri, 31 Dec 1999 23:59:59 GMT\r\n", PLAIN);
        check("Retry-After: -1\r\n", PLAIN);
    }

    #[test]
    fn lines() {
        let check = |line: &str, expect: Head| assert_eq!(head(line), Ok(Some(expect)), "{line}");
        let empty = Head {
            length: BodyLength::Known(0),
            keep_alive: true,
            ..PLAIN
        };
        check(
            "HTTP/1.1 204 No Content\r\n\r\n",
            Head {
                status: 204,
                ..empty
            },
        );
        check(
            "HTTP/1.1 100 Continue\r\n\r\n",
            Head {
                status: 100,
                ..empty
            },
        );
        check(
            "HTTP/1.1 429\r\n\r\n",
            Head {
                status: 429,
                ..PLAIN
            },
        );
        let old = Head {
            length: BodyLength::Known(2),
            ..PLAIN
        };
        check("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n", old);
        check(
            "HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: Keep-Alive\r\n\r\n",
            Head {
                keep_alive: true,
                ..old
            },
        );
    }

    #[test]
    fn refused() {
        for (lines, expect) in [
            ("HTTP/2 200 OK\r\n\r\n", HeadError::Syntax),
            ("SSH-2.0-x\r\n\r\n", HeadError::Syntax),
            ("HTTP/1.1 099 X\r\n\r\n", HeadError::Syntax),
            ("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", HeadError::Syntax),
            ("HTTP/1.1 200 OK\r\nA : b\r\n\r\n", HeadError::Syntax),
            ("HTTP/1.1 200 OK\r\nA: b\0c\r\n\r\n", HeadError::Syntax),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n",
                HeadError::ContentLength,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n",
                HeadError::ContentLength,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\n",
                HeadError::ContentLength,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
                HeadError::ContentLength,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
                HeadError::ContentLength,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
                HeadError::TransferEncoding,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
                HeadError::TransferEncoding,
            ),
            (
                "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                HeadError::TransferEncoding,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
                HeadError::TwoLengths,
            ),
        ] {
            assert_eq!(head(lines), Err(expect), "{lines:?}");
        }
        let many = format!(
            "HTTP/1.1 200 OK\r\n{}\r\n",
            "A: b\r\n".repeat(FIELDS_MAX + 1)
        );
        assert_eq!(head(&many), Err(HeadError::TooManyFields));
    }

    #[test]
    fn cut_at_every_offset() {
        let bytes = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\nbody";
        for cut in 0..bytes.len() - 4 {
            assert_eq!(parse(&bytes[..cut]), Ok(None), "{cut}");
        }
        let whole = parse(bytes);
        assert_eq!(
            whole.map(|found| found.map(|(_, length)| length)),
            Ok(Some(bytes.len() - 4))
        );
        for cut in bytes.len() - 4..bytes.len() {
            assert_eq!(parse(&bytes[..cut]), whole);
        }
    }

    proptest! {
        /// More bytes never change what was found, nor take an error back.
        #[test]
        fn a_verdict_stands(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "(HTTP/1\\.[01] [0-9]{3} ?[ -~\r\n:,]{0,60}\r\n){0,2}", cut in any::<prop::sample::Index>()) {
            let bytes = [text.as_bytes(), &bytes].concat();
            let cut = cut.index(bytes.len() + 1);
            match parse(&bytes[..cut]) {
                Ok(None) => { let _ = parse(&bytes).is_ok(); }
                verdict => prop_assert_eq!(parse(&bytes), verdict),
            }
        }
    }
}
