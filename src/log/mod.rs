//! Log lines: one event, one line, written whole to stderr; logfmt or JSON.
//!
//! A line is written at once, except on a thread that has promised to call [`rest`] before it
//! sleeps ([`gather`]): there the lines of ordinary events wait for each other, so that a busy core
//! hands over some dozens at a time. A warning or an error never waits. In a server a thread of its own
//! writes them ([`init`]), so that a reader of the log who stops holds up nobody.
//!
//! Values may come from anywhere, so they are escaped and cut: none can end a line, close a quote
//! or fill a disk. Secrets, cookies, messages and (unless configured) client addresses are never
//! passed in. When stderr is the systemd journal, which stamps and sorts lines itself, a line
//! starts with the priority (`<6>`) instead of the time.

use std::cell::RefCell;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::clock;

mod render;
mod request;
mod value;
mod writer;

pub use render::{Line, Stamp, render, tenths};
use request::Pattern;
pub use request::Request;
pub use value::Value;
pub use writer::{BYTES_MAX, start};

/// Bytes of one value that are written; the rest is replaced by `…`.
pub const VALUE_BYTES_MAX: usize = 1024;
/// Bytes that ordinary lines stay below.
const LINE_BYTES_ORDINARY: usize = 512;
/// Bytes a thread keeps for its next lines; what has grown longer gives its buffer back.
const LINE_BYTES_KEPT: usize = 4096;
/// Gathered bytes at which they are written: no more lines than fit what is kept.
const GATHERED_BYTES_MAX: usize = LINE_BYTES_KEPT - LINE_BYTES_ORDINARY;

/// How long lines of a busy thread may wait for more of them.
pub const WAIT_MAX: Duration = Duration::from_millis(10);

/// How a line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// `ts=… level=info event="server started" listen=127.0.0.1:5000`
    #[default]
    Logfmt,
    /// One JSON object per line.
    Json,
}

/// How much an event matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// The ordinary course of things.
    Info,
    /// The operator should look at it some time.
    Warn,
    /// Something that was promised did not happen.
    Error,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        }
    }

    /// The syslog priority as the journal reads it (sd-daemon(3)).
    fn priority(self) -> &'static str {
        match self {
            Level::Info => "<6>",
            Level::Warn => "<4>",
            Level::Error => "<3>",
        }
    }
}

/// Key and value; keys are lower-case words of our own.
pub type Field<'a> = (&'static str, Value<'a>);

/// The form of every line of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Style {
    /// Logfmt or JSON.
    pub format: Format,
    /// Whether the journal reads the lines: priority instead of time.
    pub journal: bool,
}

static STYLE: OnceLock<Style> = OnceLock::new();

/// Sets the form of the lines. To be called once; before it, and without it, they are logfmt with a time.
pub fn init(format: Format, journal: bool) {
    STYLE.get_or_init(|| Style { format, journal });
}

/// Waits, when it is dropped, until what was logged and [`print`]ed before is written; for a second at most.
/// To be kept until the process ends.
#[derive(Debug)]
pub struct UntilWritten;

impl Drop for UntilWritten {
    fn drop(&mut self) {
        flush();
        writer::finish();
    }
}

/// Writes whole lines to stderr that are no log lines, behind those that were logged before.
pub fn print(lines: &str) {
    flush();
    writer::send(lines.as_bytes(), true);
}

fn style() -> Style {
    STYLE.get().copied().unwrap_or_default()
}

static HIDES_INFO: AtomicBool = AtomicBool::new(false);

/// From now on only warnings and errors are written: for a program that talks to a person.
pub fn hide_info() {
    HIDES_INFO.store(true, Ordering::Relaxed);
}

/// Whether stderr is the stream that `JOURNAL_STREAM` (`device:inode`, systemd.exec(5)) names.
/// The variable is inherited, so it alone proves nothing: stderr may have been redirected since.
pub fn is_journal(journal_stream: Option<&str>) -> bool {
    let Some((device, inode)) = journal_stream.and_then(|stream| stream.split_once(':')) else {
        return false;
    };
    let Ok(stderr) = io::stderr().as_fd().try_clone_to_owned() else {
        return false;
    };
    std::fs::File::from(stderr)
        .metadata()
        .is_ok_and(|meta| device.parse() == Ok(meta.dev()) && inode.parse() == Ok(meta.ino()))
}

