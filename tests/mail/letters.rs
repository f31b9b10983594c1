//! What arrives when all is well.

use crate::kit::{Person, until};
use crate::postfix::{Authority, ELSEWHERE, IMPLICIT, PLAIN, Postfix, STARTTLS};
use crate::site::{SECRET, USER, forgot, lines, register, reset, server, user};

const PLAINLY: &str = "mail.smtp_tls = false";
const OTHER: &str = "battery staple 2";

#[test]
fn a_forgotten_password_is_replaced_by_mail() {
    let postfix = Postfix::start(&Authority::new());
    postfix.logins.accept(USER, SECRET);
    let settings = "mail.sender_name = \"张人大\"\nauth.reset_token_ttl_seconds = 601";
    let server = server(&postfix, STARTTLS, settings);
    register(&server, "alice@example.org");
    let welcome = postfix.mail("RendaZhang 网站 - 注册成功");
    forgot(&server, " Alice@Example.org ");
    let link = postfix.mail("RendaZhang 网站 - 重置密码");
    assert_eq!(link.token().len(), 43);
    assert!(
        link.text
            .contains("https://www.example.com/app/reset_password?token=")
            && link.text.contains(" 11 分钟"),
        "{}",
        link.text
    );
    assert_eq!(reset(&server, link.token(), OTHER), 200);
    assert_eq!(reset(&server, link.token(), OTHER), 400);
    let mut alice = Person::new(&server);
    assert_eq!(alice.login("alice@example.org", OTHER).status, 200);
    let done = postfix.mail("RendaZhang 网站 - 密码重置成功");
    assert!(done.text.contains("已更改") && !done.text.contains("token"));
    for mail in [&welcome, &link, &done] {
        let (name, address) = &mail.from;
        assert_eq!(
            (name.as_str(), address.as_str()),
            ("张人大", "noreply@example.com")
        );
        assert_eq!(mail.to, ["alice@example.org"]);
        assert_eq!(mail.delivered_to, "alice@example.org");
        assert!(
            mail.has_date && mail.id.ends_with("@example.com"),
            "{mail:?}"
        );
    }
    assert_eq!(postfix.deliver(3).len(), 3);
    assert!(!postfix.logins.outcomes().contains(&false));
    until("the log to tell", || {
        (lines(&server, &["mail sent"]) == 3).then_some(())
    });
    for secret in [SECRET, "alice@", link.token(), OTHER] {
        assert_eq!(lines(&server, &[secret]), 0, "{}", server.log());
    }
}

#[test]
fn english_over_a_connection_that_begins_with_tls() {
    let postfix = Postfix::start(&Authority::new());
    postfix.logins.accept(USER, SECRET);
    let settings = "mail.language = \"en\"\nmail.site_name = \"Chat\"";
    let server = server(&postfix, IMPLICIT, settings);
    let mut bob = Person::logged_in(&server, "bob@example.org");
    assert_eq!(
        postfix.mail("Chat - Registration successful").from.0,
        "Chat"
    );
    forgot(&server, "bob@example.org");
    let link = postfix.mail("Chat - Reset your password");
    assert!(link.text.contains("within 15 minutes"), "{}", link.text);
    assert_eq!(reset(&server, link.token(), OTHER), 200);
    assert_eq!(bob.me(), 401);
    postfix.mail("Chat - Your password was reset");
    postfix.deliver(3);
}

#[test]
fn a_connection_begins_with_tls_at_any_port_that_is_said_to() {
    let postfix = Postfix::start(&Authority::new());
    postfix.logins.accept(USER, SECRET);
    let server = server(&postfix, ELSEWHERE, "mail.smtp_tls = \"implicit\"");
    register(&server, "bob@example.org");
    postfix.deliver(1);
}

#[test]
fn names_add_no_header_and_no_recipient() {
    let postfix = Postfix::start(&Authority::new());
    let name = r#"张 <evil@example.net>, "Bcc: evil@example.net" =?utf-8?Q?=0D=0AB?="#;
    let settings = format!("{PLAINLY}\nmail.site_name = '{name}'");
    let server = server(&postfix, PLAIN, &settings);
    let body = serde_json::json!({
        "email": "carol@example.org", "password": crate::kit::PASSWORD, "display_name": name,
    });
    let reply = Person::new(&server).post("/auth/register", &body);
    assert_eq!(reply.status, 201, "{}", reply.body);
    let mail = postfix.mail(&format!("{name} - 注册成功"));
    assert_eq!(
        mail.from,
        (name.to_owned(), "noreply@example.com".to_owned())
    );
    assert_eq!(mail.to, ["carol@example.org"]);
    let own = [
        "From",
        "To",
        "Subject",
        "Date",
        "Message-ID",
        "Auto-Submitted",
        "MIME-Version",
        "Content-Type",
        "Content-Transfer-Encoding",
    ];
    let added_on_the_way = ["Return-Path", "X-Original-To", "Delivered-To", "Received"];
    for field in &mail.fields {
        let known = own.iter().chain(&added_on_the_way);
        assert!(
            known.clone().any(|name| name.eq_ignore_ascii_case(field)),
            "{field}"
        );
    }
    postfix.deliver(1);
}

