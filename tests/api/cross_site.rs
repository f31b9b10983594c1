//! The cross-site rule: which posts from a browser are refused before anything else.

use crate::kit::{Provider, Server};

#[test]
fn origins_and_fetch_sites() {
    let provider = Provider::friendly();
    let settings = "chat.rate_per_minute = 0\nserver.origins = [\"https://app.test:8443\"]\n";
    let env = [("FRONTEND_BASE_URL", "https://www.front.test/chat/")];
    let server = Server::with(&(settings.to_owned() + &provider.row()), &env);
    // Method, Origin, Sec-Fetch-Site, Host, whether it passes.
    let check = |method: &str, origin: &str, site: &str, host: &str, passes: bool| {
        let mut headers = vec![("Host", host)];
        if !origin.is_empty() {
            headers.push(("Origin", origin));
        }
        if !site.is_empty() {
            headers.push(("Sec-Fetch-Site", site));
        }
        let path = if method == "POST" {
            "/reset_chat"
        } else {
            "/test"
        };
        let reply = server.call(&format!("{method} {path}"), &headers, None);
        let row = format!("{method} {headers:?}: {} {}", reply.status, reply.body);
        assert_eq!(reply.status != 403, passes, "{row}");
        if !passes && method != "HEAD" {
            assert_eq!(
                reply.json(),
                serde_json::json!({"error": "Cross-site request"}),
                "{row}"
            );
        }
    };
    let host = "chat.test";
    // Neither header: not a browser, or an old one.
    check("POST", "", "", host, true);
    // Sec-Fetch-Site alone.
    check("POST", "", "same-origin", host, true);
    check("POST", "", "same-site", host, true);
    check("POST", "", "none", host, true);
    check("POST", "", "cross-site", host, false);
    // Origin: our own host by either scheme.
    check("POST", "https://chat.test", "", host, true);
    check("POST", "http://chat.test", "", host, true);
    check("POST", "http://127.0.0.1:5000", "", "127.0.0.1:5000", true);
    check("POST", "http://[::1]:5000", "", "[::1]:5000", true);
    check("POST", "http://127.0.0.1:5001", "", "127.0.0.1:5000", false);
    check("POST", "https://chat.test:444", "", host, false);
    check("POST", "ftp://chat.test", "", host, false);
    check("POST", "chat.test", "", host, false);
    check("POST", "https://chat.test.evil.test", "", host, false);
    check("POST", "https://xchat.test", "", host, false);
    check(
        "POST",
        "https://evil.test/https://chat.test",
        "",
        host,
        false,
    );
    // Origin: the front end and the configured ones.
    check("POST", "https://www.front.test", "", host, true);
    check("POST", "https://www.front.test", "same-site", host, true);
    check("POST", "http://www.front.test", "", host, false);
    check("POST", "https://front.test", "", host, false);
    check("POST", "https://app.test:8443", "", host, true);
    check("POST", "https://app.test", "", host, false);
    // Origin: somebody else.
    check("POST", "null", "", host, false);
    check("POST", "https://evil.test", "", host, false);
    check("POST", "https://evil.test", "same-site", host, false);
    check("POST", "https://evil.test", "none", host, false);
    check("POST", "https://chat.test", "cross-site", host, false);
    check("POST", "null", "cross-site", host, false);
    // Same origin, behind a proxy that has put its own name into Host: no page can forge it.
    check(
        "POST",
        "https://chat.test",
        "same-origin",
        "127.0.0.1:5000",
        true,
    );
    check("POST", "https://chat.test", "", "127.0.0.1:5000", false);
    check("POST", "null", "same-origin", host, true);
    // A listed origin may be another site.
    check("POST", "https://www.front.test", "cross-site", host, true);
    check("POST", "https://app.test:8443", "cross-site", host, true);
    check("DELETE", "https://app.test:8443", "cross-site", host, true);
    // Every method that can change something; and none that cannot.
    check("PUT", "https://evil.test", "", host, false);
    check("DELETE", "", "cross-site", host, false);
    check("BREW", "null", "", host, false);
    check("GET", "https://evil.test", "cross-site", host, true);
    check("HEAD", "null", "cross-site", host, true);
    check("OPTIONS", "https://evil.test", "cross-site", host, true);
}

#[test]
fn the_rule_stands_before_everything_else() {
    let provider = Provider::friendly();
    let server = Server::start(&provider, "");
    let evil = [("Origin", "https://evil.test")];
    for line in [
        "POST /deepseek_chat",
        "POST /nowhere",
        "POST /test",
        "DELETE /deepseek_chat",
    ] {
        let reply = server.call(line, &evil, Some(&vec![b'x'; 300_000]));
        assert_eq!(reply.status, 403, "{line}");
        assert_eq!(
            reply.json(),
            serde_json::json!({"error": "Cross-site request"}),
            "{line}"
        );
        assert!(reply.get("x-request-id").is_some(), "{line}");
    }
    for line in [
        "POST /auth/login",
        "POST /auth/healthz",
        "POST /auth/nowhere",
    ] {
        let reply = server.call(line, &evil, Some(b"{}"));
        assert_eq!(reply.status, 403, "{line}");
        let expected = serde_json::json!({"ok": false, "error": "Cross-site request"});
        assert_eq!(reply.json(), expected, "{line}");
    }
    assert_eq!(provider.received().len(), 0);
}
