//! Memory does not depend on how long an answer is.

use std::thread;

use crate::kit::provider::{Provider, chunk, delta, finish};
use crate::kit::{Browser, Server};

#[test]
fn an_answer_of_100_mb_leaves_the_peak_where_it_was() {
    const EVENTS: usize = 36_000;
    let provider = Provider::played();
    let server = Server::start(&provider, "");
    let mut conn = Browser::new(&server).open("Hi");
    let mut call = provider.call();
    let event = chunk(delta(&"0123456789".repeat(290)).as_bytes());
    call.accept();
    let writer = thread::spawn(move || {
        for _ in 0..EVENTS {
            call.raw(&event);
        }
        call.chunk(&finish("stop")).raw(b"0\r\n\r\n");
        call
    });
    assert_eq!(conn.head().status, 200);
    let mut bytes = 0;
    let mut base = 0;
    for n in 0..EVENTS {
        if n == 1000 {
            // 3 MB are through: the answer buffer and every other one is full.
            server.reset_peak();
            base = server.memory_kib("VmHWM");
        }
        bytes += conn.line().expect("the stream goes on").len();
    }
    let peak = server.memory_kib("VmHWM");
    assert_eq!(conn.rest(), ("{\"done\":\"stop\"}\n".to_owned(), true));
    writer.join().expect("the provider's thread does not fail");
    assert!(bytes > 100_000_000, "{bytes}");
    assert!(peak <= base + 256, "from {base} to {peak} KiB");
}
