//! Sessions of a user whose sessions have ended that no list of ours names: the replaced service has made them and
//! we were never shown them, or the list was evicted. They are looked for among all keys, in the background.
//!
//! One pass at a time looks for all users that wait, in small steps with pauses: of a million keys, half of them
//! sessions, it takes half a minute and 2 s of Redis's CPU (measured on a busy machine), and nobody waits for more
//! than a step. Not in a cluster, whose keys are on several servers: the replaced service cannot use one, and a session
//! whose list was evicted there lives until it is used at `/auth/me`.

use std::sync::PoisonError;
use std::time::Duration;

use fred::types::Value;
use tokio::time::{Instant, sleep, sleep_until};

use super::Link;
use super::ask::{Ask, elements, number, text, texts};
use crate::clock::{self, Clock};
use crate::model::{Token, UserId};
use crate::store::StoreError;

const END_OLDER: &str = include_str!("scripts/end_older.lua");
/// Keys that Redis looks at in one step: half a millisecond of its time.
const KEYS_PER_STEP: i64 = 250;
const STEP_PAUSE: Duration = Duration::from_millis(5);
/// For all steps of a pass.
const PASS_TIMEOUT: Duration = Duration::from_secs(60);
/// From the end of a pass to the next.
const PASS_PAUSE: Duration = Duration::from_secs(10);
/// Users that may wait for a pass, and sessions of theirs that were excepted.
const WAITING_MAX: usize = 100;
/// Reported when sessions may have been left where they are.
const LEFT: &str = "sessions of the replaced service may be left";

/// What is to be looked for, by all cores.
#[derive(Default)]
pub(super) struct Sweep {
    waiting: Vec<Ended>,
    is_running: bool,
    last_end: Option<Instant>,
}

/// Whose sessions have ended.
pub(super) struct Ended {
    pub(super) user: UserId,
    pub(super) except: Option<Token>,
    /// Those that have begun then or later live.
    pub(super) before_ms: i64,
}

impl Sweep {
    /// Adds it to what waits. `false`: too many do.
    fn add(&mut self, ended: Ended) -> bool {
        let is_same = |other: &&mut Ended| other.user == ended.user && other.except == ended.except;
        if let Some(other) = self.waiting.iter_mut().find(is_same) {
            other.before_ms = other.before_ms.max(ended.before_ms);
            return true;
        }
        let has_room = self.waiting.len() < WAITING_MAX;
        if has_room {
            self.waiting.push(ended);
        }
        has_room
    }
}

impl Link {
    /// Looks for what is left of a user's sessions.
    pub(super) fn sweep_for(&self, ended: Ended) {
        if !self.0.shared.is_one {
            return;
        }
        let is_running = self.with_sweep(|sweep| {
            if !sweep.add(ended) {
                self.0.shared.health().report(LEFT);
            }
            std::mem::replace(&mut sweep.is_running, true)
        });
        if !is_running {
            let link = self.clone();
            tokio::spawn(async move { link.sweep().await });
        }
    }

    /// Waits until nothing is looked for any more.
    pub(in crate::store) async fn swept(&self) {
        while self.with_sweep(|sweep| sweep.is_running) {
            sleep(STEP_PAUSE).await;
        }
    }

    fn with_sweep<T>(&self, work: impl FnOnce(&mut Sweep) -> T) -> T {
        // Nothing panics while it is held.
        let sweep = self.0.shared.sweep.lock();
        work(&mut sweep.unwrap_or_else(PoisonError::into_inner))
    }

    async fn sweep(&self) {
        loop {
            if let Some(end) = self.with_sweep(|sweep| sweep.last_end) {
                sleep_until(end + PASS_PAUSE).await;
            }
            let ended = self.with_sweep(|sweep| std::mem::take(&mut sweep.waiting));
            if self.pass(&ended).await != Ok(true) {
                self.0.shared.health().report(LEFT);
            }
            let is_over = self.with_sweep(|sweep| {
                sweep.last_end = Some(clock::now());
                sweep.is_running = !sweep.waiting.is_empty();
                !sweep.is_running
            });
            if is_over {
                return;
            }
        }
    }

    /// Looks at all keys once. `false`: there was no time for all.
    async fn pass(&self, ended: &[Ended]) -> Result<bool, StoreError> {
        let end = clock::now() + PASS_TIMEOUT;
        let mut cursor = "0".to_owned();
        loop {
            let scan = Ask::scan(cursor, self.keys().of_sessions(), KEYS_PER_STEP);
            let mut answer = elements(self.ask_one(scan).await?).into_iter();
            let Some(next) = answer.next().and_then(text) else {
                return Ok(false);
            };
            let keys = texts(answer.next().unwrap_or(Value::Null));
            self.look_at(keys, ended).await?;
            if *next == *"0" {
                return Ok(true);
            }
            if clock::now() >= end {
                return Ok(false);
            }
            cursor = next.to_string();
            sleep(STEP_PAUSE).await;
        }
    }

    /// Ends those of these sessions that are to end.
    async fn look_at(&self, mut keys: Vec<String>, ended: &[Ended]) -> Result<(), StoreError> {
        let name = |key: &str| self.keys().token(key).and_then(Token::parse);
        keys.retain(|key| name(key).is_some());
        if keys.is_empty() {
            return Ok(());
        }
        let owners = elements(self.ask_one(Ask::get_all(&keys)).await?);
        for (token, owner) in keys.iter().filter_map(|key| name(key)).zip(owners) {
            let owner = number(owner).map(UserId);
            let fit = ended
                .iter()
                .filter(|ended| Some(ended.user) == owner && ended.except.as_ref() != Some(&token));
            // What a later event has ended began before that one, not before the first.
            let latest = fit.max_by_key(|ended| ended.before_ms);
            if let Some(Ended {
                user, before_ms, ..
            }) = latest
            {
                let ttl_ms = self.0.shared.lives.session_ms;
                let passed_ms = Clock::System.wall_ms() - before_ms;
                let arguments = [
                    user.to_string().into(),
                    (*before_ms).into(),
                    (ttl_ms - passed_ms).into(),
                    ttl_ms.into(),
                ];
                let both = self.keys().both(token.as_str());
                self.ask_one(Ask::script(END_OLDER, both, arguments))
                    .await?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_waits_once_with_the_latest_end() {
        let (one, other) = (UserId(1), UserId(2));
        let ended = |user, except, before_ms| Ended {
            user,
            except,
            before_ms,
        };
        let mut sweep = Sweep::default();
        for before_ms in [10, 30, 20] {
            for _ in 0..WAITING_MAX {
                assert!(sweep.add(ended(one, None, before_ms)));
            }
        }
        assert!(sweep.add(ended(other, None, 5)));
        let waiting = sweep.waiting.iter();
        let waiting: Vec<_> = waiting.map(|ended| (ended.user, ended.before_ms)).collect();
        assert_eq!(waiting, [(one, 30), (other, 5)]);
        while sweep.waiting.len() < WAITING_MAX {
            assert!(sweep.add(ended(one, Some(Token::new()), 1)));
        }
        assert!(!sweep.add(ended(UserId(3), None, 1)));
        assert!(sweep.add(ended(other, None, 6)));
    }
}
