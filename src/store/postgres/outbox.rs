//! The outbox in PostgreSQL, which several servers share: each takes other rows.

use tokio_postgres::Row;

use super::Pool;
use super::statement::Statement;
use crate::model::{Identifier, Letter, UserId};
use crate::store::outbox::latest_ms;
use crate::store::{OutboxRow, Posted, StoreError};

impl Pool {
    pub(in crate::store) async fn post_reset_request(
        &self,
        now_ms: i64,
        identifier: &Identifier,
    ) -> Result<Posted, StoreError> {
        let rows = self
            .bound_rows(
                Statement::PostResetRequest,
                &[
                    &identifier.as_str().filter(|text| !text.contains('\0')),
                    &now_ms,
                    &self.shared.outbox_max,
                ],
            )
            .await?;
        self.note_dropped(rows.is_empty());
        Ok(match rows.is_empty() {
            true => Posted::Dropped,
            false => Posted::Queued,
        })
    }

    pub(in crate::store) async fn claim_letters(
        &self,
        now_ms: i64,
        lease_ms: i64,
        rows_max: u32,
    ) -> Result<Vec<OutboxRow>, StoreError> {
        let (until_ms, rows_max) = (now_ms.saturating_add(lease_ms), i64::from(rows_max));
        let rows = self
            .rows(
                Statement::ClaimLetters,
                &[&now_ms, &until_ms, &rows_max, &latest_ms(now_ms)],
            )
            .await?;
        let rows: Result<Vec<_>, _> = rows.iter().map(to_row).collect();
        let mut rows = rows.map_err(|error| self.unreadable(&error))?;
        // An update answers in no order.
        rows.sort_by_key(|(due_ms, row)| (*due_ms, row.as_ref().map(|row| row.id)));
        Ok(rows.into_iter().filter_map(|(_, row)| row).collect())
    }

    pub(in crate::store) async fn finish_letter(&self, id: i64) -> Result<(), StoreError> {
        self.rows(Statement::FinishLetter, &[&id]).await.map(drop)
    }

    pub(in crate::store) async fn retry_letter(
        &self,
        id: i64,
        next_ms: i64,
    ) -> Result<(), StoreError> {
        let parameters: super::Parameters<'_> = &[&id, &next_ms];
        self.rows(Statement::RetryLetter, parameters)
            .await
            .map(drop)
    }
}

/// When it was due, and the mail; `None` of a kind that a newer version has posted.
fn to_row(row: &Row) -> Result<(i64, Option<OutboxRow>), tokio_postgres::Error> {
    let kind: &str = row.try_get(1)?;
    let identifier: Option<&str> = row.try_get(3)?;
    let Some(letter) = Letter::named(kind) else {
        return Ok((row.try_get(6)?, None));
    };
    let found = OutboxRow {
        id: row.try_get(0)?,
        letter,
        user: row.try_get::<_, Option<i64>>(2)?.map(UserId),
        identifier: identifier.and_then(Identifier::parse),
        created_ms: row.try_get(4)?,
        tries: row.try_get::<_, i32>(5)?.try_into().unwrap_or(0),
    };
    Ok((row.try_get(6)?, Some(found)))
}
