//! Connections that are used again, and those that are not.

use std::io::Write as _;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use cloudchat::clock;
use cloudchat::upstream::Failure;

use crate::provider::*;

/// Serves requests on one connection until the client closes it; counts them in its answers.
fn keep_alive() -> Fake {
    Fake::start(|n, mut socket| {
        while !request(&mut socket).is_empty() {
            let answer = format!("{STREAM}1\r\n{n}\r\n0\r\n\r\n");
            socket
                .write_all(answer.as_bytes())
                .expect("the client reads");
        }
    })
}

#[test]
fn a_finished_exchange_leaves_its_connection_warm() {
    let fake = keep_alive();
    run(async {
        let upstream = client(&fake);
        for expect in ["0", "0", "0"] {
            let mut exchange = send(&upstream).await.expect("an answer");
            assert_eq!(body(&mut exchange, 64).await, (expect.into(), Ok(())));
            exchange.finish();
        }
        drop(send(&upstream).await.expect("an answer")); // not finished: it is closed
        let mut exchange = send(&upstream).await.expect("an answer");
        assert_eq!(body(&mut exchange, 64).await, ("1".into(), Ok(())));
    });
    assert_eq!(fake.accepted(), 2);
}

#[test]
fn a_refusal_leaves_it_warm_too() {
    let fake = Fake::start(|_, mut socket| {
        while !request(&mut socket).is_empty() {
            let refusal = "HTTP/1.1 429 X\r\nContent-Length: 2\r\n\r\n{}";
            socket
                .write_all(refusal.as_bytes())
                .expect("the client reads");
        }
    });
    run(async {
        let upstream = client(&fake);
        for _ in 0..3 {
            send(&upstream).await.expect_err("refused");
        }
    });
    assert_eq!(fake.accepted(), 1);
}

#[test]
fn the_last_chunk_may_come_after_the_finish() {
    let (finished, go) = signal();
    let go = std::sync::Mutex::new(go);
    let (written, mut done) = tokio::sync::mpsc::unbounded_channel();
    let fake = Fake::start(move |_, mut socket| {
        while !request(&mut socket).is_empty() {
            write!(socket, "{STREAM}5\r\nhello\r\n").expect("the client reads");
            let go = go.lock().expect("no panic");
            go.recv_timeout(PATIENCE).expect("the client finishes");
            write!(socket, "0\r\n\r\n").expect("is kept");
            written.send(()).expect("the test waits");
        }
    });
    run(async {
        let upstream = client(&fake);
        for _ in 0..3 {
            let mut exchange = send(&upstream).await.expect("an answer");
            assert_eq!(read(&mut exchange, &mut [0; 64]).await, Ok(5));
            exchange.finish();
            finished.send(()).expect("the provider waits");
            done.recv().await.expect("the provider writes");
            tokio::task::yield_now().await; // lets tokio hear of it
        }
    });
    assert_eq!(fake.accepted(), 1);
}

#[test]
fn a_body_that_does_not_end_is_closed_soon() {
    let (closed, at) = signal();
    let fake = Fake::start(move |n, mut socket| {
        request(&mut socket);
        let end = if n == 0 { "0\r\n\r\n" } else { "" };
        write!(socket, "{STREAM}5\r\nhello\r\n{end}").expect("the client reads");
        let at = ended(&mut socket);
        closed.send((n, at)).expect("the test waits");
    });
    run(async {
        let upstream = client(&fake);
        let mut first = send(&upstream).await.expect("an answer");
        let mut second = send(&upstream).await.expect("an answer");
        assert_eq!(read(&mut first, &mut [0; 64]).await, Ok(5));
        assert_eq!(read(&mut second, &mut [0; 64]).await, Ok(5));
        first.finish(); // idle for 55 s; the other one must not wait for that
        tokio::task::yield_now().await;
        second.finish();
        let start = clock::now();
        let (n, at) = wait_all(at, 1).await.0[0];
        let took = at - start.into_std();
        assert_eq!(n, 1);
        assert!(
            took > Duration::from_millis(800) && took < Duration::from_millis(1500),
            "{took:?}"
        );
    });
}

/// What the second request on a warm connection meets; `fresh` says what a fresh one does.
fn second_request(dies_with: &'static str, fresh: &'static str) -> (Result<(), Failure>, usize) {
    let fake = Fake::start(move |n, mut socket| {
        request(&mut socket);
        if n == 0 {
            write!(socket, "{STREAM}{HELLO}").expect("the client reads");
            request(&mut socket);
            socket
                .write_all(dies_with.as_bytes())
                .expect("the client reads");
        } else {
            socket
                .write_all(fresh.as_bytes())
                .expect("the client reads");
        }
    });
    let mut result = Ok(());
    run(async {
        let upstream = client(&fake);
        let mut exchange = send(&upstream).await.expect("an answer");
        assert_eq!(body(&mut exchange, 64).await.1, Ok(()));
        exchange.finish();
        result = send(&upstream).await.map(drop);
    });
    (result, fake.accepted())
}

