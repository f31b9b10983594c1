//! Addresses and passwords that can be typed in more than one way. The old service takes each as another one; CloudChat
//! knows them for the same, and leaves what that service has stored usable as it was typed.

use serde_json::json;

use super::{Moving, OURS, THEIRS, logged_in, me, on_every_way, refused};
use crate::kit::{PASSWORD, Person, fails};

const COMPOSED: &str = "caf\u{e9} cr\u{e8}me 1";
const DECOMPOSED: &str = "cafe\u{301} cre\u{300}me 1";

on_every_way!(addresses, passwords);

fn addresses(mut moving: Moving) {
    let taken = "Email already registered";
    let Moving { server, old, .. } = &mut moving;
    // Made there, in either form of its domain: found here by both, and free in neither.
    old.register("x@xn--bcher-kva.example", PASSWORD);
    let users = [
        ("x@xn--bcher-kva.example", "x@bücher.example", PASSWORD),
        (
            "info@bücher.example",
            "info@xn--bcher-kva.example",
            "odd password 1",
        ),
    ];
    for (stored, other, password) in users {
        for typed in [stored, other] {
            let shown = me(&mut logged_in(server, typed, password));
            assert_eq!(shown["email"], stored);
            fails(&Person::new(server).register(typed), 409, taken);
        }
        old.login(stored, password);
    }
    // Made here: found there as it was typed, in NFC and lower case.
    let typed = "Gra\u{308}fin@Bu\u{308}cher.example";
    assert_eq!(Person::new(server).register(typed).status, 201);
    let (sid, _) = old.login("Gräfin@bücher.example", PASSWORD);
    assert_eq!(old.me(&sid)["email"], "gräfin@bücher.example");
    // What could not be registered here goes on to log in, each by what it is.
    let odd = [
        "\u{200b}zed@b.c",
        "zed@b..c",
        "zed@-b.c",
        "cafe\u{301}@b.c",
        "caf\u{e9}@b.c",
    ];
    for (n, email) in odd.into_iter().enumerate() {
        let password = format!("{PASSWORD}{n}");
        old.register(email, &password);
        let shown = me(&mut logged_in(server, email, &password));
        assert_eq!(shown["email"], email);
    }
}

fn passwords(mut moving: Moving) {
    let Moving {
        server,
        old,
        tables,
        ..
    } = &mut moving;
    // Chosen there: what was typed.
    old.register("old@b.c", DECOMPOSED);
    refused(server, "old@b.c", COMPOSED);
    logged_in(server, "old@b.c", DECOMPOSED);
    assert!(tables.password("old@b.c").hash.starts_with(OURS));
    refused(server, "old@b.c", COMPOSED);
    let (_, rehashed) = old.login("old@b.c", DECOMPOSED);
    assert!(rehashed, "our hash of it is of what was typed, too");
    // Chosen here: any form, and there the composed one.
    let form = json!({"email": "new@b.c", "password": DECOMPOSED});
    assert_eq!(
        Person::new(server).post("/auth/register", &form).status,
        201
    );
    logged_in(server, "new@b.c", COMPOSED);
    logged_in(server, "new@b.c", DECOMPOSED);
    old.refuses_login("new@b.c", DECOMPOSED, "wrong password");
    old.login("new@b.c", COMPOSED);
    assert!(tables.password("new@b.c").hash.starts_with(THEIRS));
    // Its hash is of what was typed there; ours, of the same characters, is of NFC again.
    refused(server, "new@b.c", DECOMPOSED);
    logged_in(server, "new@b.c", COMPOSED);
    logged_in(server, "new@b.c", DECOMPOSED);
    // A reset there.
    let token = old.forgot("new@b.c");
    old.reset(&token, DECOMPOSED);
    refused(server, "new@b.c", COMPOSED);
    logged_in(server, "new@b.c", DECOMPOSED);
    old.login("new@b.c", DECOMPOSED);
}
