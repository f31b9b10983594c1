//! Out of file descriptors: nothing breaks, nothing spins, and it passes by itself.

use cloudchat::clock;

use crate::kit::provider::Answer;
use crate::kit::{Conn, Provider, Server, pass, request, until};

fn test(conn: &mut Conn) -> u16 {
    conn.send(&request("GET /test", &[], None));
    conn.reply().status
}

#[test]
fn accepting_pauses_and_goes_on() {
    let provider = Provider::friendly();
    let server = Server::start(&provider, "server.workers = 2");
    let mut inside: Vec<Conn> = (0..4).map(|_| server.connect()).collect();
    for conn in &mut inside {
        assert_eq!(test(conn), 200);
    }
    server.limit_files(20);
    let limited = clock::now();
    // The kernel completes these connections; the server can accept only some of them.
    let waiting: Vec<Conn> = (0..80).map(|_| server.connect()).collect();
    until("the limit to be met", || {
        server.log().contains("accept failed").then_some(())
    });
    let before = server.ticks();
    pass(0.5);
    let used = server.ticks() - before;
    assert!(used <= 10, "it spins: {used} ticks in half a second");
    for conn in &mut inside {
        assert_eq!(test(conn), 200, "those inside are served as before");
    }
    drop(waiting);
    // There is room again, under the same limit.
    for _ in 0..10 {
        assert_eq!(test(&mut server.connect()), 200);
    }
    assert_eq!(server.chat("Hi", &[]).text(), "Hello you");
    let told = server.log().matches("accept failed").count();
    // Two cores, each of which pauses for 0.1 s.
    let most = 2 + 20 * limited.elapsed().as_millis() as usize / 1000;
    assert!((1..=most).contains(&told), "the log is not flooded: {told}");
}

#[test]
fn a_chat_that_cannot_reach_its_provider_fails_cleanly() {
    let provider = Provider::played();
    let settings = "server.workers = 1\nupstream.breaker_failures_max = 1";
    let server = Server::start(&provider, settings);
    // Servers that keep data are connected to.
    assert_eq!(server.get("/auth/healthz").status, 200);
    let mut conn = server.connect();
    assert_eq!(test(&mut conn), 200);
    // This stream has the connection that the model check left warm.
    let mut running = server.connect();
    running.ask("Hi", &[]);
    let call = provider.call();
    server.limit_files(0);
    let reply = until("a chat that finds no file descriptor", || {
        conn.ask("Hi", &[]);
        until("a refusal or a call", || match provider.try_call() {
            // One was still being closed a moment ago.
            Some(call) => {
                call.answer(&Answer {
                    keep: false,
                    ..Answer::texts(&["ok"])
                });
                Some(())
            }
            None => conn.is_readable().then_some(()),
        });
        Some(conn.reply()).filter(|reply| reply.status != 200)
    });
    assert_eq!(reply.status, 503, "{}", reply.body);
    assert_eq!(reply.json()["error"], "Busy, try again");
    // It is our shortage: the provider is neither blamed nor left alone.
    assert!(
        !server.log().contains("provider failed"),
        "{}",
        server.log()
    );
    assert!(server.log().contains("event=\"chat failed\""));
    assert_eq!(test(&mut conn), 200);
    call.answer(&Answer::texts(&["as before"]));
    assert_eq!(running.reply().text(), "as before");
}
