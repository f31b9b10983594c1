//! The site as visitors reach it: what the proxy in front does to answers and to addresses.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::Report;
use super::fetch::{Reply, Target, Unreached, fetch};
use super::provider::clock;
use crate::config::Config;
use crate::entropy;
use crate::upstream::tls;

/// Registrations that one address has within the hour, and one more.
const REGISTRATIONS: usize = 11;
/// Texts that an answer must have for its pace to tell anything.
const TEXTS_MIN: usize = 5;
/// Texts that came over a longer time than this were not held back.
const BURST: Duration = Duration::from_millis(20);
/// A whole answer that took less may well be a fast model's.
const PACE_MIN: Duration = Duration::from_millis(100);
/// Long enough to show the pace, short enough to cost next to nothing.
const QUESTION: &str = r#"{"message":"Count from 1 to 20, one number a line."}"#;

struct Site {
    target: Target,
    tls: Arc<rustls::ClientConfig>,
}

impl Site {
    async fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<Reply, Unreached> {
        fetch(&self.target, &self.tls, method, path, headers, body).await
    }
}

/// Looks at the site. Err: the URL is none.
pub async fn check(report: &mut Report, config: &Config, url: &str) -> Result<(), String> {
    let site = Site {
        target: target(url).ok_or(format!(
            "--url: {url:?} is no URL such as https://example.com/cloudchat"
        ))?,
        tls: Arc::new(tls::client(&config.upstream)?),
    };
    let (first, second) = match (
        site.ask("GET", "/test", &[], "").await,
        site.ask("GET", "/test", &[], "").await,
    ) {
        (Ok(first), Ok(second)) => (first, second),
        (Err(why), _) | (_, Err(why)) => {
            let fix = "systemctl status nginx cloudchat; curl -v shows why".to_owned();
            report.check(
                "site",
                Err((format!("{url} cannot be reached: {why}"), fix)),
            );
            return Ok(());
        }
    };
    report.expect(
        "site",
        first.status == 200,
        format!("{url}/test answers with status {}", first.status),
        "proxy_pass http://cloudchat/; in location /cloudchat/ (the slash strips the prefix)",
    );
    if first.status != 200 {
        return Ok(());
    }
    clock(report, "the site", &first);
    cache(report, &site, &first, &second).await;
    if let Err(why) = cookies(report, &site).await {
        report.check(
            "cookies",
            Err((why.to_string(), "curl -v shows why".into())),
        );
    }
    if let Err(why) = address(report, config, &site).await {
        report.check(
            "client address",
            Err((why.to_string(), "curl -v shows why".into())),
        );
    }
    if let Err(why) = stream(report, &site).await {
        report.check("stream", Err((why.to_string(), "curl -v shows why".into())));
    }
    Ok(())
}

/// `http(s)://host[:port][/path]`.
fn target(url: &str) -> Option<Target> {
    let (scheme, rest) = url.split_once("://")?;
    let tls = match scheme {
        "https" => true,
        "http" => false,
        _ => return None,
    };
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let uri: hyper::Uri = format!("http://{authority}").parse().ok()?;
    let host = uri.host()?.trim_matches(['[', ']']).to_ascii_lowercase();
    Some(Target {
        tls,
        host,
        port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }),
        path: path.trim_end_matches('/').to_owned(),
    })
}

/// Two answers that differ by nature must differ, and `no-store` must arrive.
async fn cache(report: &mut Report, site: &Site, first: &Reply, second: &Reply) {
    let fix =
        "proxy_cache off; in location /cloudchat/, or the shipped systemd/nginx/cloudchat.conf";
    report.expect(
        "cache",
        first.body != second.body,
        "the proxy answers out of its cache: /test twice was the same answer",
        fix,
    );
    let Ok(reply) = site.ask("GET", "/auth/healthz", &[], "").await else {
        return;
    };
    report.expect(
        "cache",
        reply.all("cache-control").any(|value| value.contains("no-store")),
        "the proxy takes Cache-Control: no-store away from /auth: browsers may keep private answers",
        "no proxy_hide_header Cache-Control, no expires",
    );
    report.expect(
        "health",
        reply.status == 200,
        format!("/auth/healthz: {}", String::from_utf8_lossy(&reply.body)),
        "start the store that is false; cloudchat doctor on the server itself says more",
    );
}

