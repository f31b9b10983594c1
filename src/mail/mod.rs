//! Sends the letters of the outbox: one task per process, one letter at a time, one connection.
//!
//! A letter is claimed with a lease (which a restart ends), sent, and only then removed: a server or a process that dies
//! loses none. It arrives twice only if the process is killed (or the SMTP connection breaks)
//! between the server's acceptance and the removal of the row, milliseconds later; both copies then
//! carry the same `Message-ID`. Requests are not what wakes the task: it looks once a second, so
//! that its work for an account that exists does not slow down the request that asked for it.
//!
//! Log lines name letters by row and kind, never by address, token or text.

use std::borrow::Cow;
use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use ring::hmac;
use tokio::time::{Instant, sleep_until, timeout};

use crate::clock::{self, Clock};
use crate::config::{Config, Mail};
use crate::log::{self, Level, Value};
use crate::model::{Letter, Token, UserId};
use crate::store::{
    LETTER_PAUSE_MS_MAX, OutboxRow, Reservation, Reserved, StoreError, Stores, Window,
};

pub mod letters;
pub mod smtp;

use letters::{Content, Link, Site};
use smtp::{Kind, SendError, Smtp};

/// How often a store that has failed is asked again.
const STORE_PAUSE: Duration = Duration::from_secs(1);
/// How long a claimed letter is ours; after that another sender may take it.
const LEASE: Duration = Duration::from_secs(900);
/// A letter is given up on, for now, before its lease ends.
const LETTER_TIMEOUT: Duration = Duration::from_secs(780);
/// Letters older than this are dropped.
const AGE_MAX: Duration = Duration::from_secs(24 * 3600);
/// Longest pause after a failure.
const RETRY_MAX: Duration = Duration::from_millis(LETTER_PAUSE_MS_MAX.unsigned_abs());
/// Why nothing is sent without a server.
const NO_SERVER: &str = "mail.smtp_host (SMTP_HOST) is not set";
/// Letters to one recipient in an hour.
const PER_RECIPIENT_MAX: u32 = 6;
/// Letters with a link in the same time, when that is used up.
const RESETS_MAX: u32 = 3;
const HOUR_MS: i64 = 3_600_000;

// All steps of one letter in a row end before its lease.
const _: () = assert!(
    smtp::CONNECT_TIMEOUT.as_secs()
        + 5 * smtp::COMMAND_TIMEOUT.as_secs()
        + smtp::MESSAGE_TIMEOUT.as_secs()
        < LETTER_TIMEOUT.as_secs()
        && LETTER_TIMEOUT.as_secs() < LEASE.as_secs()
);

/// The sender of this process.
pub struct Sender {
    settings: Mail,
    frontend_base_url: Option<String>,
    reset_ttl: Duration,
    stores: Stores,
    clock: Clock,
    smtp: Option<Smtp>,
    /// Until when the server is left alone, after it could not be used.
    resting_until: Option<Instant>,
    /// Times in a row that it could not be used.
    failures: u32,
    /// Letters may be claimed that nobody has in hand: by a process that was killed, or by a call
    /// that the store carried out after its deadline.
    has_strays: bool,
}

/// What became of a letter.
enum Fate {
    /// It is on its way.
    Sent,
    /// It will never be sent, for this reason.
    Dropped(&'static str),
    /// The server will never take it.
    Refused(SendError),
    /// It was tried, and will be again after the pause.
    Failed(SendError, Duration),
    /// Its recipient has had too many; it waits.
    Postponed(Duration),
    /// The store did not answer; the lease will end.
    Stuck(StoreError),
}

/// A user who gets a letter.
struct Recipient {
    user: UserId,
    /// [`crate::model::Email::mailbox`].
    mailbox: String,
}

impl From<StoreError> for Fate {
    fn from(error: StoreError) -> Self {
        Fate::Stuck(error)
    }
}

impl Sender {
    /// Ready to [`run`](Sender::run); connects to nothing yet.
    ///
    /// # Errors
    /// One line that names the setting at fault.
    pub fn new(config: &Config, stores: Stores, clock: Clock) -> Result<Self, String> {
        let server = config.mail.server.as_ref();
        let smtp = server.map(|server| Smtp::new(server, &config.upstream));
        Ok(Self {
            settings: config.mail.clone(),
            frontend_base_url: config.server.frontend_base_url.clone(),
            reset_ttl: config.auth.reset_token_ttl,
            stores,
            clock,
            smtp: smtp.transpose()?,
            resting_until: None,
            failures: 0,
            has_strays: true,
        })
    }

