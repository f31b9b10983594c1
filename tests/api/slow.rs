//! Readers that are slow or do not read at all: memory stays bounded, others are not delayed.

use std::thread;
use std::time::Duration;

use cloudchat::clock;

use crate::kit::provider::{chunk, delta};
use crate::kit::server::{least_memory, limit};
use crate::kit::{Conn, Provider, Server, pass, until};

const MANY: usize = 500;

/// A reader with a small window whose answer never ends; the provider writes in a thread.
fn flooded(server: &Server, provider: &Provider) -> (Conn, thread::JoinHandle<usize>) {
    let mut conn = Conn::narrow(server.port, 2048);
    conn.ask("Hi", &[]);
    let mut call = provider.call();
    call.accept();
    let piece = chunk(delta(&"token ".repeat(40)).as_bytes()).repeat(16);
    (conn, thread::spawn(move || call.flood(&piece)))
}

#[test]
fn hundreds_of_readers_at_one_byte_a_second() {
    let provider = Provider::played();
    // One stream in ten may stall: as many as are meant to take a few thousand streams.
    let settings = "limits.memory = \"192M\"\nauth.hash_memory_max = \"19M\"\nupstream.receive_buffer_bytes = \"8K\"\nchat.streams_per_client_max = 10000\nserver.workers = 2";
    let server = Server::start(&provider, settings);
    let stalled_max = limit(&server, "stalled_max");
    assert!(stalled_max >= MANY, "{stalled_max} may stall");
    let mut readers: Vec<_> = (0..MANY).map(|_| flooded(&server, &provider)).collect();
    // Beside them one stream that reads.
    let mut conn = server.connect();
    conn.ask("Hi", &[]);
    let mut call = provider.call();
    call.accept().text("0");
    assert_eq!(conn.head().status, 200);
    conn.line();
    let mut delays = Vec::new();
    for round in 0..2 {
        for (slow, _) in &mut readers {
            assert_eq!(slow.receive_at_most(1), 1, "a slow reader is not cut off");
        }
        for n in 0..20 {
            let sent = clock::now();
            call.text(&format!("{round}-{n}"));
            assert_eq!(conn.line(), Some(format!("{{\"text\":\"{round}-{n}\"}}")));
            delays.push(sent.elapsed());
            pass(0.02);
        }
    }
    delays.sort_unstable();
    let (median, worst) = (delays[delays.len() / 2], delays[delays.len() - 1]);
    assert!(
        median < Duration::from_millis(20),
        "median {median:?}, worst {worst:?}"
    );
    assert!(
        worst < Duration::from_millis(300),
        "median {median:?}, worst {worst:?}"
    );
    let peak = server.memory_kib("VmHWM") / 1024;
    assert!(peak < 128, "{peak} MiB at the peak");
    // They leave; every provider is let go, having written no more than the buffers hold.
    let writers: Vec<_> = readers.into_iter().map(|(_, writer)| writer).collect();
    for writer in writers {
        writer.join().expect("a provider's thread does not fail");
    }
}

#[test]
fn readers_that_take_nothing_are_closed_and_slow_ones_are_not() {
    let provider = Provider::played();
    let server = Server::start(
        &provider,
        "server.write_seconds = 1\nchat.streams_per_client_max = 100",
    );
    let (mut slow, slow_writer) = flooded(&server, &provider);
    let stuck: Vec<_> = (0..20).map(|_| flooded(&server, &provider)).collect();
    let start = clock::now();
    until("those that take nothing to be closed", || {
        // A few kilobytes now and then open the window: this one is alive.
        slow.receive_at_most(3000);
        pass(0.02);
        stuck
            .iter()
            .all(|(_, writer)| writer.is_finished())
            .then_some(())
    });
    let took = start.elapsed().as_secs_f64();
    assert!((0.7..4.0).contains(&took), "{took} s");
    assert!(
        !slow_writer.is_finished(),
        "the slow reader is still served"
    );
    drop(slow);
    until("the slow one to end", || {
        slow_writer.is_finished().then_some(())
    });
}

#[test]
fn more_readers_that_take_nothing_than_the_sum_holds_are_closed_early() {
    const SURPLUS: usize = 5;
    let provider = Provider::played();
    let memory = least_memory();
    let server = Server::start(
        &provider,
        &format!(
            "limits.memory = {memory:?}\nserver.workers = 2\nserver.write_seconds = 4\n\
             chat.streams_per_client_max = 1000\nupstream.receive_buffer_bytes = \"8K\""
        ),
    );
    let stalled_max = limit(&server, "stalled_max");
    assert!(stalled_max + SURPLUS <= limit(&server, "streams_max"));
    let stuck: Vec<_> = (0..stalled_max + SURPLUS)
        .map(|_| flooded(&server, &provider))
        .collect();
    let start = clock::now();
    let closed = || stuck.iter().filter(|(_, w)| w.is_finished()).count();
    until("the surplus to be closed", || {
        (closed() >= SURPLUS).then_some(())
    });
    let took = start.elapsed().as_secs_f64();
    assert!((0.5..2.5).contains(&took), "{took} s");
    pass(0.3);
    assert_eq!(closed(), SURPLUS, "the others may stall for longer");
    until("the others to be closed", || {
        (closed() == stuck.len()).then_some(())
    });
    let took = start.elapsed().as_secs_f64();
    assert!((3.0..7.0).contains(&took), "{took} s");
}

#[test]
fn a_stream_does_not_die_of_its_readers_slowness() {
    // The reader pauses for longer than the provider may; the provider waits for it, not the
    // other way round, so no limit of the provider's may strike.
    let provider = Provider::played();
    let settings = "upstream.between_events_seconds = 0.4\nserver.write_seconds = 10";
    let server = Server::start(&provider, settings);
    let (mut conn, writer) = flooded(&server, &provider);
    pass(1.2);
    assert!(!writer.is_finished(), "the stream is still there");
    assert_eq!(conn.head().status, 200);
    for _ in 0..2000 {
        assert!(
            conn.line()
                .expect("it goes on")
                .starts_with("{\"text\":\"token ")
        );
    }
    drop(conn);
    writer.join().expect("the provider's thread does not fail");
}

#[test]
fn whoever_reads_on_after_a_long_pause_gets_the_whole_answer() {
    const EVENTS: usize = 15_000;
    let provider = Provider::played();
    let settings = "upstream.between_events_seconds = 0.4\nserver.write_seconds = 10";
    let server = Server::start(&provider, settings);
    let mut conn = Conn::narrow(server.port, 2048);
    conn.ask("Hi", &[]);
    let mut call = provider.call();
    let writer = thread::spawn(move || {
        call.accept();
        for n in 0..EVENTS {
            call.text(&format!("{n} {}", "token ".repeat(160)));
        }
        call.finish("stop");
    });
    assert_eq!(conn.head().status, 200);
    for n in 0..EVENTS {
        if n == 100 || n == 2000 {
            // Far longer than the provider may be silent; it would send if it could.
            pass(1.0);
            assert!(!writer.is_finished(), "the provider has to wait");
        }
        let line = conn.line().expect("it goes on");
        assert!(
            line.starts_with(&format!("{{\"text\":\"{n} token ")),
            "{line}"
        );
    }
    assert_eq!(conn.rest(), ("{\"done\":\"stop\"}\n".to_owned(), true));
    writer.join().expect("the provider's thread does not fail");
}
