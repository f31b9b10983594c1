//! Users and their credentials in PostgreSQL: one method per call, as `users` has them for SQLite.
//! What ends sessions, and how, is told there.

use std::time::{SystemTime, UNIX_EPOCH};

use tokio_postgres::Row;

use super::statement::Statement;
use super::{Parameters, Pool, Refusal};
use crate::entropy;
use crate::model::{
    Credential, DisplayName, Email, Forms, Identifier, NewUser, PasswordHash, Phone, User, UserId,
};
use crate::store::users::{HASH_MIX_MAX, USED_TOKEN_MS};
use crate::store::{Registered, StoreError, Taken, TokenUse, Updated};

/// Used tokens deleted by each new one.
const SWEPT_MAX: i64 = 25;
/// How often another uid is tried: two alike are rare, three in a row are a mistake of ours.
const UIDS_MAX: usize = 3;

impl Pool {
    pub(in crate::store) async fn taken(
        &self,
        email: &Email,
        phone: Option<&Phone>,
    ) -> Result<Taken, StoreError> {
        let forms = email.forms();
        let parameters: Parameters<'_> = &[&&forms.all()[..], &phone.map(Phone::as_str)];
        let taken = self.read(Statement::Taken, parameters, |row| {
            Ok(Taken {
                email: row.try_get(0)?,
                phone: row.try_get(1)?,
            })
        });
        Ok(taken.await?.unwrap_or_default())
    }

    pub(in crate::store) async fn register(
        &self,
        now_ms: i64,
        user: NewUser,
    ) -> Result<Registered, StoreError> {
        let forms = user.email.forms();
        let forms: &[&str] = &forms.all();
        // Two requests with two forms of one address meet no unique index.
        let lock = match forms {
            [given, unicode, ascii] if given != unicode || given != ascii => Some(lock_of(ascii)),
            _ => None,
        };
        for _ in 0..UIDS_MAX {
            let rows = self
                .bound_rows_after(
                    lock,
                    Statement::Register,
                    &[
                        &uid(),
                        &user.email.as_str(),
                        &user.phone.as_ref().map(Phone::as_str),
                        &user.display_name.as_ref().map(DisplayName::as_str),
                        &user.hash.as_str(),
                        &now_ms,
                        &user.welcome,
                        &self.shared.outbox_max,
                        &user.hash.mark(),
                        &forms,
                    ],
                )
                .await?;
            if let Some(row) = rows.first() {
                let made = |row: &Row| Ok((row.try_get(0)?, row.try_get(1)?));
                let (id, is_dropped) = made(row).map_err(|error| self.unreadable(&error))?;
                self.note_dropped(is_dropped);
                return Ok(Registered::Done(UserId(id)));
            }
            let taken = self.taken(&user.email, user.phone.as_ref()).await?;
            if taken.email {
                return Ok(Registered::EmailTaken);
            }
            if taken.phone {
                return Ok(Registered::PhoneTaken);
            }
        }
        Err(StoreError::Unavailable)
    }

    pub(in crate::store) async fn credential(
        &self,
        identifier: &Identifier,
    ) -> Result<Option<Credential>, StoreError> {
        if let Identifier::Email(text) = identifier {
            let forms = Forms::of(storable(text));
            let parameters: Parameters<'_> = &[&&forms.all()[..]];
            let found = self.read(Statement::CredentialByEmail, parameters, to_credential);
            return found.await;
        }
        // An identifier that nobody can have is looked up all the same: it costs the same.
        let text = storable(identifier.as_str().unwrap_or_default());
        self.read(Statement::CredentialByPhone, &[&text], to_credential)
            .await
    }

    pub(in crate::store) async fn credential_of(
        &self,
        user: UserId,
    ) -> Result<Option<Credential>, StoreError> {
        self.read(Statement::CredentialOf, &[&user.0], to_credential)
            .await
    }

    pub(in crate::store) async fn user(&self, user: UserId) -> Result<Option<User>, StoreError> {
        self.read(Statement::User, &[&user.0], to_user).await
    }

    pub(in crate::store) async fn rehash(
        &self,
        user: UserId,
        old: &PasswordHash,
        new: &PasswordHash,
    ) -> Result<bool, StoreError> {
        let parameters: Parameters<'_> = &[&user.0, &old.as_str(), &new.as_str(), &new.mark()];
        self.is_done(Statement::Rehash, parameters).await
    }

