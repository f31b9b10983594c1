//! Writes a line into a buffer, escaped so that no value can end it, leave its quotes or grow
//! beyond its allowance.

use std::fmt::{self, Display, Write as _};
use std::time::{Duration, UNIX_EPOCH};

use super::{Field, Format, Level, Style, VALUE_BYTES_MAX, Value};

/// A wall time as text, kept because most lines are of the same second as the one before.
#[derive(Debug, Default)]
pub struct Stamp {
    second: u64,
    /// `2025-07-13T15:47:20.`, empty at first.
    text: String,
}

impl Stamp {
    fn push(&mut self, since_epoch: Duration, out: &mut String) {
        let second = since_epoch.as_secs();
        if self.text.is_empty() || self.second != second {
            let time = humantime::format_rfc3339_seconds(UNIX_EPOCH + since_epoch);
            self.text.clear();
            write!(self.text, "{time}").expect("the time is after 1970 and a String takes it");
            // `Z` stands at the end, after what is below a second.
            self.text.pop();
            self.text.push('.');
            self.second = second;
        }
        out.push_str(&self.text);
        // Always four digits, of which the last three are wanted.
        let millis = 1000 + since_epoch.subsec_millis();
        out.push_str(&itoa::Buffer::new().format(millis)[1..]);
        out.push('Z');
    }
}

/// Appends one line, with its line end, to `out`; `since_epoch` is the wall time.
pub fn render(
    out: &mut String,
    stamp: &mut Stamp,
    style: Style,
    since_epoch: Duration,
    level: Level,
    content: impl FnOnce(&mut Line<'_>),
) {
    begin(out, stamp, style, since_epoch, level);
    content(&mut Line::new(out, style.format));
    out.push_str(end(style));
}

/// What stands before a line's content.
pub(super) fn begin(
    out: &mut String,
    stamp: &mut Stamp,
    style: Style,
    since_epoch: Duration,
    level: Level,
) {
    let json = style.format == Format::Json;
    if style.journal {
        out.push_str(level.priority());
    }
    if json {
        out.push('{');
    }
    if !style.journal {
        out.push_str(if json { "\"ts\":\"" } else { "ts=" });
        stamp.push(since_epoch, out);
        out.push_str(if json { "\"," } else { " " });
    }
}

/// What stands behind it.
pub(super) fn end(style: Style) -> &'static str {
    match style.format {
        Format::Json => "}\n",
        Format::Logfmt => "\n",
    }
}

/// A span of time in tenths of a millisecond.
pub fn tenths(span: Duration) -> u64 {
    let below = (span.subsec_nanos() + 50_000) / 100_000;
    span.as_secs()
        .saturating_mul(10_000)
        .saturating_add(u64::from(below))
}

/// A line being written.
pub struct Line<'a> {
    out: &'a mut String,
    format: Format,
    first: bool,
}

impl<'a> Line<'a> {
    /// Its content is appended to `out`.
    pub(super) fn new(out: &'a mut String, format: Format) -> Self {
        Self {
            out,
            format,
            first: true,
        }
    }

    /// Where the next thing will stand in `out`.
    pub(super) fn position(&self) -> usize {
        self.out.len()
    }

