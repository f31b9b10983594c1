//! Rate-limit windows in SQL. A window starts with its first hit and ends on time, whatever comes
//! in between; a denied hit does not count.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::chats::SessionFile;
use super::{Reservation, Reserved, StoreError, Window};

impl SessionFile {
    pub(super) fn reserve(
        &mut self,
        now_ms: i64,
        windows: Vec<Window>,
    ) -> Result<Reserved, StoreError> {
        // A flood is refused without a lock and without writing.
        if let Some(over) = self.file.read(|file| first_over(file, now_ms, &windows))? {
            return Ok(over);
        }
        let windows_max = self.limits.windows_max;
        self.file.write(|file| {
            if let Some(over) = first_over(file, now_ms, &windows)? {
                return Ok(over);
            }
            let mut hits = Vec::with_capacity(windows.len());
            for window in windows {
                let standing = look(file, &window, now_ms)?;
                count(file, &window, &standing, windows_max)?;
                hits.push((window.key, standing.ends_ms));
            }
            Ok(Reserved::Done(Reservation { hits }))
        })
    }

    pub(super) fn release(&mut self, reservation: Reservation) -> Result<(), StoreError> {
        self.file.write(|file| {
            let mut give_back = file.prepare_cached(
                "UPDATE windows SET hits = hits - 1
                 WHERE key = ?1 AND ends_ms = ?2 AND hits > 0",
            )?;
            for (key, ends_ms) in reservation.hits {
                give_back.execute(params![key, ends_ms])?;
            }
            Ok(())
        })
    }
}

/// The first window without room for its hits; one that is named twice needs room for two.
fn first_over(
    connection: &Connection,
    now_ms: i64,
    windows: &[Window],
) -> rusqlite::Result<Option<Reserved>> {
    for (which, window) in windows.iter().enumerate() {
        let mut standing = look(connection, window, now_ms)?;
        let earlier = windows[..which].iter().filter(|w| w.key == window.key);
        let earlier = u32::try_from(earlier.count()).unwrap_or(u32::MAX);
        standing.hits = standing.hits.saturating_add(earlier);
        if let Some(retry_after_s) = standing.retry_after_s(window, now_ms) {
            return Ok(Some(Reserved::Over {
                which,
                retry_after_s,
            }));
        }
    }
    Ok(None)
}

/// A window's state, as seen by a hit at `now_ms`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Standing {
    hits: u32,
    ends_ms: i64,
    /// Whether the window is running; otherwise this hit would start it.
    running: bool,
}

impl Standing {
    /// Whole seconds until a hit may succeed, at least 1; `None`: this one may.
    pub(super) fn retry_after_s(&self, window: &Window, now_ms: i64) -> Option<u32> {
        if self.hits < window.limit {
            return None;
        }
        Some(seconds_until(self.ends_ms, now_ms))
    }
}

/// Whole seconds until then, at least 1.
pub(super) fn seconds_until(ends_ms: i64, now_ms: i64) -> u32 {
    let left_ms = ends_ms.saturating_sub(now_ms).max(1);
    let seconds = left_ms / 1000 + i64::from(left_ms % 1000 > 0);
    u32::try_from(seconds).unwrap_or(u32::MAX)
}

pub(super) fn look(
    connection: &Connection,
    window: &Window,
    now_ms: i64,
) -> rusqlite::Result<Standing> {
    let stored: Option<(u32, i64)> = connection
        .prepare_cached("SELECT hits, ends_ms FROM windows WHERE key = ?1")?
        .query_row([&window.key], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    // Cores give their times before they queue, so a window may seem to start a moment from now.
    // One that ends more than two lengths away was made before the clock was set back.
    let latest_ms = now_ms.saturating_add(window.length_ms.saturating_mul(2));
    Ok(match stored {
        Some((hits, ends_ms)) if now_ms < ends_ms && ends_ms <= latest_ms => Standing {
            hits,
            ends_ms,
            running: true,
        },
        _ => Standing {
            hits: 0,
            ends_ms: now_ms.saturating_add(window.length_ms),
            running: false,
        },
    })
}

/// Counts a hit that may succeed. Inside the transaction that has looked.
pub(super) fn count(
    connection: &Connection,
    window: &Window,
    standing: &Standing,
    windows_max: i64,
) -> rusqlite::Result<()> {
    if standing.running {
        connection
            .prepare_cached("UPDATE windows SET hits = hits + 1 WHERE key = ?1")?
            .execute([&window.key])?;
        return Ok(());
    }
    make_room(connection, windows_max)?;
    connection
        .prepare_cached(
            "INSERT INTO windows (key, hits, ends_ms) VALUES (?1, 1, ?2)
             ON CONFLICT (key) DO UPDATE SET hits = 1, ends_ms = excluded.ends_ms",
        )?
        .execute(params![window.key, standing.ends_ms])?;
    Ok(())
}

fn make_room(connection: &Connection, windows_max: i64) -> rusqlite::Result<()> {
    let windows: i64 = connection
        .prepare_cached("SELECT windows FROM totals")?
        .query_row([], |row| row.get(0))?;
    let excess = (windows + 1).saturating_sub(windows_max);
    if excess > 0 {
        sweep(connection, i64::MAX, excess.min(super::chats::EVICTED_MAX))?;
    }
    Ok(())
}

/// Deletes up to `rows_max` windows that have ended, those first that ended first.
pub(super) fn sweep(
    connection: &Connection,
    now_ms: i64,
    rows_max: i64,
) -> rusqlite::Result<usize> {
    connection
        .prepare_cached(
            "DELETE FROM windows WHERE key IN
             (SELECT key FROM windows WHERE ends_ms <= ?1 ORDER BY ends_ms LIMIT ?2)",
        )?
        .execute(params![now_ms, rows_max])
}
