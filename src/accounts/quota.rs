//! How often what may be tried: the windows of each kind of request, and the way of a password
//! that is about to be checked.

use std::borrow::Cow;

use ring::digest;

use crate::app::App;
use crate::error::Error;
use crate::http::address::{Bucket, Client, NETWORK_FACTOR};
use crate::limits::KeyedPermit;
use crate::model::{Email, Identifier, UserId};
use crate::store::{Reservation, Reserved, Window};

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
/// Failures per address, and per identifier or known browser.
const FAILURES_MAX: u32 = 10;
/// The window that they are counted in.
const FAILURES_MS: i64 = 10 * MINUTE_MS;
/// Successful logins per identifier in the same time.
const SUCCESSES_MAX: u32 = 30;

/// Passwords of one address that may wait for the hasher.
const WAITING_PER_CLIENT_MAX: usize = 4;
/// The same for one network: a quarter of the queue's default.
const WAITING_PER_NETWORK_MAX: usize = 8;
/// The same for one identifier, or for one known browser.
const WAITING_PER_SUBJECT_MAX: usize = 1;

/// Registrations: by client, by email and client, and by email. Somebody else's tries with an email leave
/// room for its owner's.
pub fn registrations(client: &Client, email: &Email) -> Vec<Window> {
    let email = email.forms().into_key();
    let email = email.as_bytes();
    let both = [client.bucket.as_bytes(), email].concat();
    let mut windows = of_client(b"register-a:", client, 10, HOUR_MS);
    windows.push(window(b"register-b:", &both, 3, HOUR_MS));
    windows.push(window(b"register-e:", email, 20, HOUR_MS));
    windows
}

/// Requests for a mail with a link: by client, and by identifier.
pub fn resets(client: &Client, identifier: &Identifier) -> Vec<Window> {
    let mut windows = of_client(b"forgot-a:", client, 20, HOUR_MS);
    windows.push(window(b"forgot-i:", &identifier.key_bytes(), 5, HOUR_MS));
    windows
}

/// Changes of a password by its owner: each takes the hasher twice, and posts a mail.
pub fn password_changes(user: UserId) -> [Window; 1] {
    [window(b"password:", &user.0.to_be_bytes(), 5, HOUR_MS)]
}

/// Changes of a profile.
pub fn changes(user: UserId) -> [Window; 1] {
    [window(b"profile:", &user.0.to_be_bytes(), 10, HOUR_MS)]
}

fn successes(identifier: &Identifier) -> [Window; 1] {
    let key = identifier.key_bytes();
    [window(b"login:", &key, SUCCESSES_MAX, FAILURES_MS)]
}

/// A client's address, and its network where it has one.
fn of_client(kind: &[u8], client: &Client, limit: u32, length_ms: i64) -> Vec<Window> {
    let of = |bucket: Bucket, limit| window(kind, bucket.as_bytes(), limit, length_ms);
    let network = client
        .network
        .map(|network| of(network, limit * NETWORK_FACTOR));
    std::iter::once(of(client.bucket, limit))
        .chain(network)
        .collect()
}

/// A window's key has a bound whatever it is made from: see [`Window::new`].
fn window(kind: &[u8], key: &[u8], limit: u32, length_ms: i64) -> Window {
    Window::new(&[kind, key].concat(), limit, length_ms)
}

/// Counts a hit in each window.
///
/// # Errors
/// [`Error::TooMany`] if one of them is full, and then none is counted; the store is down.
pub async fn count(app: &App, windows: &[Window]) -> Result<(), Error> {
    let now_ms = app.clock.wall_ms();
    match app.stores.sessions.reserve(now_ms, windows).await? {
        Reserved::Done(_) => Ok(()),
        Reserved::Over { retry_after_s, .. } => Err(Error::TooMany(retry_after_s)),
    }
}

/// Counts a successful login.
///
/// # Errors
/// As [`count`].
pub async fn count_success(app: &App, identifier: &Identifier) -> Result<(), Error> {
    count(app, &successes(identifier)).await
}

/// What failures are counted against besides the address.
#[derive(Debug, Clone, Copy)]
pub enum Subject<'a> {
    /// A browser that this user has logged in with before: the nonce of its cookie.
    Device(&'a str),
    /// Whatever was typed.
    Identifier(&'a Identifier),
}

impl Subject<'_> {
    fn bytes(&self) -> Cow<'_, [u8]> {
        match self {
            Self::Device(nonce) => Cow::Borrowed(nonce.as_bytes()),
            Self::Identifier(identifier) => identifier.key_bytes(),
        }
    }

    fn window(self) -> Window {
        let kind = match self {
            Self::Device(_) => b"failed-d:",
            Self::Identifier(_) => b"failed-i:",
        };
        window(kind, &self.bytes(), FAILURES_MAX, FAILURES_MS)
    }

    /// What its place at the hasher is counted by.
    fn key(self) -> [u8; 32] {
        let kind = match self {
            Self::Device(_) => b"d",
            Self::Identifier(_) => b"i",
        };
        let digest = digest::digest(&digest::SHA256, &[&kind[..], &self.bytes()].concat());
        let digest = digest.as_ref().try_into();
        digest.expect("a SHA-256 digest has 32 bytes")
    }
}

/// A password on its way to the hasher. It counts as a failure from the start, so that guesses
/// that run at the same time cannot slip through, until it is given back.
#[derive(Debug)]
pub struct Guess {
    reservation: Reservation,
    _places: Places,
}

/// Places in the hasher's queue: of an address, of its network, and of what is guessed.
#[derive(Debug)]
struct Places {
    _client: KeyedPermit<Bucket>,
    _network: Option<KeyedPermit<Bucket>>,
    _subject: KeyedPermit<[u8; 32]>,
}

impl Places {
    fn take(app: &App, client: &Client, subject: Subject<'_>) -> Option<Self> {
        let (clients, subjects) = (&app.shared.waiting_clients, &app.shared.waiting_subjects);
        Some(Self {
            _client: clients.take(client.bucket, WAITING_PER_CLIENT_MAX)?,
            _network: match client.network {
                Some(network) => Some(clients.take(network, WAITING_PER_NETWORK_MAX)?),
                None => None,
            },
            _subject: subjects.take(subject.key(), WAITING_PER_SUBJECT_MAX)?,
        })
    }
}

impl Guess {
    /// Counts a guess of this client.
    ///
    /// # Errors
    /// [`Error::InvalidCredentials`] at once for whoever has failed too often; busy if too many
    /// passwords of this client or subject wait already; the store is down.
    pub async fn begin(app: &App, client: &Client, subject: Subject<'_>) -> Result<Self, Error> {
        let mut windows = of_client(b"failed-a:", client, FAILURES_MAX, FAILURES_MS);
        windows.push(subject.window());
        let now_ms = app.clock.wall_ms();
        let reservation = match app.stores.sessions.reserve(now_ms, &windows).await? {
            Reserved::Done(reservation) => reservation,
            Reserved::Over { .. } => return Err(Error::InvalidCredentials),
        };
        match Places::take(app, client, subject) {
            Some(places) => Ok(Self {
                reservation,
                _places: places,
            }),
            None => {
                app.stores.sessions.release(reservation).await?;
                Err(Error::NO_ROOM)
            }
        }
    }

    /// It was no failure: the password is right, or was never looked at.
    ///
    /// # Errors
    /// The store is down.
    pub async fn give_back(self, app: &App) -> Result<(), Error> {
        Ok(app.stores.sessions.release(self.reservation).await?)
    }
}