    /// Sends what is due until `stop` resolves; the letter in hand is finished first.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        loop {
            let pause = match self.rest_left() {
                Some(left) => left,
                None => match self.next().await {
                    Ok(true) => Duration::ZERO,
                    Ok(false) => self.settings.look,
                    // The store has reported it.
                    Err(StoreError::Unavailable | StoreError::TimedOut) => {
                        self.has_strays = true;
                        STORE_PAUSE
                    }
                },
            };
            if !pause.is_zero() {
                self.close().await;
            }
            tokio::select! {
                biased;
                () = &mut stop => break,
                () = sleep_until(clock::now() + pause) => {}
            }
        }
        self.close().await;
    }

    async fn close(&mut self) {
        if let Some(smtp) = &mut self.smtp {
            smtp.close().await;
        }
    }

    /// Takes one letter off the outbox and deals with it; whether there was one.
    async fn next(&mut self) -> Result<bool, StoreError> {
        let now_ms = self.clock.wall_ms();
        if self.has_strays {
            self.stores.accounts.release_letters(now_ms).await?;
            self.has_strays = false;
        }
        let claimed = self.stores.accounts.claim_letters(now_ms, millis(LEASE), 1);
        let Some(row) = claimed.await?.pop() else {
            return Ok(false);
        };
        let fate = match timeout(LETTER_TIMEOUT, self.deal_with(&row)).await {
            Ok(fate) => fate,
            Err(_) => self.rest_after(SendError {
                kind: Kind::Unknown,
                status: None,
                cause: "no answer in time".into(),
            }),
        };
        tell(&row, &fate);
        match fate {
            Fate::Sent | Fate::Dropped(_) | Fate::Refused(_) => self.finish(row.id).await,
            Fate::Failed(_, pause) | Fate::Postponed(pause) => {
                let next_ms = self.clock.wall_ms().saturating_add(millis(pause));
                self.stores.accounts.retry_letter(row.id, next_ms).await?;
            }
            Fate::Stuck(error) => return Err(error),
        }
        Ok(true)
    }

    /// Removes a letter; nothing else is sent before that has worked, or it would be sent again.
    async fn finish(&self, id: i64) {
        while self.stores.accounts.finish_letter(id).await.is_err() {
            sleep_until(clock::now() + STORE_PAUSE).await;
        }
    }

    async fn deal_with(&mut self, row: &OutboxRow) -> Fate {
        self.try_to_send(row).await.unwrap_or_else(|fate| fate)
    }

    async fn try_to_send(&mut self, row: &OutboxRow) -> Result<Fate, Fate> {
        if self.clock.wall_ms().saturating_sub(row.created_ms) > millis(AGE_MAX) {
            return Ok(Fate::Dropped("older than a day"));
        }
        if self.smtp.is_none() {
            return Ok(Fate::Dropped(NO_SERVER));
        }
        if row.letter == Letter::Reset && self.frontend_base_url.is_none() {
            return Ok(Fate::Dropped(
                "server.frontend_base_url (FRONTEND_BASE_URL) is not set",
            ));
        }
        let to = self.recipient(row).await?;
        let Some(smtp) = &mut self.smtp else {
            return Ok(Fate::Dropped(NO_SERVER));
        };
        if let Err(error) = smtp.connect().await {
            return Err(self.rest_after(error));
        }
        let reservation = self.reserve(row, &to).await?;
        let message = match self.compose(row, &to).await {
            Ok(message) => message,
            Err(error) => {
                self.give_back(reservation).await;
                return Err(error);
            }
        };
        let Some(smtp) = &mut self.smtp else {
            return Ok(Fate::Dropped(NO_SERVER));
        };
        let Err(error) = smtp.send(&to.mailbox, &message).await else {
            self.failures = 0;
            return Ok(Fate::Sent);
        };
        // A refused one counts, so that nobody has the server tried with letters it will not take.
        if matches!(error.kind, Kind::Down | Kind::Temporary) {
            self.give_back(reservation).await;
        }
        Err(match error.kind {
            Kind::Down | Kind::Unknown => self.rest_after(error),
            Kind::Temporary => {
                self.failures = 0;
                Fate::Failed(error, self.pause(row.tries))
            }
            Kind::Permanent => {
                self.failures = 0;
                Fate::Refused(error)
            }
        })
    }

    /// It was no mail; if this fails, too, the recipient gets one less in this hour.
    async fn give_back(&self, reservation: Reservation) {
        let released = self.stores.sessions.release(reservation).await;
        released.unwrap_or_default();
    }

    /// Who the letter goes to now: the user may have been deleted since, or have another address.
    async fn recipient(&self, row: &OutboxRow) -> Result<Recipient, Fate> {
        let accounts = &self.stores.accounts;
        let id = match (row.user, &row.identifier) {
            (Some(user), _) => Some(user),
            (None, Some(identifier)) => {
                let credential = accounts.credential(identifier).await?;
                credential.map(|credential| credential.user)
            }
            (None, None) => None,
        };
        let user = match id {
            Some(id) => accounts.user(id).await?,
            None => None,
        };
        let user = user.filter(|user| user.is_active);
        let user = user.ok_or(Fate::Dropped("no such user, or not active"))?;
        let address = user.email.ok_or(Fate::Dropped("the user has no address"))?;
        let mailbox = address.mailbox().map(Cow::into_owned);
        Ok(Recipient {
            user: user.id,
            mailbox: mailbox.ok_or(Fate::Dropped("the user's address cannot be mailed to"))?,
        })
    }

    /// How long the server is still to be left alone. Letters wait unclaimed until then.
    fn rest_left(&mut self) -> Option<Duration> {
        let left = self.resting_until?.saturating_duration_since(clock::now());
        if left.is_zero() {
            self.resting_until = None;
        }
        self.resting_until.map(|_| left)
    }

    /// Leaves the server alone for a while, the longer the more often it was tried in vain.
    fn rest_after(&mut self, error: SendError) -> Fate {
        let pause = self.pause(self.failures);
        self.failures = self.failures.saturating_add(1);
        self.resting_until = Some(clock::now() + pause);
        Fate::Failed(error, pause)
    }

    /// The pause after so many earlier failures.
    fn pause(&self, failures: u32) -> Duration {
        let doubled = 1_u32.checked_shl(failures).unwrap_or(u32::MAX);
        self.settings.retry.saturating_mul(doubled).min(RETRY_MAX)
    }

    /// Counts a mail to this mailbox. A letter that may have arrived counts at each try; it waits
    /// for room rather than to be lost.
    async fn reserve(&self, row: &OutboxRow, to: &Recipient) -> Result<Reservation, Fate> {
        let mailbox = ring::digest::digest(&ring::digest::SHA256, to.mailbox.as_bytes());
        let window = |kind: &[u8], limit| {
            let key = [kind, mailbox.as_ref()].concat();
            Window::new(&key, limit, HOUR_MS)
        };
        let now_ms = self.clock.wall_ms();
        let sessions = &self.stores.sessions;
        let mut reserved = sessions
            .reserve(now_ms, &[window(b"mail:", PER_RECIPIENT_MAX)])
            .await?;
        if row.letter == Letter::Reset && matches!(reserved, Reserved::Over { .. }) {
            // Other mails, which others may have brought about, do not use up those that are asked for.
            let own = window(b"mail-r:", RESETS_MAX);
            reserved = sessions.reserve(now_ms, &[own]).await?;
        }
        match reserved {
            Reserved::Done(reservation) => Ok(reservation),
            Reserved::Over { .. } if row.tries == 0 => {
                Err(Fate::Dropped("too many to this recipient"))
            }
            Reserved::Over { retry_after_s, .. } => {
                Err(Fate::Postponed(Duration::from_secs(retry_after_s.into())))
            }
        }
    }

    /// The message; makes the reset token, which is only worth something from here on.
    async fn compose(&self, row: &OutboxRow, to: &Recipient) -> Result<Vec<u8>, Fate> {
        let now_ms = self.clock.wall_ms();
        let token = match row.letter {
            Letter::Reset => {
                let token = Token::new();
                let ttl_ms = millis(self.reset_ttl);
                let sessions = &self.stores.sessions;
                sessions
                    .put_reset_token(now_ms, &token, to.user, ttl_ms)
                    .await?;
                Some(token)
            }
            Letter::Welcome | Letter::ResetDone | Letter::PasswordChanged => None,
        };
        let link = token.as_ref().map(|token| Link {
            base_url: self.frontend_base_url.as_deref().unwrap_or_default(),
            token: token.as_str(),
            minutes: self.reset_ttl.as_secs().div_ceil(60),
        });
        let server = self.settings.server.as_ref();
        let site = Site {
            name: &self.settings.site_name,
            sender_name: &self.settings.sender_name,
            from: server
                .map(|server| server.from.as_str())
                .unwrap_or_default(),
            language: self.settings.language,
        };
        let content = Content {
            letter: row.letter,
            link,
            to: &to.mailbox,
            date: now_ms.div_euclid(1000),
            id: &self.message_id(row),
        };
        Ok(letters::message(&site, &content))
    }

    /// The same at each try, so that a second copy is known for what it is; but each link is good
    /// only until the next is made, so its mail must not be taken for a copy. For outsiders no count
    /// of our mails.
    fn message_id(&self, row: &OutboxRow) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.stores.accounts.hmac_key());
        let tries = match row.letter {
            Letter::Reset => row.tries,
            Letter::Welcome | Letter::ResetDone | Letter::PasswordChanged => 0,
        };
        let named = format!("mail {} {} {tries}", row.id, row.created_ms);
        let tag = hmac::sign(&key, named.as_bytes());
        tag.as_ref()[..16]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

