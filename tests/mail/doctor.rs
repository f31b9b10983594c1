//! `cloudchat doctor` at a mail server, and on a host where everything is as it should be.

use std::fs::File;
use std::io::Write as _;

use crate::kit::nginx::Nginx;
use crate::kit::stores::{Accounts, Pair, Stores};
use crate::kit::{Doctor, Provider, Server};
use crate::postfix::{Authority, ELSEWHERE, IMPLICIT, PLAIN, Postfix, STARTTLS};
use crate::services::Services;
use crate::site::{SECRET, USER, settings};

const ENV: &[(&str, &str)] = &[("SMTP_PASS", SECRET)];

fn doctor(config: &str) -> Doctor<'_> {
    let (env, url) = (ENV, None);
    Doctor { config, env, url }
}

#[test]
fn a_mail_server_that_refuses_the_login_or_cannot_be_trusted() {
    let mut postfix = Postfix::start(&Authority::new());
    let provider = Provider::friendly();
    for port in [STARTTLS, IMPLICIT] {
        let config = settings(&postfix, port) + &provider.row();
        postfix.logins.accept(USER, "another password");
        doctor(&config).finds("login refused", "SMTP_USER=… and SMTP_PASS=…");
        postfix.logins.accept(USER, SECRET);
        let found = doctor(&config).look();
        assert_eq!((found.code, found.findings), (0, Vec::new()));
    }
    let plain = settings(&postfix, PLAIN) + &format!("mail.smtp_user = {USER:?}\n");
    doctor(&(plain + &provider.row())).finds("STARTTLS is not offered", "SMTP_PORT=465");
    postfix.stop();
    postfix.use_certificate_of(&Authority::new());
    postfix.go_on();
    let config = settings(&postfix, STARTTLS) + &provider.row();
    doctor(&config).finds("certificate not accepted", "upstream.ca_file");
}

#[test]
fn a_mail_server_whose_connections_begin_otherwise_than_is_said() {
    let postfix = Postfix::start(&Authority::new());
    postfix.logins.accept(USER, SECRET);
    let provider = Provider::friendly();
    let implicit = "mail.smtp_tls = \"implicit\"\n";
    let config = |port, more| settings(&postfix, port) + more + &provider.row();
    let found = doctor(&config(ELSEWHERE, implicit)).look();
    assert_eq!((found.code, found.findings), (0, Vec::new()));
    // It waits for TLS, and we for its greeting.
    doctor(&config(ELSEWHERE, "")).finds("no answer in time", "SMTP_TLS=implicit if");
    doctor(&config(STARTTLS, implicit)).finds("TLS failed", "SMTP_TLS=1 and the port for STARTTLS");
}

/// All parts at once, each with the configuration that is shipped: PostgreSQL behind PgBouncer, Redis, a
/// provider, a mail server with STARTTLS and login, and the site, over TLS through Nginx.
#[test]
fn a_good_host_has_no_findings() {
    let services = Services::start("postgres,pgbouncer,redis");
    let (pooled, direct) = (services.address("PGBOUNCER"), services.address("POSTGRES"));
    let stores = Stores::fresh(&Pair {
        accounts: Some(Accounts::new(pooled, direct)),
        sessions: Some(services.address("REDIS").to_owned()),
        is_shared: false,
    });
    let postfix = Postfix::start(&Authority::new());
    postfix.logins.accept(USER, SECRET);
    let provider = Provider::played();
    // Visitors come from `::1`, where nobody is trusted.
    let config = format!(
        "server.trusted_proxies = [\"127.0.0.1\"]\n{}{}{}",
        stores.settings,
        settings(&postfix, STARTTLS),
        provider.row()
    );
    let env = [ENV, &[("TEST_KEY", "a-key")]].concat();
    let server = Server::with(&config, &env);
    let nginx = Nginx::before(server.direct);
    let mut trusted = File::options()
        .append(true)
        .open(postfix.ca_file())
        .expect("it is there");
    let certificate = nginx.certificate();
    write!(trusted, "\n{certificate}").expect("it is writable");
    let url = format!("https://[::1]:{}/cloudchat", nginx.tls);
    let doctor = Doctor {
        config: &config,
        env: ENV,
        url: Some(&url),
    };
    let found = doctor.look_beside(&provider);
    assert_eq!((found.code, found.findings), (0, Vec::new()));
    assert!(found.checks >= 25, "{} checks", found.checks);
}
