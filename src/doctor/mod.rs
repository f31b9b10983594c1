//! `cloudchat doctor`: what breaks such services in practice, looked at where it would break, each
//! finding with the line that fixes it. Each provider is asked one short question.
//!
//! It changes nothing but what its questions count as: of the public URL it asks for one chat, which it
//! reads for up to 20 s, and uses up the registrations that this host's address has within the hour.

mod ask;
mod fetch;
mod host;
mod mail;
mod provider;
mod proxy;
mod site;
mod stores;
mod stream;

use std::time::Duration;

use serde_json::json;
use tokio::task::LocalSet;

use crate::budget::Budget;
use crate::config::Config;

/// A clock that is further off than this makes cookies, tokens and certificates end at wrong times.
const SKEW_MAX: Duration = Duration::from_secs(30);

/// Something that should be otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at: a word or two, the same for the same check.
    pub check: &'static str,
    /// What is wrong.
    pub what: String,
    /// The line that fixes it.
    pub fix: String,
}

/// What was looked at, and what was found.
#[derive(Debug, Default)]
pub struct Report {
    /// Checks made.
    pub checks: usize,
    /// What was found well, where that says more than nothing.
    pub notes: Vec<String>,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Notes a check; `Err` holds what is wrong and the line that fixes it.
    fn check(&mut self, check: &'static str, outcome: Result<(), (String, String)>) {
        self.checks += 1;
        if let Err((what, fix)) = outcome {
            let finding = Finding { check, what, fix };
            if !self.findings.contains(&finding) {
                self.findings.push(finding);
            }
        }
    }

    /// Notes a check that is a condition.
    fn expect(
        &mut self,
        check: &'static str,
        holds: bool,
        what: impl Into<String>,
        fix: impl Into<String>,
    ) {
        let outcome = match holds {
            true => Ok(()),
            false => Err((what.into(), fix.into())),
        };
        self.check(check, outcome);
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for note in &self.notes {
            text += &format!("{note}\n");
        }
        for Finding { check, what, fix } in &self.findings {
            text += &format!("{check}: {what}\n    fix: {fix}\n");
        }
        text + &match self.findings.len() {
            0 => format!("Nothing to fix ({} checks).\n", self.checks),
            1 => format!("1 finding in {} checks.\n", self.checks),
            found => format!("{found} findings in {} checks.\n", self.checks),
        }
    }

    /// For scripts: one line.
    pub fn json(&self) -> String {
        let findings = self
            .findings
            .iter()
            .map(|Finding { check, what, fix }| json!({"check": check, "what": what, "fix": fix}));
        let findings: Vec<_> = findings.collect();
        let ok = findings.is_empty();
        json!({"ok": ok, "checks": self.checks, "notes": self.notes, "findings": findings})
            .to_string()
            + "\n"
    }
}

/// Looks at everything; `url` is where the server is published, such as `https://example.com/cloudchat`.
///
/// # Errors
/// One line: the URL is none, or the system has no resources.
pub fn run(config: &Config, budget: &Budget, url: Option<&str>) -> Result<Report, String> {
    let mut report = Report::default();
    // That there is no provider is looked at below.
    let warnings = config.warnings.iter();
    for warning in warnings.filter(|warning| !warning.starts_with("no provider")) {
        let fix = "see the key in config.toml.example (cloudchat example-config)";
        report.check("configuration", Err((warning.clone(), fix.to_owned())));
    }
    host::check(&mut report, config, budget);
    stores::check(&mut report, &config.store);
    wait(async {
        provider::check(&mut report, config).await;
        mail::check(&mut report, config).await;
        match url {
            Some(url) => site::check(&mut report, config, url).await,
            None => Ok(()),
        }
    })??;
    Ok(report)
}

/// Looks at the providers only: asks each for its models and one question.
///
/// # Errors
/// One line: the system has no resources.
pub fn providers(config: &Config) -> Result<Report, String> {
    let mut report = Report::default();
    wait(provider::check(&mut report, config))?;
    Ok(report)
}

/// Waits for what comes of `work`.
fn wait<T>(work: impl Future<Output = T>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build()
        .map_err(|error| format!("runtime: {error}"))?;
    let outcome = LocalSet::new().block_on(&runtime, work);
    runtime.shutdown_background();
    Ok(outcome)
}
