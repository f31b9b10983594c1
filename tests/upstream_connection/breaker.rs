//! The breaker as callers see it.

use std::time::Duration;

use cloudchat::clock;
use cloudchat::upstream::{Failure, Visitor};

use crate::provider::*;

#[test]
fn failures_open_it_and_one_probe_closes_it() {
    let fake = Fake::start(|n, mut socket| {
        request(&mut socket);
        let response = match n {
            0 | 1 => "HTTP/1.1 503 X\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".to_owned(),
            _ => format!("{STREAM}{HELLO}"),
        };
        std::io::Write::write_all(&mut socket, response.as_bytes()).expect("the client reads");
        ended(&mut socket);
    });
    run(async {
        let mut settings = settings();
        (settings.breaker_failures_max, settings.breaker_open) = (2, Duration::from_secs(30));
        let upstream = upstream(&settings, row(fake.port));
        for _ in 0..2 {
            let failure = send(&upstream).await.expect_err("is overloaded");
            assert!(
                matches!(failure, Failure::Overloaded { status: 503, .. }),
                "{failure:?}"
            );
        }
        let wait = upstream.admit(0, clock::now()).expect_err("it is open");
        assert!(wait > Duration::from_secs(29) && wait <= Duration::from_secs(30));
        let later = clock::now() + Duration::from_secs(30);
        let probe = upstream.admit(0, later).expect("half-open");
        assert!(upstream.admit(0, later).is_err(), "one probe at a time");
        drop(probe);
        let probe = upstream
            .admit(0, later)
            .expect("the first probe was cancelled");
        {
            let mut cancelled =
                Box::pin(upstream.send(probe, Visitor::default(), b"{}", clock::now() + PATIENCE));
            let polled =
                std::future::poll_fn(|cx| std::task::Poll::Ready(cancelled.as_mut().poll(cx)));
            assert!(polled.await.is_pending());
            assert!(upstream.admit(0, later).is_err(), "the probe is on its way");
        }
        let probe = upstream
            .admit(0, later)
            .expect("the second one was cancelled, too");
        let mut exchange = upstream
            .send(probe, Visitor::default(), b"{}", clock::now() + PATIENCE)
            .await
            .expect("an answer");
        assert!(upstream.admit(0, later).is_err(), "no verdict yet");
        exchange.succeeded();
        exchange.failed(Visitor::default()); // the second verdict does not count
        assert!(upstream.admit(0, later).is_ok());
    });
}

#[test]
fn refusals_do_not_open_it() {
    let refusal = "HTTP/1.1 429 X\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    let fake = Fake::start(move |n, mut socket| {
        request(&mut socket);
        if n < 3 {
            std::io::Write::write_all(&mut socket, refusal.as_bytes()).expect("the client reads");
        }
        ended(&mut socket);
    });
    run(async {
        let mut settings = settings();
        settings.breaker_failures_max = 1;
        let upstream = upstream(&settings, row(fake.port));
        for _ in 0..3 {
            send(&upstream).await.expect_err("refused");
        }
        let ticket = upstream.admit(0, clock::now()).expect("it is closed");
        let soon = clock::now() + Duration::from_millis(50);
        let result = upstream.send(ticket, Visitor::default(), b"{}", soon).await;
        assert_eq!(result.expect_err("nothing came"), Failure::Silent);
        assert!(
            upstream.admit(0, clock::now()).is_err(),
            "a time-out counts"
        );
    });
}
