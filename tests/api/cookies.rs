//! The chat's cookie: its attributes, how it is read, and that unknown ones are never adopted.

use crate::kit::{Browser, Provider, Server};

/// The attributes of the cookie that a chat sets, sorted; the value is checked and left out.
fn attributes(server: &Server, name: &str) -> Vec<String> {
    let reply = server.chat("Hi", &[]);
    let cached = reply.get("cache-control");
    assert_eq!(cached, Some("no-store, no-transform"));
    let set = reply.head.all("set-cookie");
    assert_eq!(set.len(), 1, "{set:?}");
    let mut parts = set[0].split("; ");
    let (set_name, value) = parts
        .next()
        .and_then(|p| p.split_once('='))
        .expect("name=value");
    assert_eq!((set_name, value.len()), (name, 43), "{set:?}");
    assert!(
        value
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'),
        "{value}"
    );
    let mut parts: Vec<String> = parts.map(str::to_owned).collect();
    parts.sort_unstable();
    parts
}

#[test]
fn attributes_follow_the_settings() {
    let provider = Provider::friendly();
    let check = |env: &[(&str, &str)], name: &str, expected: &[&str]| {
        let server = Server::with(&provider.row(), env);
        assert_eq!(attributes(&server, name), expected, "{env:?}");
    };
    let secure = [
        "HttpOnly",
        "Max-Age=3600",
        "Path=/",
        "SameSite=Lax",
        "Secure",
    ];
    check(&[], "cc_app", &secure);
    check(&[("COOKIE_SECURE", "1")], "cc_app", &secure);
    check(&[("COOKIE_SECURE", "0")], "cc_app", &secure[..4]);
    let env = [
        ("APP_SESSION_COOKIE_NAME", "my_app"),
        ("SESSION_EXPIRE", "120"),
    ];
    check(
        &env,
        "my_app",
        &[
            "HttpOnly",
            "Max-Age=120",
            "Path=/",
            "SameSite=Lax",
            "Secure",
        ],
    );
}

#[test]
fn a_known_cookie_is_renewed_and_an_unknown_one_replaced() {
    let provider = Provider::friendly();
    let server = Server::start(&provider, "");
    let mut browser = Browser::new(&server);
    browser.ask("first");
    let known = browser.cookie.clone().expect("the first chat sets it");
    let other = if known.starts_with('A') { "B" } else { "A" }.to_owned() + &known[1..];
    // Cookie lines as sent; whether the conversation goes on.
    let check = |lines: &[&str], goes_on: bool| {
        let headers: Vec<(&str, &str)> = lines.iter().map(|line| ("Cookie", *line)).collect();
        let reply = server.chat("again", &headers);
        assert_eq!(reply.status, 200, "{lines:?}");
        let set = reply.cookie("cc_app").expect("each chat renews it");
        assert_eq!(set == known, goes_on, "{lines:?} → {set}");
        assert!(
            !lines.iter().any(|line| line.contains(&set)) || goes_on,
            "{lines:?} was adopted"
        );
        assert_eq!(provider.last().talk().len() > 1, goes_on, "{lines:?}");
    };
    let it = format!("cc_app={known}");
    check(&[&it], true);
    check(&[&format!("cc_app=\"{known}\"")], true);
    check(&[&format!("a=b; {it}; c=d")], true);
    check(&[&format!("a=b;{it};c")], true);
    check(&["a=b", &it], true);
    // Sent twice: the first counts.
    check(&[&format!("{it}; cc_app={other}")], true);
    check(&[&it, &format!("cc_app={other}")], true);
    check(&[&format!("cc_app={other}; {it}")], false);
    check(&[&format!("cc_app={other}"), &it], false);
    check(&[&format!("cc_app=; {it}")], false);
    // Unknown ones, of the right shape and of others.
    check(&[], false);
    check(&[&format!("cc_app={other}")], false);
    check(&[&format!("cc_app={known}x")], false);
    check(&[&format!("cc_app={}", &known[..42])], false);
    check(&[&format!("xcc_app={known}")], false);
    check(&[&format!("CC_APP={known}")], false);
    check(&["cc_app"], false);
    check(&["cc_app=../../etc/passwd"], false);
    check(&[&format!("cc_app={}", "x".repeat(3000))], false);
}

#[test]
fn an_expired_chat_is_not_continued() {
    let provider = Provider::friendly();
    let server = Server::start(&provider, "chat.session_seconds = 1");
    let mut browser = Browser::new(&server);
    browser.ask("first");
    let first = browser.cookie.clone();
    // Asked again at once it goes on.
    browser.ask("second");
    assert_eq!((provider.last().talk().len(), &browser.cookie), (3, &first));
    crate::kit::pass(1.1);
    browser.ask("third");
    assert_eq!(provider.last().talk(), ["user: third"]);
    assert_ne!(browser.cookie, first);
}

#[test]
fn a_chat_lives_on_while_it_is_being_answered() {
    let provider = Provider::played();
    let server = Server::start(&provider, "chat.session_seconds = 4");
    let mut browser = Browser::new(&server);
    let mut first = browser.open("first");
    let mut call = provider.call();
    call.accept().text("one");
    call.finish("stop");
    browser.keep(&first.reply().head);
    // The next answer begins while the chat lives, and goes on for longer than that.
    crate::kit::pass(2.5);
    let mut second = browser.open("second");
    let mut call = provider.call();
    call.accept().text("two");
    second.head();
    crate::kit::pass(2.5);
    let _third = browser.open("third");
    assert_eq!(provider.call().received.talk().len(), 3);
}

#[test]
fn the_chat_of_another_visitor_is_out_of_reach() {
    let provider = Provider::friendly();
    let server = Server::start(&provider, "");
    let (mut one, mut two) = (Browser::new(&server), Browser::new(&server));
    one.ask("one");
    two.ask("two");
    // A reset reaches the caller's own chat only.
    two.forget();
    one.ask("one again");
    assert_eq!(provider.last().talk().len(), 3);
    two.ask("two again");
    assert_eq!(provider.last().talk(), ["user: two again"]);
}
