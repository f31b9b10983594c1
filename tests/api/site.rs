//! The web site that the shipped site of Nginx serves beside CloudChat, and the names that it answers to: as
//! curl sees them, by name, over TLS and HTTP/2.

use std::process::Command;

use crate::kit::nginx::{NAME, Nginx};
use crate::kit::reply::Head;
use crate::kit::{Provider, Reply, Server};

/// What Astro makes of a front end, and a file that is none of its own.
const PAGES: [(&str, &str); 7] = [
    ("index.html", "<h1>Home</h1>"),
    ("login/index.html", "<h1>Login</h1>"),
    ("404.html", "<h1>No such page</h1>"),
    ("_astro/page.Ab12_d-4.js", "import('./x');"),
    ("assets/index-Ab12_d-4.css", "body { margin: 0 }"),
    ("assets/background.css", "body { margin: 0 }"),
    ("favicon.svg", "<svg xmlns='http://www.w3.org/2000/svg'/>"),
];
const MONTH: &str = "public, max-age=2592000, immutable";

fn site() -> (Server, Nginx) {
    let provider = Provider::friendly();
    let server = Server::start(&provider, "");
    let nginx = Nginx::before(server.direct);
    for (name, text) in PAGES {
        nginx.publish(name, text);
    }
    (server, nginx)
}

/// What curl prints of this URL, which resolves to where the site is; or its exit code.
fn curl(nginx: &Nginx, url: &str, arguments: &[&str]) -> Result<Vec<u8>, i32> {
    let host = url.split('/').nth(2).unwrap_or_default();
    let host = host.split(':').next().unwrap_or_default();
    let curl = Command::new("curl")
        .args(["--silent", "--insecure", "--include", "--max-time", "10"])
        .args(["--resolve", &format!("{host}:{}:[::1]", nginx.named)])
        .args(["--resolve", &format!("{host}:{}:127.0.0.1", nginx.plain)])
        .args(arguments)
        .arg(url)
        .output()
        .expect("curl is installed: run tests/run, or apt-get install curl");
    match curl.status.code() {
        Some(0) => Ok(curl.stdout),
        code => Err(code.unwrap_or_default()),
    }
}

/// A page of the site, over HTTP/2.
fn get(nginx: &Nginx, path: &str, arguments: &[&str]) -> Reply {
    let url = format!("https://{NAME}:{}{path}", nginx.named);
    let said = curl(nginx, &url, arguments).unwrap_or_else(|code| panic!("{path}: curl: {code}"));
    let said = String::from_utf8(said).expect("text");
    let (head, body) = said.split_once("\r\n\r\n").expect("a head");
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/2 "));
    let status = status.and_then(|status| status.trim().parse().ok());
    let status = status.unwrap_or_else(|| panic!("{path}: {head}"));
    let headers = lines.filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let headers = headers.collect();
    Reply {
        status,
        head: Head { status, headers },
        body: body.to_owned(),
        whole: true,
    }
}

#[test]
fn pages_are_asked_for_again_and_what_has_a_hash_is_kept() {
    let (_server, nginx) = site();
    for (path, status, kept, body) in [
        ("/", 200, "no-cache", "<h1>Home</h1>"),
        ("/login/?a=b", 200, "no-cache", "<h1>Login</h1>"),
        ("/_astro/page.Ab12_d-4.js", 200, MONTH, "import('./x');"),
        (
            "/assets/index-Ab12_d-4.css",
            200,
            MONTH,
            "body { margin: 0 }",
        ),
        (
            "/assets/background.css",
            200,
            "no-cache",
            "body { margin: 0 }",
        ),
        ("/favicon.svg", 200, "no-cache", PAGES[6].1),
        ("/nowhere", 404, "no-cache", "<h1>No such page</h1>"),
        (
            "/_astro/gone.Ab12_d-4.js",
            404,
            "no-cache",
            "<h1>No such page</h1>",
        ),
        ("/_astro/", 404, "no-cache", "<h1>No such page</h1>"),
    ] {
        let reply = get(&nginx, path, &[]);
        assert_eq!(
            (reply.status, reply.body.as_str()),
            (status, body),
            "{path}"
        );
        // Each header of the server once: none is lost to one of the location's own.
        for (name, value) in [
            ("cache-control", kept),
            ("strict-transport-security", "max-age=31536000"),
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "SAMEORIGIN"),
            ("referrer-policy", "strict-origin-when-cross-origin"),
        ] {
            assert_eq!(reply.head.all(name), [value], "{path}: {name}");
        }
        let policy = reply.head.all("content-security-policy");
        assert_eq!(policy.len(), 1, "{path}");
        assert!(
            policy[0].contains("object-src 'none'"),
            "{path}: {}",
            policy[0]
        );
    }
    let moved = get(&nginx, "/login?token=x", &[]);
    let to = format!("https://{NAME}:{}/login/?token=x", nginx.named);
    assert_eq!(
        (moved.status, moved.get("location")),
        (301, Some(to.as_str()))
    );
}

