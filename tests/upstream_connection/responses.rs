//! What is made of every kind of response.

use std::io::Write as _;
use std::time::Duration;

use cloudchat::clock;
use cloudchat::upstream::{Exchange, Failure, Visitor};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::provider::*;

#[test]
fn the_request_is_what_the_documents_say() {
    let (seen, requests) = signal();
    let fake = Fake::start(move |_, mut socket| {
        seen.send(request(&mut socket)).expect("the test waits");
        write!(socket, "{STREAM}{HELLO}").expect("the client reads");
        ended(&mut socket);
    });
    run(async {
        let mut exchange = send(&client(&fake)).await.expect("an answer");
        assert_eq!(body(&mut exchange, 100).await, (b"hello".to_vec(), Ok(())));
    });
    let expect = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nAuthorization: Bearer sk-1\r\n\
         User-Agent: cloudchat/{}\r\nAccept: text/event-stream\r\nContent-Type: application/json\r\n\
         Content-Length: 2\r\n\r\n{{}}",
        fake.port,
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(requests.recv_timeout(PATIENCE), Ok(expect));
}

#[test]
fn refusals() {
    let failure_of = |response: &str| {
        let fake = Fake::once(response);
        let mut failure = None;
        run(async { failure = send(&client(&fake)).await.err() });
        failure.unwrap_or_else(|| panic!("a failure: {response}"))
    };
    let json = |status: u16, fields: &str, body: &str| {
        let length = body.len();
        failure_of(&format!(
            "HTTP/1.1 {status} X\r\n{fields}Content-Length: {length}\r\n\r\n{body}"
        ))
    };
    for status in [301, 400, 401, 402, 403, 404, 413, 422] {
        let failure = json(
            status,
            "",
            r#"{"error":{"message":"sk-1 at 10.0.0.1","code":"why"}}"#,
        );
        assert!(
            matches!(failure, Failure::Refused { status: s, .. } if s == status),
            "{failure:?}"
        );
        assert_eq!(failure.code(), "why");
        assert!(!failure.to_string().contains("sk-1") && !failure.to_string().contains("10.0.0.1"));
    }
    for status in [429, 500, 502, 503] {
        let failure = json(status, "Retry-After: 7\r\n", "<html>busy</html>");
        assert!(
            matches!(failure, Failure::Overloaded { status: s, retry_after: Some(7), .. } if s == status),
            "{failure:?}"
        );
    }
    let missing = json(400, "", r#"{"error":{"message":"Model Not Exist"}}"#);
    assert_eq!(missing, Failure::ModelNotServed { status: 400 });
    assert_eq!(missing.to_string(), "Model not served");
    assert_eq!(
        json(200, "Content-Type: text/html\r\n", "<html>"),
        Failure::NoEventStream
    );
    assert_eq!(json(206, "", "x"), Failure::NoEventStream);
    for empty in [
        "HTTP/1.1 204 X\r\n\r\n",
        "HTTP/1.1 200 X\r\nContent-Length: 0\r\n\r\n",
    ] {
        assert_eq!(failure_of(empty), Failure::Empty, "{empty}");
    }
    for (response, code) in [
        ("SSH-2.0-OpenSSH\r\n", "head-syntax"),
        ("HTTP/1.1 101 X\r\n\r\n", "head-upgrade"),
        (
            "HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
            "head-two-lengths",
        ),
        (
            &format!("HTTP/1.1 200 X\r\nA: {}\r\n\r\n", "x".repeat(17_000)),
            "head-too-long",
        ),
        (&"HTTP/1.1 100 X\r\n\r\n".repeat(1000), "head-too-long"),
    ] {
        let failure = failure_of(response);
        assert!(matches!(failure, Failure::Malformed { .. }), "{failure:?}");
        assert_eq!(failure.code(), code);
    }
    for response in ["", "HTTP/1.1 200 OK\r\nContent-"] {
        let failure = failure_of(response);
        assert!(
            matches!(failure, Failure::Unreachable { .. }),
            "{failure:?}"
        );
        assert_eq!(failure.code(), "closed");
    }
}

/// The head of a stream with so many fields and bytes.
fn large_head(fields: usize, bytes: usize) -> String {
    let mut head = STREAM.trim_end().to_owned();
    for n in 2..fields {
        head += &format!("\r\nX-{n}: gateway");
    }
    let padding = bytes - head.len() - "\r\n\r\n".len();
    head + &"x".repeat(padding) + "\r\n\r\n"
}

#[test]
fn a_head_may_have_128_fields_and_16_kib() {
    const MOST: usize = 16 * 1024;
    let answer_of = |fields: usize, bytes: usize| {
        let fake = Fake::once(large_head(fields, bytes) + HELLO);
        let mut answer = Ok((Vec::new(), Ok(())));
        run(async {
            answer = match send(&client(&fake)).await {
                Ok(mut exchange) => Ok(body(&mut exchange, 100).await),
                Err(failure) => Err(failure.code().to_string()),
            };
        });
        answer
    };
    for (fields, bytes) in [(128, 4000), (10, MOST), (128, MOST)] {
        let hello = Ok((b"hello".to_vec(), Ok(())));
        assert_eq!(answer_of(fields, bytes), hello, "{fields} of {bytes} bytes");
    }
    assert_eq!(answer_of(128, MOST + 1), Err("head-too-long".to_owned()));
    let too_many = "head-too-many-fields".to_owned();
    assert_eq!(answer_of(129, 4000), Err(too_many));
}

#[test]
fn bodies() {
    let check = |response: &str, expect: &str, end: Result<(), Failure>| {
        for step in [1, 3, 4096] {
            let fake = Fake::once(response);
            run(async {
                let mut exchange = send(&client(&fake)).await.expect("an answer");
                let read = body(&mut exchange, step).await;
                assert_eq!(
                    read,
                    (expect.as_bytes().to_vec(), end.clone()),
                    "{response}"
                );
            });
        }
    };
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n";
    check(&format!("{STREAM}{HELLO}"), "hello", Ok(()));
    check(
        &format!("HTTP/1.1 100 Continue\r\n\r\n{STREAM}{HELLO}"),
        "hello",
        Ok(()),
    );
    check(
        &format!("{head}Content-Length: 5\r\n\r\nhello"),
        "hello",
        Ok(()),
    );
    check(
        &format!("{head}Content-Length: 5\r\n\r\nhelloXX"),
        "hello",
        Ok(()),
    );
    check(&format!("{head}Content-Length: 0\r\n\r\n"), "", Ok(()));
    check(&format!("{head}\r\nhello"), "hello", Ok(()));
    check(&format!("{head}Connection: close\r\n\r\n"), "", Ok(()));
    check(
        &format!("{head}Content-Length: 6\r\n\r\nhello"),
        "hello",
        Err(Failure::Cut),
    );
    check(
        &format!("{STREAM}5\r\nhello\r\n"),
        "hello",
        Err(Failure::Cut),
    );
    check(&format!("{STREAM}5\r\nhel"), "hel", Err(Failure::Cut));
    check(&format!("{STREAM}zz\r\n"), "", Err(Failure::Cut));
}

/// The provider runs on the test's own runtime here, so that the client reads between its writes.
#[test]
fn cut_at_every_offset() {
    let response =
        format!("{STREAM}3;x=y\r\nabc\r\n1a\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\nT: z\r\n\r\n");
    let expect = b"abcabcdefghijklmnopqrstuvwxyz".to_vec();
    run(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a free port");
        let port = listener.local_addr().expect("is bound").port();
        let upstream = upstream(&settings(), row(port));
        let length = response.len();
        tokio::task::spawn_local(async move {
            let (mut socket, _) = listener.accept().await.expect("a client");
            socket.set_nodelay(true).expect("is TCP");
            for cut in 0..=response.len() {
                let n = socket.read(&mut [0; 4096]).await.expect("a request");
                assert!(n > 0, "the connection is used again");
                let (first, second) = response.as_bytes().split_at(cut);
                socket.write_all(first).await.expect("the client reads");
                for _ in 0..8 {
                    tokio::task::yield_now().await;
                }
                socket.write_all(second).await.expect("the client reads");
            }
        });
        for cut in 0..=length {
            let mut exchange = send(&upstream).await.expect("an answer");
            assert_eq!(
                body(&mut exchange, 4096).await,
                (expect.clone(), Ok(())),
                "{cut}"
            );
            exchange.finish();
        }
    });
}

