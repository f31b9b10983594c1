//! Nothing that was answered is lost: not by a restart, not by `kill -9`.

use crate::kit::provider::Answer;
use crate::kit::{Browser, Conn, Provider, Server};

#[test]
fn a_conversation_survives_a_restart_and_a_kill_right_after_the_last_line() {
    let provider = Provider::answering(|n, _| Answer::texts(&[&format!("a{n}")]));
    let mut server = Server::start(&provider, "");
    let mut cookie = None;
    for n in 0..4 {
        let mut browser = Browser::new(&server);
        browser.cookie = cookie;
        let mut conn = browser.open(&format!("q{n}"));
        browser.keep(&conn.head());
        while !conn
            .next_line()
            .expect("the last line comes")
            .contains("done")
        {}
        assert_eq!(provider.last().talk().len(), 2 * n + 1);
        cookie = browser.cookie.clone();
        let signal = if n % 2 == 0 {
            libc::SIGKILL
        } else {
            libc::SIGTERM
        };
        server = server.restart(signal);
    }
    assert!(cookie.is_some());
}

#[test]
fn a_reset_survives_a_kill() {
    let provider = Provider::friendly();
    let server = Server::start(&provider, "");
    let mut browser = Browser::new(&server);
    browser.ask("first");
    browser.forget();
    let cookie = browser.cookie.clone();
    let server = server.restart(libc::SIGKILL);
    let mut browser = Browser::new(&server);
    browser.cookie = cookie;
    browser.ask("second");
    assert_eq!(provider.last().talk(), ["user: second"]);
}

#[test]
fn rate_limit_windows_survive_a_restart() {
    let provider = Provider::friendly();
    let server = Server::start(&provider, "chat.rate_per_minute = 2");
    assert_eq!(server.chat("one", &[]).status, 200);
    let server = server.restart(libc::SIGTERM);
    assert_eq!(server.chat("two", &[]).status, 200);
    let server = server.restart(libc::SIGKILL);
    assert_eq!(server.chat("three", &[]).status, 429);
}

#[test]
fn every_turn_that_was_answered_is_there_after_a_kill_under_load() {
    let provider = Provider::friendly();
    let server = Server::start(&provider, "");
    let ask_many = |port: u16| {
        let mut answered = Vec::new();
        for _ in 0..25 {
            let mut conn = Conn::tcp(port);
            let reply = conn.ask("Hi", &[]).reply();
            answered.extend(reply.whole.then(|| reply.cookie("cc_app")).flatten());
        }
        answered
    };
    let port = server.port;
    let cookies: Vec<String> = std::thread::scope(|scope| {
        let askers: Vec<_> = (0..4)
            .map(|_| scope.spawn(move || ask_many(port)))
            .collect();
        askers
            .into_iter()
            .flat_map(|asker| asker.join().expect("no asker fails"))
            .collect()
    });
    assert_eq!(cookies.len(), 100);
    let server = server.restart(libc::SIGKILL);
    for cookie in cookies {
        let mut browser = Browser::new(&server);
        browser.cookie = Some(cookie);
        browser.ask("again");
        assert_eq!(provider.last().talk().len(), 3);
    }
}
