//! Every kind of value in every field of every endpoint under `/auth`, and every kind of body:
//! nothing of it is a server's failure.

use crate::kit::{PASSWORD, Person, Provider, Reply, Server, fails};

/// Endpoints that take fields, and the statuses that nonsense may get.
const ENDPOINTS: [(&str, &[&str], &[u16]); 7] = [
    (
        "POST /auth/register",
        &["email", "password", "phone", "display_name"],
        &[400],
    ),
    ("POST /auth/login", &["identifier", "password"], &[401]),
    ("POST /auth/password/forgot", &["identifier"], &[200]),
    ("POST /auth/password/reset", &["token", "password"], &[400]),
    (
        "POST /auth/password/change",
        &["old_password", "new_password"],
        &[400, 401],
    ),
    ("DELETE /auth/me", &["password"], &[401]),
    (
        "PATCH /auth/me",
        &["display_name", "phone"],
        &[200, 400, 429],
    ),
];

/// Pieces of JSON that no field takes, or that are too long for it.
fn values() -> Vec<String> {
    let mut values: Vec<String> = [
        "null",
        "true",
        "false",
        "0",
        "-0.0",
        "1",
        "1e999",
        "-1.5",
        "[]",
        "{}",
        "[1]",
        "[\"a\"]",
        "{\"a\":1}",
        "\"\"",
        "\" \"",
        "\"\\u0000\"",
        "\"a\\u0000b\"",
        "\"\\ud83d\"",
        "\"\\ude00\\ud83d\"",
        "\"\\r\\nBcc: x\"",
        "\"\u{202e}\u{feff}\"",
        "\"'; DROP TABLE users; --\"",
        "tru",
        "\"open",
        "\"\0\"",
    ]
    .map(str::to_owned)
    .to_vec();
    values.push(format!("\"{}\"", "x".repeat(60_000)));
    values.push(format!("\"{}\"", "\\u5b57".repeat(10_000)));
    values.push("[".repeat(10_000) + &"]".repeat(10_000));
    values.push("{\"a\":".repeat(10_000) + "1" + &"}".repeat(10_000));
    values
}

/// Good values of every field but this one, which has that value.
fn body(fields: &[&str], odd: &str, value: &str) -> Vec<u8> {
    let good = |field: &str| match field {
        "email" => "\"new@b.c\"".to_owned(),
        "identifier" => "\"alice@b.c\"".to_owned(),
        "password" => "\"wrong but strong 1\"".to_owned(),
        "token" => format!("\"{}\"", "x".repeat(43)),
        _ => "null".to_owned(),
    };
    let field = |field: &&str| match *field == odd {
        true => format!("\"{field}\":{value}"),
        false => format!("\"{field}\":{}", good(field)),
    };
    let fields: Vec<String> = fields.iter().map(field).collect();
    format!("{{{}}}", fields.join(",")).into_bytes()
}

#[track_caller]
fn is_expected(line: &str, shown: &[u8], reply: &Reply, allowed: &[u16]) {
    let shown = String::from_utf8_lossy(&shown[..shown.len().min(90)]).into_owned();
    let row = format!("{line} {shown}: {} {}", reply.status, reply.body);
    assert!(allowed.contains(&reply.status), "{row}");
    assert_eq!(reply.json()["ok"], reply.status < 400, "{row}");
    for (name, value) in [
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "SAMEORIGIN"),
        ("referrer-policy", "strict-origin-when-cross-origin"),
    ] {
        assert_eq!(reply.get(name), Some(value), "{row}");
    }
    assert!(reply.get("x-request-id").is_some(), "{row}");
}

