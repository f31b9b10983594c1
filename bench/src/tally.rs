//! What the stream client has counted, and its JSON report.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::frame;
use crate::histogram;
use crate::sequence::{Arrival, Sequence};

/// Counts and histograms of many streams; one per thread, merged at the end.
#[derive(Debug)]
pub struct Tally {
    /// Answers by status; connections that failed stand under `connect` or `broken head`.
    pub answers: BTreeMap<String, u64>,
    /// How requests ended, see `client::End`.
    pub ends: BTreeMap<String, u64>,
    /// Requests that ended with the finish reason they were to end with.
    pub completed: u64,
    /// Requests that ended otherwise, but for those that this client itself closed.
    pub failed: BTreeMap<String, u64>,
    /// Deltas with text.
    pub deltas: u64,
    /// Bytes of text.
    pub text_bytes: u64,
    /// Deltas that never came.
    pub lost: u64,
    /// Deltas that came in one line with another.
    pub merged: u64,
    /// Deltas that came behind a later one.
    pub reordered: u64,
    /// Deltas that came again.
    pub duplicated: u64,
    /// Deltas of another stream.
    pub foreign: u64,
    delay: Histogram<u64>,
    first: Histogram<u64>,
    start_late: Histogram<u64>,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            answers: BTreeMap::new(),
            ends: BTreeMap::new(),
            completed: 0,
            failed: BTreeMap::new(),
            deltas: 0,
            text_bytes: 0,
            lost: 0,
            merged: 0,
            reordered: 0,
            duplicated: 0,
            foreign: 0,
            delay: histogram::new(),
            first: histogram::new(),
            start_late: histogram::new(),
        }
    }
}

/// What a text is to be counted as.
#[derive(Debug, Clone, Copy)]
pub struct Received {
    /// When it came; `CLOCK_MONOTONIC`.
    pub ns: u64,
    /// The number that its stamps must carry.
    pub stream: u64,
    /// Delays of what was stamped before this are not recorded; `u64::MAX` for readers that are slow on purpose.
    pub record_from_ns: u64,
}

impl Tally {
    /// One text of a stream; returns how many deltas it held.
    pub fn text(&mut self, text: &[u8], received: Received, sequence: &mut Sequence) -> u64 {
        self.text_bytes += text.len() as u64;
        let mut stamps = 0;
        for stamp in frame::stamps(text) {
            stamps += 1;
            if stamp.stream != received.stream {
                self.foreign += 1;
                continue;
            }
            if stamp.ns >= received.record_from_ns {
                self.delay
                    .saturating_record(received.ns.saturating_sub(stamp.ns));
            }
            match sequence.take(stamp.sequence) {
                Arrival::Ahead { skipped } => self.lost += skipped,
                Arrival::Late => {
                    self.reordered += 1;
                    // It was taken for lost when a later one came. Beyond the gaps remembered it is
                    // a duplicate, so this cannot fall below zero.
                    self.lost -= 1;
                }
                Arrival::Duplicate => self.duplicated += 1,
            }
        }
        let deltas = stamps.max(1);
        self.merged += deltas - 1;
        self.deltas += deltas;
        deltas
    }

    /// Time from when a request was due to its first text, less the simulator's own.
    pub fn first_text(&mut self, ns: u64) {
        self.first.saturating_record(ns);
    }

    /// How long after its due time a request was started.
    pub fn start_late(&mut self, ns: u64) {
        self.start_late.saturating_record(ns);
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
            (&mut self.failed, &other.failed),
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
        self.duplicated += other.duplicated;
        self.foreign += other.foreign;
        self.completed += other.completed;
        self.delay.add(&other.delay).expect("the same bounds");
        self.first.add(&other.first).expect("the same bounds");
        self.start_late
            .add(&other.start_late)
            .expect("the same bounds");
    }

    /// The report; times in microseconds.
    pub fn report(&self) -> Value {
        json!({
            "requests": self.ends.values().sum::<u64>(),
            "answers": self.answers,
            "ends": self.ends,
            "completed": self.completed,
            "held": self.ends.get("held").unwrap_or(&0),
            "aborted": self.ends.get("aborted").unwrap_or(&0),
            "failed": self.failed,
            "deltas": self.deltas,
            "text_bytes": self.text_bytes,
            "lost": self.lost,
            "merged": self.merged,
            "reordered": self.reordered,
            "duplicated": self.duplicated,
            "foreign": self.foreign,
            "delay_us": histogram::json(&self.delay),
            "first_text_us": histogram::json(&self.first),
            "start_late_us": histogram::json(&self.start_late),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A text with one stamp for each number, sent at 1 µs.
    fn text(stream: u64, numbers: &[u64]) -> Vec<u8> {
        let mut out = Vec::new();
        for number in numbers {
            let mut event = Vec::new();
            frame::Delta::new(0, Some(stream)).write(&mut event, *number, 1_000);
            out.extend_from_slice(frame::text_of(&event, true, &mut 0).unwrap());
        }
        out
    }

    #[test]
    fn every_disorder_is_told_apart() {
        let (mut tally, mut sequence) = (Tally::default(), Sequence::default());
        let received = Received {
            ns: 3_000,
            stream: 7,
            record_from_ns: 0,
        };
        // 0 and 1 in order, 2 lost, 3 late, 5 twice, 6 to 8 merged, one of another stream.
        for numbers in [&[0][..], &[1], &[4], &[3], &[5], &[5], &[6, 7, 8]] {
            let held = tally.text(&text(7, numbers), received, &mut sequence);
            assert_eq!(held, numbers.len() as u64);
        }
        tally.text(&text(8, &[9]), received, &mut sequence);
        let found = (tally.deltas, tally.lost, tally.reordered);
        assert_eq!(found, (10, 1, 1));
        let found = (tally.merged, tally.duplicated, tally.foreign);
        assert_eq!(found, (2, 1, 1));
        let mut sum = Tally::default();
        sum.add(&tally);
        assert_eq!(sum.report(), tally.report());
        assert_eq!(sum.report()["delay_us"]["p50"], 2.0);
        assert_eq!(sum.report()["delay_us"]["count"], 9);
    }

    #[test]
    fn what_is_before_the_warm_up_or_has_no_stamp_is_only_counted() {
        let (mut tally, mut sequence) = (Tally::default(), Sequence::default());
        let received = Received {
            ns: 3_000,
            stream: 7,
            record_from_ns: 1_001,
        };
        tally.text(&text(7, &[0]), received, &mut sequence);
        tally.text("你好".as_bytes(), received, &mut sequence);
        assert_eq!((tally.deltas, tally.text_bytes, tally.lost), (2, 42, 0));
        assert_eq!(tally.report()["delay_us"]["count"], 0);
    }
}
