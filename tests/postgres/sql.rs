//! What an administrator does to a PostgreSQL.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use super::services::Services;

impl Services {
    /// Makes an empty database; its name.
    pub fn database(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.psql("POSTGRES", "postgres", &format!("CREATE DATABASE {name}"));
        name
    }

    /// What `psql` prints for some SQL, without headings and blanks.
    pub fn psql(&self, server: &str, database: &str, sql: &str) -> String {
        let url = format!("{}/{database}", self.address(server));
        let output = Command::new(self.address("PSQL"))
            .args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-d", &url, "-c", sql])
            .output()
            .expect("tests/services/run has installed it");
        assert!(output.status.success(), "{sql}: {output:?}");
        let text = String::from_utf8(output.stdout).expect("it is text");
        text.trim_end().to_owned()
    }
}
