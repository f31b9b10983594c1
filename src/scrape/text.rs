//! Prometheus's text exposition format, version 0.0.4.

use std::fmt::Write as _;

use crate::metrics::{Counter, Histogram};

/// A text in Prometheus's format, version 0.0.4.
pub struct Text(pub String);

/// Names and values of a sample's labels.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

impl Text {
    /// What comes next: its name, kind and meaning.
    pub fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}"));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.0, "{line}").expect("a String takes every line");
    }

    /// One value.
    pub fn sample(&mut self, name: &str, labels: Labels<'_>, value: impl std::fmt::Display) {
        let mut shown = String::new();
        for (label, value) in labels {
            let value = value
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            let comma = if shown.is_empty() { "" } else { "," };
            write!(shown, "{comma}{label}=\"{value}\"").expect("a String takes every text");
        }
        match shown.is_empty() {
            true => self.line(format_args!("{name} {value}")),
            false => self.line(format_args!("{name}{{{shown}}} {value}")),
        }
    }

    /// A family with one value.
    pub fn one(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    /// The cores' histograms, added up.
    pub fn histogram<'a>(
        &mut self,
        name: &str,
        labels: Labels<'_>,
        cores: impl Iterator<Item = &'a Histogram> + Clone,
    ) {
        let bounds = cores.clone().next().map_or(&[][..], |core| core.bounds);
        let mut total = 0;
        for n in 0..=bounds.len() {
            total += cores.clone().map(|core| core.buckets[n].get()).sum::<u64>();
            let bound = bounds
                .get(n)
                .map_or("+Inf".to_owned(), |us| seconds(us * 1000));
            let labels = [labels, &[("le", &bound)]].concat();
            self.sample(&format!("{name}_bucket"), &labels, total);
        }
        let sum = seconds(cores.map(|core| core.sum_ns.get()).sum());
        self.sample(&format!("{name}_sum"), labels, sum);
        self.sample(&format!("{name}_count"), labels, total);
    }
}

fn seconds(ns: u64) -> String {
    (ns as f64 / 1e9).to_string()
}

/// The cores' counters, added up.
pub fn sum<'a>(cells: impl Iterator<Item = &'a Counter>) -> u64 {
    cells.map(Counter::get).sum()
}