    /// How it is written.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Level, event and fields.
    pub fn event(&mut self, level: Level, event: &str, fields: &[Field<'_>]) {
        self.field("level", Value::Word(level.name()));
        self.field("event", Value::Str(event));
        self.fields(fields);
    }

    /// Further fields.
    pub fn fields(&mut self, fields: &[Field<'_>]) {
        for (key, value) in fields {
            self.field(key, *value);
        }
    }

    /// A key with what belongs around it, ready-made.
    #[inline]
    pub(super) fn raw(&mut self, text: &'static str) {
        self.out.push_str(text);
        self.first = false;
    }

    /// Keys are plain words, so they need no escapes.
    fn key(&mut self, key: &'static str) {
        let first = std::mem::replace(&mut self.first, false);
        match self.format {
            Format::Logfmt => {
                if !first {
                    self.out.push(' ');
                }
                self.out.push_str(key);
                self.out.push('=');
            }
            Format::Json => {
                self.out.push_str(if first { "\"" } else { ",\"" });
                self.out.push_str(key);
                self.out.push_str("\":");
            }
        }
    }

    fn field(&mut self, key: &'static str, value: Value<'_>) {
        self.key(key);
        self.value(value);
    }

    /// What stands behind a key.
    fn value(&mut self, value: Value<'_>) {
        match value {
            Value::Word(text) => self.word(text),
            Value::Str(text) if text.len() <= VALUE_BYTES_MAX && is_plain(text) => self.word(text),
            Value::Str(text) => self.text(text),
            Value::Display(value) => self.text(value),
            Value::U64(number) => self.number(number),
            Value::Bool(yes) => self.out.push_str(if yes { "true" } else { "false" }),
            Value::Millis(span) => self.millis(span),
        }
    }

    /// A text that is known to need neither quotes nor escapes.
    #[inline]
    pub(super) fn word(&mut self, text: &str) {
        debug_assert!(is_plain(text), "{text:?} needs quotes or escapes");
        match self.format {
            Format::Logfmt => self.out.push_str(text),
            Format::Json => {
                self.out.push('"');
                self.out.push_str(text);
                self.out.push('"');
            }
        }
    }

    /// A number.
    #[inline]
    pub(super) fn number(&mut self, number: u64) {
        self.out.push_str(itoa::Buffer::new().format(number));
    }

    /// A span of time, in milliseconds with one decimal.
    fn millis(&mut self, span: Duration) {
        self.tenths(tenths(span));
    }

    /// The same, of a span in tenths of one.
    pub(super) fn tenths(&mut self, tenths: u64) {
        self.number(tenths / 10);
        self.out.push('.');
        self.out.push(char::from(b'0' + (tenths % 10) as u8));
    }

    /// A text, escaped, in quotes (in logfmt only if it needs them).
    #[cold]
    fn text(&mut self, value: impl Display) {
        let start = self.out.len();
        self.out.push('"');
        let mut escaped = Escaped {
            out: self.out,
            left: VALUE_BYTES_MAX,
            plain: self.format == Format::Logfmt,
        };
        // A value that fails to show itself (or a full allowance) leaves what it wrote.
        let cut = write!(escaped, "{value}").is_err();
        let plain = escaped.plain && !cut && self.out.len() > start + 1;
        if plain {
            self.out.remove(start);
            return;
        }
        self.out.push_str(if cut { "…\"" } else { "\"" });
    }
}

/// Whether a text can stand as it is in both formats, as nearly all do; seen at a glance.
fn is_plain(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b'='))
}

/// Escapes what is written through it as the inside of a JSON string, and counts its bytes.
struct Escaped<'a> {
    out: &'a mut String,
    left: usize,
    /// Whether the text so far can stand in logfmt without quotes.
    plain: bool,
}

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for char in text.chars() {
            self.left = self.left.checked_sub(char.len_utf8()).ok_or(fmt::Error)?;
            self.plain &= !matches!(char, ' ' | '"' | '=' | '\\') && !forges(char);
            match char {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                // All of them lie below U+10000, so one `\u` is enough.
                _ if forges(char) => write!(self.out, "\\u{:04x}", u32::from(char))?,
                _ => self.out.push(char),
            }
        }
        Ok(())
    }
}

