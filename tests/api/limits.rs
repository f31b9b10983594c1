//! One request over each limit gets its documented answer, and the server still serves.

use crate::kit::provider::Answer;
use crate::kit::server::limit;
use crate::kit::{Browser, Conn, Provider, Server, question, request, seconds, until};

/// The least memory that a server starts with: few streams, so that all can be used up.
const SMALL: &str = "chat.streams_per_client_max = 100000\nserver.workers = 2\nlimits.memory = ";

/// A stream that has shown its first text.
fn open(server: &Server, provider: &Provider) -> Option<(Conn, crate::kit::Call)> {
    let mut conn = server.connect();
    conn.ask("Hi", &[]);
    let call = until("a call or a refusal", || match provider.try_call() {
        Some(call) => Some(Some(call)),
        None => conn.is_readable().then_some(None),
    });
    let Some(mut call) = call else {
        let reply = conn.reply();
        assert_eq!(reply.status, 503, "{}", reply.body);
        assert!(reply.json()["error"].is_string());
        let wait: u32 = reply
            .get("retry-after")
            .expect("it says when")
            .parse()
            .expect("a number");
        assert!(wait > 0);
        return None;
    };
    call.accept().text("Hi");
    assert_eq!(conn.head().status, 200);
    assert_eq!(conn.line().as_deref(), Some("{\"text\":\"Hi\"}"));
    Some((conn, call))
}

#[test]
fn every_slot_can_be_used_and_the_next_stream_gets_503() {
    let provider = Provider::played();
    let settings = format!("{SMALL}{:?}\n", crate::kit::server::least_memory());
    let server = Server::start(&provider, &settings);
    let streams_max = limit(&server, "streams_max");
    assert!((16..500).contains(&streams_max), "{streams_max}");
    // However unevenly the connections fell on the workers, none is refused early.
    let mut running = Vec::new();
    for n in 0..streams_max {
        running.push(open(&server, &provider).unwrap_or_else(|| panic!("refused at {n}")));
    }
    for _ in 0..3 {
        assert!(
            open(&server, &provider).is_none(),
            "one more than there are slots"
        );
        assert_eq!(server.get("/test").status, 200);
        assert_eq!(server.get("/auth/healthz").status, 200);
        assert_eq!(server.post_chat(b"{}").status, 400);
    }
    // Each of them still works, and a slot that was given back serves the next.
    for (mut conn, mut call) in running.drain(..streams_max / 2) {
        call.text("more");
        assert_eq!(conn.line().as_deref(), Some("{\"text\":\"more\"}"));
        call.finish("stop");
        assert_eq!(conn.rest(), ("{\"done\":\"stop\"}\n".to_owned(), true));
    }
    for _ in 0..streams_max / 2 {
        running.push(open(&server, &provider).expect("the slots are free again"));
    }
}

#[test]
fn more_connections_than_there_may_be() {
    let provider = Provider::friendly();
    let settings = format!("{SMALL}{:?}\n", crate::kit::server::least_memory());
    let server = Server::start(&provider, &settings);
    let connections_max = limit(&server, "connections_max");
    let served = |conn: &mut Conn| {
        conn.send(&request("GET /test", &[], None));
        conn.reply().status
    };
    // What the start left behind may still be closing.
    let mut conns: Vec<Conn> = Vec::new();
    for _ in 0..connections_max - 4 {
        let mut conn = server.connect();
        assert_eq!(served(&mut conn), 200);
        conns.push(conn);
    }
    // Far more: whoever is over the limit is turned away, nobody hangs, nothing breaks.
    let mut refused = 0;
    for _ in 0..20 {
        let mut conn = server.connect();
        conn.send(&request("GET /test", &[], None));
        match conn.try_head() {
            None => refused += 1,
            Some(head) if head.status == 503 => refused += 1,
            Some(head) => {
                assert_eq!(head.status, 200);
                conn.rest();
                conns.push(conn);
            }
        }
    }
    assert!(
        conns.len() <= connections_max && refused >= 10,
        "{} open, {refused} refused",
        conns.len()
    );
    for conn in &mut conns {
        assert_eq!(served(conn), 200, "those inside are served as before");
    }
    conns.clear();
    until("room for new ones", || {
        let mut conn = server.connect();
        conn.send(&request("GET /test", &[], None));
        conn.try_head().filter(|head| head.status == 200)
    });
}

