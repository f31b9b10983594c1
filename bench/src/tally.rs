//! What the stream client has counted, and its JSON report.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::frame;

/// Longest delay told apart, in nanoseconds; longer ones count as this.
const DELAY_NS_MAX: u64 = 600_000_000_000;

/// Counts and histograms of many streams; one per thread, merged at the end.
#[derive(Debug)]
pub struct Tally {
    /// Answers by status; connections that failed stand under `connect` or `broken head`.
    pub answers: BTreeMap<String, u64>,
    /// How streams ended: `stop` and other finish reasons, `cut`, `held` (closed by us), `late` (time-out).
    pub ends: BTreeMap<String, u64>,
    /// Deltas with text.
    pub deltas: u64,
    /// Bytes of text.
    pub text_bytes: u64,
    /// Deltas whose predecessor never came.
    pub lost: u64,
    /// Texts that held more than one stamp.
    pub merged: u64,
    /// Deltas with a number that was already passed.
    pub reordered: u64,
    delay: Histogram<u64>,
    first: Histogram<u64>,
}

impl Default for Tally {
    fn default() -> Self {
        let histogram = || Histogram::new_with_bounds(100, DELAY_NS_MAX, 3).expect("valid bounds");
        Self {
            answers: BTreeMap::new(),
            ends: BTreeMap::new(),
            deltas: 0,
            text_bytes: 0,
            lost: 0,
            merged: 0,
            reordered: 0,
            delay: histogram(),
            first: histogram(),
        }
    }
}

impl Tally {
    /// One delta, received at `now`; `next` is the sequence number expected in this stream.
    pub fn delta(&mut self, text: &[u8], now: u64, next: &mut u64) {
        self.deltas += 1;
        self.text_bytes += text.len() as u64;
        let Some((sequence, sent)) = frame::read_stamp(text) else {
            return;
        };
        self.delay.saturating_record(now.saturating_sub(sent));
        self.merged += text[1..].iter().filter(|byte| **byte == b'@').count() as u64;
        if sequence < *next {
            self.reordered += 1;
        } else {
            self.lost += sequence - *next;
            *next = sequence + 1;
        }
    }

    /// Time from when a stream was due to start to its first text.
    pub fn first_text(&mut self, ns: u64) {
        self.first.saturating_record(ns);
    }

    /// Counts under a name.
    pub fn count(counts: &mut BTreeMap<String, u64>, name: &str) {
        *counts.entry(name.to_owned()).or_default() += 1;
    }

    /// Adds what another thread has counted.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in [
            (&mut self.answers, &other.answers),
            (&mut self.ends, &other.ends),
        ] {
            for (name, count) in theirs {
                *mine.entry(name.clone()).or_default() += count;
            }
        }
        self.deltas += other.deltas;
        self.text_bytes += other.text_bytes;
        self.lost += other.lost;
        self.merged += other.merged;
        self.reordered += other.reordered;
        self.delay.add(&other.delay).expect("the same bounds");
        self.first.add(&other.first).expect("the same bounds");
    }

    /// The report; times in microseconds.
    pub fn report(&self) -> Value {
        json!({
            "answers": self.answers,
            "ends": self.ends,
            "deltas": self.deltas,
            "text_bytes": self.text_bytes,
            "lost": self.lost,
            "merged": self.merged,
            "reordered": self.reordered,
            "delay_us": percentiles(&self.delay),
            "first_text_us": percentiles(&self.first),
        })
    }
}

fn percentiles(histogram: &Histogram<u64>) -> Value {
    let us = |ns: u64| (ns as f64 / 100.0).round() / 10.0;
    let at = |quantile| us(histogram.value_at_quantile(quantile));
    json!({
        "count": histogram.len(),
        "p50": at(0.5),
        "p90": at(0.9),
        "p99": at(0.99),
        "p999": at(0.999),
        "max": us(histogram.max()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_merges_and_disorder_are_told_apart() {
        let (mut tally, mut next, mut text) = (Tally::default(), 0, Vec::new());
        for sequence in [0, 1, 4, 3, 5] {
            frame::fill_text(&mut text, 30, Some((sequence, 1_000)));
            tally.delta(&text, 3_000, &mut next);
        }
        let twice = text.repeat(2);
        next = 5;
        tally.delta(&twice, 3_000, &mut next);
        assert_eq!((tally.lost, tally.reordered, tally.merged), (2, 1, 1));
        let mut sum = Tally::default();
        sum.add(&tally);
        assert_eq!(sum.report(), tally.report());
        assert_eq!(sum.report()["delay_us"]["p50"], 2.0);
    }
}
