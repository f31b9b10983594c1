//! What an administrator does to a Redis.

use std::process::Command;

use crate::services::Services;

impl Services {
    /// What `redis-cli` prints for a command to the single server.
    pub fn redis(&self, command: &[&str]) -> String {
        let url = self.address("REDIS").strip_prefix("redis://:");
        let (password, host) = url.and_then(|url| url.split_once('@')).expect("a URL");
        let (host, port) = host.split_once(':').expect("it names its port");
        let output = Command::new("redis-cli")
            .env("REDISCLI_AUTH", password)
            .args(["-h", host, "-p", port])
            .args(command)
            .output()
            .expect("tests/services/run has installed it");
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).expect("it is text");
        text.trim_end().to_owned()
    }
}