#[test]
fn nobody_is_told_who_has_no_account() {
    let postfix = Postfix::start(&Authority::new());
    let server = server(&postfix, PLAIN, PLAINLY);
    register(&server, "idle@example.org");
    register(&server, "alice@example.org");
    postfix.deliver(2);
    user(&server, &["disable", "idle@example.org"]);
    forgot(&server, "idle@example.org");
    forgot(&server, "nobody@example.org");
    forgot(&server, "+861380000");
    // Letters go out in order: when this one has come, no other will.
    forgot(&server, "alice@example.org");
    postfix.mail("RendaZhang 网站 - 重置密码");
    let mails = postfix.deliver(3);
    assert!(mails.iter().all(|mail| mail.to != ["nobody@example.org"]));
    assert_eq!(lines(&server, &["mail not sent", "no such user"]), 3);
}

#[test]
fn the_seventh_mail_within_an_hour_is_dropped() {
    let postfix = Postfix::start(&Authority::new());
    let server = server(&postfix, PLAIN, PLAINLY);
    register(&server, "alice@example.org");
    // One of a kind waits at a time.
    for sent in 1..6 {
        postfix.deliver(sent);
        forgot(&server, "alice@example.org");
    }
    let mails = postfix.deliver(6);
    // Each link voids the one before.
    let works = mails
        .iter()
        .filter(|mail| mail.text.contains("token="))
        .filter(|mail| reset(&server, mail.token(), OTHER) == 200);
    assert_eq!(works.count(), 1);
    register(&server, "bob@example.org");
    let mails = postfix.deliver(7);
    assert!(mails.iter().any(|mail| mail.to == ["bob@example.org"]));
    let dropped = [
        "mail not sent",
        "kind=reset_done",
        "too many to this recipient",
    ];
    assert_eq!(lines(&server, &dropped), 1, "{}", server.log());
}

#[test]
fn a_domain_in_unicode_is_mailed_in_ascii() {
    const UNICODE: &str = "info@bücher.example";
    const ASCII: &str = "info@xn--bcher-kva.example";
    let postfix = Postfix::start(&Authority::new());
    let server = server(&postfix, PLAIN, PLAINLY);
    register(&server, UNICODE);
    forgot(&server, "INFO@BÜCHER.example");
    let link = postfix.mail("RendaZhang 网站 - 重置密码");
    assert_eq!(reset(&server, link.token(), OTHER), 200);
    let mut person = Person::new(&server);
    assert_eq!(person.login(ASCII, OTHER).status, 200);
    assert_eq!(person.get("/auth/me").json()["user"]["email"], UNICODE);
    for mail in postfix.deliver(3) {
        assert_eq!(mail.to, [ASCII]);
        assert_eq!(mail.delivered_to, ASCII);
    }
    // The other form is the same mailbox: both use up its six mails, also where the service before has made an
    // account of each.
    register(&server, "other@example.org");
    postfix.deliver(4);
    let other = format!("UPDATE users SET email = '{ASCII}' WHERE email = 'other@example.org'");
    assert_eq!(server.stores.execute(&other), 1);
    for sent in 4..7 {
        postfix.deliver(sent);
        forgot(&server, ASCII);
    }
    postfix.deliver(7);
    let change = serde_json::json!({"old_password": OTHER, "new_password": "one more 3"});
    assert_eq!(person.post("/auth/password/change", &change).status, 200);
    until("the log to tell", || {
        let dropped = ["kind=password_changed", "too many to this recipient"];
        (lines(&server, &dropped) == 1).then_some(())
    });
    // A local part has no other form: Postfix knows SMTPUTF8.
    register(&server, "gräfin@bücher.example");
    let mails = postfix.deliver(8);
    let mut to = mails.iter().map(|mail| mail.delivered_to.as_str());
    assert!(to.any(|to| to.starts_with("gräfin@")), "{mails:?}");
}

#[test]
fn an_address_with_what_is_not_seen_gets_no_mail() {
    let postfix = Postfix::start(&Authority::new());
    let server = server(&postfix, PLAIN, PLAINLY);
    register(&server, "carol@example.com");
    postfix.deliver(1);
    // As the service before may have taken it in; Postfix would make example.com of it.
    let odd = "UPDATE users SET email = 'carol@exam\u{ad}ple.com'";
    assert_eq!(server.stores.execute(odd), 1);
    forgot(&server, "carol@exam\u{ad}ple.com");
    until("the log to tell", || {
        let dropped = ["mail not sent", "the user's address cannot be mailed to"];
        (lines(&server, &dropped) == 1).then_some(())
    });
    postfix.deliver(1);
}

#[test]
fn resets_have_three_of_their_own() {
    let postfix = Postfix::start(&Authority::new());
    let server = server(&postfix, PLAIN, PLAINLY);
    let form = serde_json::json!({
        "email": "alice@example.org", "password": crate::kit::PASSWORD, "phone": "+1 5"
    });
    let reply = Person::new(&server).post("/auth/register", &form);
    assert_eq!(reply.status, 201, "{}", reply.body);
    // Each identifier is good for five in an hour.
    for (n, identifier) in ["alice@example.org", "+1 5"].repeat(4).iter().enumerate() {
        postfix.deliver(n + 1);
        forgot(&server, identifier);
    }
    assert_eq!(postfix.deliver(9).len(), 9);
    forgot(&server, "+1 5");
    until("the log to tell", || {
        let dropped = ["kind=reset", "too many to this recipient"];
        (lines(&server, &dropped) == 1).then_some(())
    });
}