#[test]
fn a_dead_warm_connection_is_replaced_once() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
    let closed = |result: &Result<(), Failure>| matches!(result, Err(Failure::Unreachable { code }) if code.as_str() == "closed");
    assert_eq!(second_request("", answer), (Ok(()), 2));
    let (result, accepted) = second_request("", "");
    assert!(
        closed(&result) && accepted == 2,
        "not twice: {result:?}, {accepted}"
    );
    let (result, accepted) = second_request("H", answer);
    assert!(
        closed(&result) && accepted == 1,
        "not after a byte: {result:?}, {accepted}"
    );
    let (result, accepted) = second_request("HTTP/1.1 100 Continue\r\n\r\n", answer);
    assert!(
        closed(&result) && accepted == 1,
        "not after a head: {result:?}, {accepted}"
    );
}

#[test]
fn a_closed_or_talkative_warm_connection_is_not_used() {
    for stray in ["", "HTTP/1.1 408 X\r\n\r\n"] {
        let (finished, go) = signal::<()>();
        let go = std::sync::Mutex::new(go);
        let (written, mut done) = tokio::sync::mpsc::unbounded_channel();
        let fake = Fake::start(move |n, mut socket| {
            request(&mut socket);
            write!(socket, "{STREAM}{HELLO}").expect("the client reads");
            if n == 0 {
                go.lock()
                    .expect("no panic")
                    .recv_timeout(PATIENCE)
                    .expect("it finishes");
                socket.write_all(stray.as_bytes()).expect("is kept");
                if stray.is_empty() {
                    drop(socket);
                    return written.send(()).expect("the test waits");
                }
                written.send(()).expect("the test waits");
            }
            assert_eq!(request(&mut socket), "", "it must not be used again");
        });
        run(async {
            let upstream = client(&fake);
            let mut exchange = send(&upstream).await.expect("an answer");
            assert_eq!(body(&mut exchange, 64).await.1, Ok(()));
            exchange.finish();
            finished.send(()).expect("the provider waits");
            done.recv().await.expect("the provider writes");
            let mut exchange = send(&upstream).await.expect("an answer");
            assert_eq!(body(&mut exchange, 64).await, (b"hello".to_vec(), Ok(())));
        });
        assert_eq!(fake.accepted(), 2);
    }
}

#[test]
fn idle_connections_are_capped_and_expire() {
    let (closed, at) = signal();
    let fake = Fake::start(move |n, mut socket| {
        request(&mut socket);
        write!(socket, "{STREAM}{HELLO}").expect("the client reads");
        let at = ended(&mut socket);
        closed.send((n, at)).expect("the test waits");
    });
    run(async {
        let mut settings = settings();
        (settings.idle_max, settings.idle_timeout) = (2, Duration::from_millis(300));
        let upstream = upstream(&settings, row(fake.port));
        let mut exchanges = Vec::new();
        for _ in 0..3 {
            let mut exchange = send(&upstream).await.expect("an answer");
            assert_eq!(body(&mut exchange, 64).await.1, Ok(()));
            exchanges.push(exchange);
        }
        let start = clock::now().into_std();
        exchanges.into_iter().for_each(|exchange| exchange.finish());
        let (mut ends, at) = wait_all(at, 3).await;
        ends.sort_by_key(|(_, at)| *at);
        assert_eq!(ends[0].0, 0, "the longest idle one makes room");
        assert!(ends[0].1 - start < Duration::from_millis(100));
        for (_, at) in &ends[1..] {
            let took = *at - start;
            assert!(
                took > Duration::from_millis(250) && took < Duration::from_millis(800),
                "{took:?}"
            );
        }
        // The task that closed them has ended; the next one is closed as well.
        let mut exchange = send(&upstream).await.expect("an answer");
        assert_eq!(body(&mut exchange, 64).await.1, Ok(()));
        exchange.finish();
        assert_eq!(wait_all(at, 1).await.0[0].0, 3);
    });
}

/// Receives `n` times without blocking the runtime.
async fn wait_all<T: Send + 'static>(from: Receiver<T>, n: usize) -> (Vec<T>, Receiver<T>) {
    let all = move || {
        let next = |_| from.recv_timeout(PATIENCE).expect("it happens");
        ((0..n).map(next).collect(), from)
    };
    tokio::task::spawn_blocking(all).await.expect("no panic")
}