#[test]
fn a_refusal_before_the_prompt_is_read() {
    for close in [false, true] {
        let fake = Fake::start(move |_, mut socket| {
            let mut byte = [0; 100];
            std::io::Read::read_exact(&mut socket, &mut byte).expect("a request");
            let refusal = "HTTP/1.1 401 X\r\nContent-Length: 2\r\n\r\n{}";
            socket
                .write_all(refusal.as_bytes())
                .expect("the client reads");
            if !close {
                // Takes nothing more until the client has gone.
                let mut byte = [0];
                while let Ok(1) = socket.peek(&mut byte) {
                    if socket.take_error().is_ok_and(|error| error.is_some()) {
                        break;
                    }
                    std::thread::yield_now();
                }
            }
        });
        run(async {
            let upstream = client(&fake);
            let prompt = vec![b' '; 16 << 20];
            let ticket = upstream.admit(0, clock::now()).expect("is closed");
            let result = upstream
                .send(ticket, Visitor::default(), &prompt, clock::now() + PATIENCE)
                .await;
            let failure = result.expect_err("refused");
            assert!(
                matches!(failure, Failure::Refused { status: 401, .. }),
                "{failure:?}"
            );
        });
    }
}

#[test]
fn silence_ends_at_the_deadline() {
    let fake = Fake::start(|_, mut socket| {
        request(&mut socket);
        ended(&mut socket);
    });
    run(async {
        let upstream = client(&fake);
        let ticket = upstream.admit(0, clock::now()).expect("is closed");
        let start = clock::now();
        let result = upstream
            .send(
                ticket,
                Visitor::default(),
                b"{}",
                start + Duration::from_millis(200),
            )
            .await;
        assert_eq!(result.expect_err("nothing came"), Failure::Silent);
        let took = start.elapsed();
        assert!(
            took >= Duration::from_millis(200) && took < Duration::from_millis(700),
            "{took:?}"
        );
    });
}

