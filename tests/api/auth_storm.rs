//! Sixty-four logins at once on a small server.

use std::thread;

use crate::kit::{PASSWORD, Person, Provider, Reply, Server, fails, seconds};

/// What `cloudchat check` adds up to with these settings.
const MEMORY_KIB: usize = 64 * 1024;

#[test]
fn sixty_four_logins_at_once_stay_within_the_memory_and_none_times_out() {
    // With PostgreSQL the default leaves room for the old service's hashes, which take more.
    let settings =
        "limits.memory = \"64M\"\nauth.hash_memory_max = \"19M\"\nauth.hash_queue_max = 16";
    let server = Server::start(&Provider::friendly(), settings);
    for n in 0..4 {
        let email = format!("{n}@b.c");
        assert_eq!(Person::new(&server).register(&email).status, 201);
    }
    server.reset_peak();
    // Known and unknown ones, each from an address of its own.
    let replies: Vec<(Reply, f64)> = thread::scope(|scope| {
        let server = &server;
        let login = |n: usize| {
            scope.spawn(move || {
                let mut reply = None;
                let email = format!("{n}@b.c");
                let took = seconds(|| reply = Some(Person::new(server).login(&email, PASSWORD)));
                (reply.expect("it was answered"), took)
            })
        };
        let running: Vec<_> = (0..64).map(login).collect();
        let ended = running.into_iter().map(|t| t.join().expect("no panic"));
        ended.collect()
    });
    let mut busy = 0;
    for (reply, took) in &replies {
        match reply.status {
            200 => assert!(reply.get("set-cookie").is_some()),
            401 => fails(reply, 401, "Invalid credentials"),
            _ => {
                busy += 1;
                fails(reply, 503, "Busy, try again");
                assert!(reply.get("retry-after").is_some());
            }
        }
        // The queue's patience is 5 s: nobody comes near it.
        assert!(*took < 4.0, "{}: {took} s", reply.status);
    }
    assert!((1..=48).contains(&busy), "{busy} of 64 were refused");
    let peak = server.memory_kib("VmHWM");
    assert!(peak <= MEMORY_KIB, "{peak} KiB");
}
