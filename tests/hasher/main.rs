//! The hasher as its callers see it: verdicts, the bounded queue, the deadline, the end.

mod cffi;

use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use cloudchat::clock;
use cloudchat::config::{Auth, Config, Sources};
use cloudchat::hasher::{Against, Busy, Cost, Password, Running, Verdict};

const MIB: usize = 1 << 20;
const NO: Verdict = Verdict {
    matches: false,
    needs_rehash: false,
};
const MATCHES: Verdict = Verdict {
    matches: true,
    needs_rehash: false,
};
const OUTDATED: Verdict = Verdict {
    matches: true,
    needs_rehash: true,
};

fn settings(hash_memory_max: usize, hash_queue_max: usize, seconds: f64) -> Auth {
    Auth {
        hash_memory_max,
        hash_queue_max,
        hash_timeout: Duration::from_secs_f64(seconds),
        ..Config::load(Sources::default())
            .expect("the defaults are right")
            .auth
    }
}

fn password(text: &str) -> Password {
    Password::new(text.to_owned())
}

fn stored(hash: &str) -> Against {
    Against::Stored {
        user: 1,
        hash: hash.to_owned(),
    }
}

/// Work for about a second.
fn slow() -> Against {
    Against::Dummy(Cost::parse("$argon2id$v=19$m=19456,t=100,p=1").expect("it is a cost"))
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime can be made").block_on(future)
}

fn poll_once<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Poll<T> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn what_cannot_be_used_matches_nothing() {
    let running = Running::start(&settings(19 * MIB, 4, 60.0)).expect("19M can be mapped");
    let hasher = running.connect();
    block_on(async {
        let good = hasher.hash(password("secret 1")).await.expect("not busy");
        let cut = &good[..good.len() - 1];
        let output = good.rsplit('$').next().expect("it has parts");
        let zeros = format!(
            "{}${}",
            &good[..good.len() - output.len() - 1],
            "A".repeat(43)
        );
        for hash in [
            "",
            "secret 1",
            "$argon2id$v=19$m=65536,t=3,p=4$c29tZXNhbHQ$AAAA",
            cut,
            &zeros,
        ] {
            let verdict = hasher.verify(stored(hash), password("secret 1")).await;
            assert_eq!(verdict, Ok(NO), "{hash}");
        }
        for dummy in [
            Cost::TODAY,
            Cost::parse("$argon2id$v=19$m=65536,t=3,p=4").expect("a cost"),
        ] {
            let verdict = hasher
                .verify(Against::Dummy(dummy), password("secret 1"))
                .await;
            assert_eq!(verdict, Ok(NO));
        }
        let verdict = hasher.verify(stored(&good), password("secret 1")).await;
        assert_eq!(verdict, Ok(MATCHES), "the thread is well");
        let verdict = hasher.verify(stored(&good), password("Secret 1")).await;
        assert_eq!(verdict, Ok(NO));
        let shown = format!("{:?} {:?} {hasher:?}", stored(&good), password("secret 1"));
        assert!(
            !shown.contains("argon2id") && !shown.contains("secret"),
            "{shown}"
        );
    });
    running.stop().expect("it ends well");
}

#[test]
fn a_full_queue_says_so_at_once() {
    let running = Running::start(&settings(19 * MIB, 3, 60.0)).expect("19M can be mapped");
    let hasher = running.connect();
    block_on(async {
        let mut first = pin!(hasher.verify(slow(), password("a")));
        let mut second = pin!(hasher.verify(slow(), password("b")));
        let mut third = pin!(hasher.hash(password("c")));
        assert!(poll_once(first.as_mut()).is_pending());
        assert!(poll_once(second.as_mut()).is_pending());
        assert!(poll_once(third.as_mut()).is_pending());
        let mut fourth = pin!(hasher.verify(slow(), password("d")));
        assert_eq!(poll_once(fourth.as_mut()), Poll::Ready(Err(Busy)));
        assert_eq!(first.await, Ok(NO));
        assert_eq!(second.await, Ok(NO));
        assert!(third.await.is_ok(), "the first ones had room");
        assert!(hasher.hash(password("e")).await.is_ok());
    });
    running.stop().expect("it ends well");
}

#[test]
fn nobody_waits_beyond_the_deadline() {
    let running = Running::start(&settings(19 * MIB, 100, 0.1)).expect("19M can be mapped");
    let hasher = running.connect();
    block_on(async {
        let begin = clock::now();
        let calls: Vec<_> = (0..50)
            .map(|_| {
                let hasher = hasher.clone();
                tokio::spawn(async move { hasher.verify(slow(), password("a")).await })
            })
            .collect();
        for call in calls {
            assert_eq!(call.await.expect("it does not panic"), Err(Busy));
        }
        let took = begin.elapsed();
        assert!(
            took >= Duration::from_millis(100) && took < Duration::from_secs(1),
            "{took:?}"
        );
        // What nobody waits for is not carried out: the next ones need not wait for 50 of them.
        while hasher.hash(password("b")).await.is_err() {}
        let took = begin.elapsed();
        assert!(took < Duration::from_secs(20), "{took:?}");
    });
    running.stop().expect("it ends well");
}

#[test]
fn the_end_can_be_waited_for() {
    let running = Running::start(&settings(19 * MIB, 4, 60.0)).expect("19M can be mapped");
    let hasher = running.connect();
    block_on(async {
        let ended = running.ended();
        assert_eq!(Ok(()), running.stop());
        ended.await;
        assert_eq!(hasher.hash(password("a")).await, Err(Busy));
    });
}
