//! Texts of the configuration, parsed into types that cannot be wrong. Each error says what is
//! allowed.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};

use ipnet::IpNet;

use super::Listen;
use super::read::quoted;

/// A path longer than this does not fit into a Unix socket's address (unix(7)).
const UNIX_PATH_BYTES_MAX: usize = 107;

/// `"64K"` → 65536. A whole number, with K, M or G for powers of 1024.
pub fn bytes(text: &str) -> Option<u64> {
    let (digits, shift) = match text.strip_suffix(['K', 'M', 'G']) {
        Some(digits) if text.ends_with('K') => (digits, 10),
        Some(digits) if text.ends_with('M') => (digits, 20),
        Some(digits) => (digits, 30),
        None => (text, 0),
    };
    // `parse` alone would take a leading plus sign.
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// 65536 → `"64K"`, the inverse of [`bytes`] in the largest unit that divides it.
pub fn bytes_shown(bytes: u64) -> String {
    for (unit, shift) in [('G', 30), ('M', 20), ('K', 10)] {
        if bytes > 0 && bytes.trailing_zeros() >= shift {
            return format!("\"{}{unit}\"", bytes >> shift);
        }
    }
    bytes.to_string()
}

/// `host:port` or `unix:/path`. A name stands for its IPv4 addresses, or, if it has none, for its
/// IPv6 ones (`localhost` is `::1` too, also on machines without IPv6).
pub fn listen(text: &str) -> Result<Vec<Listen>, String> {
    let wrong = || format!("{} is no address (host:port or unix:/path)", quoted(text));
    if let Some(path) = text.strip_prefix("unix:") {
        if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') {
            return Err(wrong());
        }
        if path.len() > UNIX_PATH_BYTES_MAX {
            return Err(format!(
                "the path is longer than {UNIX_PATH_BYTES_MAX} bytes"
            ));
        }
        return Ok(vec![Listen::Unix(path.into())]);
    }
    if let Ok(address) = text.parse() {
        return Ok(vec![Listen::Tcp(address)]);
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port: u16 = port.parse().map_err(|_| wrong())?;
    if !is_host(host) {
        return Err(wrong());
    }
    let found: Vec<SocketAddr> = (host, port)
        .to_socket_addrs()
        .map_err(|error| format!("{} cannot be resolved: {error}", quoted(host)))?
        .collect();
    let any_v4 = found.iter().any(SocketAddr::is_ipv4);
    let mut addresses: Vec<Listen> = Vec::new();
    for address in found
        .into_iter()
        .filter(|address| address.is_ipv4() == any_v4)
    {
        let address = Listen::Tcp(address);
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Ok(addresses)
}

/// A base URL, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// `https`.
    pub tls: bool,
    /// Lower case, without brackets.
    pub host: String,
    /// As written, or the scheme's own.
    pub port: u16,
    /// `""`, or `/something` without a slash at the end.
    pub path: String,
}

impl Url {
    /// What a browser sends as `Origin` from pages of this server (RFC 6454): no default port.
    pub fn origin(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        let host = self.bracketed_host();
        if self.port == default_port(self.tls) {
            format!("{scheme}://{host}")
        } else {
            format!("{scheme}://{host}:{}", self.port)
        }
    }

    fn bracketed_host(&self) -> String {
        match self.host.parse::<Ipv6Addr>() {
            Ok(address) => format!("[{address}]"),
            Err(_) => self.host.clone(),
        }
    }
}

fn default_port(tls: bool) -> u16 {
    if tls { 443 } else { 80 }
}

/// `http://` or `https://`, host, and maybe port and path. The error never repeats the text: it
/// may hold a password.
pub fn url(text: &str) -> Result<Url, String> {
    parse_url(text).ok_or_else(|| {
        "is no URL of the form http(s)://host[:port][/path] (no user, query or fragment)".into()
    })
}

fn parse_url(text: &str) -> Option<Url> {
    let (scheme, rest) = text.split_once("://")?;
    let tls = match scheme.to_ascii_lowercase().as_str() {
        "https" => true,
        "http" => false,
        _ => return None,
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (host, port) = rest.split_once(']')?;
        host.parse::<Ipv6Addr>().ok()?;
        (host, port)
    } else {
        let (host, port) = authority.split_at(authority.find(':').unwrap_or(authority.len()));
        if !is_host(host) {
            return None;
        }
        (host, port)
    };
    let port = match port.strip_prefix(':') {
        Some(port) => port.parse().ok().filter(|port| *port > 0)?,
        None if port.is_empty() => default_port(tls),
        None => return None,
    };
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#' | b'"' | b'\\');
    if !path.bytes().all(plain) {
        return None;
    }
    Some(Url {
        tls,
        host: host.to_ascii_lowercase(),
        port,
        path: path.trim_end_matches('/').into(),
    })
}

fn is_host(host: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    !host.is_empty() && host.len() <= 253 && host.bytes().all(plain)
}

/// A host name or address; an IPv6 address without brackets.
pub fn host(text: &str) -> Result<String, String> {
    if is_host(text) || text.parse::<Ipv6Addr>().is_ok() {
        return Ok(text.to_ascii_lowercase());
    }
    Err(format!("{} is no host name or address", quoted(text)))
}

/// Whether this host is this machine.
pub fn is_loopback(host: &str) -> bool {
    let address = host.parse();
    host == "localhost" || address.is_ok_and(|address: IpAddr| address.is_loopback())
}

/// An address that mails come from: a dot-atom and a host (RFC 5321 section 4.1.2), ASCII only,
/// because not every server takes others.
pub fn mail_address(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte);
    let is_atom = |atom: &str| !atom.is_empty() && atom.bytes().all(plain);
    let is_label = |label: &str| !label.is_empty();
    let text = text.trim();
    text.split_once('@')
        .filter(|(local, _)| local.len() <= 64 && local.split('.').all(is_atom))
        .filter(|(_, domain)| is_host(domain) && domain.split('.').all(is_label))
        .map(|_| text.into())
        .ok_or_else(|| format!("{} is no mail address (name@host)", quoted(text)))
}

