//! What connections and open streams hold, against the numbers of the memory sum.

use cloudchat::budget::{
    ANSWER_BYTES_FIRST, CONNECTION_BYTES, PROVIDER_BYTES, STALLED_BYTES, TLS_BYTES,
    TLS_STALLED_BYTES,
};
use cloudchat::limits::CARRY_BYTES_MAX;

use crate::client::Client;
use crate::counting::live;
use crate::rig::{Peer, Rig, chunk, event};

const STREAMS: usize = 200;
/// `chat.answer_bytes_max` by default.
const ANSWER_BYTES_MAX: usize = 32 * 1024;
/// Each takes a moment to be sure of, so fewer have to do.
const STALLED: usize = 8;

/// A connection that waits behind an error line: the wait itself, and its timer.
const LINGER_BYTES: usize = 512;

struct Each {
    connection: isize,
    stream: isize,
    lingering: isize,
    stalled: isize,
}

fn measure(tls: bool) -> Each {
    let mut rig = Rig::start(tls);
    rig.settle();
    let before = live();
    let clients: Vec<_> = (0..STREAMS).map(|_| idle(&rig)).collect();
    rig.settle();
    let with_connections = live();
    let mut open: Vec<_> = clients.into_iter().map(|c| begin(&rig, c)).collect();
    rig.settle();
    let with_streams = live();
    let failing = open.split_off(STALLED);
    let lingering: Vec<_> = failing.into_iter().map(fail).collect();
    rig.settle();
    let with_lingering = live();
    let events = event(&"x".repeat(100)).repeat(200);
    for (_, peer) in &mut open[..STALLED] {
        peer.flood(&events);
    }
    rig.settle();
    let with_stalled = live();
    drop((open, lingering));
    rig.stop();
    let each = |bytes: isize, n: usize| bytes / n.cast_signed();
    let stream = each(with_streams - with_connections, STREAMS);
    Each {
        connection: each(with_connections - before, STREAMS),
        stream,
        lingering: stream + each(with_lingering - with_streams, STREAMS - STALLED),
        stalled: each(with_stalled - with_lingering, STALLED),
    }
}

/// A connection that has had an answer with as many headers as most have: hyper keeps room for them. It keeps
/// none for those of a request, of which there may be many more.
fn idle(rig: &Rig) -> Client {
    let mut client = rig.client();
    client.get("/auth/healthz", "");
    let many: String = (0..90).map(|n| format!("X-{n}: x\r\n")).collect();
    client.get("/test", &many);
    client
}

/// A stream that has had 2 KB of text.
fn begin(rig: &Rig, mut client: Client) -> (Client, Peer) {
    client.ask();
    let mut peer = rig.provider.accept();
    peer.begin();
    let event = event(&"x".repeat(100));
    peer.send(&event);
    client.head();
    client.chunk();
    for _ in 1..20 {
        peer.send(&event);
        client.chunk();
    }
    (client, peer)
}

/// Its provider reports an error; what is left when the client has been told.
fn fail((mut client, mut peer): (Client, Peer)) -> Client {
    peer.send(&chunk("data: {\"error\":{}}\n\n"));
    assert!(client.chunk().ends_with(b"\"done\":\"error\"}\n"));
    client
}

/// Fails if what was measured is more than `at_most`.
fn check(what: &str, measured: isize, at_most: usize) {
    println!("{what}: {measured} bytes of {at_most}");
    assert!(
        measured <= at_most.cast_signed(),
        "{what}: {measured} bytes, at most {at_most}"
    );
}

/// hyper's two buffers. What is not used of them is not resident: of 8 KiB each, half in general.
const HYPER_BYTES: usize = 2 * 8192;
#[test]
fn connections_and_streams_hold_little() {
    let answer_pool = ANSWER_BYTES_MAX - ANSWER_BYTES_FIRST;
    for (name, tls) in [("plain", false), ("TLS", true)] {
        let each = measure(tls);
        let (quiet, full) = match tls {
            true => (TLS_BYTES, TLS_STALLED_BYTES),
            false => (0, 0),
        };
        let own = CONNECTION_BYTES - HYPER_BYTES / 2;
        check(
            &format!("{name}: connection"),
            each.connection,
            HYPER_BYTES + own,
        );
        check(
            &format!("{name}: stream"),
            each.stream,
            PROVIDER_BYTES + ANSWER_BYTES_FIRST + quiet,
        );
        check(&format!("{name}: lingering"), each.lingering, LINGER_BYTES);
        // The rest of the answer, and hyper's write buffer.
        let more = answer_pool + STALLED_BYTES + CARRY_BYTES_MAX;
        check(&format!("{name}: stalled"), each.stalled, more + full);
    }
}
