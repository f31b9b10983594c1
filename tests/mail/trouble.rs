//! What happens when the mail server is away, refuses, or is not who it should be.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;

use rusqlite::Connection;

use crate::kit::{PATIENCE, Person, Provider, Server, until};
use crate::postfix::{Authority, IMPLICIT, PLAIN, Postfix, STARTTLS};
use crate::site::{SECRET, USER, forgot, lines, register, server};

const PLAINLY: &str = "mail.smtp_tls = false";

/// Waits until the log has this many lines that hold all of these.
fn logged(server: &Server, count: usize, parts: &[&str]) {
    until(&format!("{parts:?}"), || {
        (lines(server, parts) >= count).then_some(())
    });
}

/// Mails that wait in the server's store.
fn waiting(server: &Server) -> u32 {
    let file = Connection::open(server.data().join("accounts.db")).expect("it is there");
    let count = file.query_row("SELECT count(*) FROM outbox", [], |row| row.get(0));
    count.expect("the table is there")
}

#[test]
fn a_certificate_that_nobody_vouches_for_gets_no_mail() {
    for port in [STARTTLS, IMPLICIT] {
        let (known, unknown) = (Authority::new(), Authority::new());
        let mut postfix = Postfix::start(&known);
        postfix.logins.accept(USER, SECRET);
        let server = server(&postfix, port, "");
        postfix.stop();
        postfix.use_certificate_of(&unknown);
        postfix.go_on();
        register(&server, "alice@example.org");
        let refused = ["mail not sent yet", "certificate not accepted"];
        logged(&server, 2, &refused);
        assert_eq!(postfix.mails(), []);
        assert!(
            postfix.logins.outcomes().is_empty(),
            "no password was shown"
        );
        postfix.stop();
        postfix.use_certificate_of(&known);
        postfix.go_on();
        postfix.deliver(1);
    }
}

#[test]
fn a_wrong_password_is_tried_again_and_logged_nowhere() {
    let postfix = Postfix::start(&Authority::new());
    postfix.logins.accept(USER, "another password");
    let server = server(&postfix, STARTTLS, "");
    register(&server, "alice@example.org");
    logged(
        &server,
        2,
        &["mail not sent yet", "login refused", "status=535"],
    );
    assert_eq!(postfix.mails(), []);
    postfix.logins.accept(USER, SECRET);
    postfix.deliver(1);
    assert_eq!(postfix.logins.outcomes().last(), Some(&true));
    for secret in [SECRET, USER, "alice@"] {
        assert_eq!(lines(&server, &[secret]), 0, "{}", server.log());
    }
}

#[test]
fn a_server_without_starttls_gets_neither_mail_nor_password() {
    let postfix = Postfix::start(&Authority::new());
    let server = server(&postfix, PLAIN, &format!("mail.smtp_user = {USER:?}"));
    register(&server, "alice@example.org");
    logged(
        &server,
        2,
        &["mail not sent yet", "STARTTLS is not offered"],
    );
    assert_eq!(postfix.mails(), []);
    assert!(postfix.logins.outcomes().is_empty());
    assert_eq!(waiting(&server), 1);
}

#[test]
fn every_mail_arrives_once_when_the_server_is_back() {
    let mut postfix = Postfix::start(&Authority::new());
    postfix.logins.accept(USER, SECRET);
    let server = server(&postfix, STARTTLS, "");
    register(&server, "first@example.org");
    postfix.deliver(1);
    // The server has been told that it was taken.
    until("the outbox to be empty", || {
        (waiting(&server) == 0).then_some(())
    });
    postfix.stop();
    let names: Vec<String> = (0..5).map(|n| format!("user{n}@example.org")).collect();
    for name in &names {
        register(&server, name);
    }
    forgot(&server, "user0@example.org");
    logged(
        &server,
        2,
        &["mail not sent yet", "connection: ConnectionRefused"],
    );
    postfix.go_on();
    let mails = postfix.deliver(7);
    for name in &names {
        let its = mails.iter().filter(|mail| mail.to == [name.as_str()]);
        let expected = if name == "user0@example.org" { 2 } else { 1 };
        assert_eq!(its.count(), expected, "{name}");
    }
    // Letters go out in order: nothing is left behind this one.
    register(&server, "last@example.org");
    postfix.deliver(8);
    until("the outbox to be empty", || {
        (waiting(&server) == 0).then_some(())
    });
}

