//! What a request costs on the stores, counted by them: the table of ARCHITECTURE.md.

use std::fs;

use serde_json::json;

use crate::kit::stores::{connect, runtime};
use crate::kit::{Browser, PASSWORD, Person, Provider, Server};
use crate::services::Services;

/// Requests of each kind; what comes once a minute or once a session does not hide among them.
const REQUESTS: usize = 10;

/// Times that Redis has read from a socket, and that PostgreSQL has carried out a statement.
fn counts(services: &Services) -> [usize; 2] {
    let stats = services.redis(&["INFO", "stats"]);
    let reads = stats.lines().find_map(|line| {
        let reads = line.strip_prefix("total_reads_processed:")?;
        reads.trim().parse().ok()
    });
    let log = fs::read_to_string(services.address("POSTGRES_LOG")).expect("it is text");
    let executed = log.lines().filter(|line| {
        let is_ours = line.contains(" test_") && line.contains(" ms  execute ");
        // The sender of mails looks once a second, whoever asks for what; only a statement's first line is here.
        is_ours && !line.contains("outbox") && !line.contains("WITH due AS")
    });
    [reads.expect("a number"), executed.count()]
}

#[test]
fn a_request_costs_what_architecture_says() {
    let services = Services::start("postgres,redis");
    let admin = connect(&format!("{}/postgres", services.address("POSTGRES_ADMIN")));
    let log_all = "ALTER ROLE cloudchat SET log_min_duration_statement = 0";
    runtime()
        .block_on(admin.batch_execute(log_all))
        .expect("the administrator may");
    let pair = services.pair("POSTGRES", "REDIS");
    let provider = Provider::friendly();
    let server = Server::on(&pair, &provider, "server.workers = 1");
    let limit = "server.workers = 1\nchat.rate_per_minute = 10000";
    let limited = Server::on(&pair, &provider, limit);
    let mut alice = Person::logged_in(&server, "alice@b.c");
    let (mut visitor, mut counted) = (Browser::new(&server), Browser::new(&limited));
    assert_eq!(visitor.ask("Hi").status, 200);
    assert_eq!(counted.ask("Hi").status, 200);
    assert_eq!(
        alice
            .post("/deepseek_chat", &json!({"message": "Hi"}))
            .status,
        200
    );
    // Asking for the numbers costs the same each time.
    let [before, _] = counts(&services);
    let [after, _] = counts(&services);
    let own = after - before;
    let cost = |mut request: Box<dyn FnMut() -> u16 + '_>| {
        let before = counts(&services);
        for _ in 0..REQUESTS {
            assert_eq!(request(), 200);
        }
        let after = counts(&services);
        let each = |total: usize| total as f64 / REQUESTS as f64;
        [each(after[0] - before[0] - own), each(after[1] - before[1])]
    };
    let me = cost(Box::new(|| alice.get("/auth/me").status));
    let first = cost(Box::new(|| Browser::new(&server).ask("Hi").status));
    let next = cost(Box::new(|| visitor.ask("Hi").status));
    let counted = cost(Box::new(|| counted.ask("Hi").status));
    let body = json!({"message": "Hi"});
    let chat = cost(Box::new(|| alice.post("/deepseek_chat", &body).status));
    let login = cost(Box::new(|| {
        let mut person = Person::new(&server);
        person.login("alice@b.c", PASSWORD).status
    }));
    println!("me {me:?}, chat {first:?}, {next:?}, {counted:?} and {chat:?}, login {login:?}");
    assert_eq!(me, [1.0, 1.0]);
    // Without a limit: of a new chat when the provider has accepted and at the end, of one that goes on before
    // the provider is asked and at the end, and of a user whose session it is.
    assert_eq!([first, next, chat], [[2.0, 0.0], [2.0, 0.0], [3.0, 0.0]]);
    // Where two commands travel together, Redis may read the first before the second has come.
    assert!((2.0..=3.0).contains(&counted[0]), "{counted:?}");
    assert!((4.0..=9.0).contains(&login[0]), "{login:?}");
    // Once in ten seconds a core asks for the mix of hashes.
    assert!((2.0..=2.3).contains(&login[1]), "{login:?}");
}
