//! Rate-limit windows in Redis, as `store/windows` has them in SQL. Each is counted by itself, because
//! two may stand in different slots of a cluster; what one refuses the others give back.

use fred::types::Value;

use super::Link;
use super::ask::{Ask, elements, number};
use crate::store::{Reservation, Reserved, StoreError, Window};

const RESERVE: &str = include_str!("scripts/reserve.lua");
const RELEASE: &str = include_str!("scripts/release.lua");

/// What a hit has met.
enum Hit {
    Counted { ends_ms: i64, begins: bool },
    Over { retry_after_s: u32 },
}

impl Link {
    pub(super) fn ask_hit(&self, now_ms: i64, window: &Window) -> Ask {
        let arguments = [i64::from(window.limit), now_ms, window.length_ms].map(Value::Integer);
        Ask::script(RESERVE, [self.keys().window(&window.key)], arguments)
    }

    pub(in crate::store) async fn reserve(
        &self,
        now_ms: i64,
        windows: &[Window],
    ) -> Result<Reserved, StoreError> {
        let asks = windows.iter().map(|window| self.ask_hit(now_ms, window));
        let answers = self.ask_all(asks.collect()).await?;
        self.reserved(now_ms, windows, answers).await
    }

    /// What the answers to [`ask_hit`](Self::ask_hit) of these windows mean together: where one refuses, the
    /// others get theirs back.
    pub(super) async fn reserved(
        &self,
        now_ms: i64,
        windows: &[Window],
        answers: Vec<Value>,
    ) -> Result<Reserved, StoreError> {
        let (mut hits, mut undo) = (Vec::with_capacity(windows.len()), Vec::new());
        let mut over = None;
        for (which, (window, answer)) in windows.iter().zip(answers).enumerate() {
            match hit(answer, now_ms) {
                Hit::Counted { ends_ms, begins } => {
                    undo.push(self.ask_release(&window.key, ends_ms, begins));
                    hits.push((window.key.clone(), ends_ms));
                }
                Hit::Over { retry_after_s } => {
                    over.get_or_insert(Reserved::Over {
                        which,
                        retry_after_s,
                    });
                }
            }
        }
        let Some(over) = over else {
            return Ok(Reserved::Done(Reservation { hits }));
        };
        undo.reverse();
        self.ask_all(undo).await?;
        Ok(over)
    }

    pub(in crate::store) async fn release(
        &self,
        reservation: Reservation,
    ) -> Result<(), StoreError> {
        let hits = reservation.hits.iter();
        let asks = hits.map(|(key, ends_ms)| self.ask_release(key, *ends_ms, false));
        self.ask_all(asks.collect()).await.map(drop)
    }

    fn ask_release(&self, key: &[u8], ends_ms: i64, begins: bool) -> Ask {
        let arguments = [ends_ms, i64::from(begins)].map(Value::Integer);
        Ask::script(RELEASE, [self.keys().window(key)], arguments)
    }
}

/// What [`Link::ask_hit`] was answered.
fn hit(answer: Value, now_ms: i64) -> Hit {
    let mut answer = elements(answer).into_iter().map(number);
    let counted = answer.next().flatten();
    let ends_ms = answer.next().flatten().unwrap_or(now_ms);
    match counted {
        Some(1) => Hit::Counted {
            ends_ms,
            begins: answer.next().flatten() == Some(1),
        },
        _ => Hit::Over {
            retry_after_s: crate::store::windows::seconds_until(ends_ms, now_ms),
        },
    }
}
