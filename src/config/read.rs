//! Reads a TOML table key by key and keeps going after a mistake, so that all are reported.
//!
//! A key is declared in one place: the call that reads it names it, its default and what is
//! allowed. An environment variable that belongs to a key replaces what the file says.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::{Table, Value};

use super::environment::Environment;
use super::parse;

/// Looks up an environment variable.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What was read so far of the file and the environment.
pub struct Reader<'a> {
    /// The file's name as the operator gave it.
    file: String,
    root: Table,
    /// The variables.
    pub env: Environment<'a>,
    /// One line each.
    pub mistakes: Vec<String>,
    /// Full names of all keys that were asked for.
    pub known: Vec<String>,
}

impl<'a> Reader<'a> {
    /// Parses `text`; a syntax error is the first mistake and leaves the defaults.
    pub fn new(file: String, text: &str, env: Lookup<'a>) -> Self {
        let mut mistakes = Vec::new();
        let root = text.parse().unwrap_or_else(|error: toml::de::Error| {
            let offset = error.span().map_or(0, |span| span.start);
            let (line, column) = position(text, offset);
            let message = error.message().replace('\n', "; ");
            mistakes.push(format!("{file}:{line}:{column}: no TOML: {message}"));
            Table::new()
        });
        Self {
            file,
            root,
            env: Environment::new(env),
            mistakes,
            known: Vec::new(),
        }
    }

    /// An environment variable of ours; see [`Environment::get`].
    pub fn variable(&self, name: &str) -> Option<String> {
        self.env.get(name)
    }

    /// Notes a mistake at `key` of the file.
    pub fn mistake(&mut self, key: &str, what: impl Display) {
        self.mistakes.push(format!("{}: {key}: {what}", self.file));
    }

    /// Notes a mistake in an environment variable.
    pub fn variable_mistake(&mut self, name: &str, what: impl Display) {
        self.mistakes.push(format!("environment: {name}: {what}"));
    }

    /// The table of this name, empty if the file has none.
    pub fn section(&mut self, name: &'static str) -> Section<'_, 'a> {
        self.known.push(name.into());
        let table = match self.root.remove(name) {
            None => Table::new(),
            Some(Value::Table(table)) => table,
            Some(_) => {
                self.mistake(name, format_args!("must be a table: [{name}]"));
                Table::new()
            }
        };
        Section::new(self, name.into(), table)
    }

    /// The array of tables of this name, empty if the file has none.
    pub fn rows(&mut self, name: &'static str) -> Vec<Table> {
        self.known.push(name.into());
        let rows = match self.root.remove(name) {
            None => Some(Vec::new()),
            Some(Value::Array(rows)) => rows
                .into_iter()
                .map(|row| match row {
                    Value::Table(table) => Some(table),
                    _ => None,
                })
                .collect(),
            Some(_) => None,
        };
        rows.unwrap_or_else(|| {
            self.mistake(name, format_args!("must be tables: [[{name}]]"));
            Vec::new()
        })
    }

    /// Reports the tables that nobody asked for.
    pub fn finish(&mut self) {
        let sections: Vec<String> = self
            .known
            .iter()
            .filter(|key| !key.contains('.'))
            .cloned()
            .collect();
        for name in std::mem::take(&mut self.root).keys() {
            self.mistake(name, unknown(name, &sections, "section"));
        }
    }
}

/// A key, and the environment variable that replaces it.
#[derive(Clone, Copy)]
pub struct Key(&'static str, Option<&'static str>);

impl From<&'static str> for Key {
    fn from(name: &'static str) -> Self {
        Self(name, None)
    }
}

impl From<(&'static str, &'static str)> for Key {
    fn from((name, variable): (&'static str, &'static str)) -> Self {
        Self(name, Some(variable))
    }
}

/// One table of the file.
pub struct Section<'r, 'a> {
    /// The reader, for mistakes and variables.
    pub reader: &'r mut Reader<'a>,
    path: String,
    table: Table,
    known: Vec<String>,
}

impl<'r, 'a> Section<'r, 'a> {
    /// A table that stands at `path` in the file.
    pub fn new(reader: &'r mut Reader<'a>, path: String, table: Table) -> Self {
        Self {
            reader,
            path,
            table,
            known: Vec::new(),
        }
    }

    /// The array of tables of this name in this table, empty if there is none.
    pub fn rows(&mut self, name: &'static str) -> Vec<Table> {
        let path = format!("{}.{name}", self.path);
        let tables = |value: &Value| -> Option<Vec<Table>> {
            let rows = value.as_array()?.iter();
            rows.map(|row| row.as_table().cloned()).collect()
        };
        let rows = self.parsed(
            name,
            |_| None,
            |value| tables(value).ok_or_else(|| format!("must be tables: [[{path}]]")),
        );
        rows.unwrap_or_default()
    }

