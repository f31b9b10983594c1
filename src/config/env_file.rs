//! An environment file, read as systemd reads `EnvironmentFile=` (systemd.exec(5), src/basic/env-file.c of
//! version 254 and later), so that a command sees what the server sees.

use std::mem::take;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    BeforeKey,
    Key,
    BeforeValue,
    Value,
    Escape,
    SingleQuoted,
    DoubleQuoted,
    DoubleQuotedEscape,
    Comment,
    CommentEscape,
}

/// All assignments, in order: of a name that stands twice, the last one counts. A line without `=` is none. A name may have
/// blanks behind it, and those that no variable can have are kept, since nobody asks for them.
pub(super) fn parse(text: &str) -> Vec<(String, String)> {
    use State::*;
    let (mut found, mut state) = (Vec::new(), BeforeKey);
    let (mut key, mut value) = (String::new(), String::new());
    // Bytes of the value that are more than blanks at its end.
    let mut kept = 0;
    for c in text.chars() {
        let ends = matches!(c, '\n' | '\r');
        let blank = ends || matches!(c, ' ' | '\t');
        // What comes next, and whether this is a part of the name or value.
        let (next, is_part) = match state {
            BeforeKey if matches!(c, '#' | ';') => (Comment, false),
            BeforeKey if blank => (BeforeKey, false),
            Key if ends => {
                key.clear();
                (BeforeKey, false)
            }
            Key if c == '=' => (BeforeValue, false),
            BeforeKey | Key => (Key, true),
            BeforeValue | Value if ends => {
                if state == Value {
                    value.truncate(kept);
                }
                found.push((take(&mut key), take(&mut value)));
                (BeforeKey, false)
            }
            BeforeValue | Value if c == '\\' => (Escape, false),
            BeforeValue if c == '\'' => (SingleQuoted, false),
            BeforeValue if c == '"' => (DoubleQuoted, false),
            BeforeValue if blank => (BeforeValue, false),
            BeforeValue | Value => (Value, true),
            // An escaped line's end is nothing.
            Escape => (Value, !ends),
            SingleQuoted if c == '\'' => (BeforeValue, false),
            DoubleQuoted if c == '"' => (BeforeValue, false),
            DoubleQuoted if c == '\\' => (DoubleQuotedEscape, false),
            SingleQuoted | DoubleQuoted => (state, true),
            DoubleQuotedEscape => {
                if !matches!(c, '"' | '\\' | '`' | '$' | '\n') {
                    value.push('\\');
                }
                (DoubleQuoted, c != '\n')
            }
            Comment if c == '\\' => (CommentEscape, false),
            Comment | CommentEscape if ends => (BeforeKey, false),
            Comment | CommentEscape => (Comment, false),
        };
        if is_part {
            let part = if next == Key { &mut key } else { &mut value };
            part.push(c);
        }
        // What is escaped counts as no blank.
        if !blank || state == Escape {
            kept = value.len();
        }
        state = next;
    }
    match state {
        BeforeKey | Key | Comment | CommentEscape => return found,
        // The end of the text ends a value as a line's end does, quoted or not.
        Value => value.truncate(kept),
        _ => {}
    }
    found.push((key, value));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What systemd's own reader makes of each text; tests/packages/booted.py asks a systemd that runs.
    #[test]
    fn a_file_means_what_it_means_to_systemd() {
        let rows: &[(&str, &[(&str, &str)])] = &[
            ("", &[]),
            ("A=b", &[("A", "b")]),
            ("A=b\r\nB = c \n", &[("A", "b"), ("B ", "c")]),
            ("  A=b\n\tB=\n", &[("A", "b"), ("B", "")]),
            ("# A=x\n; B=x\nC=#d;e\n", &[("C", "#d;e")]),
            ("# ends in \\\nA=b\n", &[("A", "b")]),
            ("no assignment\nA=b\n", &[("A", "b")]),
            ("A=one\nA=two", &[("A", "one"), ("A", "two")]),
            ("A=\"b c\"  \nB=' d '\n", &[("A", "b c"), ("B", " d ")]),
            ("A=\"b\" c \"d\"\n", &[("A", "bc \"d\"")]),
            ("A='b'\"c\"d\n", &[("A", "bcd")]),
            ("A=b\"c\"\nB=it's\n", &[("A", "b\"c\""), ("B", "it's")]),
            ("A=b\\\n  c\n", &[("A", "b  c")]),
            ("A=b\\ \nB=c\\\\d\\e\n", &[("A", "b "), ("B", "c\\de")]),
            (
                "A=\"x\\\"y\\$z\\`\\\\ \\n\\\n!\"\n",
                &[("A", "x\"y$z`\\ \\n!")],
            ),
            ("A='x\\'\n", &[("A", "x\\")]),
            ("A=\"two\nlines\"\nB=c", &[("A", "two\nlines"), ("B", "c")]),
            ("A=\"not ended \nB=c", &[("A", "not ended \nB=c")]),
            ("A=$B ${C} %h\n", &[("A", "$B ${C} %h")]),
            ("export A=b\n", &[("export A", "b")]),
            ("A==b=\n", &[("A", "=b=")]),
            ("A=密 码 \n", &[("A", "密 码")]),
        ];
        for (text, expected) in rows {
            let found = parse(text);
            let found: Vec<(&str, &str)> = found
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .collect();
            assert_eq!(found, *expected, "{text:?}");
        }
    }
}