#[test]
fn any_value_in_any_field() {
    let server = Server::start(&Provider::friendly(), "");
    let mut alice = Person::logged_in(&server, "alice@b.c");
    for (line, fields, allowed) in ENDPOINTS {
        for odd in fields {
            // Optional fields may be empty, and then the registration is a good one but for its
            // password.
            for value in values() {
                let body = body(fields, odd, &value);
                let body = match line.ends_with("register") && *odd != "password" {
                    true => String::from_utf8_lossy(&body)
                        .replace("\"wrong but strong 1\"", "\"weak\"")
                        .into_bytes(),
                    false => body,
                };
                // Another address each time, as limits are not what is looked at here.
                alice.address = Person::new(&server).address;
                let mut allowed = allowed.to_vec();
                if line.ends_with("register") {
                    allowed.push(429);
                    // A text may happen to be a good password.
                    if *odd == "password" {
                        allowed.extend([201, 409]);
                    }
                }
                let reply = alice.send(line, Some(&body));
                is_expected(line, &body, &reply, &allowed);
            }
        }
    }
    assert_eq!(alice.me(), 200, "the account is still there");
    assert_eq!(server.get("/auth/healthz").status, 200);
}

#[test]
fn any_body_at_all() {
    let server = Server::start(&Provider::friendly(), "");
    let mut alice = Person::logged_in(&server, "alice@b.c");
    let deep = "[".repeat(10_000);
    let bodies: [&[u8]; 12] = [
        b"",
        b" ",
        b"null",
        b"[]",
        b"\"x\"",
        b"{",
        b"{}x",
        b"{\"a\"",
        b"\xff\xfe",
        b"{\"email\":\"\xff\",\"identifier\":\"\xed\xa0\x80\"}",
        b"email=a%40b.c&password=x",
        deep.as_bytes(),
    ];
    for (line, _, allowed) in ENDPOINTS {
        for body in bodies {
            alice.address = Person::new(&server).address;
            is_expected(line, body, &alice.send(line, Some(body)), allowed);
        }
        // 64 KiB, and not one byte more.
        let mut large = b"{\"x\":\"".to_vec();
        large.resize(64 * 1024 - 2, b'x');
        large.extend(b"\"}");
        is_expected(line, &large, &alice.send(line, Some(&large)), allowed);
        large.push(b' ');
        is_expected(line, &large, &alice.send(line, Some(&large)), &[413]);
    }
}

#[test]
fn another_content_type_is_an_empty_body() {
    let server = Server::start(&Provider::friendly(), "");
    let body = serde_json::json!({"email": "a@b.c", "password": PASSWORD}).to_string();
    for (headers, status) in [
        (&[][..], 400),
        (&[("Content-Type", "text/plain")], 400),
        (
            &[("Content-Type", "application/x-www-form-urlencoded")],
            400,
        ),
        (&[("Content-Type", "APPLICATION/JSON ; charset=x")], 201),
    ] {
        let reply = server.call("POST /auth/register", headers, Some(body.as_bytes()));
        assert_eq!(reply.status, status, "{headers:?}: {}", reply.body);
        if status == 400 {
            assert_eq!(reply.json()["error"], "email required");
        }
    }
}

#[test]
fn a_body_that_nobody_reads_has_a_limit_too() {
    let server = Server::start(&Provider::friendly(), "");
    let mut alice = Person::logged_in(&server, "alice@b.c");
    let long = vec![b' '; 64 * 1024 + 1];
    for (line, status) in [
        ("GET /auth/me", 200),
        ("GET /auth/me/export", 200),
        ("GET /auth/sessions", 200),
        ("DELETE /auth/sessions/0123456789abcdef", 404),
        ("POST /auth/sessions/revoke_others", 200),
        ("POST /auth/logout", 200),
    ] {
        fails(
            &alice.send(line, Some(&long)),
            413,
            "Request body too large",
        );
        assert_eq!(alice.send(line, Some(&long[1..])).status, status, "{line}");
    }
    let long = vec![b' '; 256 * 1024 + 1];
    assert_eq!(alice.send("POST /reset_chat", Some(&long)).status, 413);
    assert_eq!(alice.send("POST /reset_chat", Some(&long[1..])).status, 200);
}
