//! Rule 10 and the bounds of time and memory.

use cloudchat::limits::{CARRY_BYTES_MAX, EVENT_BYTES_MAX, Pool};
use cloudchat::llm::transcoder::Transcoder;

use super::table::delta;
use super::{Lines, run};

#[test]
fn rule_10_an_event_of_one_mebibyte_passes_and_a_longer_one_ends_the_stream() {
    let around = delta("").len() - "data: ".len();
    for (excess, end) in [(0, Err("Cut")), (1, Err("TooLong"))] {
        let text = "x".repeat(EVENT_BYTES_MAX - around + excess);
        let comment = format!(":{}", "x".repeat(EVENT_BYTES_MAX - 1 + excess));
        let lines = format!("{}\n\n", "data: \n".repeat(EVENT_BYTES_MAX + 1 + excess));
        let streams = [
            (
                format!("{}\n\n{}\n\n", delta("a"), delta(&text)),
                excess == 0,
            ),
            (format!("{}\n\n{comment}\n\n", delta("a")), false),
            (format!("{}\n\n{comment}", delta("a")), false),
            (
                format!("{}\n\n{}", delta("a"), comment.replace(':', "n")),
                false,
            ),
        ];
        for (stream, second) in streams {
            for length in [1, 1000, 4096, stream.len()] {
                let (out, found) = run(stream.as_bytes().chunks(length));
                assert_eq!(found.as_deref().map_err(String::as_str), end);
                assert_eq!(out.lines().count(), if second { 2 } else { 1 });
            }
        }
        let end = if excess == 0 { "NoEvents" } else { "TooLong" };
        for length in [4096, lines.len()] {
            assert_eq!(run(lines.as_bytes().chunks(length)).1, Err(end.to_owned()));
        }
    }
}

#[test]
fn nesting_costs_neither_stack_nor_more_than_linear_time() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        for depth in [10_000, 100_000] {
            let value = format!("{}1{}", open.repeat(depth), close.repeat(depth));
            for (data, end) in [
                (format!("{{\"x\":{value}}}"), Err("Cut")),
                (format!("{{\"choices\":[{value}]}}"), Err("BadContent")),
                (
                    format!("{{\"choices\":[{{\"delta\":{{\"content\":{value}}}}}]}}"),
                    Err("BadContent"),
                ),
                (
                    format!("{{\"error\":{{\"type\":{value}}}}}"),
                    Err("Provider(ProviderError(\"\"))"),
                ),
                (format!("{{\"x\":{value}"), Err("NotJson")),
                (open.repeat(depth), Err("NotJson")),
            ] {
                let end = match end {
                    Err("BadContent")
                        if open.starts_with('{') && data.starts_with("{\"choices\":[{\"a") =>
                    {
                        Err("Cut")
                    }
                    end => end,
                };
                let stream = format!("data: {data}\n\n");
                let (out, found) = run(stream.as_bytes().chunks(4096));
                assert_eq!(
                    (out.as_str(), found.as_deref().map_err(String::as_str)),
                    ("", end)
                );
            }
        }
    }
}

#[test]
fn memory_for_a_cut_event_is_bounded_and_goes_back() {
    let pool = Pool::new(1);
    let (mut transcoder, mut lines) = (Transcoder::new(), Lines::default());
    let mut feed = |bytes: &[u8]| {
        let fault = transcoder.feed(bytes, &pool, &mut lines).err();
        (transcoder.held(), pool.used(), fault)
    };
    let whole = format!("{}\n\n", delta("a"));
    assert_eq!(
        feed(whole.as_bytes()),
        (0, 0, None),
        "a whole event is not copied"
    );
    for size in [1, 100, 1000, CARRY_BYTES_MAX - 100] {
        let event = format!("{}\n\n", delta(&"x".repeat(size)));
        for byte in event.as_bytes() {
            let (held, long, fault) = feed(&[*byte]);
            assert!(held <= CARRY_BYTES_MAX && long == 0 && fault.is_none());
        }
    }
    let carry = feed(b"").0;
    let event = format!("{}\n\n", delta(&"x".repeat(EVENT_BYTES_MAX - 100)));
    let (last, pieces) = event.as_bytes().split_last().expect("it is not empty");
    for piece in pieces.chunks(1000) {
        let (held, long, fault) = feed(piece);
        assert!(held <= carry.max(CARRY_BYTES_MAX) + EVENT_BYTES_MAX && fault.is_none());
        assert!(long == 1 || held <= CARRY_BYTES_MAX);
    }
    assert_eq!(feed(b"").1, 1);
    assert_eq!(
        feed(&[*last]),
        (carry, 0, None),
        "the long line went back with the event"
    );
}

#[test]
fn without_a_free_long_line_only_long_events_fail() {
    let pool = Pool::new(0);
    let (mut transcoder, mut lines) = (Transcoder::new(), Lines::default());
    let long = format!("{}\n\n", delta(&"x".repeat(CARRY_BYTES_MAX)));
    let mut feed = |bytes: &[u8]| {
        transcoder
            .feed(bytes, &pool, &mut lines)
            .map_err(|f| f.to_string())
    };
    assert!(feed(long.as_bytes()).is_ok(), "it lies whole in the input");
    assert!(feed(&long.as_bytes()[..CARRY_BYTES_MAX]).is_ok());
    let fault = "Too many long events at once, try again".to_owned();
    assert_eq!(
        feed(&long.as_bytes()[CARRY_BYTES_MAX..]),
        Err(fault.clone())
    );
    assert_eq!(feed(b"data: [DONE]\n\n"), Err(fault), "a verdict stands");
}
