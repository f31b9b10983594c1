//! URLs of stores: `scheme://user:password@host:port,host:port/path?name=value`, taken apart. No
//! error here repeats any of the text: it may hold a password.

use std::net::Ipv6Addr;

use percent_encoding::percent_decode_str;

use super::parse;

/// Most servers in one URL.
const HOSTS_MAX: usize = 16;

/// A URL, taken apart and percent-decoded (RFC 3986).
#[derive(Clone, PartialEq, Eq, Default)]
pub struct ServiceUrl {
    /// Lower case.
    pub scheme: String,
    /// Before the `@`; empty if it is not there.
    pub user: String,
    /// After the user's colon.
    pub password: Option<String>,
    /// Host names (lower case), addresses without brackets, or absolute paths of folders, with their
    /// ports; at most 16. Empty if there are none.
    pub hosts: Vec<(String, Option<u16>)>,
    /// After the hosts, without the slash.
    pub path: String,
    /// The parameters in order.
    pub query: Vec<(String, String)>,
}

impl ServiceUrl {
    /// `None` if it is no such URL.
    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.trim().split_once("://")?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        // A password may hold an @ that nobody has encoded.
        let (login, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = match login.split_once(':') {
            Some((user, password)) => (user, Some(decoded(password)?)),
            None => (login, None),
        };
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decoded(name)?, decoded(value)?))
        });
        let url = Self {
            scheme: scheme.to_ascii_lowercase(),
            user: decoded(user)?,
            password,
            hosts: match hosts {
                "" => Vec::new(),
                _ => hosts.split(',').map(host).collect::<Option<_>>()?,
            },
            path: decoded(path)?,
            query: pairs.collect::<Option<_>>()?,
        };
        (!url.scheme.is_empty() && url.hosts.len() <= HOSTS_MAX).then_some(url)
    }
}

/// `name`, `name:port`, `[::1]:port` or `%2Fvar%2Frun:port`.
fn host(text: &str) -> Option<(String, Option<u16>)> {
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            address.parse::<Ipv6Addr>().ok()?;
            (address, port)
        }
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let port = match port.strip_prefix(':') {
        Some(digits) => Some(digits.parse().ok().filter(|port| *port > 0)?),
        None if port.is_empty() => None,
        None => return None,
    };
    Some((self::name(&decoded(name)?)?, port))
}

/// A host name, an address, or the absolute path of the folder that a Unix socket is in.
pub fn name(text: &str) -> Option<String> {
    match text.starts_with('/') {
        true => Some(text.to_owned()),
        false => parse::host(text).ok(),
    }
}

/// Neither what is no UTF-8 nor a NUL is part of any name or password.
fn decoded(text: &str) -> Option<String> {
    let text = percent_decode_str(text).decode_utf8().ok()?;
    (!text.contains('\0')).then(|| text.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let hosts = |hosts: &[(&str, Option<u16>)]| -> Vec<(String, Option<u16>)> {
            hosts.iter().map(|(h, p)| ((*h).to_owned(), *p)).collect()
        };
        let url = ServiceUrl::parse(
            "PostgreSQL+psycopg2://us%40er:p%2Fa@ss@DB.example:5433,[::1]/chat?sslmode=require&a=%20&b",
        )
        .unwrap();
        assert_eq!(url.scheme, "postgresql+psycopg2");
        assert_eq!(
            (url.user.as_str(), url.password.as_deref()),
            ("us@er", Some("p/a@ss"))
        );
        assert_eq!(
            url.hosts,
            hosts(&[("db.example", Some(5433)), ("::1", None)])
        );
        assert_eq!(url.path, "chat");
        let query: Vec<_> = url.query.iter().map(|(n, v)| (&n[..], &v[..])).collect();
        assert_eq!(query, [("sslmode", "require"), ("a", " "), ("b", "")]);
        let url = ServiceUrl::parse("postgres:///chat?host=/var/run/postgresql").unwrap();
        assert_eq!((url.hosts.len(), url.password), (0, None));
        let url = ServiceUrl::parse("redis://:secret@%2Frun%2Fredis:1/2").unwrap();
        assert_eq!(url.hosts, hosts(&[("/run/redis", Some(1))]));
        assert_eq!(
            (url.user.as_str(), url.password.as_deref()),
            ("", Some("secret"))
        );
        for wrong in [
            "",
            "x",
            "://a",
            "redis://a:0",
            "redis://a:x",
            "redis://a:99999",
            "redis://[::1",
            "redis://[a]",
            "redis://[::1]x",
            "redis://a b",
            "redis://a,,b",
            "redis://:%ff@a",
            "redis://:%00@a",
            &format!("redis://a{}", ",a".repeat(16)),
        ] {
            assert!(ServiceUrl::parse(wrong).is_none(), "{wrong}");
        }
    }
}
