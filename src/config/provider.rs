//! The rows of `[[provider]]`, and the one that the old service's variables describe.

use serde_json::{Map, Value as Json};
use toml::{Table, Value};

use super::read::{Reader, Section, quoted};
use super::{Provider, Secret, headers, parse};

/// Providers whose rows may leave out the rest.
struct Known {
    name: &'static str,
    base_url: &'static str,
    model: &'static str,
    key_env: &'static str,
    /// Variables that fill in what the row leaves out.
    model_env: Option<&'static str>,
    base_url_env: Option<&'static str>,
}

const KNOWN: [Known; 3] = [
    Known {
        name: "deepseek",
        base_url: "https://api.deepseek.com/v1",
        model: "deepseek-flash",
        key_env: "DEEPSEEK_API_KEY",
        model_env: Some("DEEPSEEK_MODEL"),
        base_url_env: Some("DEEPSEEK_BASE_URL"),
    },
    Known {
        name: "dashscope",
        base_url: "https://dashscope.aliyuncs.com/compatible-mode/v1",
        model: "qwen-plus",
        key_env: "DASHSCOPE_API_KEY",
        model_env: Some("QWEN_MODEL"),
        base_url_env: None,
    },
    Known {
        name: "openai",
        base_url: "https://api.openai.com/v1",
        model: "gpt-4.1-mini",
        key_env: "OPENAI_API_KEY",
        model_env: None,
        base_url_env: None,
    },
];

/// The variables that providers may take, whether or not one was asked for.
pub fn variables() -> Vec<&'static str> {
    let of = |known: &Known| [Some(known.key_env), known.model_env, known.base_url_env];
    KNOWN.iter().flat_map(of).flatten().collect()
}

/// Most rows; each costs connections of its own.
const PROVIDERS_MAX: usize = 16;
/// Longest key accepted: it must fit into a request head.
const KEY_BYTES_MAX: usize = 4096;
/// Members of the request that are the server's own business.
const RESERVED: [&str; 4] = ["model", "messages", "stream", "user"];
/// Models the provider has switched off, with its host.
const RETIRED: [(&str, &str); 2] = [
    ("api.deepseek.com", "deepseek-chat"),
    ("api.deepseek.com", "deepseek-reasoner"),
];

/// All rows in their order. Without any, the one that `DEEPSEEK_API_KEY` or `DEEPSEEK_BASE_URL`
/// describes, if they are set.
pub fn read(reader: &mut Reader<'_>, warnings: &mut Vec<String>) -> Vec<Provider> {
    let mut rows = reader.rows("provider");
    let from_env = rows.is_empty();
    if from_env {
        let set = |name| reader.variable(name).is_some();
        if !set("DEEPSEEK_API_KEY") && !set("DEEPSEEK_BASE_URL") {
            warnings.push(
                "no provider: chats get 503; set DEEPSEEK_API_KEY or write a [[provider]]".into(),
            );
            return Vec::new();
        }
        rows.push(Table::from_iter([("name".into(), Value::from("deepseek"))]));
    }
    if rows.len() > PROVIDERS_MAX {
        reader.mistake(
            "provider",
            format_args!("at most {PROVIDERS_MAX} are allowed"),
        );
    }
    let mut providers: Vec<Provider> = Vec::new();
    for (i, table) in rows.into_iter().enumerate() {
        let Some(provider) = row(
            Section::new(reader, format!("provider[{i}]"), table),
            warnings,
        ) else {
            continue;
        };
        if providers.iter().any(|other| other.name == provider.name) {
            let what = format!(
                "{} is the name of an earlier row too",
                quoted(&provider.name)
            );
            reader.mistake(&format!("provider[{i}].name"), what);
        }
        providers.push(provider);
    }
    providers
}

/// One row; `None` if something in it is missing or wrong, which is then noted.
fn row(mut section: Section<'_, '_>, warnings: &mut Vec<String>) -> Option<Provider> {
    let mistakes_before = section.reader.mistakes.len();
    let name = section.text("name", name);
    let known = KNOWN
        .iter()
        .find(|known| Some(known.name) == name.as_deref());
    let url = base_url(&mut section, known);
    let model = model(&mut section, known);
    let key = key(&mut section, known);
    let headers = headers::read(&mut section, key.secret.is_some());
    let send_user = section.bool("send_user", false);
    let done_is_complete = section.bool("done_is_complete", false);
    let temperature = section.number("temperature", 0.7, 0.0..=2.0, "a number");
    let max_tokens = section.integer("max_tokens", 2000, 0..=1_000_000u32);
    let extra = extra(&mut section, temperature, max_tokens);
    if section.reader.mistakes.len() == mistakes_before {
        for (key, missing) in [
            ("name", name.is_none()),
            ("base_url", url.is_none()),
            ("model", model.is_none()),
        ] {
            if missing {
                section.mistake(
                    key,
                    "is missing (only deepseek, dashscope and openai need none)",
                );
            }
        }
    }
    section.finish();
    let (name, url, model) = (name?, url?, model?);
    warn(warnings, &name, &url, &model, &key);
    Some(Provider {
        name,
        tls: url.tls,
        host: url.host,
        port: url.port,
        path: url.path,
        model,
        key: key.secret,
        headers,
        send_user,
        done_is_complete,
        extra,
    })
}

