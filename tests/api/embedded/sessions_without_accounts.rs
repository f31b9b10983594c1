//! A chat asks the session store only; where both stores are files of one process, it looks into the
//! account file too, as long as that can be read.

use serde_json::json;

use crate::kit::{Person, Provider, Server};

#[test]
fn a_session_without_its_account_is_anonymous() {
    let provider = Provider::friendly();
    let server = Server::start(&provider, "");
    let mut alice = Person::logged_in(&server, "alice@b.c");
    let ask = |person: &mut Person<'_>| {
        let reply = person.post("/deepseek_chat", &json!({"message": "Hi"}));
        assert_eq!(reply.status, 200, "{}", reply.body);
        provider.last().talk().len()
    };
    assert_eq!((ask(&mut alice), ask(&mut alice)), (1, 3));
    // As if the process had been killed before the rows of the sessions were removed.
    let file = super::open(&server, "accounts.db");
    let deleted = file.execute("DELETE FROM users", []);
    assert_eq!(deleted.expect("it can be written"), 1);
    let cookie = alice.cookies["cc_app"].clone();
    assert_eq!(ask(&mut alice), 1, "the history is out of reach");
    assert_ne!(alice.cookies["cc_app"], cookie);
    // A chat needs no account store: while that cannot even be read, sessions count as they are.
    let mut bob = Person::logged_in(&server, "bob@b.c");
    assert_eq!((ask(&mut bob), ask(&mut bob)), (1, 3));
    file.execute_batch("ALTER TABLE users RENAME TO elsewhere")
        .expect("it can be written");
    assert_eq!(ask(&mut bob), 5);
}
