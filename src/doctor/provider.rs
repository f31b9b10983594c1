//! Each provider: reachable, and one question answered, which needs the key and the model; whether its model
//! can take answers as long as the row asks for; and our clock against its.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::ask::{Trouble, ask};
use super::fetch::{Handshake, Reply, Target, Unreached, fetch};
use super::{Report, SKEW_MAX};
use crate::config::{Config, Provider};
use crate::llm::transcoder::Fault;
use crate::upstream::models::Models;
use crate::upstream::{Failure, Shared, Upstream, tls};

/// Models named in a finding.
const NAMED_MAX: usize = 5;

/// Asks each provider for its list of models and one question. Must run in a `LocalSet`.
pub async fn check(report: &mut Report, config: &Config) {
    report.expect(
        "provider",
        !config.providers.is_empty(),
        "no model provider is configured: chats get 503",
        "DEEPSEEK_API_KEY=… in the environment file, or a [[provider]] row",
    );
    let upstream = match Shared::new(&config.upstream, &config.providers) {
        Ok(shared) => Upstream::new(shared),
        Err(why) => return report.check("provider", Err((why, "see [upstream]".into()))),
    };
    for (index, row) in config.providers.iter().enumerate() {
        let tls = match tls::client(&config.upstream) {
            Ok(tls) => Arc::new(tls),
            Err(why) => return report.check("provider", Err((why, "upstream.roots".into()))),
        };
        let target = Target {
            tls: row.tls,
            host: row.host.clone(),
            port: row.port,
            path: row.path.clone(),
        };
        let key = row.key.as_ref().map(|key| format!("Bearer {}", key.0));
        let key = key.iter().map(|key| ("Authorization", key.as_str()));
        let further = row.headers.iter();
        let further = further.map(|(name, value)| (name.as_str(), value.0.as_str()));
        let headers: Vec<_> = key.chain(further).collect();
        let reply = match fetch(&target, &tls, "GET", "/models", &headers, "").await {
            Ok(reply) => reply,
            Err(why) => {
                report.check("provider", Err(unreached(row, &why)));
                continue;
            }
        };
        clock(report, &row.name, &reply);
        let models = Models::parse(&reply.body).filter(|_| reply.status == 200);
        let asked = ask(&upstream, config, index).await;
        judge(report, row, asked, models.as_ref());
        if let Some(models) = models {
            room(report, row, &models);
        }
    }
}

/// What is wrong with a provider that did not answer, and the line that fixes it.
fn unreached(row: &Provider, why: &Unreached) -> (String, String) {
    let name = &row.name;
    let what = match why.handshake {
        Some(_) => format!("{name}: {why}"),
        None => format!("{name} cannot be reached: {why}"),
    };
    let fix = match why.handshake {
        Some(Handshake::Certificate) => {
            "base_url with the name in its certificate, and upstream.ca_file if its authority is your own".to_owned()
        }
        Some(Handshake::NoTls) => "base_url = \"http://…\", or the port that speaks TLS".to_owned(),
        Some(Handshake::Refused) => format!(
            "openssl s_client -connect {0}:{1} -servername {0} shows why",
            row.host, row.port
        ),
        None => format!("curl -v {}/models shows why", row.base_url()),
    };
    (what, fix)
}

/// Our clock against the one that answered.
pub fn clock(report: &mut Report, whose: &str, reply: &Reply) {
    let Some(skew) = reply.skew else { return };
    let (off, way) = (skew.abs(), if skew > 0.0 { "ahead of" } else { "behind" });
    report.expect(
        "clock",
        off <= SKEW_MAX.as_secs_f64(),
        format!("this host's clock is {off:.0} s {way} that of {whose}"),
        "timedatectl set-ntp true",
    );
}

/// What the question shows. Lists may be wrong, or need another key: they only explain a failure.
fn judge(
    report: &mut Report,
    row: &Provider,
    asked: Result<Duration, Trouble>,
    models: Option<&Models>,
) {
    let name = &row.name;
    let trouble = match asked {
        Ok(first) => {
            let ms = first.as_millis();
            let note = format!("{name}: ok, the first text after {ms} ms");
            report.notes.push(note);
            return report.check("provider", Ok(()));
        }
        Err(trouble) => trouble,
    };
    let text = trouble.text();
    let is_missing = matches!(trouble, Trouble::Failed(Failure::ModelNotServed { .. }));
    if is_missing || models.is_some_and(|models| !models.serves(&row.model)) {
        let some: Vec<&str> =
            models.map_or(Vec::new(), |models| models.ids().take(NAMED_MAX).collect());
        let what = format!("{name} does not serve the model {:?}: {text}", row.model);
        let one = match some.is_empty() {
            true => String::new(),
            false => format!(" with one of: {}", some.join(", ")),
        };
        let fix = format!("model = \"…\" (DEEPSEEK_MODEL){one}");
        return report.check("provider model", Err((what, fix)));
    }
    let is_nowhere = models.is_none()
        && matches!(
            trouble,
            Trouble::Failed(
                Failure::NoEventStream
                    | Failure::Refused {
                        status: 404 | 405,
                        ..
                    }
            )
        );
    if let Some(url) = is_nowhere.then(|| meant(row)).flatten() {
        let what = format!("{name}: {text} at {}", row.base_url());
        let fix = format!("base_url = \"{url}\" in the row (DEEPSEEK_BASE_URL)");
        return report.check("provider", Err((what, fix)));
    }
    let (check, fix) = match trouble {
        Trouble::Failed(Failure::Refused {
            status: 401 | 403, ..
        }) => (
            "provider key",
            "put a valid key into the variable that the row's key_env names (DEEPSEEK_API_KEY)"
                .to_owned(),
        ),
        Trouble::Stream(Fault::Cut) => (
            "provider",
            "done_is_complete = true in the row, if its gateway never sends a finish reason"
                .to_owned(),
        ),
        Trouble::Empty(_) | Trouble::NoText => (
            "provider",
            "switch thinking off in extra (see cloudchat example-config), or a larger max_tokens"
                .to_owned(),
        ),
        _ => (
            "provider",
            format!("curl -v {}/chat/completions shows why", row.base_url()),
        ),
    };
    report.check(check, Err((format!("{name}: {text}"), fix)));
}

/// The base URL that is probably meant, where nothing is found under the row's own: most end in a version.
fn meant(row: &Provider) -> Option<String> {
    let url = row.base_url();
    if let Some(base) = url.strip_suffix("/chat/completions") {
        return Some(base.to_owned());
    }
    let is_version = |part: &str| {
        let number = part.strip_prefix('v');
        number.is_some_and(|number| number.starts_with(|c: char| c.is_ascii_digit()))
    };
    (!row.path.split('/').any(is_version)).then(|| url + "/v1")
}

/// Whether an answer of the longest length leaves room for its question.
fn room(report: &mut Report, row: &Provider, models: &Models) {
    let extra = format!("{{{}}}", row.extra);
    let extra: Value = serde_json::from_str(&extra).unwrap_or_default();
    let longest = ["max_tokens", "max_completion_tokens"];
    let longest = longest
        .iter()
        .filter_map(|key| Some((*key, extra[*key].as_u64()?)));
    let longest = longest.max_by_key(|(_, tokens)| *tokens);
    let (Some((key, tokens)), Some(context)) = (longest, models.context(&row.model)) else {
        return;
    };
    report.expect(
        "provider context",
        tokens < context,
        format!(
            "{}: {key} {tokens} leaves no room in the model's context of {context} tokens",
            row.name
        ),
        format!("{key} = {} in the row", (context / 4).max(1)),
    );
}