#[test]
fn the_models_list() {
    let check = |response: &str, expect: Option<bool>| {
        let length = response.len();
        let fake = Fake::once(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{response}"
        ));
        run(async {
            assert_eq!(
                client(&fake).model_served(0).await,
                Ok(expect),
                "{response}"
            );
        });
    };
    check(
        r#"{"object":"list","data":[{"id":"m-0"},{"id":"m-1"}]}"#,
        Some(true),
    );
    check(r#"{"data":[{"id":"m-10"},{},7]}"#, Some(false));
    check(r#"{"models":[]}"#, None);
    check("<html>", None);
    check(
        &format!(r#"{{"data":[{{"id":"{}"}}]}}"#, "x".repeat(300_000)),
        None,
    );
    let refuse = |status: u16| {
        let fake = Fake::once(format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n"));
        let mut result = Ok(None);
        run(async { result = client(&fake).model_served(0).await });
        result
    };
    assert_eq!(refuse(404), Ok(None));
    assert!(matches!(
        refuse(401),
        Err(Failure::Refused { status: 401, .. })
    ));
}

#[test]
fn what_a_stream_costs_is_small() {
    assert!(size_of::<Exchange>() <= 128, "{}", size_of::<Exchange>());
    assert!(size_of::<Failure>() <= 32, "{}", size_of::<Failure>());
    let fake = Fake::once("");
    run(async {
        let upstream = client(&fake);
        let ticket = upstream.admit(0, clock::now()).expect("is closed");
        let sending = upstream.send(ticket, Visitor::default(), b"{}", clock::now());
        assert!(size_of_val(&sending) <= 2048, "{}", size_of_val(&sending));
    });
}