    pub(in crate::store) async fn use_reset_token(
        &self,
        now_ms: i64,
        token_sha256: [u8; 32],
        user: UserId,
        new: &PasswordHash,
        end_sessions: bool,
    ) -> Result<TokenUse, StoreError> {
        let rows = self
            .bound_rows(
                Statement::UseResetToken,
                &[
                    &user.0,
                    &&token_sha256[..],
                    &new.as_str(),
                    &now_ms,
                    &end_sessions,
                    &self.shared.outbox_max,
                    &now_ms.saturating_sub(USED_TOKEN_MS),
                    &SWEPT_MAX,
                    &new.mark(),
                ],
            )
            .await?;
        let outcome = |row: &Row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?));
        let outcome = rows.first().map(outcome).transpose();
        let outcome = outcome.map_err(|error| self.unreadable(&error))?;
        Ok(match outcome {
            None | Some((false, _, _)) => TokenUse::NoUser,
            Some((true, false, _)) => TokenUse::Used,
            Some((true, true, is_dropped)) => {
                self.note_dropped(is_dropped);
                TokenUse::Done
            }
        })
    }

    pub(in crate::store) async fn change_password(
        &self,
        now_ms: i64,
        user: UserId,
        old: &PasswordHash,
        new: PasswordHash,
    ) -> Result<Option<Credential>, StoreError> {
        let parameters: Parameters<'_> = &[
            &user.0,
            &old.as_str(),
            &new.as_str(),
            &now_ms,
            &self.shared.outbox_max,
            &new.mark(),
        ];
        let rows = self
            .bound_rows(Statement::ChangePassword, parameters)
            .await?;
        let Some(row) = rows.first() else {
            return Ok(None);
        };
        let changed = |row: &Row| {
            let credential = Credential {
                user,
                uid: row.try_get(0)?,
                hash: Some(new),
                password_changed_ms: row.try_get(1)?,
                is_active: true,
                sessions_not_before_ms: row.try_get(2)?,
            };
            Ok((credential, row.try_get(3)?))
        };
        let (credential, is_dropped) = changed(row).map_err(|error| self.unreadable(&error))?;
        self.note_dropped(is_dropped);
        Ok(Some(credential))
    }

    pub(in crate::store) async fn set_password(
        &self,
        now_ms: i64,
        user: UserId,
        new: &PasswordHash,
    ) -> Result<bool, StoreError> {
        let parameters: Parameters<'_> = &[
            &user.0,
            &new.as_str(),
            &now_ms,
            &self.shared.outbox_max,
            &new.mark(),
        ];
        let rows = self.bound_rows(Statement::SetPassword, parameters).await?;
        let Some(row) = rows.first() else {
            return Ok(false);
        };
        let is_dropped = row.try_get(0).map_err(|error| self.unreadable(&error))?;
        self.note_dropped(is_dropped);
        Ok(true)
    }

    pub(in crate::store) async fn update_profile(
        &self,
        user: UserId,
        display_name: Option<Option<DisplayName>>,
        phone: Option<Option<Phone>>,
    ) -> Result<Updated, StoreError> {
        let (names, phones) = (display_name.is_some(), phone.is_some());
        let (name, phone) = (display_name.flatten(), phone.flatten());
        let parameters: Parameters<'_> = &[
            &user.0,
            &names,
            &name.as_ref().map(DisplayName::as_str),
            &phones,
            &phone.as_ref().map(Phone::as_str),
        ];
        let rows = self.unless_taken(Statement::UpdateProfile, parameters);
        let rows = match rows.await {
            Ok(rows) => rows,
            Err(Refusal::Conflict) => return Ok(Updated::PhoneTaken),
            Err(Refusal::Store(error)) => return Err(error),
        };
        let user = rows.first().map(to_user).transpose();
        let user = user.map_err(|error| self.unreadable(&error))?;
        Ok(user.map_or(Updated::NoUser, Updated::Done))
    }

    pub(in crate::store) async fn delete_user(&self, user: UserId) -> Result<bool, StoreError> {
        self.is_done(Statement::DeleteUser, &[&user.0]).await
    }

    pub(in crate::store) async fn set_active(
        &self,
        now_ms: i64,
        user: UserId,
        is_active: bool,
    ) -> Result<bool, StoreError> {
        match is_active {
            true => self.is_done(Statement::Activate, &[&user.0]).await,
            false => {
                let parameters: Parameters<'_> = &[&user.0, &now_ms];
                self.is_done(Statement::Deactivate, parameters).await
            }
        }
    }

    pub(in crate::store) async fn end_sessions_before_now(
        &self,
        now_ms: i64,
        user: UserId,
    ) -> Result<bool, StoreError> {
        self.is_done(Statement::EndSessions, &[&user.0, &now_ms])
            .await
    }

    pub(in crate::store) async fn list_users(
        &self,
        after: UserId,
        rows_max: u32,
    ) -> Result<Vec<User>, StoreError> {
        let parameters: Parameters<'_> = &[&after.0, &i64::from(rows_max)];
        self.read_all(Statement::ListUsers, parameters, to_user)
            .await
    }

    pub(in crate::store) async fn find_users(&self, text: &str) -> Result<Vec<User>, StoreError> {
        let text = storable(text.trim());
        let (lower, number) = (text.to_lowercase(), text.parse::<i64>().ok());
        let forms = Forms::of(&lower);
        let parameters: Parameters<'_> = &[&&forms.all()[..], &text, &number];
        self.read_all(Statement::FindUsers, parameters, to_user)
            .await
    }

    pub(in crate::store) async fn hash_mix(&self) -> Result<Vec<(String, u32)>, StoreError> {
        self.read_all(Statement::HashMix, &[&HASH_MIX_MAX], |row| {
            let count: i64 = row.try_get(1)?;
            Ok((row.try_get(0)?, count.try_into().unwrap_or(u32::MAX)))
        })
        .await
    }

    async fn read_all<T>(
        &self,
        statement: Statement,
        parameters: Parameters<'_>,
        to: impl Fn(&Row) -> Result<T, tokio_postgres::Error>,
    ) -> Result<Vec<T>, StoreError> {
        let rows = self.read_rows(statement, parameters).await?;
        let read: Result<_, _> = rows.iter().map(to).collect();
        read.map_err(|error| self.unreadable(&error))
    }

    async fn read<T>(
        &self,
        statement: Statement,
        parameters: Parameters<'_>,
        to: impl Fn(&Row) -> Result<T, tokio_postgres::Error>,
    ) -> Result<Option<T>, StoreError> {
        Ok(self.read_all(statement, parameters, to).await?.pop())
    }

    /// A write that answers with a row if it has done something.
    async fn is_done(
        &self,
        statement: Statement,
        parameters: Parameters<'_>,
    ) -> Result<bool, StoreError> {
        Ok(!self.rows(statement, parameters).await?.is_empty())
    }
}