#[test]
fn a_page_that_is_the_same_is_not_sent_again() {
    let (_server, nginx) = site();
    for (path, kept) in [("/", "no-cache"), ("/_astro/page.Ab12_d-4.js", MONTH)] {
        let tag = get(&nginx, path, &[]).get("etag").map(str::to_owned);
        let header = format!("If-None-Match: {}", tag.expect("it has a tag"));
        let again = get(&nginx, path, &["-H", &header]);
        assert_eq!((again.status, again.body.as_str()), (304, ""), "{path}");
        assert_eq!(again.head.all("cache-control"), [kept], "{path}");
    }
}

#[test]
fn what_is_long_and_text_is_compressed() {
    let (_server, nginx) = site();
    let long = "0123456789\n".repeat(1000);
    for (name, is_compressed) in [
        ("long.html", true),
        ("long.css", true),
        ("long.js", true),
        ("long.svg", true),
        ("long.json", true),
        ("long.png", false),
        ("favicon.svg", false),
    ] {
        if name.starts_with("long") {
            nginx.publish(name, &long);
        }
        let reply = get(&nginx, &format!("/{name}"), &["--compressed"]);
        let encoding = reply.get("content-encoding");
        assert_eq!(encoding, is_compressed.then_some("gzip"), "{name}");
        if name.starts_with("long") {
            assert_eq!(reply.body, long, "{name}");
        }
    }
}

#[test]
fn a_site_without_a_page_for_it_has_an_ordinary_404() {
    let provider = Provider::friendly();
    let server = Server::start(&provider, "");
    let nginx = Nginx::before(server.direct);
    let reply = get(&nginx, "/nowhere", &[]);
    assert_eq!(reply.status, 404);
    assert!(reply.body.contains("404 Not Found"), "{}", reply.body);
}

#[test]
fn what_holds_for_pages_does_not_hold_for_cloudchat() {
    let (_server, nginx) = site();
    for (path, status, kept) in [
        ("/cloudchat/test", 200, None),
        ("/cloudchat/nowhere", 404, None),
        ("/cloudchat/auth/me", 401, Some("no-store")),
    ] {
        let reply = get(&nginx, path, &[]);
        assert_eq!(
            (reply.status, reply.get("cache-control")),
            (status, kept),
            "{path}"
        );
        assert_eq!(reply.get("content-security-policy"), None, "{path}");
        assert!(reply.json().is_object(), "{path}: {}", reply.body);
    }
}

#[test]
fn the_site_loads_without_a_warning() {
    let (_server, nginx) = site();
    assert_eq!(
        nginx.log(),
        "",
        "and the line that it names for newer ones has helped"
    );
}

#[test]
fn port_80_leads_to_tls_but_for_the_proof_of_the_name() {
    let (_server, nginx) = site();
    nginx.publish(".well-known/acme-challenge/token", "proof");
    let plain = format!("http://{NAME}:{}", nginx.plain);
    for (path, status, has) in [
        (
            "/.well-known/acme-challenge/token",
            "200 OK",
            "\r\n\r\nproof",
        ),
        ("/.well-known/acme-challenge/none", "404 Not Found", ""),
        (
            "/login?a=b",
            "301 Moved Permanently",
            "\r\nLocation: https://chat.example.com/login?a=b\r\n",
        ),
    ] {
        let said = curl(&nginx, &format!("{plain}{path}"), &[]).expect("an answer");
        let said = String::from_utf8(said).expect("text");
        assert!(
            said.starts_with(&format!("HTTP/1.1 {status}\r\n")),
            "{path}: {said}"
        );
        assert!(said.contains(has), "{path}: {said}");
    }
}

#[test]
fn other_names_get_no_answer() {
    let (_server, nginx) = site();
    let by_name = |scheme: &str, name: &str, port: u16, arguments: &[&str]| {
        curl(&nginx, &format!("{scheme}://{name}:{port}/"), arguments).map(|_| ())
    };
    // curl's exit codes: 35 the handshake was refused, 52 and 92 nothing came.
    assert_eq!(by_name("http", NAME, nginx.plain, &[]), Ok(()));
    assert_eq!(
        by_name("http", "other.example.org", nginx.plain, &[]),
        Err(52)
    );
    assert_eq!(by_name("http", "127.0.0.1", nginx.plain, &[]), Err(52));
    assert_eq!(
        by_name("http", NAME, nginx.plain, &["--http1.0", "-H", "Host:"]),
        Err(52)
    );
    assert_eq!(by_name("https", NAME, nginx.named, &[]), Ok(()));
    assert_eq!(
        by_name("https", "other.example.org", nginx.named, &[]),
        Err(35)
    );
    let address = format!("https://[::1]:{}/", nginx.named);
    assert_eq!(curl(&nginx, &address, &[]), Err(35), "no name at all");
    let nameless = ["--http1.0", "-H", "Host:"];
    assert_eq!(by_name("https", NAME, nginx.named, &nameless), Err(52));
    // A connection whose handshake named us cannot ask for another name then.
    let other = ["-H", "Host: other.example.org"];
    let url = format!("https://{NAME}:{}/", nginx.named);
    match curl(&nginx, &url, &other) {
        // Newer Nginx (1.26 does) says that the connection is the wrong one.
        Ok(said) => assert!(said.starts_with(b"HTTP/2 421 "), "{}", said.escape_ascii()),
        Err(code) => assert_eq!(code, 92),
    }
    let other = [&other[..], &["--http1.1"]].concat();
    assert_eq!(by_name("https", NAME, nginx.named, &other), Err(52));
}
