//! Further header fields of a provider's requests: what `headers` in a row of `[[provider]]` may hold.

use toml::Value;

use super::Secret;
use super::read::{Section, quoted};

/// Most fields of one row.
const FIELDS_MAX: usize = 16;
/// Most bytes of them together, each with its `: ` and its line end.
const FIELDS_BYTES_MAX: usize = 4096;
/// Fields that CloudChat writes itself, or that say where a message ends and what comes of its connection; in
/// lower case. Those that begin with `proxy-` are refused, too.
const OURS: [&str; 17] = [
    "accept",
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "date",
    "expect",
    "host",
    "keep-alive",
    "range",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
];

/// The fields in the order of their names. The values may be secrets: no mistake repeats one.
pub fn read(section: &mut Section<'_, '_>, has_key: bool) -> Vec<(String, Secret)> {
    let fields = section.parsed("headers", |_| None, |value| fields(value, has_key));
    fields.unwrap_or_default()
}

fn fields(value: &Value, has_key: bool) -> Result<Vec<(String, Secret)>, String> {
    let Some(table) = value.as_table() else {
        return Err("must be a table, such as { \"X-Title\" = \"chat\" }".into());
    };
    if table.len() > FIELDS_MAX {
        return Err(format!("at most {FIELDS_MAX} are allowed"));
    }
    let mut fields: Vec<(String, Secret)> = Vec::new();
    let mut bytes = 0;
    for (name, value) in table {
        may_be_set(name, has_key)?;
        if fields
            .iter()
            .any(|(other, _)| other.eq_ignore_ascii_case(name))
        {
            return Err(format!("{} stands there twice", quoted(name)));
        }
        let value = value.as_str().filter(|value| is_value(value));
        let value = value.ok_or_else(|| {
            let name = quoted(name);
            format!("the value of {name} must be visible ASCII characters, in quotes; spaces and tabs between them")
        })?;
        bytes += name.len() + value.len() + 4;
        fields.push((name.clone(), Secret(value.into())));
    }
    if bytes > FIELDS_BYTES_MAX {
        return Err(format!(
            "at most {FIELDS_BYTES_MAX} bytes are allowed, these are {bytes}"
        ));
    }
    Ok(fields)
}

/// Whether a row may set this field; Err: why not.
fn may_be_set(name: &str, has_key: bool) -> Result<(), String> {
    if name.is_empty() || !name.bytes().all(is_token) {
        let name = quoted(name);
        return Err(format!(
            "{name} is no field's name (A-Z a-z 0-9 and !#$%&'*+-.^_`|~)"
        ));
    }
    let lower = name.to_ascii_lowercase();
    if OURS.contains(&lower.as_str()) || lower.starts_with("proxy-") {
        return Err(format!("{name} is set by the server and not allowed here"));
    }
    if has_key && lower == "authorization" {
        return Err(format!(
            "{name} carries the key already; key_env = \"\" leaves it to headers"
        ));
    }
    Ok(())
}

/// A character of a token (RFC 9110, 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether this may be a field's value (RFC 9110, 5.5), without what it calls obsolete.
fn is_value(text: &str) -> bool {
    let is_within = |byte: u8| byte.is_ascii_graphic() || matches!(byte, b' ' | b'\t');
    let is_blank = |byte: &u8| !byte.is_ascii_graphic();
    let bytes = text.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    bytes.iter().all(|byte| is_within(*byte)) && !ends.iter().any(|end| end.is_none_or(is_blank))
}
