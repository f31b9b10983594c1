//! Forwarding an event allocates nothing, in the whole worker: hyper, tokio and our own code.

use std::thread;

use crate::client::Client;
use crate::counting::Count;
use crate::rig::{Peer, Rig, event};

/// Until every buffer has its size.
const WARM_UP: usize = 300;
const FLOOD: usize = 10_000;
const PACED: usize = 2_000;

/// A stream that has had its warm-up.
fn warm(rig: &mut Rig) -> (Client, Peer) {
    let mut client = rig.client();
    client.ask();
    let mut peer = rig.provider.accept();
    peer.begin();
    peer.send(&event("你好"));
    client.head();
    client.chunk();
    paced(&mut client, &mut peer, WARM_UP);
    let events = event("你好").repeat(WARM_UP);
    flood(&mut client, &mut peer, &events, WARM_UP);
    rig.settle();
    (client, peer)
}

/// Sends events one at a time, each when the one before has arrived: each is a read of its own.
fn paced(client: &mut Client, peer: &mut Peer, events: usize) {
    let one = event("你好");
    for _ in 0..events {
        peer.send(&one);
        assert_eq!(client.chunk(), "{\"text\":\"你好\"}\n".as_bytes());
    }
}

/// Sends events as fast as they are taken.
fn flood(client: &mut Client, peer: &mut Peer, bytes: &[u8], events: usize) {
    thread::scope(|scope| {
        scope.spawn(|| peer.send(bytes));
        let mut lines = 0;
        while lines < events {
            lines += client.chunk().iter().filter(|byte| **byte == b'\n').count();
        }
        assert_eq!(lines, events);
    });
}

/// Allocations and their bytes for the events of both kinds.
fn allocations(tls: bool) -> [(usize, usize, String); 2] {
    let mut rig = Rig::start(tls);
    let (mut client, mut peer) = warm(&mut rig);
    let events = event("你好").repeat(FLOOD);
    let count = Count::with_places(5);
    flood(&mut client, &mut peer, &events, FLOOD);
    let flooded = (count.calls(), count.bytes(), count.places());
    let count = Count::with_places(5);
    paced(&mut client, &mut peer, PACED);
    let paced = (count.calls(), count.bytes(), count.places());
    peer.finish();
    assert_eq!(client.rest(), 1);
    rig.stop();
    [flooded, paced]
}

fn check(what: &str, counted: &(usize, usize, String), at_most: usize) {
    let (calls, bytes, places) = counted;
    println!("{what}: {calls} allocations, {bytes} bytes");
    assert!(
        *calls <= at_most,
        "{what}: {calls} allocations, at most {at_most}; the first of them:\n{places}"
    );
}

/// In a flood only the remembered answer grows, from 4 KiB to its maximum of 32 KiB, and once
/// hyper's write buffer.
#[test]
fn forwarding_allocates_nothing() {
    let [flooded, paced] = allocations(false);
    check("plain, 10,000 events at once", &flooded, 10);
    check("plain, 2,000 events one by one", &paced, 0);
}

/// rustls allocates once for each record that it decrypts, and its buffer for a flood's records
/// grows and shrinks; the rest of the worker allocates nothing.
#[test]
fn over_tls_each_record_allocates_once() {
    let [flooded, paced] = allocations(true);
    // 2.8 MB in records of 16 KiB.
    check("TLS, 10,000 events at once", &flooded, 400);
    check("TLS, 2,000 events one by one", &paced, PACED);
}
