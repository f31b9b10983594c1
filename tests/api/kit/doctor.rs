//! `cloudchat doctor`, run against what a test has set up.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::provider::Call;
use super::server::run_within;
use super::{Provider, pass};

/// It watches a long answer for 20 s.
const WATCHED_MAX: Duration = Duration::from_secs(40);

/// What is run, and with what.
pub struct Doctor<'a> {
    /// The text of the configuration.
    pub config: &'a str,
    /// Its environment, beside the provider's key.
    pub env: &'a [(&'a str, &'a str)],
    /// The site that is looked at, if any.
    pub url: Option<&'a str>,
}

/// What it said.
#[derive(Debug)]
pub struct Found {
    pub code: i32,
    pub checks: u64,
    /// `check: what`, and the line that fixes it.
    pub findings: Vec<(String, String)>,
}

impl Doctor<'_> {
    pub fn look(&self) -> Found {
        let folder = tempfile::tempdir().expect("there is room");
        let file = folder.path().join("config.toml");
        fs::write(&file, self.config).expect("it is writable");
        // That a server has been started here is all that is looked at.
        fs::write(folder.path().join("accounts.db"), "").expect("it is writable");
        let path = |path: &Path| path.to_str().expect("its name is UTF-8").to_owned();
        let (file, data) = (path(&file), path(folder.path()));
        let mut args = vec!["doctor", "--json", "--config", &file, "--data-dir", &data];
        args.extend(self.url.iter().flat_map(|url| ["--url", url]));
        let env = [self.env, &[("TEST_KEY", "a-key")]].concat();
        let (code, out, errors) = run_within(WATCHED_MAX, &args, &env);
        let report: Value =
            serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out:?} {errors}"));
        let findings = report["findings"].as_array().expect("a list");
        assert_eq!(report["ok"], findings.is_empty());
        let text = |value: &Value| value.as_str().expect("it is a text").to_owned();
        let finding = |found: &Value| {
            (
                format!("{}: {}", text(&found["check"]), text(&found["what"])),
                text(&found["fix"]),
            )
        };
        Found {
            code,
            checks: report["checks"].as_u64().expect("a number"),
            findings: findings.iter().map(finding).collect(),
        }
    }

    /// As `look`, while this provider answers the question about the site at the pace of a model.
    pub fn look_beside(&self, provider: &Provider) -> Found {
        self.look_while(provider, |mut call| {
            call.accept();
            for n in 0..12 {
                call.text(&format!("{n}"));
                pass(0.03);
            }
            call.finish("stop");
        })
    }

    /// As `look`, while this provider's answer to the question about the site is that.
    pub fn look_while(&self, provider: &Provider, answer: impl FnOnce(Call)) -> Found {
        thread::scope(|scope| {
            let looking = scope.spawn(|| self.look());
            answer(provider.call());
            looking.join().expect("it does not panic")
        })
    }

    /// The only finding holds these words, and the line that fixes it those.
    #[track_caller]
    pub fn finds(&self, what: &str, fix: &str) {
        let found = self.look();
        assert_eq!((found.code, found.findings.len()), (1, 1), "{found:?}");
        let only = &found.findings[0];
        assert!(only.0.contains(what) && only.1.contains(fix), "{only:?}");
    }
}
