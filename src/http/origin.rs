//! The cross-site rule: a browser must not change anything here on another site's behalf.

use hyper::header::{HOST, ORIGIN};
use hyper::{HeaderMap, Method};

/// Whether this request comes from a page of another site: `Sec-Fetch-Site` says so, or `Origin`
/// is neither one of `allowed` nor our own host. Requests that change nothing always pass, and so
/// do clients that are no browsers, which send neither header.
pub fn is_cross_site(method: &Method, headers: &HeaderMap, allowed: &[String]) -> bool {
    if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
        return false;
    }
    let fetch_site = headers.get_all("sec-fetch-site");
    let said = |v: &hyper::header::HeaderValue| v.as_bytes().eq_ignore_ascii_case(b"cross-site");
    if fetch_site.iter().any(said) {
        return true;
    }
    let host = headers.get(HOST).and_then(|h| h.to_str().ok());
    headers.get_all(ORIGIN).iter().any(|origin| {
        let Ok(origin) = origin.to_str() else {
            return true;
        };
        let ours = allowed.iter().any(|a| a.eq_ignore_ascii_case(origin))
            || host.is_some_and(|host| is_host(origin, host));
        !ours
    })
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
