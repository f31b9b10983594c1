//! Variables that operators and container engines set beside what was meant: each line of the fixture alone.

use crate::kit::{Provider, Server};

/// A line of the fixture, and what the log warns of; `None`: of nothing.
const EXPECTED: [(&str, Option<&str>); 4] = [
    (
        "REDIS_PORT=tcp://10.43.1.2:6379",
        Some("REDIS_PORT is not used: \\\"tcp://10.43.1.2:6379\\\" is a container link's"),
    ),
    (
        "SMTP_PORT=tcp://10.43.1.3:25",
        Some("SMTP_PORT is not used: \\\"tcp://10.43.1.3:25\\\" is a container link's"),
    ),
    ("DEEPSEEK_API_KEY=\"sk-abc\"", None),
    (
        "DEEPSEEK_API=sk-abc",
        Some("the variable \\\"DEEPSEEK_API\\\" means nothing; did you mean DEEPSEEK_API_KEY?"),
    ),
];

#[test]
fn the_server_starts_and_says_what_it_does_not_use() {
    let fixture = include_str!("../../fixtures/environment.txt");
    assert!(fixture.lines().eq(EXPECTED.iter().map(|(line, _)| *line)));
    for (line, warning) in EXPECTED {
        let provider = Provider::friendly();
        let config = provider.row().replace("TEST_KEY", "DEEPSEEK_API_KEY");
        let variable = line.split_once('=').expect("it is a variable");
        let server = Server::with(&config, &[variable]);
        assert_eq!(server.chat("Hi", &[]).text(), "Hello you");
        let log = server.log();
        let warnings: Vec<&str> = log
            .lines()
            .filter(|l| l.contains("event=configuration"))
            .collect();
        match warning {
            None => assert_eq!(warnings, [""; 0]),
            Some(text) => assert!(
                matches!(warnings[..], [line] if line.contains(text)),
                "{log}"
            ),
        }
        assert!(!log.contains("sk-abc"), "{log}");
        let head = &provider.received()[0].head.to_ascii_lowercase();
        let has_key = head.contains("\r\nauthorization: bearer sk-abc\r\n");
        assert_eq!(has_key, warning.is_none(), "{head}");
    }
}
