//! Who the client is: its address behind trusted proxies, and the bucket its limits are counted in.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use hyper::HeaderMap;
use hyper::header::HeaderName;
use ipnet::IpNet;

use crate::config;
use crate::limits::Key;

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// How many elements of `X-Forwarded-For` are looked at, from the right.
const ELEMENTS_MAX: usize = 32;

/// Who is at the other end of a connection, and, behind a proxy, who that speaks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Address {
    /// An address; IPv4 inside IPv6 has become IPv4.
    Ip(IpAddr),
    /// A Unix socket.
    Unix,
}

impl Address {
    /// A peer's or a forwarded address in its one form: IPv4-mapped and NAT64 (RFC 6052) addresses
    /// become IPv4.
    pub fn of(ip: IpAddr) -> Self {
        let IpAddr::V6(v6) = ip else {
            return Self::Ip(ip);
        };
        let s = v6.segments();
        let nat64 = s[..6] == [0x64, 0xff9b, 0, 0, 0, 0];
        let v4 = if nat64 {
            let [.., a, b, c, d] = v6.octets();
            Some(Ipv4Addr::new(a, b, c, d))
        } else {
            v6.to_ipv4_mapped()
        };
        Self::Ip(v4.map_or(IpAddr::V6(v6), IpAddr::V4))
    }

    /// What limits are counted by.
    pub fn bucket(self) -> Bucket {
        let mut bytes = [0; 9];
        match self {
            Self::Unix => {}
            Self::Ip(IpAddr::V4(v4)) => {
                bytes[0] = 4;
                bytes[1..5].copy_from_slice(&v4.octets());
            }
            Self::Ip(IpAddr::V6(v6)) => match v6.octets() {
                // 6to4 (RFC 3056): the network of the IPv4 address inside.
                [0x20, 0x02, a, b, c, d, ..] => {
                    bytes[0] = 4;
                    bytes[1..5].copy_from_slice(&[a, b, c, d]);
                }
                octets => {
                    bytes[0] = 6;
                    bytes[1..].copy_from_slice(&octets[..8]);
                }
            },
        }
        Bucket(bytes)
    }
}

/// How many times a network's limits are those of one of its addresses: a /48 of a mobile network is many
/// people.
pub const NETWORK_FACTOR: u32 = 16;

/// Who is asking, as limits see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// The address.
    pub bucket: Bucket,
    /// Its network, for IPv6.
    pub network: Option<Bucket>,
    /// A proxy that names nobody else: all of its clients look alike, so they have no share of a pool.
    pub is_proxy: bool,
}

impl Client {
    /// What its share of a pool is counted by; none for a proxy.
    pub fn share(&self) -> Option<Key> {
        (!self.is_proxy).then(|| self.bucket.key())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// A client for the purpose of limits: an IPv4 address, an IPv6 /64, everybody at the Unix socket, or
/// a user, wherever they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Bucket([u8; 9]);

impl Bucket {
    /// The bucket of a user who is logged in.
    pub fn of_user(id: i64) -> Self {
        let mut bytes = [1; 9];
        bytes[1..].copy_from_slice(&id.to_be_bytes());
        Self(bytes)
    }

    /// The network that an IPv6 address belongs to, a /48: one subscriber has as many /64s as it likes. None for
    /// what is counted by one IPv4 address, the Unix socket, or a user.
    pub fn network(self) -> Option<Self> {
        let [6, a, b, c, d, e, f, ..] = self.0 else {
            return None;
        };
        Some(Self([48, a, b, c, d, e, f, 0, 0]))
    }

    /// An address or a network as that of all users there together.
    pub fn of_users(self) -> Self {
        let mut bytes = self.0;
        bytes[0] |= 0x80;
        Self(bytes)
    }

    /// As a key of fixed length.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The same.
    pub fn key(self) -> Key {
        self.0
    }
}

/// The proxies that are believed.
#[derive(Debug)]
pub struct Trusted<'a> {
    /// Networks of proxies.
    pub networks: &'a [IpNet],
    /// Whether a peer on a Unix socket is one.
    pub unix: bool,
}

impl Trusted<'_> {
    fn holds(&self, address: Address) -> bool {
        match address {
            Address::Unix => self.unix,
            Address::Ip(ip) => self.networks.iter().any(|net| net.contains(&ip)),
        }
    }

    /// The client's address: the right-most of `X-Forwarded-For` that is no proxy of ours, if the
    /// peer is one; else the peer's.
    pub fn client(&self, peer: Address, headers: &HeaderMap) -> Address {
        if !self.holds(peer) {
            return peer;
        }
        let lines = headers.get_all(&X_FORWARDED_FOR);
        let elements = lines
            .iter()
            .rev()
            .flat_map(|line| line.as_bytes().rsplit(|b| *b == b','))
            .map(<[u8]>::trim_ascii)
            .filter(|element| !element.is_empty())
            .take(ELEMENTS_MAX);
        let mut client = peer;
        for element in elements {
            let Some(address) = parse(element) else {
                return peer;
            };
            client = address;
            if !self.holds(address) {
                break;
            }
        }
        client
    }
}

/// The client of a request from `peer` with these headers.
pub fn client(config: &config::Server, peer: Address, headers: &HeaderMap) -> Address {
    trusted(config).client(peer, headers)
}

