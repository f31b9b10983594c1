//! The cross-site rule: a browser must not change anything here on another site's behalf.

use hyper::header::{HOST, HeaderName, HeaderValue, ORIGIN};
use hyper::{HeaderMap, Method};

/// How the page that asks is related to us; set by the browser (W3C Fetch Metadata).
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Whether this request comes from a page of another site, which is refused: `Sec-Fetch-Site` is
/// `cross-site`, or `Origin` is neither one of `allowed` nor our own host. A page of an origin in
/// `allowed` may be another site's.
///
/// `Sec-Fetch-Site: same-origin` allows a request whatever its `Origin` and `Host` are: no page can
/// set it, and a proxy that rewrites `Host` does not touch it. Requests that change nothing pass, and
/// so do clients that are no browsers, which send neither header.
pub fn is_cross_site(method: &Method, headers: &HeaderMap, allowed: &[String]) -> bool {
    if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
        return false;
    }
    // Most clients that send neither are programs, and answers to them are quick.
    if !headers.contains_key(SEC_FETCH_SITE) && !headers.contains_key(ORIGIN) {
        return false;
    }
    let is =
        |value: &HeaderValue, text: &str| value.as_bytes().eq_ignore_ascii_case(text.as_bytes());
    let sites = || headers.get_all(SEC_FETCH_SITE).iter();
    if headers.contains_key(SEC_FETCH_SITE) && sites().all(|site| is(site, "same-origin")) {
        return false;
    }
    let mut origins = headers.get_all(ORIGIN).iter();
    let is_listed = |origin: &HeaderValue| allowed.iter().any(|listed| is(origin, listed));
    if sites().any(|site| is(site, "cross-site")) {
        return !(headers.contains_key(ORIGIN) && origins.all(is_listed));
    }
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let is_own = |origin: &HeaderValue| match (origin.to_str(), host) {
        (Ok(origin), Some(host)) => is_host(origin, host),
        _ => false,
    };
    !origins.all(|origin| is_listed(origin) || is_own(origin))
}

/// `http://host` or `https://host`, where a scheme's default port may be written or not.
fn is_host(origin: &str, host: &str) -> bool {
    [("http://", ":80"), ("https://", ":443")]
        .iter()
        .any(|(scheme, port)| {
            let Some((head, rest)) = origin.split_at_checked(scheme.len()) else {
                return false;
            };
            let bare = |t| str::strip_suffix(t, port).unwrap_or(t);
            head.eq_ignore_ascii_case(scheme) && bare(rest).eq_ignore_ascii_case(bare(host))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_pages_may_change_things() {
        let allowed = ["https://www.example.org".to_string()];
        let check = |method: &Method, pairs: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, "api.example.org".parse().unwrap());
            for (name, value) in pairs {
                headers.append(*name, value.parse().unwrap());
            }
            is_cross_site(method, &headers, &allowed)
        };
        for (pairs, refused) in [
            (&[][..], false),
            (&[("sec-fetch-site", "same-origin")], false),
            (&[("sec-fetch-site", "cross-site")], true),
            (&[("origin", "null")], true),
            (&[("origin", "https://evil.org")], true),
            (&[("origin", "https://api.example.org")], false),
            (&[("origin", "http://API.example.org")], false),
            (&[("origin", "https://api.example.org:443")], false),
            (&[("origin", "https://api.example.org:444")], true),
            (&[("origin", "https://www.example.org")], false),
            (&[("origin", "http://www.example.org")], true),
            (
                &[
                    ("origin", "https://www.example.org"),
                    ("sec-fetch-site", "cross-site"),
                ],
                false,
            ),
            (
                &[
                    ("origin", "https://api.example.org"),
                    ("sec-fetch-site", "cross-site"),
                ],
                true,
            ),
            (
                &[
                    ("origin", "https://www.example.org"),
                    ("origin", "https://api.example.org"),
                    ("sec-fetch-site", "cross-site"),
                ],
                true,
            ),
            (
                &[
                    ("origin", "https://www.example.net"),
                    ("sec-fetch-site", "same-origin"),
                ],
                false,
            ),
            (
                &[
                    ("origin", "https://www.example.net"),
                    ("sec-fetch-site", "same-origin"),
                    ("sec-fetch-site", "same-site"),
                ],
                true,
            ),
            (
                &[
                    ("sec-fetch-site", "same-origin"),
                    ("sec-fetch-site", "cross-site"),
                ],
                true,
            ),
            (
                &[
                    ("origin", "https://www.example.org"),
                    ("origin", "https://evil.org"),
                ],
                true,
            ),
        ] {
            assert_eq!(check(&Method::POST, pairs), refused, "{pairs:?}");
            assert!(!check(&Method::GET, pairs));
        }
    }
}
