//! Sends the letters of the outbox: one task per process, one letter at a time, one connection.
//!
//! A letter is claimed with a lease, sent, and only then removed: a server or a process that dies
//! loses none. It arrives twice only if the process is killed (or the SMTP connection breaks)
//! between the server's acceptance and the removal of the row, milliseconds later; both copies then
//! carry the same `Message-ID`. Requests are not what wakes the task: it looks once a second, so
//! that its work for an account that exists does not slow down the request that asked for it.
//!
//! Log lines name letters by row and kind, never by address, token or text.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use ring::hmac;
use tokio::time::{Instant, sleep_until, timeout};

use crate::clock::{self, Clock};
use crate::config::{Config, Mail};
use crate::log::{self, Level, Value};
use crate::model::{Letter, Token, User};
use crate::store::{OutboxRow, Reservation, Reserved, StoreError, Stores, Window};

pub mod letters;
pub mod smtp;

use letters::{Content, Link, Site};
use smtp::{Kind, SendError, Smtp};

/// How often an empty outbox is looked at.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// How long a claimed letter is ours; after that another sender may take it.
const LEASE: Duration = Duration::from_secs(300);
/// A letter is given up on, for now, before its lease ends.
const LETTER_TIMEOUT: Duration = Duration::from_secs(240);
/// Letters older than this are dropped.
const AGE_MAX: Duration = Duration::from_secs(24 * 3600);
/// Longest pause after a failure.
const RETRY_MAX: Duration = Duration::from_secs(3600);
/// Letters to one recipient in an hour.
const PER_RECIPIENT_MAX: u32 = 6;
const HOUR_MS: i64 = 3_600_000;

