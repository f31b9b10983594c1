//! The line of a request. It comes with every request, so a core does not write it in words each time, but
//! keeps the last one and puts into it what differs.

use std::time::Duration;
use std::{mem, ptr};

use super::render::{Line, Stamp, begin, end};
use super::{Field, Format, Level, Style};

/// What is said of a request.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// What it is called: ASCII that needs no escapes.
    pub id: &'a [u8],
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

impl Request<'_> {
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
        line.word(str::from_utf8(self.id).unwrap_or_default());
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
    /// What it was made for.
    kind: Option<Kind>,
    /// The line, for a request that took less than 10 ms.
    line: Vec<u8>,
    /// Where the time of day has its milliseconds; the journal has none.
    millis_at: Option<usize>,
    id_at: usize,
    /// Where it says how long that took: `0.0`.
    took_at: usize,
}

/// What lines of one pattern have in common.
#[derive(Debug)]
struct Kind {
    second: u64,
    id_len: usize,
    method: &'static str,
    route: &'static str,
    status: u16,
    worker: u16,
    style: Style,
}

impl Kind {
    fn of(request: &Request<'_>, style: Style) -> Self {
        Self {
            second: request.since_epoch.as_secs(),
            id_len: request.id.len(),
            method: request.method,
            route: request.route,
            status: request.status,
            worker: request.worker,
            style,
        }
    }

    fn is_as(&self, other: &Self) -> bool {
        self.second == other.second
            && self.id_len == other.id_len
            // Words of our own, each in one place; from another place the pattern is made anew.
            && ptr::eq(self.method, other.method)
            && ptr::eq(self.route, other.route)
            && (self.status, self.worker) == (other.status, other.worker)
            && self.style == other.style
    }
}

impl Pattern {
    /// Appends a request's line.
    pub(super) fn write(
        &mut self,
        request: &Request<'_>,
        style: Style,
        stamp: &mut Stamp,
        out: &mut Vec<u8>,
    ) {
        let kind = Kind::of(request, style);
        if !self.kind.as_ref().is_some_and(|known| known.is_as(&kind)) {
            self.make(request, style, stamp);
            self.kind = Some(kind);
        }
        if let Some(at) = self.millis_at {
            let millis = request.since_epoch.subsec_millis();
            let digits = [millis / 100, millis / 10 % 10, millis % 10];
            self.line[at..at + 3].copy_from_slice(&digits.map(|digit| b'0' + digit as u8));
        }
        self.line[self.id_at..self.id_at + request.id.len()].copy_from_slice(request.id);
        let (millis, tenth) = (request.took_tenths / 10, request.took_tenths % 10);
        let took = &mut self.line[self.took_at..];
        took[2] = b'0' + tenth as u8;
        if millis < 10 {
            took[0] = b'0' + millis as u8;
            out.extend_from_slice(&self.line);
        } else {
            let (before, took) = self.line.split_at(self.took_at);
            out.extend_from_slice(before);
            out.extend_from_slice(itoa::Buffer::new().format(millis).as_bytes());
            out.extend_from_slice(&took[1..]);
        }
    }

    fn make(&mut self, request: &Request<'_>, style: Style, stamp: &mut Stamp) {
        let mut line = String::from_utf8(mem::take(&mut self.line)).unwrap_or_default();
        line.clear();
        begin(&mut line, stamp, style, request.since_epoch, Level::Info);
        // Before the time zone, which is the only `Z` so far.
        self.millis_at = line.rfind('Z').map(|zone_at| zone_at - 3);
        let mut fields = Line::new(&mut line, style.format);
        self.id_at = request.write_start(&mut fields);
        self.took_at = fields.position();
        fields.tenths(0);
        request.write_end(&mut fields);
        line.push_str(end(style));
        self.line = line.into_bytes();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::render::render;
    use super::*;

    type Said = (
        (&'static str, &'static str, u16),
        (u64, u32, u32),
        String,
        u16,
    );

    fn requests() -> impl Strategy<Value = Vec<Said>> {
        let words = (
            proptest::sample::select(&["GET", "POST"][..]),
            proptest::sample::select(&["/test", "/auth/me", "-"][..]),
            proptest::sample::select(&[200, 503][..]),
        );
        // Often the same second and length, as in life.
        let times = (0_u64..2, 0_u32..1_000_000_000, 0_u32..100_000);
        let request = (words, times, "[a-zA-Z0-9_-]{8,10}", 0_u16..2);
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
                    for ((method, route, status), (second, nanos, took_tenths), id, worker) in &requests {
                        let request = &Request {
                            id: id.as_bytes(),
                            since_epoch: Duration::new(1_752_421_640 + second, *nanos),
                            took_tenths: *took_tenths,
                            method,
                            route,
                            status: *status,
                            worker: *worker,
                        };
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