/// Control characters, and those that viewers take for a line end or that reorder what is seen.
fn forges(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const AT: Duration = Duration::from_millis(1_752_421_640_877);

    fn line(format: Format, journal: bool, fields: &[Field<'_>]) -> String {
        let mut line = String::new();
        let style = Style { format, journal };
        let stamp = &mut Stamp::default();
        render(&mut line, stamp, style, AT, Level::Warn, |line| {
            line.event(Level::Warn, "store is slow", fields);
        });
        line
    }

    #[test]
    fn logfmt_quotes_only_what_needs_it() {
        let fields: &[Field<'_>] = &[
            ("listen", "127.0.0.1:5000".into()),
            ("empty", "".into()),
            ("path", "a b".into()),
            ("forged", "x\nlevel=error \"\u{1b}[2J\u{2028}".into()),
            ("words", "你好".into()),
            ("bytes", 12usize.into()),
            ("took", Duration::from_micros(1260).into()),
            ("saved", false.into()),
            ("shown", Value::Display(&format_args!("{}={}", 1, 2))),
        ];
        assert_eq!(
            line(Format::Logfmt, false, fields),
            "ts=2025-07-13T15:47:20.877Z level=warn event=\"store is slow\" listen=127.0.0.1:5000 \
             empty=\"\" path=\"a b\" forged=\"x\\nlevel=error \\\"\\u001b[2J\\u2028\" words=你好 \
             bytes=12 took=1.3 saved=false shown=\"1=2\"\n"
        );
    }

    #[test]
    fn the_journal_gets_a_priority_instead_of_a_time() {
        let fields: &[Field<'_>] = &[("n", 1u64.into())];
        assert_eq!(
            line(Format::Logfmt, true, fields),
            "<4>level=warn event=\"store is slow\" n=1\n"
        );
        assert_eq!(
            line(Format::Json, true, fields),
            "<4>{\"level\":\"warn\",\"event\":\"store is slow\",\"n\":1}\n"
        );
    }

    #[test]
    fn the_time_follows_the_clock() {
        let mut stamp = Stamp::default();
        for (millis, expect) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (7, "1970-01-01T00:00:00.007Z"),
            (999, "1970-01-01T00:00:00.999Z"),
            (1_752_421_640_050, "2025-07-13T15:47:20.050Z"),
            (1_752_421_641_120, "2025-07-13T15:47:21.120Z"),
            (1_752_421_640_120, "2025-07-13T15:47:20.120Z"),
        ] {
            let mut out = String::new();
            stamp.push(Duration::from_millis(millis), &mut out);
            assert_eq!(out, expect);
        }
    }

    #[test]
    fn a_long_value_is_cut_between_characters() {
        let long = "好".repeat(1000);
        let line = line(Format::Json, false, &[("long", (&long).into())]);
        let json: serde_json::Value = serde_json::from_str(&line).unwrap();
        let expected = "好".repeat(VALUE_BYTES_MAX / 3) + "…";
        assert_eq!(json["long"], expected.as_str());
    }

    #[test]
    fn a_warm_line_needs_no_larger_buffer() {
        let (mut buffer, mut stamp) = (String::new(), Stamp::default());
        let mut once = || {
            buffer.clear();
            let fields: &[Field<'_>] = &[("status", 200u16.into()), ("id", "a b".into())];
            render(
                &mut buffer,
                &mut stamp,
                Style::default(),
                AT,
                Level::Info,
                |line| line.event(Level::Info, "request", fields),
            );
            (buffer.as_ptr(), buffer.capacity())
        };
        assert_eq!(once(), once());
    }

    proptest! {
        /// Whatever a value holds: one line, and a JSON reader gets the value back.
        #[test]
        fn no_value_forges_a_line(event in "\\PC*|(?s).{0,40}", value in "(?s).{0,200}") {
            let fields: &[Field<'_>] = &[("key", (&value).into()), ("last", 7u64.into())];
            for format in [Format::Json, Format::Logfmt] {
                let mut line = String::new();
                let style = Style { format, journal: false };
                render(&mut line, &mut Stamp::default(), style, AT, Level::Info, |line| {
                    line.event(Level::Info, &event, fields);
                });
                prop_assert_eq!(line.matches('\n').count(), 1);
                prop_assert!(!line[..line.len() - 1].contains(forges));
                if format == Format::Json {
                    let json: serde_json::Value = serde_json::from_str(&line).unwrap();
                    prop_assert_eq!(json["key"].as_str(), Some(value.as_str()));
                    prop_assert_eq!(json["last"].as_u64(), Some(7));
                } else {
                    prop_assert!(line.ends_with(" last=7\n"));
                }
            }
        }
    }
}