// All steps of one letter in a row end before its lease.
const _: () = assert!(
    smtp::CONNECT_TIMEOUT.as_secs()
        + 4 * smtp::COMMAND_TIMEOUT.as_secs()
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
    /// While the server cannot be used: until when it is left alone.
    resting_until: Option<Instant>,
    /// Times in a row that it could not be used.
    failures: u32,
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
    /// It waits for the server to be usable again.
    Resting(Duration),
    /// The store did not answer; the lease will end.
    Stuck(StoreError),
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
        })
    }

    /// Sends what is due until `stop` resolves; the letter in hand is finished first.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        loop {
            let pause = match self.next().await {
                Ok(true) => Duration::ZERO,
                Ok(false) => LOOK_PAUSE,
                // The store has reported it; a look that finds it down costs nothing.
                Err(StoreError::Unavailable | StoreError::TimedOut) => LOOK_PAUSE,
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
        let claimed = self.stores.accounts.claim_letters(now_ms, millis(LEASE), 1);
        let Some(row) = claimed.await?.pop() else {
            return Ok(false);
        };
        let fate = match timeout(LETTER_TIMEOUT, self.deal_with(&row)).await {
            Ok(fate) => fate,
            Err(_) => self.rest("no answer in time"),
        };
        tell(&row, &fate);
        match fate {
            Fate::Sent | Fate::Dropped(_) | Fate::Refused(_) => self.finish(row.id).await,
            Fate::Failed(_, pause) | Fate::Resting(pause) => {
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
            sleep_until(clock::now() + LOOK_PAUSE).await;
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
            return Ok(Fate::Dropped("mail.smtp_host (SMTP_HOST) is not set"));
        }
        if row.letter == Letter::Reset && self.frontend_base_url.is_none() {
            return Ok(Fate::Dropped(
                "server.frontend_base_url (FRONTEND_BASE_URL) is not set",
            ));
        }
        let Some(user) = self.recipient(row).await? else {
            return Ok(Fate::Dropped("no such user, or not active"));
        };
        self.connect().await?;
        let reservation = self.reserve(&user).await?;
        let message = self.compose(row, &user).await?;
        let Some(smtp) = &mut self.smtp else {
            return Ok(Fate::Dropped("no server"));
        };
        let sent = smtp.send(user.email.as_str(), &message).await;
        if sent
            .as_ref()
            .is_err_and(|error| error.kind != Kind::Permanent)
        {
            // It was no mail; if this fails, too, the recipient gets one less in this hour.
            self.stores
                .sessions
                .release(reservation)
                .await
                .unwrap_or_default();
        }
        match sent {
            Ok(()) => {
                self.failures = 0;
                Ok(Fate::Sent)
            }
            Err(error) => Err(match error.kind {
                Kind::Permanent => Fate::Refused(error),
                Kind::Temporary => Fate::Failed(error, self.pause(row.tries)),
                Kind::Down => self.rest_after(error),
            }),
        }
    }

    /// Who the letter goes to now: the user may have been deleted since, or have another address.
    async fn recipient(&self, row: &OutboxRow) -> Result<Option<User>, StoreError> {
        let accounts = &self.stores.accounts;
        let id = match (row.user, &row.identifier) {
            (Some(user), _) => Some(user),
            (None, Some(identifier)) => {
                let credential = accounts.credential(identifier).await?;
                credential.map(|credential| credential.user)
            }
            (None, None) => None,
        };
        let Some(id) = id else { return Ok(None) };
        let user = accounts.user(id).await?;
        Ok(user.filter(|user| user.is_active))
    }

    /// A connection to the server, unless it is being left alone.
    async fn connect(&mut self) -> Result<(), Fate> {
        let left = self
            .resting_until
            .map(|until| until.saturating_duration_since(clock::now()));
        if let Some(left) = left.filter(|left| !left.is_zero()) {
            return Err(Fate::Resting(left));
        }
        let Some(smtp) = &mut self.smtp else {
            return Ok(());
        };
        match smtp.connect().await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.rest_after(error)),
        }
    }

    /// Leaves the server alone for a while, as long as it was tried in vain.
    fn rest_after(&mut self, error: SendError) -> Fate {
        let pause = self.pause(self.failures);
        self.failures = self.failures.saturating_add(1);
        self.resting_until = Some(clock::now() + pause);
        Fate::Failed(error, pause)
    }

    fn rest(&mut self, cause: &str) -> Fate {
        let error = SendError {
            kind: Kind::Down,
            status: None,
            cause: cause.into(),
        };
        self.rest_after(error)
    }

    /// The pause after so many earlier failures.
    fn pause(&self, failures: u32) -> Duration {
        let doubled = 1_u32.checked_shl(failures).unwrap_or(u32::MAX);
        self.settings.retry.saturating_mul(doubled).min(RETRY_MAX)
    }

    /// Counts a mail to this address.
    async fn reserve(&self, user: &User) -> Result<Reservation, Fate> {
        let address = ring::digest::digest(&ring::digest::SHA256, user.email.as_str().as_bytes());
        let key = [b"mail:", address.as_ref()].concat();
        let window = Window::new(&key, PER_RECIPIENT_MAX, HOUR_MS);
        let now_ms = self.clock.wall_ms();
        match self.stores.sessions.reserve(now_ms, &[window]).await? {
            Reserved::Done(reservation) => Ok(reservation),
            Reserved::Over { .. } => Err(Fate::Dropped("too many to this recipient")),
        }
    }

    /// The message; makes the reset token, which is only worth something from here on.
    async fn compose(&self, row: &OutboxRow, user: &User) -> Result<Vec<u8>, Fate> {
        let now_ms = self.clock.wall_ms();
        let token = match row.letter {
            Letter::Reset => {
                let token = Token::new();
                let ttl_ms = millis(self.reset_ttl);
                let sessions = &self.stores.sessions;
                sessions
                    .put_reset_token(now_ms, &token, user.id, ttl_ms)
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
            to: user.email.as_str(),
            date: now_ms.div_euclid(1000),
            id: &self.message_id(row),
        };
        Ok(letters::message(&site, &content))
    }

    /// The same at each try, and for outsiders no count of our mails.
    fn message_id(&self, row: &OutboxRow) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.stores.accounts.hmac_key());
        let named = format!("mail {} {}", row.id, row.created_ms);
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
        // The failure that the server rests after has been told.
        Fate::Resting(_) => {}
        Fate::Stuck(error) => {
            line(
                Level::Warn,
                "mail not sent yet",
                &[("cause", Value::Display(error))],
            );
        }
    }
}
