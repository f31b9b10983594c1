//! The sequence numbers of one stream: which are missing, late or twice.

/// Most gaps remembered; in a stream more broken than that, late deltas count as duplicates.
const GAPS_MAX: usize = 1024;

/// What has come of one stream so far. Without gaps nothing is allocated.
#[derive(Debug, Default)]
pub struct Sequence {
    /// One above the highest number seen.
    next: u64,
    /// Half-open ranges below `next` that have not come.
    gaps: Vec<(u64, u64)>,
}

/// How one delta relates to those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// The next one, or a later one behind so many that are missing.
    Ahead {
        /// Numbers skipped; they count as lost unless they still come.
        skipped: u64,
    },
    /// One that was missing so far.
    Late,
    /// One that has been seen.
    Duplicate,
}

impl Sequence {
    /// Takes the next delta's number.
    pub fn take(&mut self, number: u64) -> Arrival {
        if number >= self.next {
            let skipped = number - self.next;
            if skipped > 0 && self.gaps.len() < GAPS_MAX {
                self.gaps.push((self.next, number));
            }
            self.next = number + 1;
            return Arrival::Ahead { skipped };
        }
        let found = |gap: &(u64, u64)| gap.0 <= number && number < gap.1;
        let Some(at) = self.gaps.iter().position(found) else {
            return Arrival::Duplicate;
        };
        let (from, to) = self.gaps.swap_remove(at);
        let rest = [(from, number), (number + 1, to)];
        let rest = rest.into_iter().filter(|(from, to)| from < to);
        self.gaps.extend(rest);
        Arrival::Late
    }

    /// How many never came at the end of a stream that had `total`.
    pub fn missing_at_end(&self, total: u64) -> u64 {
        total.saturating_sub(self.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_order_is_told_apart() {
        let ahead = |skipped| Arrival::Ahead { skipped };
        let mut sequence = Sequence::default();
        for (number, expect) in [
            (0, ahead(0)),
            (1, ahead(0)),
            (1, Arrival::Duplicate),
            (5, ahead(3)),
            (3, Arrival::Late),
            (3, Arrival::Duplicate),
            (2, Arrival::Late),
            (4, Arrival::Late),
            (4, Arrival::Duplicate),
            (6, ahead(0)),
            (9, ahead(2)),
        ] {
            assert_eq!(sequence.take(number), expect, "{number}");
        }
        assert_eq!(sequence.missing_at_end(12), 2);
        assert_eq!(sequence.missing_at_end(10), 0);
    }
}
