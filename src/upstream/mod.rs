//! The door to the model providers: requests over our own minimal HTTP/1.1 client, which keeps no
//! buffers and no task per stream; warm connections; a circuit breaker per provider.
//!
//! Everything is pull-driven: whoever polls an [`Exchange`] reads the socket, and dropping it, or
//! the future of [`Upstream::send`] in any phase, closes the socket at once. Nothing here logs;
//! a [`Failure`] carries the cause to where it is handled.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::time::{Instant, timeout_at};

use crate::clock;
use crate::config;

mod breaker;
pub mod chunked;
mod connection;
mod dial;
mod exchange;
mod failure;
pub mod head;
mod idle;
pub mod models;
pub mod reader;
mod request;
pub mod tls;
pub mod trouble;

pub use breaker::{Ticket, Visitor};
pub use exchange::Exchange;
pub use failure::{Code, Failure, says_too_long};

use breaker::Breaker;
use connection::{Connection, Target};
use dial::Resolver;
use exchange::Body;
use idle::Idle;
use models::Models;
use request::{Answer, Heads, NoHead, RoundTrip};

/// What is read of a refusal's body to see what it means, and how long that may take.
const REFUSAL_BYTES_MAX: usize = 8192;
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest list of models that is looked at, and how long it may take to arrive.
const MODELS_BYTES_MAX: usize = 256 * 1024;
const MODELS_TIMEOUT: Duration = Duration::from_secs(10);

/// What all cores share: the providers' rows, their breakers, whom to trust.
pub struct Shared {
    providers: Vec<config::Provider>,
    rows: Vec<Row>,
    connect_timeout: Duration,
    idle_max: usize,
    idle_timeout: Duration,
}

/// A provider, made ready.
struct Row {
    target: Target,
    heads: Heads,
    breaker: Arc<Mutex<Breaker>>,
}

impl Shared {
    /// Checks and prepares everything that does not change.
    ///
    /// # Errors
    /// One line: a row that cannot stand in a request, or root certificates that cannot be read.
    pub fn new(
        settings: &config::Upstream,
        providers: &[config::Provider],
    ) -> Result<Arc<Self>, String> {
        let trust = if providers.iter().any(|provider| provider.tls) {
            Some(tls::config(settings)?)
        } else {
            None
        };
        let row = |provider: &config::Provider| {
            let trust = trust.as_ref().filter(|_| provider.tls);
            let tls = match trust {
                Some(trust) => Some((server_name(provider)?, Arc::clone(trust))),
                None => None,
            };
            let breaker = Breaker::new(settings.breaker_failures_max, settings.breaker_open);
            Ok(Row {
                target: Target {
                    host: provider.host.clone(),
                    port: provider.port,
                    tls,
                    receive_bytes: settings.receive_buffer_bytes,
                },
                heads: Heads::new(provider)?,
                breaker: Arc::new(Mutex::new(breaker)),
            })
        };
        Ok(Arc::new(Self {
            providers: providers.to_vec(),
            rows: providers.iter().map(row).collect::<Result<_, String>>()?,
            connect_timeout: settings.connect_timeout,
            idle_max: settings.idle_max,
            idle_timeout: settings.idle_timeout,
        }))
    }
}

impl Shared {
    /// The states of the providers' breakers, in their order.
    pub fn breakers(&self, now: Instant) -> impl Iterator<Item = &'static str> {
        let rows = self.rows.iter();
        rows.map(move |row| breaker::lock(&row.breaker).state(now))
    }
}

fn server_name(provider: &config::Provider) -> Result<ServerName<'static>, String> {
    ServerName::try_from(provider.host.clone())
        .map_err(|_| format!("provider {}: its host is no host name", provider.name))
}

/// One core's side: its warm connections. The core must run a tokio `LocalRuntime` (or a
/// `LocalSet`), because one small local task closes connections that are idle for too long.
pub struct Upstream {
    shared: Arc<Shared>,
    idle: Rc<Idle>,
    /// One per provider.
    resolvers: Vec<Resolver>,
}

impl Upstream {
    /// Without connections yet.
    pub fn new(shared: Arc<Shared>) -> Rc<Self> {
        Rc::new(Self {
            idle: Idle::new(shared.rows.len(), shared.idle_max, shared.idle_timeout),
            resolvers: shared.rows.iter().map(|_| Resolver::default()).collect(),
            shared,
        })
    }

    /// The rows, in order of preference.
    pub fn providers(&self) -> &[config::Provider] {
        &self.shared.providers
    }

    /// Asks the breaker of `provider` (an index into [`Upstream::providers`]).
    ///
    /// # Errors
    /// How long until it may be asked again, while it is open or its probe is running.
    pub fn admit(&self, provider: usize, now: Instant) -> Result<Ticket, Duration> {
        Ticket::take(&self.shared.rows[provider].breaker, provider, now)
    }