#[test]
fn the_rate_limit_counts_valid_questions_only() {
    let provider = Provider::friendly();
    let server = Server::start(&provider, "chat.rate_per_minute = 3");
    for _ in 0..5 {
        assert_eq!(server.post_chat(b"{}").status, 400);
        assert_eq!(
            server.call("POST /deepseek_chat", &[], Some(b"x")).status,
            415
        );
    }
    for _ in 0..3 {
        assert_eq!(server.chat("Hi", &[]).status, 200);
    }
    for _ in 0..3 {
        let reply = server.chat("Hi", &[]);
        assert_eq!(reply.status, 429, "{}", reply.body);
        assert_eq!(
            reply.json(),
            serde_json::json!({"error": "Too many requests"})
        );
        let wait: u32 = reply
            .get("retry-after")
            .expect("it says when")
            .parse()
            .expect("a number");
        assert!(
            (50..=60).contains(&wait),
            "the window starts with its first hit: {wait}"
        );
        assert_eq!(reply.get("set-cookie"), None);
        assert_eq!(
            server.post_chat(b"{}").status,
            400,
            "validation stands before it"
        );
    }
    assert_eq!(provider.received().len(), 3);
    // Somebody else is not affected; nor is anything but the chat.
    assert_eq!(
        server.chat("Hi", &[("X-Forwarded-For", "1.2.3.4")]).status,
        200
    );
    assert_eq!(server.get("/test").status, 200);
    assert_eq!(Browser::new(&server).forget().status, 200);
}

#[test]
fn twenty_a_minute_is_the_default() {
    let provider = Provider::friendly();
    let server = Server::with(&provider.row(), &[]);
    let statuses: Vec<u16> = (0..21).map(|_| server.chat("Hi", &[]).status).collect();
    assert_eq!((statuses[19], statuses[20]), (200, 429));
}

#[test]
fn streams_of_one_client_at_once() {
    let provider = Provider::played();
    let server = Server::start(
        &provider,
        "chat.streams_per_client_max = 2\nserver.workers = 2",
    );
    let ask = |address: &str| {
        let mut conn = server.connect();
        conn.ask("Hi", &[("X-Forwarded-For", address)]);
        conn
    };
    let mut first = ask("1.0.0.1");
    let first_call = provider.call();
    let _second = (ask("1.0.0.1"), provider.call());
    let reply = ask("1.0.0.1").reply();
    assert_eq!(
        (reply.status, reply.json()["error"].as_str()),
        (429, Some("Too many requests"))
    );
    assert!(reply.get("retry-after").is_some());
    let _other = (ask("1.0.0.2"), provider.call());
    first_call.answer(&Answer::texts(&["ok"]));
    assert!(first.reply().whole);
    let mut third = ask("1.0.0.1");
    provider.call().answer(&Answer::texts(&["ok"]));
    assert_eq!(third.reply().text(), "ok");
}

#[test]
fn heads_over_the_limit_get_431() {
    let provider = Provider::friendly();
    let server = Server::start(&provider, "");
    let status = |size: usize| {
        let mut conn = server.connect();
        conn.send(&request(
            "GET /test",
            &[("X-Long", &"x".repeat(size))],
            None,
        ));
        conn.head().status
    };
    assert_eq!(status(4000), 200);
    assert_eq!(status(9000), 431);
    assert_eq!(status(100_000), 431);
    let mut conn = server.connect();
    let many: Vec<(&str, &str)> = (0..400).map(|_| ("X", "y")).collect();
    assert_eq!(
        conn.send(&request("GET /test", &many, None)).head().status,
        431
    );
    let mut conn = server.connect();
    conn.send(b"this is not HTTP\r\n\r\n");
    assert_eq!(conn.head().status, 400);
    assert_eq!(server.get("/test").status, 200);
}

