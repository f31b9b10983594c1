//! Whose request it is: `X-Forwarded-For` behind trusted proxies, seen through the rate limit.

use std::net::{IpAddr, TcpListener};

use crate::kit::server::free_port;
use crate::kit::{Conn, Provider, Server};

const TRUSTED: &str = "chat.rate_per_minute = 1\n\
    server.trusted_proxies = [\"127.0.0.1\", \"127.0.1.0/24\", \"10.0.0.0/8\", \"2001:db8:ffff::/48\"]\n";

/// Asks from that peer with these header lines; the status.
fn ask(server: &Server, peer: &str, lines: &[&str]) -> u16 {
    let source: IpAddr = peer.parse().expect("it is an address");
    let headers: Vec<_> = lines
        .iter()
        .map(|line| ("X-Forwarded-For", *line))
        .collect();
    Conn::from(source, server.port)
        .ask("Hi", &headers)
        .reply()
        .status
}

#[test]
fn which_address_counts() {
    let provider = Provider::friendly();
    let server = Server::start(&provider, TRUSTED);
    // A fresh address passes once; then the address that is meant, said plainly, is used up.
    let check = |peer: &str, lines: &[&str], meant: &str| {
        assert_eq!(
            ask(&server, peer, lines),
            200,
            "{peer} {lines:?} is a new client"
        );
        assert_eq!(
            ask(&server, "127.0.0.1", &[meant]),
            429,
            "{peer} {lines:?} is {meant}"
        );
    };
    let proxy = "127.0.0.1";
    // A trusted peer: the right-most address that is not itself trusted.
    check(proxy, &["1.0.0.1"], "1.0.0.1");
    check(proxy, &["9.9.9.9, 1.0.0.2"], "1.0.0.2");
    check(proxy, &["9.9.9.9, 1.0.0.3, 10.1.2.3"], "1.0.0.3");
    check(proxy, &["9.9.9.9,1.0.0.4,10.1.2.3,127.0.1.7"], "1.0.0.4");
    check(proxy, &["  1.0.0.5  ,\t10.0.0.1 "], "1.0.0.5");
    check(proxy, &["1.0.0.6, 2001:db8:ffff::1"], "1.0.0.6");
    // Several lines are joined in order.
    check(proxy, &["9.9.9.9", "1.0.1.1"], "1.0.1.1");
    check(
        proxy,
        &["9.9.9.9, 1.0.1.2", "10.0.0.1", "10.0.0.2, 10.0.0.3"],
        "1.0.1.2",
    );
    // All trusted: the left-most.
    check(proxy, &["10.0.2.1"], "10.0.2.1");
    check(proxy, &["10.0.2.2, 10.0.0.1, 127.0.0.1"], "10.0.2.2");
    // The last 32 elements are looked at.
    let many = |first: &str, n: usize| first.to_owned() + &", 10.0.0.1".repeat(n);
    check(proxy, &[&many("1.0.3.1", 31)], "1.0.3.1");
    check(proxy, &[&many("1.0.3.2, 10.0.3.3", 31)], "10.0.3.3");
    // With ports, in brackets.
    check(proxy, &["1.0.4.1:65535"], "1.0.4.1");
    check(proxy, &["[2001:db8:4::1]:443"], "2001:db8:4::1");
    check(proxy, &["9.9.9.9, 1.0.4.2:1, 10.0.0.1:2"], "1.0.4.2");
    // IPv6 is counted by /64; what stands for IPv4 becomes IPv4.
    check(
        proxy,
        &["2001:db8:5:1::1"],
        "2001:db8:5:1:ffff:ffff:ffff:ffff",
    );
    check(proxy, &["2001:db8:5:2::1"], "2001:DB8:5:2::2");
    check(proxy, &["::ffff:1.0.5.1"], "1.0.5.1");
    check(proxy, &["::ffff:100:502"], "1.0.5.2");
    check(proxy, &["64:ff9b::1.0.5.3"], "1.0.5.3");
    check(proxy, &["1.0.5.4, ::ffff:10.0.0.1"], "1.0.5.4");
    check(proxy, &["[::ffff:1.0.5.5]:80"], "1.0.5.5");
    // Something that is no address: the peer.
    let garbage = [
        "unknown",
        "-",
        "1.0.6.256",
        "1.0.6",
        "http://1.0.6.1",
        "1.0.6.1:x",
        "1.0.6.1:99999",
        "[1.0.6.1",
        "2001:db8::1%eth0",
        "1.0.6.2, unknown",
        "1.0.6.3, unknown, 10.0.0.1",
        "é",
        "01.02.03.04",
    ];
    for (n, text) in garbage.into_iter().enumerate() {
        let peer = format!("127.0.1.{}", n + 1);
        check(&peer, &[text], &peer);
    }
    check(proxy, &["unknown, 1.0.6.4"], "1.0.6.4");
    // An untrusted peer: whatever it writes, it is itself.
    check("127.0.0.2", &[], "127.0.0.2");
    check("127.0.0.3", &["1.0.7.1"], "127.0.0.3");
    check("127.0.0.4", &["1.0.7.2, 127.0.0.1"], "127.0.0.4");
    assert_eq!(
        ask(&server, "127.0.0.4", &["1.0.7.3"]),
        429,
        "a new lie does not help"
    );
}