    /// Reports the keys that nobody asked for.
    pub fn finish(self) {
        for name in self.table.keys() {
            let what = unknown(name, &self.known, "key");
            self.reader.mistake(&format!("{}.{name}", self.path), what);
        }
    }

    /// Notes a mistake at `key` of this table.
    pub fn mistake(&mut self, key: &str, what: impl Display) {
        self.reader.mistake(&format!("{}.{key}", self.path), what);
    }

    /// Whether a mistake has been noted for `key` of this table or for its variable.
    pub fn has_mistake(&self, key: &str, variable: &str) -> bool {
        let ours = [
            format!(": {}.{key}: ", self.path),
            format!("environment: {variable}: "),
        ];
        let mut mistakes = self.reader.mistakes.iter();
        mistakes.any(|line| ours.iter().any(|ours| line.contains(ours)))
    }

    /// What the environment (made a TOML value by `typed`) or the file holds, parsed; `None` if
    /// neither has the key or the value is a mistake, which is then noted.
    pub fn parsed<T>(
        &mut self,
        key: impl Into<Key>,
        typed: impl Fn(&str) -> Option<Value>,
        parse: impl Fn(&Value) -> Result<T, String>,
    ) -> Option<T> {
        let Key(name, variable) = key.into();
        self.known.push(name.into());
        self.reader.known.push(format!("{}.{name}", self.path));
        let in_file = self.table.remove(name);
        let in_env = variable.and_then(|name| Some((name, self.reader.variable(name)?)));
        if let Some((variable, text)) = in_env {
            let value = typed(&text).unwrap_or(Value::String(text));
            return parse(&value)
                .map_err(|what| self.reader.variable_mistake(variable, what))
                .ok();
        }
        parse(&in_file?)
            .map_err(|what| self.mistake(name, what))
            .ok()
    }

    /// `true` or `false`; in the environment also 1, 0, yes, no, on, off.
    pub fn bool(&mut self, key: impl Into<Key>, default: bool) -> bool {
        let key = key.into();
        let is_in_env = key
            .1
            .is_some_and(|name| self.reader.variable(name).is_some());
        let allowed = if is_in_env { "1 or 0" } else { "true or false" };
        self.parsed(key, truth, |value| {
            value
                .as_bool()
                .ok_or_else(|| format!("{} is not allowed; {allowed}", shown(value)))
        })
        .unwrap_or(default)
    }

    /// A whole number within bounds.
    pub fn integer<T>(&mut self, key: impl Into<Key>, default: T, bounds: RangeInclusive<T>) -> T
    where
        T: TryFrom<i64> + PartialOrd + Display,
    {
        let typed = |text: &str| text.trim().parse().ok().map(Value::Integer);
        let parse = |value: &Value| {
            value
                .as_integer()
                .and_then(|number| T::try_from(number).ok())
                .filter(|number| bounds.contains(number))
                .ok_or_else(|| {
                    let (low, high) = (bounds.start(), bounds.end());
                    let given = shown(value);
                    format!("{given} is not allowed; a whole number from {low} to {high}")
                })
        };
        self.parsed(key, typed, parse).unwrap_or(default)
    }

    /// A number of any kind within bounds.
    pub fn number(
        &mut self,
        key: impl Into<Key>,
        default: f64,
        bounds: RangeInclusive<f64>,
        what: &str,
    ) -> f64 {
        let typed = |text: &str| text.trim().parse().ok().map(Value::Float);
        let parse = |value: &Value| {
            #[expect(clippy::cast_precision_loss, reason = "bounds are far below 2^52")]
            let number = value
                .as_float()
                .or(value.as_integer().map(|number| number as f64));
            number
                .filter(|number| bounds.contains(number))
                .ok_or_else(|| {
                    let (low, high) = (bounds.start(), bounds.end());
                    format!(
                        "{} is not allowed; {what} from {low} to {high}",
                        shown(value)
                    )
                })
        };
        self.parsed(key, typed, parse).unwrap_or(default)
    }

    /// A span of time in seconds, fractions allowed.
    pub fn seconds(
        &mut self,
        key: impl Into<Key>,
        default: f64,
        bounds: RangeInclusive<f64>,
    ) -> Duration {
        Duration::from_secs_f64(self.number(key, default, bounds, "seconds"))
    }

