//! Each provider: reachable, the key accepted, the model served; and our clock against its.

use std::sync::Arc;

use serde_json::Value;

use super::fetch::{Reply, Target, fetch};
use super::{Report, SKEW_MAX};
use crate::config::{Config, Provider};
use crate::upstream::tls;

/// Models named in a finding.
const NAMED_MAX: usize = 5;

pub async fn check(report: &mut Report, config: &Config) {
    report.expect(
        "provider",
        !config.providers.is_empty(),
        "no model provider is configured: chats get 503",
        "DEEPSEEK_API_KEY=… in the environment file, or a [[provider]] row",
    );
    for row in &config.providers {
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
        let headers: Vec<_> = key
            .iter()
            .map(|key| ("Authorization", key.as_str()))
            .collect();
        let reply = match fetch(&target, &tls, "GET", "/models", &headers, "").await {
            Ok(reply) => reply,
            Err(why) => {
                let what = format!("{} cannot be reached: {why}", row.name);
                let fix = format!("curl -v {}/models shows why", row.base_url());
                report.check("provider", Err((what, fix)));
                continue;
            }
        };
        judge(report, row, &reply);
        clock(report, &row.name, &reply);
    }
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

fn judge(report: &mut Report, row: &Provider, reply: &Reply) {
    let name = &row.name;
    let is_refused = matches!(reply.status, 401 | 403);
    report.expect(
        "provider key",
        !is_refused,
        format!("{name} refuses the key (status {})", reply.status),
        "put a valid key into the variable that the row's key_env names (DEEPSEEK_API_KEY)",
    );
    if is_refused {
        return;
    }
    let list: Option<Value> = serde_json::from_slice(&reply.body).ok();
    let models = list.as_ref().and_then(|list| list["data"].as_array());
    let (200, Some(models)) = (reply.status, models) else {
        // Some servers have no such list; whether they answer, the first chat shows.
        report.expect(
            "provider",
            reply.status < 500,
            format!("{name} answers with status {}", reply.status),
            format!("curl -v {}/models shows why", row.base_url()),
        );
        return;
    };
    let ids: Vec<&str> = models
        .iter()
        .filter_map(|model| model["id"].as_str())
        .collect();
    let some: Vec<&str> = ids.iter().take(NAMED_MAX).copied().collect();
    report.expect(
        "provider model",
        ids.contains(&row.model.as_str()),
        format!("{name} does not serve the model {:?}", row.model),
        format!(
            "model = \"…\" (DEEPSEEK_MODEL) with one of: {}",
            some.join(", ")
        ),
    );
}
