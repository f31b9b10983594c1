//! What a stream takes from the heap, counted on the client's own thread.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::Write as _;

use crate::provider::*;
use crate::tls::{accept, identity, tls_row, trusting};

struct Counting;

thread_local! {
    /// Bytes in use and calls made, by this thread.
    static HEAP: Cell<(isize, usize)> = const { Cell::new((0, 0)) };
}

fn count(bytes: isize) {
    // A thread that is ending frees without being counted.
    let _ = HEAP.try_with(|heap| {
        let (used, calls) = heap.get();
        heap.set((used + bytes, calls + usize::from(bytes > 0)));
    });
}

#[expect(unsafe_code, reason = "only an allocator can count what is allocated")]
// SAFETY: everything is handed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-layout.size().cast_signed());
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const EVENTS: usize = 10_000;
const EVENT: &str = "1b\r\ndata: {\"choices\":[{\"x\":1}]}\r\n";

#[test]
fn reading_allocates_nothing() {
    let fake = Fake::start(|_, mut socket| {
        request(&mut socket);
        let events = EVENT.repeat(EVENTS);
        write!(socket, "{STREAM}{events}0\r\n\r\n").expect("the client reads");
        ended(&mut socket);
    });
    run(async {
        let mut exchange = send(&client(&fake)).await.expect("an answer");
        let (mut buf, mut total) = ([0; 4096], 0);
        // The first read frees what came with the head.
        total += read(&mut exchange, &mut buf).await.expect("a body");
        let before = HEAP.get().1;
        loop {
            match read(&mut exchange, &mut buf).await.expect("a body") {
                0 => break,
                n => total += n,
            }
        }
        assert_eq!(HEAP.get().1 - before, 0, "allocations");
        assert_eq!(total, 27 * EVENTS);
    });
}

/// Bytes of heap for each of many open streams.
fn heap_per_stream(
    settings: &cloudchat::config::Upstream,
    row: cloudchat::config::Provider,
) -> isize {
    const STREAMS: isize = 32;
    let mut each = 0;
    run(async {
        let upstream = upstream(settings, row);
        let mut open = Vec::with_capacity(40);
        let mut first = send(&upstream).await.expect("an answer"); // what is made once
        assert_eq!(read(&mut first, &mut [0; 4096]).await, Ok(27));
        let before = HEAP.get().0;
        for _ in 0..STREAMS {
            let mut exchange = send(&upstream).await.expect("an answer");
            assert_eq!(read(&mut exchange, &mut [0; 4096]).await, Ok(27));
            open.push(exchange);
        }
        each = (HEAP.get().0 - before) / STREAMS;
    });
    each
}

#[test]
fn an_open_stream_holds_little() {
    let fake = Fake::start(|_, mut socket| {
        request(&mut socket);
        write!(socket, "{STREAM}{EVENT}").expect("the client reads");
        ended(&mut socket);
    });
    let plain = heap_per_stream(&settings(), row(fake.port));
    assert!(plain <= 1024, "{plain} bytes");

    let (server, pem) = identity();
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("ca.pem");
    std::fs::write(&file, pem).expect("is writable");
    let fake = Fake::start(move |_, socket| {
        let mut stream = accept(&server, socket);
        request(&mut stream);
        write!(stream, "{STREAM}{EVENT}").expect("the client reads");
        ended(&mut stream.sock);
    });
    let tls = heap_per_stream(&trusting(&file), tls_row("localhost", fake.port));
    // rustls: its state, a read buffer of 4 KiB and the peer's certificates (one small one here).
    assert!(tls <= 10 * 1024, "{tls} bytes");
}