/// Logs an event in the ordinary course of things.
pub fn info(event: &str, fields: &[Field<'_>]) {
    if !HIDES_INFO.load(Ordering::Relaxed) {
        write(Level::Info, event, fields);
    }
}

/// Logs a request and further fields; without these the line may wait for [`flush`].
#[inline]
pub fn request(request: &Request<'_>, more: &[Field<'_>]) {
    if HIDES_INFO.load(Ordering::Relaxed) {
        return;
    }
    if more.is_empty() {
        let keep = |lines: &mut Lines| lines.keep(request);
        let kept = LINES.try_with(|lines| lines.try_borrow_mut().map(|mut lines| keep(&mut lines)));
        if matches!(kept, Ok(Ok(true))) {
            return;
        }
    }
    emit(Level::Info, request.since_epoch, |line| {
        request.write(line, more)
    });
}

/// Logs something the operator should look at some time.
pub fn warn(event: &str, fields: &[Field<'_>]) {
    write(Level::Warn, event, fields);
}

/// Logs a promise that was not kept.
pub fn error(event: &str, fields: &[Field<'_>]) {
    write(Level::Error, event, fields);
}

/// Logs an event of the given level.
pub fn write(level: Level, event: &str, fields: &[Field<'_>]) {
    emit(level, clock::since_epoch(), |line| {
        line.event(level, event, fields)
    });
}

/// A thread's lines on their way out.
#[derive(Default)]
struct Lines {
    text: Vec<u8>,
    /// The line being written.
    line: String,
    stamp: Stamp,
    pattern: Pattern,
    /// Ordinary lines may wait for [`rest`] or [`flush`].
    is_gathering: bool,
    /// When some were last written.
    sent_at: Option<Instant>,
    /// Those that wait will be flushed.
    is_promised: bool,
}

thread_local! {
    static LINES: RefCell<Lines> = RefCell::default();
}

impl Lines {
    /// Keeps a request's line for later, if this thread gathers.
    #[inline]
    fn keep(&mut self, request: &Request<'_>) -> bool {
        if self.is_gathering {
            // Room for any such line, so that nothing has to grow on the way.
            self.text.reserve(LINE_BYTES_ORDINARY);
            self.pattern
                .write(request, style(), &mut self.stamp, &mut self.text);
            if self.text.len() > GATHERED_BYTES_MAX {
                self.send(false);
            }
        }
        self.is_gathering
    }

    fn emit(&mut self, level: Level, now: Duration, content: impl FnOnce(&mut Line<'_>)) {
        self.line.clear();
        self.line.shrink_to(LINE_BYTES_ORDINARY);
        self.line.reserve(LINE_BYTES_ORDINARY);
        let stamp = &mut self.stamp;
        render(&mut self.line, stamp, style(), now, level, content);
        self.text.extend_from_slice(self.line.as_bytes());
        let may_wait = self.is_gathering && level == Level::Info;
        if !may_wait || self.text.len() > GATHERED_BYTES_MAX {
            self.send(!may_wait);
        }
    }

    fn flush(&mut self) {
        self.is_promised = false;
        self.send(false);
    }

    fn rest(&mut self) -> bool {
        if self.is_promised || self.text.is_empty() {
            return false;
        }
        let is_recent = |sent_at| clock::now().saturating_duration_since(sent_at) < WAIT_MAX;
        self.is_promised = self.sent_at.is_some_and(is_recent);
        if !self.is_promised {
            self.flush();
        }
        self.is_promised
    }

    fn send(&mut self, is_hurried: bool) {
        if !self.text.is_empty() {
            self.sent_at = Some(clock::now());
            writer::send(&self.text, is_hurried);
            self.text.clear();
            self.text.shrink_to(LINE_BYTES_KEPT);
        }
    }
}

/// This thread's last lines, when it ends or unwinds.
impl Drop for Lines {
    fn drop(&mut self) {
        self.flush();
    }
}

fn emit(level: Level, now: Duration, content: impl Fn(&mut Line<'_>)) {
    let emit_to = |lines: &mut Lines| lines.emit(level, now, &content);
    // Busy when a value's `Display` logs, gone while the thread ends: then a buffer of its own.
    let done = LINES.try_with(|lines| lines.try_borrow_mut().map(|mut lines| emit_to(&mut lines)));
    if !matches!(done, Ok(Ok(()))) {
        emit_to(&mut Lines::default());
    }
}

/// From now on this thread's ordinary lines wait until it calls [`rest`], which it does whenever
/// it has nothing else to do, or until there are some KiB of them.
pub fn gather() {
    LINES.with_borrow_mut(|lines| lines.is_gathering = true);
}

/// Writes the lines that wait on this thread before it sleeps, unless it has written some within
/// [`WAIT_MAX`], as a busy one has.
///
/// True: they wait, and [`flush`] must be called within that time, however long the thread sleeps.
pub fn rest() -> bool {
    // Busy or gone: whoever holds them writes them.
    let waits = LINES.try_with(|lines| lines.try_borrow_mut().map(|mut lines| lines.rest()));
    matches!(waits, Ok(Ok(true)))
}

/// Writes the lines that wait on this thread.
pub fn flush() {
    // Busy or gone: whoever holds them writes them.
    let _: Result<_, _> = LINES.try_with(|lines| lines.try_borrow_mut().map(|mut l| l.flush()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_is_found_by_device_and_inode_only() {
        assert!(!is_journal(None) && !is_journal(Some("")) && !is_journal(Some("0:0")));
    }

    fn request(id: &str) -> Request<'_> {
        Request {
            id: id.as_bytes(),
            since_epoch: Duration::from_secs(1),
            took_tenths: 13,
            method: "GET",
            route: "/test",
            status: 200,
            worker: 1,
        }
    }

    #[test]
    fn lines_wait_while_a_thread_is_busy_and_not_while_it_is_quiet() {
        let mut lines = Lines::default();
        assert!(!lines.keep(&request("nobody-gathers")));
        lines.is_gathering = true;
        assert!(!lines.rest(), "nothing waits");
        assert!(lines.keep(&request("written-at-once")));
        assert!(!lines.rest(), "the first ones do not wait");
        assert!(lines.text.is_empty());
        lines.sent_at = Some(clock::now() + Duration::from_secs(60)); // however slow this test is
        lines.keep(&request("waits-for-others"));
        assert!(lines.rest(), "somebody must flush them");
        lines.keep(&request("one-of-the-others"));
        assert!(!lines.rest(), "somebody will");
        let text = String::from_utf8(lines.text.clone()).unwrap();
        assert_eq!(text.matches('\n').count(), 2, "{text}");
        lines.flush();
        assert!(lines.text.is_empty());
        lines.keep(&request("after-a-quiet-while"));
        lines.sent_at = Some(clock::now() - WAIT_MAX);
        assert!(!lines.rest());
        assert!(lines.text.is_empty());
    }

    #[test]
    fn lines_of_requests_and_others_stand_in_their_order_and_have_their_room() {
        let mut lines = Lines::default();
        lines.is_gathering = true;
        lines.keep(&request("abc-1_DEF"));
        lines.emit(Level::Info, Duration::from_secs(2), |line| {
            line.event(Level::Info, "other", &[]);
        });
        assert_eq!(
            str::from_utf8(&lines.text).unwrap(),
            "ts=1970-01-01T00:00:01.000Z level=info event=request id=abc-1_DEF method=GET \
             route=/test status=200 ms=1.3 worker=1\n\
             ts=1970-01-01T00:00:02.000Z level=info event=other\n"
        );
        for _ in 0..100 {
            lines.keep(&request(&"x".repeat(64)));
            assert!(lines.text.len() <= GATHERED_BYTES_MAX, "more is sent");
        }
        assert!(lines.text.capacity() <= LINE_BYTES_KEPT + LINE_BYTES_ORDINARY);
        lines.text.clear();
    }
}
