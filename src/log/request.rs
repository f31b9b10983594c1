//! The line of a request. It comes with every request, so a core keeps it as it is until it has
//! nothing else to do, and then writes all of them in one go: what writes a line has left the
//! processor's caches between two requests, and is there for all but the first of a row.

use std::ptr;
use std::time::Duration;

use super::render::{Line, Stamp, begin, end};
use super::{Field, Format, Level, Style};

/// Longest id of a request in bytes.
const ID_BYTES_MAX: usize = 64;

/// What is said of a request.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// What it is called.
    pub id: Id,
    /// When its answer was known, since the epoch.
    pub since_epoch: Duration,
    /// How long that took, in tenths of a millisecond; up to five days.
    pub took_tenths: u32,
    /// Its method, a word of our own.
    pub method: &'static str,
    /// Its endpoint, a word of our own.
    pub route: &'static str,
    /// The status of its answer.
    pub status: u16,
    /// The worker that served it.
    pub worker: u16,
}

/// It is handed on several times for each request; what is longer is moved by a call.
const _: () = assert!(size_of::<Request>() <= 128);

/// A request's id, which needs no escapes.
#[derive(Debug, Clone, Copy)]
pub struct Id {
    bytes: [u8; ID_BYTES_MAX],
    len: u8,
}

impl Id {
    /// Keeps [`ID_BYTES_MAX`] bytes, all of them ASCII.
    pub fn new(id: &[u8]) -> Self {
        let id = &id[..id.len().min(ID_BYTES_MAX)];
        let mut bytes = [0; ID_BYTES_MAX];
        bytes[..id.len()].copy_from_slice(id);
        Self {
            bytes,
            len: id.len() as u8,
        }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    fn text(&self) -> &str {
        str::from_utf8(self.bytes()).unwrap_or_default()
    }
}

impl Request {
    /// Writes the line's fields, and further ones.
    pub(super) fn write(&self, line: &mut Line<'_>, more: &[Field<'_>]) {
        self.write_start(line);
        line.tenths(self.took_tenths.into());
        self.write_end(line);
        line.fields(more);
    }

    /// All before how long it took; tells where the id stands.
    fn write_start(&self, line: &mut Line<'_>) -> usize {
        let (id, quote, method, route, status, millis) = match line.format() {
            Format::Logfmt => (
                "level=info event=request id=",
                "",
                " method=",
                " route=",
                " status=",
                " ms=",
            ),
            Format::Json => (
                r#""level":"info","event":"request","id":"#,
                "\"",
                r#","method":"#,
                r#","route":"#,
                r#","status":"#,
                r#","ms":"#,
            ),
        };
        line.raw(id);
        let id_at = line.position() + quote.len();
        line.word(self.id.text());
        line.raw(method);
        line.word(self.method);
        line.raw(route);
        line.word(self.route);
        line.raw(status);
        line.number(self.status.into());
        line.raw(millis);
        id_at
    }

    fn write_end(&self, line: &mut Line<'_>) {
        line.raw(match line.format() {
            Format::Logfmt => " worker=",
            Format::Json => r#","worker":"#,
        });
        line.number(self.worker.into());
    }
}

/// A line of a request, of which only the times and the id change while requests of one kind follow one
/// another, as most do. Putting these into their places costs a fifth of writing all of it.
#[derive(Debug, Default)]
pub(super) struct Pattern {
    /// The request that it was made from, and how.
    of: Option<(Request, Style)>,
    /// All before how long it took.
    start: String,
    /// Where the time of day has its milliseconds; the journal has none.
    millis_at: Option<usize>,
    id_at: usize,
    /// All behind how long it took.
    end: String,
}

