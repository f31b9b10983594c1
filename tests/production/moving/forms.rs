//! Addresses that can be typed in more than one way. The old service takes each as another one; CloudChat
//! knows them for the same, and leaves what that service has stored usable as it was typed.

use super::{Moving, logged_in, me, on_every_way};
use crate::kit::{PASSWORD, Person, fails};

on_every_way!(addresses);

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