#[test]
fn slow_heads_and_idle_connections_are_closed() {
    let provider = Provider::friendly();
    let settings = "server.head_seconds = 0.4\nserver.idle_seconds = 0.4\nserver.body_seconds = 5";
    let server = Server::start(&provider, settings);
    let check = |what: &str, sent: &[u8]| {
        let mut conn = server.connect();
        let took = seconds(|| {
            conn.send(sent);
            if let Some(head) = conn.try_head() {
                assert!(matches!(head.status, 200 | 408), "{what}: {}", head.status);
                conn.rest();
                assert!(conn.closed(), "{what}");
            }
        });
        assert!((0.3..2.0).contains(&took), "{what}: {took} s");
    };
    check("nothing at all", b"");
    check("half a request line", b"GET /te");
    check("half a head", b"GET /test HTTP/1.1\r\nHost: x\r\nX-Slow: ");
    check("idle after a request", &request("GET /test", &[], None));
    let json = [("Content-Type", "application/json")];
    let chat = request("POST /deepseek_chat", &json, Some(&question("Hi")));
    check("idle after a stream", &chat);
    let reset = request("POST /reset_chat", &json, Some(b"{}"));
    check("idle after a reset", &reset);
    // Whether the request is there when the server first looks, or comes later.
    let mut idle: Vec<Conn> = (0..60)
        .map(|n| {
            let mut conn = server.connect();
            crate::kit::pass([0.0, 0.001][n % 2]);
            conn.send(&request("GET /test", &[], None));
            assert_eq!(conn.reply().status, 200);
            conn
        })
        .collect();
    let took = seconds(|| assert!(idle.iter_mut().all(Conn::closed)));
    assert!(took < 2.0, "{took} s");
    // One byte now and then does not keep a head alive.
    let mut conn = server.connect();
    let took = seconds(|| {
        conn.send(b"GET /test HTTP/1.1\r\n");
        while !conn.is_readable() {
            conn.send(b"X: y\r\n");
            crate::kit::pass(0.05);
        }
    });
    assert!((0.3..2.0).contains(&took), "{took} s");
    // A stream is not idle.
    let provider = Provider::played();
    let server = Server::start(&provider, settings);
    let (mut conn, mut call) = open(&server, &provider).expect("there is room");
    crate::kit::pass(0.9);
    call.text("still here");
    assert_eq!(conn.line().as_deref(), Some("{\"text\":\"still here\"}"));
    call.finish("stop");
    assert!(conn.rest().1);
}

#[test]
fn many_bodies_at_once_are_bounded_and_the_server_goes_on() {
    let provider = Provider::friendly();
    let settings = format!("{SMALL}{:?}\n", crate::kit::server::least_memory());
    let server = Server::start(&provider, &settings);
    let streams_max = limit(&server, "streams_max");
    let text = "x".repeat(30_000);
    let body = question(&text);
    let json = ("Content-Type", "application/json");
    let all = request("POST /deepseek_chat", &[json], Some(&body));
    let mut conns: Vec<Conn> = (0..streams_max)
        .map(|_| {
            let mut conn = server.connect();
            conn.send(&all[..all.len() - 1]);
            conn
        })
        .collect();
    for conn in &mut conns {
        conn.send(&all[all.len() - 1..]);
        let reply = conn.reply();
        assert!(
            matches!(reply.status, 200 | 503),
            "{}: {}",
            reply.status,
            reply.body
        );
    }
    assert_eq!(server.chat("Hi", &[]).status, 200);
}
