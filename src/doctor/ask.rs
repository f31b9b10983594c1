//! One real question to a provider, asked as a chat asks it.

use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::clock;
use crate::config::{Config, Provider};
use crate::limits::{Pool, READ_BYTES};
use crate::llm::Finish;
use crate::llm::prompt::{self, Prompt};
use crate::llm::transcoder::{Fault, Sink, Transcoder};
use crate::upstream::{Exchange, Failure, Upstream, Visitor};

/// How long a whole answer may take; a model that thinks for longer has not answered, which is told.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
const QUESTION: &[u8] = b"Say OK and nothing else.";
/// Who asks, for a provider that is told its users.
const USER: &str = "doctor";

/// Why a question has no answer.
pub enum Trouble {
    /// The request failed, or the connection.
    Failed(Failure),
    /// The stream is none, breaks off, or holds an error.
    Stream(Fault),
    /// It ended well, without any text.
    Empty(Finish),
    /// No text came in time, but something did.
    NoText,
}

impl Trouble {
    /// What happened, with the provider's status and code; no key and no text of the provider's.
    pub fn text(&self) -> String {
        let (mut text, status, code) = match self {
            Self::Failed(failure) => (failure.to_string(), failure.status(), failure.code()),
            Self::Stream(Fault::Provider(error)) => {
                let fault = Fault::Provider(error.clone());
                (fault.to_string(), None, error.code())
            }
            Self::Stream(fault) => (fault.to_string(), None, ""),
            Self::Empty(finish) => {
                let text = format!("The answer is empty ({})", finish.as_str());
                (text, None, "")
            }
            Self::NoText => {
                let seconds = ANSWER_TIMEOUT.as_secs();
                let text = format!("No text within {seconds} s, only signs of life");
                (text, None, "")
            }
        };
        let status = status.filter(|status| !text.contains(&format!("status {status}")));
        text += &status.map_or(String::new(), |status| format!(" (status {status})"));
        if !code.is_empty() {
            text += &format!(", code {code}");
        }
        text
    }
}

/// Asks the provider with this index; how long its first text took. The answer is read to its end, for 30 s at
/// most.
///
/// # Errors
/// There was no text, or the answer did not end well within that time.
pub async fn ask(
    upstream: &Rc<Upstream>,
    config: &Config,
    provider: usize,
) -> Result<Duration, Trouble> {
    let row = &config.providers[provider];
    let mut body = Vec::new();
    let prompt = Prompt {
        model: &row.model,
        system: &config.chat.system_prompt,
        history: &[],
        question_escaped: QUESTION,
        user: row.send_user.then_some(USER),
        extra: &row.extra,
    };
    prompt::write(&prompt, &mut body);
    let asked = clock::now();
    let by = asked + ANSWER_TIMEOUT;
    // Nobody else asks through this breaker, so it is closed.
    let ticket = upstream.admit(provider, asked);
    let ticket = ticket.map_err(|_| Trouble::Failed(Failure::Silent))?;
    let exchange = upstream.send(ticket, Visitor::default(), &body, by).await;
    let first = read(exchange.map_err(Trouble::Failed)?, row, by).await?;
    Ok(first - asked)
}

/// When the first text came.
async fn read(mut exchange: Exchange, row: &Provider, by: Instant) -> Result<Instant, Trouble> {
    let mut transcoder = Transcoder::new().done_is_complete(row.done_is_complete);
    let (long_lines, mut first) = (Pool::new(1), First(None));
    let (mut buffer, mut has_event) = (vec![0; READ_BYTES], false);
    let finish = loop {
        let piece = poll_fn(|cx| exchange.poll_read(cx, &mut buffer));
        let progress = match timeout_at(by, piece).await {
            Ok(Ok(0)) => transcoder.end(&mut first),
            Ok(Ok(n)) => transcoder.feed(&buffer[..n], &long_lines, &mut first),
            // An answer whose finish reason has been seen is complete even so.
            Ok(Err(failure)) => match transcoder.end(&mut first) {
                Ok(progress) => Ok(progress),
                Err(_) => return Err(Trouble::Failed(failure)),
            },
            Err(_) => {
                return first.0.ok_or(match has_event {
                    true => Trouble::NoText,
                    false => Trouble::Failed(Failure::Silent),
                });
            }
        };
        let progress = progress.map_err(Trouble::Stream)?;
        has_event |= progress.events;
        match (progress.done, first.0) {
            (Some(finish), _) => break finish,
            // Many gateways keep the connection open behind it.
            (None, Some(first)) if transcoder.is_complete() => return Ok(first),
            (None, _) => {}
        }
    };
    first.0.ok_or(Trouble::Empty(finish))
}

/// When the first text came.
struct First(Option<Instant>);

impl Sink for First {
    fn text(&mut self, _escaped: &[u8]) {
        self.0.get_or_insert_with(clock::now);
    }
}