/// The same as limits see it.
pub fn counted(config: &config::Server, peer: Address, headers: &HeaderMap) -> Client {
    let trusted = trusted(config);
    let address = trusted.client(peer, headers);
    Client {
        bucket: address.bucket(),
        network: address.bucket().network(),
        is_proxy: trusted.holds(address),
    }
}

/// What a connection's share is counted by; none for a proxy.
pub fn share_of_peer(config: &config::Server, peer: Address) -> Option<Key> {
    (!trusted(config).holds(peer)).then(|| peer.bucket().key())
}

fn trusted(config: &config::Server) -> Trusted<'_> {
    Trusted {
        networks: &config.trusted_proxies,
        unix: config.trust_unix,
    }
}

/// `ip`, `ip:port`, `[ip]` or `[ip]:port`.
fn parse(element: &[u8]) -> Option<Address> {
    let text = std::str::from_utf8(element).ok()?;
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    let ip = bare.unwrap_or(text).parse().ok();
    ip.or_else(|| text.parse::<SocketAddr>().ok().map(|a| a.ip()))
        .map(Address::of)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, trusted: &[&str], lines: &[&str]) -> String {
        let networks: Vec<IpNet> = trusted.iter().map(|t| t.parse().unwrap()).collect();
        let peer = match peer {
            "unix" => Address::Unix,
            ip => Address::of(ip.parse().unwrap()),
        };
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append("x-forwarded-for", line.parse().unwrap());
        }
        let trusted = Trusted {
            networks: &networks,
            unix: true,
        };
        trusted.client(peer, &headers).to_string()
    }

    #[test]
    fn the_right_most_address_that_is_no_proxy_counts() {
        let lo = &["127.0.0.0/8", "10.0.0.0/8"][..];
        for (peer, lines, expect) in [
            ("127.0.0.1", &[][..], "127.0.0.1"),
            ("127.0.0.1", &["1.2.3.4"], "1.2.3.4"),
            ("127.0.0.1", &["9.9.9.9, 1.2.3.4"], "1.2.3.4"),
            ("127.0.0.1", &["9.9.9.9", "1.2.3.4, 10.1.1.1"], "1.2.3.4"),
            ("127.0.0.1", &["10.0.0.1, 10.0.0.2"], "10.0.0.1"),
            ("127.0.0.1", &["1.2.3.4:99"], "1.2.3.4"),
            ("127.0.0.1", &["[2001:db8::1]:99"], "2001:db8::1"),
            ("127.0.0.1", &["[2001:db8::1]"], "2001:db8::1"),
            ("127.0.0.1", &["2001:db8::1"], "2001:db8::1"),
            ("127.0.0.1", &["::ffff:1.2.3.4"], "1.2.3.4"),
            ("127.0.0.1", &["64:ff9b::102:304"], "1.2.3.4"),
            ("127.0.0.1", &["1.2.3.4, nonsense"], "127.0.0.1"),
            ("127.0.0.1", &["nonsense, 1.2.3.4"], "1.2.3.4"),
            ("127.0.0.1", &["1.2.3.4, ,"], "1.2.3.4"),
            ("unix", &["1.2.3.4"], "1.2.3.4"),
            ("unix", &["x"], "unix"),
            ("::ffff:127.0.0.1", &["1.2.3.4"], "1.2.3.4"),
            ("8.8.8.8", &["1.2.3.4"], "8.8.8.8"),
        ] {
            assert_eq!(client(peer, lo, lines), expect, "{peer} {lines:?}");
        }
    }

    #[test]
    fn only_the_last_elements_are_looked_at() {
        let many = format!("1.2.3.4{}", ", 10.0.0.1".repeat(40));
        assert_eq!(
            client("127.0.0.1", &["127.0.0.0/8", "10.0.0.0/8"], &[&many]),
            "10.0.0.1"
        );
    }

    #[test]
    fn buckets_are_an_address_or_a_64() {
        let bucket = |t: &str| Address::of(t.parse().unwrap()).bucket();
        assert_eq!(bucket("2001:db8::1"), bucket("2001:db8::ffff:1"));
        assert_ne!(bucket("2001:db8::1"), bucket("2001:db8:0:1::1"));
        assert_ne!(bucket("1.2.3.4"), bucket("1.2.3.5"));
        assert_eq!(bucket("1.2.3.4"), bucket("::ffff:1.2.3.4"));
        assert_ne!(Address::Unix.bucket(), bucket("0.0.0.0"));
        assert_eq!(bucket("2002:102:304:5::1"), bucket("1.2.3.4"), "6to4");
        let network = |t: &str| bucket(t).network();
        assert_eq!(network("2001:db8:1:2::3"), network("2001:db8:1:ffff::"));
        assert_ne!(network("2001:db8:1::"), network("2001:db8:2::"));
        assert_ne!(network("2001:db8:1::"), Some(bucket("2001:db8:1::")));
        for none in ["1.2.3.4", "::ffff:1.2.3.4", "2002:102:304::1"] {
            assert_eq!(network(none), None, "{none}");
        }
        assert_ne!(Bucket::of_user(0), Address::Unix.bucket());
        assert_ne!(Bucket::of_user(1), Bucket::of_user(256));
    }
}