    /// Sends one chat request of this visitor's and waits for the head of its response until
    /// `deadline`. A warm connection that turns out dead before any byte of response is replaced
    /// once by a fresh one.
    ///
    /// # Errors
    /// Everything but a 200 with an event stream; the breaker has been told.
    pub async fn send(
        self: &Rc<Self>,
        mut ticket: Ticket,
        visitor: Visitor,
        body: &[u8],
        deadline: Instant,
    ) -> Result<Exchange, Failure> {
        let result = self.chat(ticket.provider(), body, deadline).await;
        match result {
            Ok(body) => Ok(Exchange::new(Rc::clone(self), ticket, body)),
            Err(failure) => {
                if failure.counts_for_breaker() {
                    ticket.failed(visitor, clock::now());
                } else if failure.status().is_some() {
                    ticket.succeeded(); // it answers; that it says no is another matter
                }
                Err(failure)
            }
        }
    }

    async fn chat(&self, provider: usize, body: &[u8], deadline: Instant) -> Result<Body, Failure> {
        let head = self.shared.rows[provider].heads.chat(body.len());
        let (connection, answer) = self.round_trip(provider, &head, body, deadline).await?;
        drop(head);
        let (status, retry_after) = (answer.head.status, answer.head.retry_after);
        if status == 200 && answer.head.event_stream {
            return Ok(Body::new(connection, answer));
        }
        let mut body = Body::new(connection, answer);
        let until = deadline.min(clock::now() + REFUSAL_TIMEOUT);
        let (said, in_time) = body.read_up_to(REFUSAL_BYTES_MAX, until).await;
        if in_time {
            self.idle.park(provider, body);
        }
        match Failure::from_response(status, retry_after, &said) {
            // It may still come.
            Failure::Empty if !in_time => Err(Failure::NoEventStream),
            failure => Err(failure),
        }
    }

    /// Whether the row's model is in the provider's list (`GET {path}/models`), aliases included; `None` if that
    /// cannot be told. Takes at most 10 s.
    ///
    /// # Errors
    /// The provider cannot be reached, does not answer, or refuses the key (401, 403).
    pub async fn model_served(self: &Rc<Self>, provider: usize) -> Result<Option<bool>, Failure> {
        let deadline = clock::now() + MODELS_TIMEOUT;
        let request = self.shared.rows[provider].heads.models();
        let (connection, answer) = self.round_trip(provider, request, &[], deadline).await?;
        let (status, retry_after) = (answer.head.status, answer.head.retry_after);
        match status {
            200 => {}
            401 | 403 => return Err(Failure::from_response(status, retry_after, &[])),
            _ => return Ok(None),
        }
        let mut body = Body::new(connection, answer);
        let (list, in_time) = body.read_up_to(MODELS_BYTES_MAX, deadline).await;
        if !in_time {
            return Err(Failure::Silent);
        }
        let model = &self.providers()[provider].model;
        Ok(Models::parse(&list).map(|list| list.serves(model)))
    }

    async fn round_trip(
        &self,
        provider: usize,
        head: &[u8],
        body: &[u8],
        deadline: Instant,
    ) -> Result<(Connection, Answer), Failure> {
        if let Some(mut warm) = self.idle.take(provider) {
            match ask(&mut warm, head, body, deadline).await? {
                Ok(answer) => return Ok((warm, answer)),
                Err(NoHead::Closed { silent: true }) => {} // it died while it was idle
                Err(failed) => return Err(failed.into()),
            }
        }
        let mut fresh = self.connect(provider, deadline).await?;
        match ask(&mut fresh, head, body, deadline).await? {
            Ok(answer) => Ok((fresh, answer)),
            Err(failed) => Err(failed.into()),
        }
    }

    async fn connect(&self, provider: usize, deadline: Instant) -> Result<Connection, Failure> {
        let by = deadline.min(clock::now() + self.shared.connect_timeout);
        let target = &self.shared.rows[provider].target;
        // Boxed: it is large, and short-lived beside the request it belongs to.
        Box::pin(connection::connect(target, &self.resolvers[provider], by))
            .await
            .map_err(|failure| {
                if clock::now() >= deadline {
                    Failure::Silent
                } else {
                    failure
                }
            })
    }
}

/// One request on one connection; the outer error is the time-out.
async fn ask(
    connection: &mut Connection,
    head: &[u8],
    body: &[u8],
    deadline: Instant,
) -> Result<Result<Answer, NoHead>, Failure> {
    let mut trip = RoundTrip::new(head, body);
    timeout_at(deadline, poll_fn(|cx| trip.poll(cx, connection)))
        .await
        .map_err(|_| Failure::Silent)
}

impl From<NoHead> for Failure {
    fn from(failed: NoHead) -> Self {
        match failed {
            NoHead::Closed { .. } => Failure::unreachable("closed"),
            NoHead::Malformed(code) => Failure::Malformed { code },
        }
    }
}