/// PostgreSQL takes no text with a NUL in it; nobody's name has one.
fn storable(text: &str) -> &str {
    match text.contains('\0') {
        true => "",
        false => text,
    }
}

/// What registrations of one mailbox lock.
fn lock_of(mailbox: &str) -> i64 {
    let digest = ring::digest::digest(&ring::digest::SHA256, mailbox.as_bytes());
    let first = digest.as_ref().first_chunk();
    i64::from_be_bytes(*first.expect("a SHA-256 digest has 32 bytes"))
}

/// 48 random bits as 12 hex digits.
fn uid() -> String {
    let bytes = entropy::bytes::<6>();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn to_user(row: &Row) -> Result<User, tokio_postgres::Error> {
    Ok(User {
        id: UserId(row.try_get(0)?),
        uid: row.try_get(1)?,
        email: row.try_get::<_, Option<_>>(2)?.map(Email::stored),
        phone: row.try_get::<_, Option<String>>(3)?.map(Phone::stored),
        display_name: row.try_get::<_, Option<_>>(4)?.map(DisplayName::stored),
        is_active: row.try_get::<_, Option<_>>(5)?.unwrap_or_default(),
        created_ms: row.try_get::<_, Option<_>>(6)?.map(to_ms),
        sessions_not_before_ms: row.try_get(7)?,
    })
}

/// Milliseconds since 1970.
fn to_ms(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn to_credential(row: &Row) -> Result<Credential, tokio_postgres::Error> {
    let (hash, mark): (Option<String>, Option<&str>) = (row.try_get(2)?, row.try_get(6)?);
    Ok(Credential {
        user: UserId(row.try_get(0)?),
        uid: row.try_get(1)?,
        hash: hash.map(|phc| PasswordHash::stored(phc, mark)),
        password_changed_ms: row.try_get(3)?,
        is_active: row.try_get(4)?,
        sessions_not_before_ms: row.try_get(5)?,
    })
}