impl Pattern {
    /// Appends a request's line.
    pub(super) fn write(
        &mut self,
        request: &Request,
        style: Style,
        stamp: &mut Stamp,
        out: &mut Vec<u8>,
    ) {
        if !self.fits(request, style) {
            self.make(request, style, stamp);
        }
        let line_at = out.len();
        out.extend_from_slice(self.start.as_bytes());
        let line = &mut out[line_at..];
        if let Some(at) = self.millis_at {
            let millis = request.since_epoch.subsec_millis();
            let digits = [millis / 100, millis / 10 % 10, millis % 10];
            line[at..at + 3].copy_from_slice(&digits.map(|digit| b'0' + digit as u8));
        }
        let id = request.id.bytes();
        line[self.id_at..self.id_at + id.len()].copy_from_slice(id);
        let tenth = b'0' + (request.took_tenths % 10) as u8;
        match request.took_tenths / 10 {
            millis @ 0..10 => out.extend_from_slice(&[b'0' + millis as u8, b'.', tenth]),
            millis => {
                out.extend_from_slice(itoa::Buffer::new().format(millis).as_bytes());
                out.extend_from_slice(&[b'.', tenth]);
            }
        }
        out.extend_from_slice(self.end.as_bytes());
    }

    fn fits(&self, request: &Request, style: Style) -> bool {
        self.of.as_ref().is_some_and(|(of, was)| {
            of.since_epoch.as_secs() == request.since_epoch.as_secs()
                && of.id.len == request.id.len
                // Words of our own, each in one place; from another place it is made anew.
                && ptr::eq(of.method, request.method)
                && ptr::eq(of.route, request.route)
                && (of.status, of.worker) == (request.status, request.worker)
                && *was == style
        })
    }

    fn make(&mut self, request: &Request, style: Style, stamp: &mut Stamp) {
        self.start.clear();
        begin(
            &mut self.start,
            stamp,
            style,
            request.since_epoch,
            Level::Info,
        );
        // Before the time zone, which is the only `Z` so far.
        self.millis_at = self.start.rfind('Z').map(|zone_at| zone_at - 3);
        let mut line = Line::new(&mut self.start, style.format);
        self.id_at = request.write_start(&mut line);
        self.end.clear();
        request.write_end(&mut Line::new(&mut self.end, style.format));
        self.end.push_str(end(style));
        self.of = Some((*request, style));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::render::render;
    use super::*;

    fn requests() -> impl Strategy<Value = Vec<Request>> {
        let words = (
            proptest::sample::select(&["GET", "POST"][..]),
            proptest::sample::select(&["/test", "/auth/me", "-"][..]),
            proptest::sample::select(&[200, 503][..]),
        );
        // Often the same second and length, as in life.
        let times = (0_u64..2, 0_u32..1_000_000_000, 0_u32..100_000);
        let request = (words, times, "[a-zA-Z0-9_-]{8,10}", 0_u16..2);
        let request = request.prop_map(
            |((method, route, status), (second, nanos, took_tenths), id, worker)| Request {
                id: Id::new(id.as_bytes()),
                since_epoch: Duration::new(1_752_421_640 + second, nanos),
                took_tenths,
                method,
                route,
                status,
                worker,
            },
        );
        proptest::collection::vec(request, 1..20)
    }

    proptest! {
        #[test]
        fn a_line_by_the_pattern_is_the_line_that_is_written_out(requests in requests()) {
            for format in [Format::Logfmt, Format::Json] {
                for journal in [false, true] {
                    let style = Style { format, journal };
                    let (mut pattern, mut by_pattern) = (Pattern::default(), Vec::new());
                    let (mut stamp, mut written) = (Stamp::default(), String::new());
                    for request in &requests {
                        pattern.write(request, style, &mut stamp, &mut by_pattern);
                        let at = request.since_epoch;
                        render(&mut written, &mut stamp, style, at, Level::Info, |line| {
                            request.write(line, &[]);
                        });
                    }
                    prop_assert_eq!(std::str::from_utf8(&by_pattern).unwrap(), &written);
                }
            }
        }
    }
}
