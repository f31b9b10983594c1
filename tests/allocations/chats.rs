//! What a whole chat allocates in the worker, from the question to the last line.

use crate::client::Client;
use crate::counting::Count;
use crate::rig::{Peer, Rig, event};

const CHATS: usize = 50;

/// One question, and its answer of ten words.
fn chat(client: &mut Client, peer: impl FnOnce() -> Peer) -> Peer {
    client.ask();
    let mut peer = peer();
    peer.begin();
    for _ in 0..10 {
        peer.send(&event("Hello"));
    }
    peer.finish();
    client.head();
    assert_eq!(client.rest(), 11);
    peer
}

/// Allocations of each, after a few that fill what is kept. What the last one leaves undone is made
/// up for by the one before the first.
fn each(what: &str, at_most: usize, mut chat: impl FnMut()) {
    (0..5).for_each(|_| chat());
    let count = Count::start();
    (0..CHATS).for_each(|_| chat());
    let (calls, bytes) = (count.calls().div_ceil(CHATS), count.bytes() / CHATS);
    println!("{what}: {calls} allocations, {bytes} bytes");
    assert!(
        calls <= at_most,
        "{what}: {calls} allocations, at most {at_most}"
    );
}

#[test]
fn a_chat_allocates_a_few_times() {
    // About ten are hyper's for a request; TLS adds one per record, and its handshake if new. A few
    // come and go with how the provider's bytes are cut into reads.
    for (name, tls, warm_max, fresh_max) in [("plain", false, 48, 64), ("TLS", true, 64, 190)] {
        let mut rig = Rig::start(tls);
        let mut client = rig.client();
        let mut warm = Some(chat(&mut client, || rig.provider.accept()));
        each(&format!("{name}, both connections kept"), warm_max, || {
            let peer = warm.take().expect("it was put back");
            warm = Some(chat(&mut client, || peer));
        });
        drop(warm);
        rig.settle();
        each(&format!("{name}, both connections new"), fresh_max, || {
            chat(&mut rig.client(), || rig.provider.accept());
        });
        rig.stop();
    }
}
