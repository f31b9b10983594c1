//! The costs of the stored hashes as one core remembers them, so that not every login asks the store.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::Cost;

/// After so long one login asks the store again.
const FRESH: Duration = Duration::from_secs(10);

/// How many stored hashes there are of each cost; in a sample, perhaps.
type Counts = Rc<[(Cost, u64)]>;

/// What the store has said last.
#[derive(Debug, Default)]
pub struct Mix {
    known: Option<(Counts, Instant)>,
}

impl Mix {
    /// What is known, unless the caller is to ask the store, and then to [`keep`](Self::keep) the answer. When
    /// the time has come one caller is told so; others go on with what is known.
    pub fn if_fresh(&mut self, now: Instant) -> Option<Counts> {
        let (mix, asked) = self.known.as_mut()?;
        if now.saturating_duration_since(*asked) >= FRESH {
            *asked = now;
            return None;
        }
        Some(Rc::clone(mix))
    }

    /// Remembers what the store has said now.
    pub fn keep(&mut self, mix: Counts, now: Instant) {
        self.known = Some((mix, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_asks_again_after_a_while_and_others_go_on() {
        let (begin, second) = (crate::clock::now(), Duration::from_secs(1));
        let mut mix = Mix::default();
        assert_eq!(mix.if_fresh(begin), None, "nothing is known yet");
        assert_eq!(mix.if_fresh(begin), None);
        let some: Rc<[_]> = Rc::new([(Cost::TODAY, 1)]);
        mix.keep(Rc::clone(&some), begin);
        assert_eq!(mix.if_fresh(begin + 9 * second), Some(Rc::clone(&some)));
        assert_eq!(mix.if_fresh(begin + 10 * second), None, "this one asks");
        assert_eq!(mix.if_fresh(begin + 11 * second), Some(some));
    }
}
