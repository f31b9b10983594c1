//! Writes a line into a buffer, escaped so that no value can end it, leave its quotes or grow
//! beyond its allowance.

use std::fmt::{self, Display, Write as _};
use std::time::{Duration, UNIX_EPOCH};

use super::{Field, Format, Level, Style, VALUE_BYTES_MAX, Value};

/// Appends one line, with its line end, to `line`; `since_epoch` is the wall time.
pub fn render(
    line: &mut String,
    style: Style,
    since_epoch: Duration,
    level: Level,
    event: &str,
    fields: &[Field<'_>],
) {
    if style.journal {
        line.push_str(level.priority());
    }
    let mut writer = Line {
        out: line,
        format: style.format,
        first: true,
    };
    if style.format == Format::Json {
        writer.out.push('{');
    }
    if !style.journal {
        let time = humantime::format_rfc3339_millis(UNIX_EPOCH + since_epoch);
        writer.field("ts", Value::Display(&time));
    }
    writer.field("level", Value::Str(level.name()));
    writer.field("event", Value::Str(event));
    for (key, value) in fields {
        writer.field(key, *value);
    }
    line.push_str(match style.format {
        Format::Logfmt => "\n",
        Format::Json => "}\n",
    });
}

/// A line being written.
struct Line<'a> {
    out: &'a mut String,
    format: Format,
    first: bool,
}

impl Line<'_> {
    fn field(&mut self, key: &'static str, value: Value<'_>) {
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
                if !first {
                    self.out.push(',');
                }
                self.text(key);
                self.out.push(':');
            }
        }
        match value {
            Value::Str(text) => self.text(text),
            Value::Display(value) => self.text(value),
            Value::U64(number) => self.bare(format_args!("{number}")),
            Value::Bool(yes) => self.bare(format_args!("{yes}")),
            Value::Millis(span) => self.bare(format_args!("{:.1}", span.as_secs_f64() * 1000.0)),
        }
    }

    fn bare(&mut self, value: fmt::Arguments<'_>) {
        self.out
            .write_fmt(value)
            .expect("numbers can be written, and a String takes them");
    }

    /// A text, escaped, in quotes (in logfmt only if it needs them).
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
        render(&mut line, style, AT, Level::Warn, "store is slow", fields);
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
    fn a_long_value_is_cut_between_characters() {
        let long = "好".repeat(1000);
        let line = line(Format::Json, false, &[("long", (&long).into())]);
        let json: serde_json::Value = serde_json::from_str(&line).unwrap();
        let expected = "好".repeat(VALUE_BYTES_MAX / 3) + "…";
        assert_eq!(json["long"], expected.as_str());
    }

    #[test]
    fn a_warm_line_needs_no_larger_buffer() {
        let mut buffer = String::new();
        let mut once = || {
            buffer.clear();
            let fields: &[Field<'_>] = &[("status", 200u16.into()), ("id", "a b".into())];
            render(
                &mut buffer,
                Style::default(),
                AT,
                Level::Info,
                "request",
                fields,
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
                render(&mut line, style, AT, Level::Info, &event, fields);
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