#[test]
fn unix_peers() {
    let provider = Provider::friendly();
    let ask = |server: &Server, lines: &[&str]| {
        let headers: Vec<_> = lines
            .iter()
            .map(|line| ("X-Forwarded-For", *line))
            .collect();
        Conn::unix(&server.socket())
            .ask("Hi", &headers)
            .reply()
            .status
    };
    // Trusted by default.
    let server = Server::start(&provider, "chat.rate_per_minute = 1\n");
    assert_eq!(ask(&server, &["1.0.0.1"]), 200);
    assert_eq!(ask(&server, &["9.9.9.9, 1.0.0.1"]), 429);
    assert_eq!(ask(&server, &[]), 200, "the bucket `unix` is its own");
    assert_eq!(ask(&server, &[]), 429);
    assert_eq!(ask(&server, &["unknown"]), 429);
    assert_eq!(ask(&server, &["1.0.0.2"]), 200);
    // Not named, not trusted.
    let server = Server::start(&provider, TRUSTED);
    assert_eq!(ask(&server, &["1.0.0.1"]), 200);
    assert_eq!(ask(&server, &["1.0.0.2"]), 429);
}

#[test]
fn ipv6_peers() {
    TcpListener::bind("[::1]:0")
        .expect("::1 is there (else: sysctl -w net.ipv6.conf.lo.disable_ipv6=0)");
    let provider = Provider::friendly();
    let ask = |port: u16, peer: &str, lines: &[&str]| {
        let source: IpAddr = peer.parse().expect("it is an address");
        let headers: Vec<_> = lines
            .iter()
            .map(|line| ("X-Forwarded-For", *line))
            .collect();
        Conn::from(source, port).ask("Hi", &headers).reply().status
    };
    // ::1 is trusted by default, and so is 127.0.0.1 when it shows itself as ::ffff:127.0.0.1.
    let (six, both) = (free_port(), free_port());
    let listen = [format!("[::1]:{six}"), format!("[::]:{both}")];
    let server = Server::listening(&provider, "chat.rate_per_minute = 1", &listen);
    assert_eq!(ask(six, "::1", &["1.0.0.1"]), 200);
    assert_eq!(ask(six, "::1", &["9.9.9.9, 1.0.0.1"]), 429);
    assert_eq!(ask(both, "127.0.0.1", &["1.0.0.1"]), 429);
    assert_eq!(ask(both, "127.0.0.1", &["1.0.0.2"]), 200);
    assert_eq!(ask(server.port, "127.0.0.1", &["1.0.0.2"]), 429);
    // An IPv4 client is the same client whichever socket it came by.
    assert_eq!(ask(server.port, "127.0.0.1", &[]), 200);
    assert_eq!(ask(both, "127.0.0.1", &[]), 429);
    assert_eq!(ask(six, "::1", &[]), 200);
    // Not named, not trusted: counted by its /64.
    let (six, both) = (free_port(), free_port());
    let listen = [format!("[::1]:{six}"), format!("[::]:{both}")];
    let server = Server::listening(&provider, TRUSTED, &listen);
    assert_eq!(ask(six, "::1", &["1.0.0.1"]), 200);
    assert_eq!(ask(six, "::1", &["1.0.0.2"]), 429);
    assert_eq!(ask(server.port, "127.0.0.1", &["::2"]), 429);
    assert_eq!(
        ask(both, "127.0.0.1", &["1.0.0.3"]),
        200,
        "mapped, so named"
    );
    assert_eq!(ask(both, "127.0.0.9", &["1.0.0.4"]), 200);
    assert_eq!(
        ask(both, "127.0.0.9", &["1.0.0.5"]),
        429,
        "mapped, not named"
    );
}
