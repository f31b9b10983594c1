//! Upgrades that fail: the new process is ended, the old one goes on as if nothing had happened, and
//! one line says why.

use std::fs;
use std::process::Command;
use std::sync::PoisonError;

use crate::kit::Provider;
use crate::load::{Load, RATE};
use crate::supervisor::{Held, Service, children, test};
use crate::upgrades::{ALONE, judge, settings};

/// What the line must say, and how to bring it about.
type Broken = (&'static str, fn(&Service));

/// Redis over TLS, with this file of authorities.
fn with_authorities(file: &str) -> String {
    let redis = "redis.url = \"rediss://127.0.0.1:9\"";
    format!("{}{redis}\nredis.ca_file = {file:?}\n", settings(2))
}

#[test]
fn a_broken_program_costs_nothing() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let provider = Provider::played();
    let good = settings(2) + "server.upgrade_seconds = 1\n";
    let mut service = Service::start(Held::ByServer, &provider, &good);
    let load = Load::start(&service, provider);
    let broken: [Broken; 6] = [
        ("ended with exit status: 3", |service| {
            service.install_script("exit 3");
        }),
        ("was not ready within 1 s", |service| {
            service.install_script("exec tail -f /dev/null");
        }),
        ("ended with exit status: 2", |service| {
            service.install();
            service.configure("nonsense.key = 1");
        }),
        // These two happen in a process that is not the old one's child.
        ("its own lines in the log say why", |service| {
            service.configure(&with_authorities("/nowhere.pem"));
        }),
        ("was not ready within 1 s", |service| {
            // Reading it waits for a writer.
            let pipe = service.path("pipe");
            let made = Command::new("mkfifo").arg(&pipe).status();
            assert!(made.is_ok_and(|status| status.success()), "mkfifo works");
            service.configure(&with_authorities(&pipe.display().to_string()));
        }),
        ("cannot be started", |service| {
            service.install_file("no program", 0o644);
        }),
    ];
    for (n, (expect, break_it)) in broken.into_iter().enumerate() {
        let main = service.main_pid;
        service.install();
        service.configure(&good);
        break_it(&service);
        let (code, errors) = service.reload();
        assert_eq!(code, 1, "{errors}");
        assert!(errors.contains(expect), "{errors}");
        let said = service.expect("READY=1");
        assert!(said.iter().any(|line| line == "RELOADING=1"), "{said:?}");
        assert_eq!(service.main_pid, main, "the old one is still the main one");
        assert_eq!(children(main), [0; 0], "the new one has been ended");
        assert_eq!(service.processes(), [main], "wherever it was");
        let log = service.log();
        let told = log.lines().filter(|line| line.contains("upgrade failed"));
        let told: Vec<_> = told.collect();
        assert_eq!(told.len(), n + 1, "{told:?}");
        assert!(told[n].contains(expect), "{told:?}");
        load.requests(RATE / 5);
    }
    service.configure(&good);
    fs::remove_file(service.program()).expect("it is there");
    service.install();
    let old = service.main_pid;
    let (code, errors) = service.reload();
    assert_eq!(code, 0, "a whole program is taken: {errors}");
    service.expect("READY=1");
    load.requests(RATE / 5);
    judge("6 broken upgrades and a good one", &load.stop());
    assert_eq!(service.ended(old), 0);
    assert_eq!(test(&mut service.tcp()).status, 200);
}
