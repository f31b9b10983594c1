//! The site as visitors reach it: what the proxy in front does to answers and to addresses.

use std::sync::Arc;
use std::time::Duration;

use hyper::HeaderMap;

use super::Report;
use super::fetch::{Handshake, Reply, Target, Unreached, fetch, watch};
use super::provider::clock;
use super::proxy::{Need, Proxies};
use super::stream;
use crate::config::Config;
use crate::entropy;
use crate::upstream::tls;

/// Registrations that one address has within the hour, and one more.
const REGISTRATIONS: usize = 11;
/// What to do about an answer that does not come.
const CURL: &str = "curl -v shows why";

/// Where it is published, and what answers there.
pub struct Site {
    target: Target,
    tls: Arc<rustls::ClientConfig>,
    /// What a page of the site sends as `Origin`.
    origin: String,
    /// What answers.
    pub proxies: Proxies,
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

    /// Asks as a browser does, and reads the answer for so long at most.
    pub async fn watch(
        &self,
        path: &str,
        body: &str,
        longest: Duration,
    ) -> Result<Reply, Unreached> {
        let (target, tls, headers) = (&self.target, &self.tls, self.browser());
        watch(target, tls, "POST", path, &headers, body, longest).await
    }

    /// What a browser sends with a post from a page of the site.
    fn browser(&self) -> [(&str, &str); 3] {
        [
            ("Origin", &self.origin),
            ("Sec-Fetch-Site", "same-origin"),
            ("Accept-Encoding", "gzip, br"),
        ]
    }
}

/// Looks at the site. Err: the URL is none.
pub async fn check(report: &mut Report, config: &Config, url: &str) -> Result<(), String> {
    let target = target(url).ok_or(format!(
        "--url: {url:?} is no URL such as https://example.com/cloudchat"
    ))?;
    let scheme = if target.tls { "https" } else { "http" };
    let mut site = Site {
        origin: format!("{scheme}://{}", target.authority()),
        target,
        tls: Arc::new(tls::client(&config.upstream)?),
        proxies: Proxies::of(&HeaderMap::new()),
    };
    let (first, second) = match (
        site.ask("GET", "/test", &[], "").await,
        site.ask("GET", "/test", &[], "").await,
    ) {
        (Ok(first), Ok(second)) => (first, second),
        (Err(why), _) | (_, Err(why)) => {
            report.check("site", Err(unreached(url, &site, &why)));
            return Ok(());
        }
    };
    site.proxies = Proxies::of(&first.headers);
    report.expect(
        "site",
        first.status == 200,
        format!("{url}/test answers with status {}", first.status),
        site.proxies.fix(Need::Prefix),
    );
    if first.status != 200 {
        return Ok(());
    }
    clock(report, "the site", &first);
    cache(report, &site, &first, &second).await;
    match browsers(report, &site).await {
        Ok(true) => {}
        // What follows is asked as a browser does.
        Ok(false) => return Ok(()),
        Err(why) => report.check("browsers", Err((why.to_string(), CURL.into()))),
    }
    if let Err(why) = cookies(report, &site).await {
        report.check("cookies", Err((why.to_string(), CURL.into())));
    }
    if let Err(why) = address(report, config, &site).await {
        report.check("client address", Err((why.to_string(), CURL.into())));
    }
    if let Err(why) = stream::check(report, &site).await {
        report.check("stream", Err((why.to_string(), CURL.into())));
    }
    Ok(())
}

/// What is wrong with a site that did not answer, and the line that fixes it.
fn unreached(url: &str, site: &Site, why: &Unreached) -> (String, String) {
    let what = match why.handshake {
        Some(_) => format!("{url}: {why}"),
        None => format!("{url} cannot be reached: {why}"),
    };
    let host = &site.target.host;
    let fix = match why.handshake {
        Some(Handshake::Certificate) => format!(
            "a valid certificate for {host} (certbot certificates lists yours), or upstream.ca_file if its authority is your own"
        ),
        Some(Handshake::NoTls) => "listen 443 ssl; in the site of the proxy".to_owned(),
        Some(Handshake::Refused) => format!("server_name {host}; in the site of the proxy"),
        None => "systemctl status nginx cloudchat; curl -v shows why".to_owned(),
    };
    (what, fix)
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
    let fix = site.proxies.fix(Need::Uncached);
    report.expect(
        "cache",
        first.body != second.body,
        "the proxy answers out of its cache: /test twice was the same answer",
        fix.as_str(),
    );
    let Ok(reply) = site.ask("GET", "/auth/healthz", &[], "").await else {
        return;
    };
    report.expect(
        "cache",
        reply.all("cache-control").any(|value| value.contains("no-store")),
        "the proxy takes Cache-Control: no-store away from /auth: browsers may keep private answers",
        fix,
    );
    report.expect(
        "health",
        reply.status == 200,
        format!("/auth/healthz: {}", String::from_utf8_lossy(&reply.body)),
        "start the store that is false; cloudchat doctor on the server itself says more",
    );
}

/// Posts as a page of the site does, in a browser of today and in one that sends no `Sec-Fetch-Site` (Safari
/// before 16.4). Whether the former gets through. Without a cookie nothing is reset.
async fn browsers(report: &mut Report, site: &Site) -> Result<bool, Unreached> {
    const RESET: &str = "/reset_chat";
    let today = site.ask("POST", RESET, &site.browser(), "{}").await?.status;
    let old = [("Origin", site.origin.as_str())];
    let old = site.ask("POST", RESET, &old, "{}").await?.status;
    let what = match (today, old) {
        (403, _) => "every browser gets 403 (Cross-site request)",
        _ => {
            "browsers that send no Sec-Fetch-Site get 403 (Cross-site request): Host is not the site's"
        }
    };
    let fix = site.proxies.fix(Need::Host);
    report.expect("browsers", ![today, old].contains(&403), what, fix);
    Ok(today != 403)
}

/// A logout sets the cookie as a login does, and changes nothing.
async fn cookies(report: &mut Report, site: &Site) -> Result<(), Unreached> {
    let reply = site
        .ask("POST", "/auth/logout", &site.browser(), "{}")
        .await?;
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
        site.proxies.fix(Need::Cookies),
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
                true => "COOKIE_SECURE=1".to_owned(),
                false => site.proxies.fix(Need::Cookies),
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
                report.check("client address", Err((what, CURL.into())));
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
        site.proxies.fix(Need::Address),
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
