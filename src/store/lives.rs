//! Ends of lives after the clock was set back. What was written before would live as much longer as the clock was wrong.
//!
//! A server sees when its clock is set back, and shortens the lives in its own files. In Redis, where nobody looks
//! through all keys, what ends too late is met when it is used: a session is shortened; a chat or a mailed link has
//! ended, since it may be of any age.

use super::StoreError;
use super::chats::SessionFile;

/// How much longer than its life something may seem to live: cores and servers do not agree to the millisecond, and a
/// login starts after whatever has ended the ones before.
const SLACK_MS: i64 = 60_000;
/// Rows of each kind shortened at once, so that no call waits long for it.
const SHORTENED_MAX: i64 = 1_000;

/// Whether something that lives so long cannot have so much before it.
pub(super) fn is_too_long(left_ms: i64, life_ms: i64) -> bool {
    left_ms > life_ms.saturating_add(SLACK_MS)
}

/// Whether something that lives so long is alive: its end is to come, and no more than two lives away, as that of a
/// rate-limit window.
pub(super) fn is_within(now_ms: i64, ends_ms: i64, life_ms: i64) -> bool {
    let left_ms = ends_ms.saturating_sub(now_ms);
    left_ms > 0 && left_ms <= life_ms.saturating_mul(2)
}

impl SessionFile {
    /// Has rows that end too late live as long from now as those that are made now.
    pub(super) fn shorten(&mut self, now_ms: i64) {
        let lives = [
            ("chats", self.lives.chat_ms),
            ("sessions", self.lives.session_ms),
            ("reset_tokens", self.lives.reset_token_ms),
        ];
        let shortened: Result<usize, StoreError> = self.file.write(|file| {
            let mut most = 0;
            for (table, life_ms) in lives {
                let shorten = format!(
                    "UPDATE {table} SET expires_ms = ?1 WHERE rowid IN
                     (SELECT rowid FROM {table} WHERE expires_ms > ?1 + ?2 LIMIT ?3)"
                );
                let ends_ms = now_ms.saturating_add(life_ms);
                let mut shorten = file.prepare_cached(&shorten)?;
                most = most.max(shorten.execute([ends_ms, SLACK_MS, SHORTENED_MAX])?);
            }
            Ok(most)
        });
        // What has failed, or is left, is for the next sweep.
        self.ends_late = shortened != Ok(0);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::chats::RowLimits;
    use super::super::schema::Upkeep;
    use super::*;
    use crate::config::Lives;

    const NOW: i64 = 1_752_421_640_000;
    const DAY: i64 = 86_400_000;
    const HOUR: i64 = 3_600_000;

    #[test]
    fn an_end_may_be_two_lives_away() {
        for (ends_ms, expect) in [
            (NOW, false),
            (NOW + 1, true),
            (NOW + HOUR, true),
            (NOW + 2 * HOUR, true),
            (NOW + DAY, false),
        ] {
            assert_eq!(is_within(NOW, ends_ms, HOUR), expect);
        }
        assert!(!is_too_long(HOUR + SLACK_MS, HOUR) && is_too_long(HOUR + SLACK_MS + 1, HOUR));
        assert!(!is_too_long(i64::MAX, i64::MAX));
    }

    #[test]
    fn rows_of_before_the_clock_was_set_back_live_no_longer_than_others() {
        let folder = tempfile::tempdir().unwrap();
        let limits = RowLimits {
            chats_max: 100_000,
            windows_max: 1,
            sessions_max: 1,
        };
        let lives = Lives {
            chat_ms: HOUR,
            session_ms: 7 * DAY,
            reset_token_ms: HOUR / 4,
        };
        let (bytes, busy) = (1 << 30, Duration::from_secs(1));
        let file = SessionFile::open(
            folder.path(),
            limits,
            lives,
            bytes,
            busy,
            Upkeep::Now,
            |event, detail| panic!("{event}: {detail}"),
        );
        let mut file = file.unwrap();
        let many = SHORTENED_MAX + 10;
        let ends = [
            ("chats", NOW + DAY + HOUR, HOUR),
            ("sessions", NOW + 8 * DAY, 7 * DAY),
            ("reset_tokens", NOW + DAY + HOUR / 4, HOUR / 4),
        ];
        let filled = file.file.write(|file| {
            file.execute_batch(&format!(
                "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {many})
                 INSERT INTO chats SELECT randomblob(32), NULL, zeroblob(16), {}, x'' FROM n;
                 INSERT INTO chats VALUES (zeroblob(32), NULL, zeroblob(16), {NOW} + 1000, x'');
                 INSERT INTO sessions VALUES (zeroblob(32), 1, {NOW}, {NOW}, {}, '', '');
                 INSERT INTO reset_tokens VALUES (1, zeroblob(32), {});",
                ends[0].1, ends[1].1, ends[2].1
            ))
        });
        filled.unwrap();
        let latest = |file: &mut SessionFile, table: &str| {
            let sql = format!("SELECT max(expires_ms) FROM {table}");
            file.file
                .read(|file| file.query_row(&sql, [], |row| row.get::<_, i64>(0)))
                .unwrap()
        };
        file.sweep(NOW);
        for (table, ends_ms, _) in ends {
            assert_eq!(
                latest(&mut file, table),
                ends_ms,
                "the clock was not set back"
            );
        }
        file.ends_late = true;
        while file.ends_late {
            file.sweep(NOW);
        }
        for (table, _, life_ms) in ends {
            assert_eq!(latest(&mut file, table), NOW + life_ms, "{table}");
        }
        let sql = "SELECT count(*) FROM chats WHERE expires_ms = ?1";
        let count = |file: &mut SessionFile, ends_ms: i64| {
            file.file
                .read(|file| file.query_row(sql, [ends_ms], |row| row.get::<_, i64>(0)))
        };
        assert_eq!(count(&mut file, NOW + HOUR), Ok(many));
        assert_eq!(count(&mut file, NOW + 1000), Ok(1), "others are left alone");
    }
}