fn name(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if text.is_empty() || text.len() > 32 || !text.bytes().all(plain) {
        return Err(format!(
            "{} is no name (1 to 32 of A-Z a-z 0-9 . _ -)",
            quoted(text)
        ));
    }
    Ok(text.into())
}

fn base_url(section: &mut Section<'_, '_>, known: Option<&Known>) -> Option<parse::Url> {
    let mistakes_before = section.reader.mistakes.len();
    let written = section.text("base_url", parse::url);
    // What is wrong has been noted; no default takes its place.
    if written.is_some() || section.reader.mistakes.len() > mistakes_before {
        return written;
    }
    let known = known?;
    let variable = known
        .base_url_env
        .and_then(|name| Some((name, section.reader.variable(name)?)));
    let Some((name, text)) = variable else {
        return parse::url(known.base_url).ok();
    };
    parse::url(text.trim())
        .map_err(|what| section.reader.variable_mistake(name, what))
        .ok()
}

fn model(section: &mut Section<'_, '_>, known: Option<&Known>) -> Option<String> {
    let check = |text: &str| {
        if text.is_empty() || text.len() > 256 || text.contains(char::is_control) {
            return Err(format!("{} is no model (1 to 256 bytes)", quoted(text)));
        }
        Ok(String::from(text))
    };
    let mistakes_before = section.reader.mistakes.len();
    let written = section.text("model", check);
    if written.is_some() || section.reader.mistakes.len() > mistakes_before {
        return written;
    }
    let known = known?;
    let variable = known
        .model_env
        .and_then(|name| Some((name, section.reader.variable(name)?)));
    let Some((name, text)) = variable else {
        return Some(known.model.into());
    };
    check(text.trim())
        .map_err(|what| section.reader.variable_mistake(name, what))
        .ok()
}

/// A row's key, and the variable it was looked for in.
struct Key {
    variable: String,
    secret: Option<Secret>,
}

fn key(section: &mut Section<'_, '_>, known: Option<&Known>) -> Key {
    // The text is not repeated: a key may stand where its variable should.
    let written = section.text("key_env", |text| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let digit_first = text.starts_with(|first: char| first.is_ascii_digit());
        if digit_first || !text.bytes().all(plain) {
            return Err("is no variable's name (A-Z a-z 0-9 _), or \"\" for no key".into());
        }
        Ok(String::from(text))
    });
    let variable =
        written.unwrap_or_else(|| known.map(|known| known.key_env).unwrap_or_default().into());
    let mut secret = None;
    if !variable.is_empty()
        && let Some(text) = section.reader.variable(&variable)
    {
        let text = text.trim();
        if text.len() <= KEY_BYTES_MAX && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            secret = Some(Secret(text.into())).filter(|secret| !secret.0.is_empty());
        } else {
            let what = format!("is no key (up to {KEY_BYTES_MAX} visible ASCII characters)");
            section.reader.variable_mistake(&variable, what);
        }
    }
    Key { variable, secret }
}

/// The request's further members; what `extra` names replaces the other keys.
fn extra(section: &mut Section<'_, '_>, temperature: f64, max_tokens: u32) -> String {
    let written = section.parsed(
        "extra",
        |_| None,
        |value| {
            let Some(table) = value.as_table() else {
                return Err("must be a table, such as { enable_thinking = false }".into());
            };
            if let Some(name) = RESERVED.into_iter().find(|name| table.contains_key(*name)) {
                return Err(format!("{name} is set by the server and not allowed here"));
            }
            json(value)
        },
    );
    let mut members = Map::new();
    members.insert("temperature".into(), temperature.into());
    if max_tokens > 0 {
        members.insert("max_tokens".into(), max_tokens.into());
    }
    if let Some(Json::Object(written)) = written {
        members.extend(written);
    }
    let object = Json::Object(members).to_string();
    object[1..object.len() - 1].into()
}

/// A TOML value as JSON, which has no dates, infinities and NaN.
fn json(value: &Value) -> Result<Json, String> {
    Ok(match value {
        Value::String(text) => text.clone().into(),
        Value::Integer(number) => (*number).into(),
        Value::Boolean(yes) => (*yes).into(),
        Value::Float(number) if number.is_finite() => (*number).into(),
        Value::Float(_) | Value::Datetime(_) => {
            return Err(format!("{value} cannot be written as JSON"));
        }
        Value::Array(elements) => elements.iter().map(json).collect::<Result<_, _>>()?,
        Value::Table(table) => {
            let member = |(key, value): (&String, &Value)| Ok((key.clone(), json(value)?));
            Json::Object(table.iter().map(member).collect::<Result<_, String>>()?)
        }
    })
}

/// What works, but probably not as meant.
fn warn(warnings: &mut Vec<String>, name: &str, url: &parse::Url, model: &str, key: &Key) {
    let loopback = url.host == "localhost"
        || url
            .host
            .parse()
            .is_ok_and(|address: std::net::IpAddr| address.is_loopback());
    if RETIRED.contains(&(&url.host, model)) {
        warnings.push(format!(
            "provider {name}: {model} is no longer served; chats will get 502 (Model not served)"
        ));
    }
    if key.secret.is_none() && !key.variable.is_empty() && !loopback {
        warnings.push(format!(
            "provider {name}: {} is not set, requests go without a key",
            key.variable
        ));
    }
    if key.secret.is_some() && !url.tls && !loopback {
        warnings.push(format!(
            "provider {name}: the key travels unencrypted (http://)"
        ));
    }
}
