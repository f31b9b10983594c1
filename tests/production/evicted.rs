//! What Redis has evicted: a session without its record is that of its user only if the account says so.

use serde_json::json;

use crate::kit::{Person, Provider, Server};
use crate::services::Services;

/// Asks; the status, and how many messages the model was told.
fn ask(person: &mut Person<'_>, provider: &Provider) -> (u16, usize) {
    let reply = person.post("/deepseek_chat", &json!({"message": "Hi"}));
    let told = match reply.status {
        200 => provider.last().talk().len(),
        _ => 0,
    };
    (reply.status, told)
}

#[test]
fn a_session_without_its_record_asks_the_account_once() {
    let mut services = Services::start("postgres,redis");
    let pair = services.pair("POSTGRES", "REDIS");
    let provider = Provider::friendly();
    let server = Server::on(&pair, &provider, "server.workers = 1");
    let strict = server.second(&provider, "server.workers = 1\nchat.require_login = true");
    let mut alice = Person::logged_in(&server, "alice@b.c");
    let cookie = alice.cookies["cc_auth"].clone();
    let (session, record) = (
        format!("sess:{cookie}"),
        format!("cc:sess:{{sess:{cookie}}}"),
    );
    let id = services.redis(&["GET", &session]);
    let list = format!("user_sess:{id}");
    let evict = |services: &Services| {
        assert_eq!(services.redis(&["DEL", &record, &list]), "2");
    };
    let is_there = |services: &Services| services.redis(&["EXISTS", &record]);
    assert_eq!(ask(&mut alice, &provider), (200, 1));
    evict(&services);
    assert_eq!(ask(&mut alice, &provider), (200, 3), "it is hers");
    assert_eq!(is_there(&services), "1");

    // There is a record now: the account is not asked again.
    services.tell("kill", "postgres");
    assert_eq!(ask(&mut alice, &provider), (200, 5));
    // Without one nobody knows who asks.
    let hers = alice.cookies.clone();
    evict(&services);
    assert_eq!(ask(&mut alice, &provider), (200, 1));
    assert_eq!(alice.me(), 503);
    let mut waiting = Person::new(&strict);
    waiting.cookies.clone_from(&hers);
    assert_eq!(ask(&mut waiting, &provider), (503, 0));
    assert_eq!(is_there(&services), "0", "it is asked later");
    services.tell("start", "postgres");
    alice.cookies = hers;
    assert_eq!(ask(&mut alice, &provider), (200, 7));
    assert_eq!(ask(&mut waiting, &provider), (200, 9));

    // Somebody who is switched off, without a list that names the session.
    evict(&services);
    server.stores.execute("UPDATE users SET is_active = false");
    assert_eq!(ask(&mut waiting, &provider), (401, 0));
    assert_eq!(
        services.redis(&["EXISTS", &session]),
        "0",
        "and it has ended"
    );
    assert_eq!(ask(&mut alice, &provider), (200, 1));
}