/// A logout sets the cookie as a login does, and changes nothing.
async fn cookies(report: &mut Report, site: &Site) -> Result<(), Unreached> {
    let reply = site.ask("POST", "/auth/logout", &[], "{}").await?;
    let set: Vec<String> = reply
        .all("set-cookie")
        .map(str::to_ascii_lowercase)
        .collect();
    report.expect(
        "cookies",
        !set.is_empty(),
        format!(
            "cookies do not come through: /auth/logout (status {}) sets none",
            reply.status
        ),
        "no proxy_hide_header Set-Cookie",
    );
    for cookie in &set {
        let has = |flag: &str| cookie.split(';').any(|part| part.trim() == flag);
        let mut wanted = vec!["httponly", "samesite=lax", "path=/"];
        wanted.extend(site.target.tls.then_some("secure"));
        let missing: Vec<&str> = wanted.into_iter().filter(|flag| !has(flag)).collect();
        report.expect(
            "cookies",
            missing.is_empty(),
            format!("a cookie lacks {}", missing.join(", ")),
            match missing.contains(&"secure") {
                true => "COOKIE_SECURE=1",
                false => "no proxy_cookie_flags and no proxy_cookie_path",
            },
        );
    }
    Ok(())
}

/// Claims another address with each of so many registrations that are refused after they were counted.
/// An address that were believed would never meet its limit.
async fn address(report: &mut Report, config: &Config, site: &Site) -> Result<(), Unreached> {
    if comes_from_a_proxy(config, &site.target).await {
        return Ok(());
    }
    let run = u64::from_be_bytes(entropy::bytes());
    let mut limited = false;
    for n in 0..REGISTRATIONS {
        // 198.18.0.0/15 belongs to nobody (RFC 2544).
        let claim = format!("198.18.{}.{}", run.wrapping_add(n as u64) % 251 + 1, n + 1);
        let body = format!(
            r#"{{"email":"doctor-{run:x}-{n}@example.invalid","password":"x","phone":"no@phone"}}"#
        );
        let reply = site
            .ask(
                "POST",
                "/auth/register",
                &[("X-Forwarded-For", &claim)],
                &body,
            )
            .await?;
        match reply.status {
            429 => limited = true,
            400 => {}
            status => {
                let what =
                    format!("cannot be looked at: /auth/register answers with status {status}");
                report.check("client address", Err((what, "curl -v shows why".into())));
                return Ok(());
            }
        }
        if limited {
            break;
        }
    }
    report.expect(
        "client address",
        limited,
        "a client can forge its address: whoever sends X-Forwarded-For has no limits",
        "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; and server.trusted_proxies with the proxy's address only",
    );
    Ok(())
}

/// Whether we are this host's own visitor, from an address that may claim any other.
async fn comes_from_a_proxy(config: &Config, target: &Target) -> bool {
    let found = tokio::net::lookup_host((target.host.as_str(), target.port)).await;
    let trusted = &config.server.trusted_proxies;
    found.is_ok_and(|mut found| {
        found.all(|to| to.ip().is_loopback() && trusted.iter().any(|net| net.contains(&to.ip())))
    })
}

/// Asks one question, and sees whether the answer comes at the pace of the model or all at once.
async fn stream(report: &mut Report, site: &Site) -> Result<(), Unreached> {
    let reply = site.ask("POST", "/deepseek_chat", &[], QUESTION).await?;
    if reply.status != 200 {
        // Whoever has to log in first cannot be helped from here.
        let said: Option<Value> = serde_json::from_slice(&reply.body).ok();
        let said = said.and_then(|said| said["error"].as_str().map(str::to_owned));
        report.expect(
            "stream",
            reply.status == 401,
            format!("a chat gets {}: {}", reply.status, said.unwrap_or_default()),
            "cloudchat doctor on the server itself says what is wrong with the provider",
        );
        return Ok(());
    }
    let body = String::from_utf8_lossy(&reply.body);
    let texts = body
        .lines()
        .filter(|line| line.starts_with("{\"text\""))
        .count();
    let first = reply.pieces.first().map_or(Duration::ZERO, |piece| piece.0);
    let last = reply.pieces.last().map_or(Duration::ZERO, |piece| piece.0);
    let is_burst = texts >= TEXTS_MIN && last.saturating_sub(first) < BURST && last > PACE_MIN;
    report.expect(
        "stream",
        !is_burst,
        format!(
            "answers are held back: {texts} texts came within {} ms after {} ms of silence",
            last.saturating_sub(first).as_millis(),
            first.as_millis()
        ),
        "proxy_buffering off; gzip off; for /cloudchat/deepseek_chat, and no buffering in a CDN",
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        for (url, expect) in [
            ("https://a.b", Some((true, "a.b", 443, ""))),
            ("http://a.b:8080/c/", Some((false, "a.b", 8080, "/c"))),
            (
                "https://[::1]:5000/cloudchat",
                Some((true, "::1", 5000, "/cloudchat")),
            ),
            ("ftp://a.b", None),
            ("a.b", None),
            ("https://", None),
        ] {
            let found = target(url);
            let found = found
                .as_ref()
                .map(|t| (t.tls, t.host.as_str(), t.port, t.path.as_str()));
            assert_eq!(found, expect, "{url}");
        }
    }
}