/// One line for each letter that was tried.
fn tell(row: &OutboxRow, fate: &Fate) {
    let id = row.id.to_string();
    let tries = u64::from(row.tries) + 1;
    let line = |level, event, rest: &[log::Field<'_>]| {
        let own = [
            ("letter", Value::Str(&id)),
            ("kind", Value::Str(row.letter.name())),
            ("tries", Value::U64(tries)),
        ];
        log::write(level, event, &[&own, rest].concat());
    };
    let refusal = |level, event, error: &SendError, pause: Option<Duration>| {
        let mut rest = vec![("cause", Value::Str(&error.cause))];
        rest.extend(error.status.map(|status| ("status", Value::from(status))));
        rest.extend(pause.map(|pause| ("retry_ms", Value::Millis(pause))));
        line(level, event, &rest);
    };
    match fate {
        Fate::Sent => line(Level::Info, "mail sent", &[]),
        Fate::Dropped(cause) => line(Level::Warn, "mail not sent", &[("cause", (*cause).into())]),
        Fate::Refused(error) => refusal(Level::Warn, "mail not sent", error, None),
        Fate::Failed(error, pause) => {
            refusal(Level::Warn, "mail not sent yet", error, Some(*pause));
        }
        Fate::Postponed(pause) => line(
            Level::Warn,
            "mail not sent yet",
            &[
                ("cause", "too many to this recipient".into()),
                ("retry_ms", Value::Millis(*pause)),
            ],
        ),
        Fate::Stuck(error) => {
            line(
                Level::Warn,
                "mail not sent yet",
                &[("cause", Value::Display(error))],
            );
        }
    }
}
