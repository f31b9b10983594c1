//! Nothing allocates per forwarded event, nor to judge a password. Counted per thread: the test
//! harness's own thread allocates when it pleases.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use cloudchat::accounts::password::weakness;
use cloudchat::limits::Pool;
use cloudchat::llm::transcoder::{Sink, Transcoder, write_line};

struct Counting;

thread_local! {
    // Neither made nor dropped by code that could allocate.
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

#[expect(
    unsafe_code,
    reason = "counting allocations takes an allocator of one's own"
)]
// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as promised by our caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as promised by our caller.
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: as promised by our caller.
        unsafe { System.dealloc(old, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The core's scratch buffer, handed on and emptied after each call.
struct Out {
    bytes: Vec<u8>,
    texts: usize,
}

impl Sink for Out {
    fn text(&mut self, escaped: &[u8]) {
        self.texts += 1;
        write_line(&mut self.bytes, escaped);
    }
}

const EVENTS: usize = 10_000;

/// Feeds 10,000 events in pieces of that many bytes; gives the allocations of all but the first
/// 100 events, in which the carry comes into being.
fn allocations(stream: &[u8], piece: usize) -> usize {
    let pool = Pool::new(0);
    let mut transcoder = Transcoder::new();
    let mut out = Out {
        bytes: Vec::with_capacity(2 * stream.len()),
        texts: 0,
    };
    let mut feed = |bytes: &[u8]| {
        for piece in bytes.chunks(piece) {
            let progress = transcoder.feed(piece, &pool, &mut out);
            assert!(progress.expect("the stream is good").done.is_none());
            out.bytes.clear();
        }
    };
    let warm_up = stream.len() / 100;
    feed(&stream[..warm_up]);
    let before = ALLOCATIONS.get();
    feed(&stream[warm_up..]);
    let after = ALLOCATIONS.get();
    assert_eq!(out.texts, EVENTS);
    after - before
}

#[test]
fn forwarding_and_judging_passwords_allocate_nothing() {
    let deepseek = "data: {\"id\":\"930c60df-bf64-41c9-a88e-3ec75f81e00e\",\"object\":\"chat.completion.chunk\",\
        \"created\":1755047005,\"model\":\"deepseek-flash\",\"system_fingerprint\":\"fp_8802369eaa\",\
        \"choices\":[{\"index\":0,\"delta\":{\"content\":\"你好\\n\\u4f60\"},\"logprobs\":null,\
        \"finish_reason\":null}]}\n\n";
    let qwen = "data: {\"choices\":[{\"delta\":{\"content\":\"好\",\"reasoning_content\":null},\
        \"finish_reason\":null,\"index\":0,\"logprobs\":null}],\"object\":\"chat.completion.chunk\",\
        \"usage\":null,\"created\":1764076775,\"model\":\"qwen-plus\",\"id\":\"chatcmpl-9f61c6b4\"}\r\n\r\n";
    let mistral = "data: {\"id\":\"cmpl-1\",\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\
        \"delta\":{\"content\":[{\"type\":\"thinking\",\"thinking\":[{\"type\":\"text\",\"text\":\"hm\"}]},\
        {\"type\":\"text\",\"text\":\"你好\\n\"}]},\"finish_reason\":null}]}\n\n";
    for event in [deepseek, qwen, mistral] {
        let stream = event.repeat(EVENTS).into_bytes();
        // Whole events; a core's reads, which cut some; pieces that cut every event.
        for piece in [event.len(), 4096, event.len() - 1, 100, 1] {
            let count = allocations(&stream, piece);
            assert_eq!(count, 0, "in pieces of {piece} bytes");
        }
    }
    let before = ALLOCATIONS.get();
    let weak = [
        "P@ssw0rd",
        "P@ssw0rd!",
        "ABCD1234",
        "short",
        "密码密码密码密码",
    ]
    .map(|password| weakness(password).is_some());
    let after = ALLOCATIONS.get();
    assert_eq!(weak, [true, false, true, true, true]);
    assert_eq!(after - before, 0, "for passwords");
}