/// A variable's name, or `""`. The error does not repeat the text: a secret may stand where the
/// name of its variable should.
pub fn variable_name(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if text.starts_with(|first: char| first.is_ascii_digit()) || !text.bytes().all(plain) {
        return Err("is no variable's name (A-Z a-z 0-9 _), or \"\" for none".into());
    }
    Ok(text.into())
}

/// An origin without a path.
pub fn origin(text: &str) -> Result<String, String> {
    match parse_url(text) {
        Some(url) if url.path.is_empty() => Ok(url.origin()),
        _ => Err(format!(
            "{} is no origin (http(s)://host[:port])",
            quoted(text)
        )),
    }
}

/// An address or network whose `X-Forwarded-For` counts, or `None` for `unix`.
pub fn proxy(text: &str) -> Result<Option<IpNet>, String> {
    if text == "unix" {
        return Ok(None);
    }
    let net = text.parse::<IpNet>().map(|net| net.trunc());
    net.or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map(Some)
        .map_err(|_| {
            let given = quoted(text);
            format!("{given} is no address, network (10.0.0.0/8) or \"unix\"")
        })
}

/// `""`, or `/something` without a slash at the end.
pub fn prefix(text: &str) -> Result<String, String> {
    let plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'~');
    let segment = |segment: &str| !matches!(segment, "" | "." | "..") && segment.bytes().all(plain);
    let fine = match text.strip_prefix('/') {
        Some(rest) => rest.split('/').all(segment),
        None => text.is_empty(),
    };
    fine.then(|| text.into()).ok_or_else(|| {
        let given = quoted(text);
        format!(
            "{given} is no prefix (\"\" or \"/path\" of A-Z a-z 0-9 . _ ~ -, no slash at the end)"
        )
    })
}