    /// A size: bytes as a number, or a text such as `"64K"`; bounds in bytes.
    pub fn bytes(
        &mut self,
        key: impl Into<Key>,
        default: &'static str,
        bounds: RangeInclusive<u64>,
    ) -> u64 {
        let parse = |value: &Value| {
            let number = match value {
                Value::Integer(number) => u64::try_from(*number).ok(),
                Value::String(text) => parse::bytes(text),
                _ => None,
            };
            number
                .filter(|number| bounds.contains(number))
                .ok_or_else(|| {
                    let low = parse::bytes_shown(*bounds.start());
                    let high = parse::bytes_shown(*bounds.end());
                    format!(
                        "{} is not allowed; a size from {low} to {high}, such as 65536 or \"64K\"",
                        shown(value)
                    )
                })
        };
        let given = self.parsed(key, |_| None, parse);
        given.unwrap_or_else(|| parse::bytes(default).expect("defaults are sizes"))
    }

    /// [`bytes`](Self::bytes) of something that lies in memory.
    pub fn memory(
        &mut self,
        key: impl Into<Key>,
        default: &'static str,
        bounds: RangeInclusive<u64>,
    ) -> usize {
        usize::try_from(self.bytes(key, default, bounds)).expect("pointers have 64 bits")
    }

    /// A text that `parse` accepts; its error says what is allowed.
    pub fn text<T>(
        &mut self,
        key: impl Into<Key>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let parse = |value: &Value| match value {
            Value::String(text) => parse(text),
            _ => Err(format!("{} is no text (in quotes)", shown(value))),
        };
        self.parsed(key, |_| None, parse)
    }

    /// One of a few words; the first is the default.
    pub fn choice<T: Copy>(&mut self, key: impl Into<Key>, words: &[(&str, T)]) -> T {
        let chosen = self.text(key, |text| {
            let found = words.iter().find(|(word, _)| *word == text);
            found.map(|(_, value)| *value).ok_or_else(|| {
                let words: Vec<String> = words.iter().map(|(word, _)| quoted(word)).collect();
                format!("{} is not allowed; {}", quoted(text), words.join(" or "))
            })
        });
        chosen.unwrap_or(words[0].1)
    }

    /// A list of texts; each wrong element is a mistake of its own.
    pub fn list<T>(
        &mut self,
        key: &'static str,
        default: &[&str],
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let elements = self.parsed(
            key,
            |_| None,
            |value| match value {
                Value::Array(elements) => Ok(elements.clone()),
                _ => Err(format!("{} is no list, such as [\"…\"]", shown(value))),
            },
        );
        let elements =
            elements.unwrap_or_else(|| default.iter().map(|text| (*text).into()).collect());
        let mut list = Vec::new();
        for (i, element) in elements.iter().enumerate() {
            let parsed = match element {
                Value::String(text) => parse(text),
                other => Err(format!("{} is no text (in quotes)", shown(other))),
            };
            match parsed {
                Ok(value) => list.push(value),
                Err(what) => self.mistake(&format!("{key}[{i}]"), what),
            }
        }
        list
    }
}

/// What the environment calls `true` or `false`.
pub fn truth(text: &str) -> Option<Value> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Some(Value::Boolean(true)),
        "0" | "false" | "no" | "off" => Some(Value::Boolean(false)),
        _ => None,
    }
}

/// A value as the operator wrote it, cut to a readable length, on one line.
pub fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        Value::Array(_) => "a list".into(),
        Value::Table(_) => "a table".into(),
        other => other.to_string(),
    }
}

/// A text in quotes, escaped and cut, so that it stays on one readable line.
pub fn quoted(text: &str) -> String {
    const SHOWN_MAX: usize = 60;
    let cut = text.chars().nth(SHOWN_MAX).is_some();
    let head: String = text.chars().take(SHOWN_MAX).collect();
    format!("{head:?}{}", if cut { "…" } else { "" })
}

/// Line and column (in characters) of a byte offset, from 1.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let line = before.matches('\n').count() + 1;
    (line, before[line_start..].chars().count() + 1)
}

/// The complaint about a name that is not among the known ones.
fn unknown(name: &str, known: &[String], kind: &str) -> String {
    let nearest = known.iter().min_by_key(|known| distance(name, known));
    match nearest.filter(|known| distance(name, known) <= 1 + known.len() / 4) {
        Some(known) => format!("unknown {kind}; did you mean {known}?"),
        None => format!("unknown {kind}; known are {}", known.join(", ")),
    }
}

/// How many characters must be added, dropped or replaced (Levenshtein).
pub fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.chars().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[row.len() - 1]
}