#[test]
fn mails_survive_a_killed_server_even_the_one_in_hand() {
    let mut postfix = Postfix::start(&Authority::new());
    postfix.stop();
    let silent = TcpListener::bind((postfix.host.as_str(), PLAIN)).expect("Postfix has left it");
    let server = server(&postfix, PLAIN, PLAINLY);
    for n in 0..3 {
        register(&server, &format!("user{n}@example.org"));
    }
    // It waits for a greeting.
    let waits = silent.accept().expect("it connects");
    let server = server.restart(libc::SIGKILL);
    assert_eq!(waiting(&server), 3);
    drop((waits, silent));
    postfix.go_on();
    let mut to: Vec<_> = postfix.deliver(3).into_iter().map(|mail| mail.to).collect();
    to.sort();
    assert_eq!(
        to,
        [
            ["user0@example.org"],
            ["user1@example.org"],
            ["user2@example.org"]
        ]
    );
    until("the outbox to be empty", || {
        (waiting(&server) == 0).then_some(())
    });
}

#[test]
fn a_silent_server_delays_neither_requests_nor_the_end() {
    let mut postfix = Postfix::start(&Authority::new());
    postfix.stop();
    let silent = TcpListener::bind((postfix.host.as_str(), PLAIN)).expect("Postfix has left it");
    let mut server = server(&postfix, PLAIN, PLAINLY);
    register(&server, "alice@example.org");
    let _waits = silent.accept().expect("it connects");
    Person::logged_in(&server, "bob@example.org");
    server.signal(libc::SIGTERM);
    assert!(server.wait().success(), "{}", server.log());
}

#[test]
fn a_mail_that_is_refused_for_good_stops_no_other() {
    let postfix = Postfix::start(&Authority::new());
    let server = server(&postfix, PLAIN, PLAINLY);
    register(&server, "gone@example.com");
    register(&server, "alice@example.org");
    assert_eq!(postfix.deliver(1)[0].to, ["alice@example.org"]);
    until("the outbox to be empty", || {
        (waiting(&server) == 0).then_some(())
    });
    let refused = ["mail not sent", "refused", "status=554", "kind=welcome"];
    assert_eq!(lines(&server, &refused), 1, "{}", server.log());
    assert_eq!(lines(&server, &["gone@"]), 0);
}

#[test]
fn without_a_server_mails_are_logged_by_kind_and_removed() {
    let server = Server::start(&Provider::friendly(), "");
    register(&server, "alice@example.org");
    logged(&server, 1, &["mail not sent", "kind=welcome", "SMTP_HOST"]);
    until("the outbox to be empty", || {
        (waiting(&server) == 0).then_some(())
    });
    assert_eq!(lines(&server, &["alice@"]), 0);
}

#[test]
fn a_mail_that_may_have_arrived_is_sent_again_under_the_same_id() {
    let mut postfix = Postfix::start(&Authority::new());
    postfix.stop();
    let breaking = TcpListener::bind((postfix.host.as_str(), PLAIN)).expect("Postfix has left it");
    let server = server(&postfix, PLAIN, PLAINLY);
    register(&server, "alice@example.org");
    let taken = [take_and_break_off(&breaking), take_and_break_off(&breaking)];
    drop(breaking);
    postfix.go_on();
    let mail = postfix.deliver(1).remove(0);
    for message in taken {
        assert!(message.contains(&mail.id), "{message}");
    }
    let unknown = ["mail not sent yet", "connection closed", "kind=welcome"];
    assert_eq!(lines(&server, &unknown), 2, "{}", server.log());
}

/// A mail server that takes one message and does not say so.
fn take_and_break_off(listener: &TcpListener) -> String {
    let (socket, _) = listener.accept().expect("it connects");
    socket
        .set_read_timeout(Some(PATIENCE))
        .expect("it can be set");
    let mut said = BufReader::new(&socket);
    let mut line = String::new();
    let mut reply = "220 mail.test";
    loop {
        writeln!(&socket, "{reply}\r").expect("it listens");
        line.clear();
        said.read_line(&mut line).expect("it speaks");
        reply = "250 fine";
        if line == "DATA\r\n" {
            break;
        }
    }
    writeln!(&socket, "354 go on\r").expect("it listens");
    let mut message = String::new();
    while !message.ends_with("\r\n.\r\n") {
        said.read_line(&mut message).expect("it speaks");
    }
    message
}