/// A cookie's name: a token (RFC 6265 section 4.1.1, RFC 9110 section 5.6.2).
pub fn cookie_name(text: &str) -> Result<String, String> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if text.is_empty() || text.len() > 64 || !text.bytes().all(token) {
        return Err(format!(
            "{} is no cookie name (1 to 64 of A-Z a-z 0-9 ! # $ % & ' * + - . ^ _ ` | ~)",
            quoted(text)
        ));
    }
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("0", Some(0)),
            ("64K", Some(65536)),
            ("1G", Some(1 << 30)),
            ("20000000000G", None),
            ("K", None),
            ("", None),
            ("+1", None),
            ("1.5M", None),
            ("64k", None),
            ("64KiB", None),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
        for (bytes, expected) in [
            (65536, "\"64K\""),
            (1 << 30, "\"1G\""),
            (100, "100"),
            (0, "0"),
        ] {
            assert_eq!(bytes_shown(bytes), expected);
        }
    }

    #[test]
    fn addresses() {
        let tcp = |text: &str| vec![Listen::Tcp(text.parse().unwrap())];
        assert_eq!(listen("127.0.0.1:0"), Ok(tcp("127.0.0.1:0")));
        assert_eq!(listen("[::1]:5000"), Ok(tcp("[::1]:5000")));
        assert_eq!(listen("localhost:5000"), Ok(tcp("127.0.0.1:5000")));
        assert_eq!(
            listen("unix:/run/c.sock"),
            Ok(vec![Listen::Unix("/run/c.sock".into())])
        );
        let long = format!("unix:/{}", "x".repeat(107));
        for wrong in [
            "", "x", ":5000", "5000", "a:", "a:99999", "::1:5000", "unix:", "unix:c", "unix:/d/",
            "a b:1", &long,
        ] {
            assert!(listen(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn urls() {
        let parsed = |text: &str| {
            let url = url(text).ok()?;
            Some((url.origin(), url.host, url.port, url.path))
        };
        for (text, origin, host, port, path) in [
            (
                "https://api.deepseek.com/v1",
                "https://api.deepseek.com",
                "api.deepseek.com",
                443,
                "/v1",
            ),
            (
                "HTTP://LocalHost:11434/v1/",
                "http://localhost:11434",
                "localhost",
                11434,
                "/v1",
            ),
            ("http://[::1]:80", "http://[::1]", "::1", 80, ""),
            (
                "https://a.example:443//",
                "https://a.example",
                "a.example",
                443,
                "",
            ),
        ] {
            assert_eq!(
                parsed(text),
                Some((origin.into(), host.into(), port, path.into()))
            );
        }
        for wrong in [
            "",
            "a.example",
            "ftp://a",
            "http://",
            "http://u:p@a/",
            "http://a?b",
            "http://a/#f",
            "http://a/?q",
            "http://a:0",
            "http://a:x",
            "http://[::1",
            "http://[a]",
            "http://[::1]x",
            "http://a b",
            "http://a/\n",
            "http://é",
        ] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
        assert!(!url("http://user:secret@a/").unwrap_err().contains("secret"));
        assert_eq!(
            origin("https://A.example:443"),
            Ok("https://a.example".into())
        );
        assert!(origin("https://a.example/x").is_err() && origin("null").is_err());
    }

    #[test]
    fn mail_addresses() {
        for (text, fine) in [
            ("noreply@example.com", true),
            (" a.b+c@localhost ", true),
            ("x@mail-1.example.com", true),
            ("", false),
            ("x", false),
            ("@example.com", false),
            ("x@", false),
            ("a..b@example.com", false),
            (".a@example.com", false),
            ("x@example..com", false),
            ("x@y@example.com", false),
            ("x y@example.com", false),
            ("张三@example.com", false),
            ("x@例子.com", false),
            ("X <x@example.com>", false),
            ("x@example.com\r\nRCPT TO:<y@z>", false),
        ] {
            assert_eq!(mail_address(text).is_ok(), fine, "{text}");
        }
        assert_eq!(host("SMTP.Example.com").as_deref(), Ok("smtp.example.com"));
        assert_eq!(host("::1").as_deref(), Ok("::1"));
        assert!(host("a b").is_err() && host("").is_err() && host("[::1]").is_err());
        assert!(is_loopback("::1") && is_loopback("localhost") && !is_loopback("a.localhost.com"));
    }

    #[test]
    fn names_and_networks() {
        for (text, fine) in [
            ("", true),
            ("/a", true),
            ("/a/b-c", true),
            ("a", false),
            ("/", false),
            ("/a/", false),
            ("//a", false),
            ("/..", false),
            ("/%61", false),
            ("/a b", false),
        ] {
            assert_eq!(prefix(text).is_ok(), fine, "{text}");
        }
        for (text, fine) in [
            ("cc_app", true),
            ("__Host-x", true),
            ("", false),
            ("a b", false),
            ("a=b", false),
            ("a;b", false),
            ("ä", false),
        ] {
            assert_eq!(cookie_name(text).is_ok(), fine, "{text}");
        }
        assert_eq!(proxy("unix"), Ok(None));
        assert_eq!(proxy("10.1.2.3/8"), Ok(Some("10.0.0.0/8".parse().unwrap())));
        assert_eq!(proxy("::1"), Ok(Some("::1/128".parse().unwrap())));
        assert!(proxy("10.0.0.0/33").is_err() && proxy("proxy").is_err());
    }
}
