//! From a question to the first text: the providers are asked in order until one sends some.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use tokio::time::{Instant, timeout_at};

use crate::app::App;
use crate::clock;
use crate::config::Provider;
use crate::http::request::RequestId;
use crate::limits::{Key, Permit};
use crate::llm::history;
use crate::llm::prompt::{self, Prompt};
use crate::llm::transcoder::Fault;
use crate::log::{self, Value};
use crate::metrics;
use crate::store::{ChatKey, Owner};
use crate::upstream::reader::{Answer, Reader, Step};
use crate::upstream::trouble::Trouble;
use crate::upstream::{Ticket, Visitor};

/// What is known of one question while it is being answered.
pub struct Question {
    /// The core that answers.
    pub app: Rc<App>,
    /// The request's id.
    pub id: RequestId,
    /// When the request was complete.
    pub received: Instant,
    /// Whether the body ends cleanly behind an error line.
    pub ends_cleanly: bool,
    /// The question itself, as the inside of a JSON string.
    pub text: RefCell<Vec<u8>>,
    /// The chat before it; dropped when the first text has come.
    pub history: RefCell<Vec<u8>>,
    /// Exchanges that are kept when it is cut back; fewer once a model had no room for all of them.
    pub exchanges_max: Cell<u32>,
    /// Where the turn will be remembered; nowhere if the session store is down.
    pub chat: Cell<Option<Chat>>,
    /// What stands for the user in a provider's logs, if any provider is told.
    pub user: Option<Box<str>>,
    /// Bytes of the receive buffer from the provider.
    pub receive_bytes: u32,
    /// The memory of text, history and prompt.
    pub memory: RefCell<Option<Permit>>,
}

/// The chat that a question belongs to.
#[derive(Debug, Clone, Copy)]
pub struct Chat {
    /// Its key in the store.
    pub key: ChatKey,
    /// Who may continue it.
    pub owner: Owner,
    /// Its generation when the turn began.
    pub generation: [u8; 16],
    /// It is not in the store yet.
    pub is_new: bool,
    /// When it ends in the store, in milliseconds since 1970; long ago if it is not there.
    pub ends_ms: i64,
}

/// An answer that has begun.
#[derive(Debug)]
pub struct Opened {
    /// The rest of it.
    pub reader: Reader,
    /// The lines so far; empty if it ended without text.
    pub lines: Vec<u8>,
    /// How it ended, if it has no text.
    pub end: Option<Step>,
}

impl Question {
    /// Who asks, as far as shares go; none if that cannot be told, or once the turn is being stored.
    pub fn client(&self) -> Option<Key> {
        self.memory.borrow().as_ref().and_then(Permit::client)
    }

    /// Who asks, as far as a provider's failures go.
    fn visitor(&self) -> Visitor {
        let owner = self.chat.get().map(|chat| chat.owner);
        Visitor {
            user: match owner {
                Some(Owner::User(id)) => Some(id),
                Some(Owner::Anonymous) | None => None,
            },
            address: self.client(),
        }
    }

    /// Writes the chat's key and owner before the client learns of its cookie, or lets it live on; nothing
    /// if it will live for as long as the client is about to be told.
    ///
    /// # Errors
    /// The store does not answer and the configuration wants answers with memory only.
    pub async fn write_chat(&self) -> Result<(), Trouble> {
        let Some(mut chat) = self.chat.get() else {
            return Ok(());
        };
        let config = &self.app.shared.config.chat;
        let now_ms = self.app.clock.wall_ms();
        if chat.ends_ms.saturating_sub(now_ms) >= config.session_ttl_ms() {
            return Ok(());
        }
        let sessions = &self.app.stores.sessions;
        let open = sessions.open_chat(
            now_ms,
            chat.key,
            chat.owner,
            chat.generation,
            config.stored_ms(),
            chat.is_new,
        );
        match open.await {
            Ok(()) => {
                chat.is_new = false;
                chat.ends_ms = now_ms.saturating_add(config.stored_ms());
                self.chat.set(Some(chat));
                Ok(())
            }
            Err(_) if config.without_history => {
                self.chat.set(None);
                Ok(())
            }
            Err(_) => Err(Trouble::Store),
        }
    }
}

/// Asks the providers in order until one sends text or ends without any.
///
/// # Errors
/// The last provider's trouble.
pub async fn open(question: Rc<Question>) -> Result<Opened, Trouble> {
    let app = Rc::clone(&question.app);
    let first_event_by = question.received + app.shared.config.upstream.first_event_timeout;
    let mut last = None;
    let mut wait = std::time::Duration::MAX;
    for provider in 0..app.upstream.providers().len() {
        let ticket = match app.upstream.admit(provider, clock::now()) {
            Ok(ticket) => ticket,
            Err(until) => {
                wait = wait.min(until);
                continue;
            }
        };
        match ask_with_less(&question, provider, ticket, first_event_by).await {
            Ok(opened) => {
                release_prompt(&question);
                return Ok(opened);
            }
            Err(trouble) => {
                log_failure(&question, provider, &trouble);
                let goes_on = trouble.may_fail_over() && clock::now() < first_event_by;
                last = Some(trouble);
                if !goes_on {
                    break;
                }
            }
        }
    }
    Err(last.unwrap_or(Trouble::AllBroken(wait)))
}

/// Asks one provider. If the chat does not fit into the model's context it is asked again with the
/// newer half of the exchanges, then with the question alone; the chat is cut back to what fitted.
async fn ask_with_less(
    question: &Question,
    provider: usize,
    mut ticket: Ticket,
    first_event_by: Instant,
) -> Result<Opened, Trouble> {
    let exchanges = history::exchanges_before_guide(&question.history.borrow());
    let mut kept = exchanges;
    loop {
        let trouble = match ask(question, provider, ticket, kept, first_event_by).await {
            Ok(opened) if kept == exchanges => return Ok(opened),
            Ok(opened) => {
                let max = u32::try_from(kept + 1).unwrap_or(u32::MAX);
                let exchanges_max = &question.exchanges_max;
                exchanges_max.set(exchanges_max.get().min(max));
                return Ok(opened);
            }
            Err(trouble) => trouble,
        };
        let goes_on = kept > 0 && trouble.may_be_too_long() && clock::now() < first_event_by;
        let again = goes_on.then(|| question.app.upstream.admit(provider, clock::now()));
        let Some(Ok(next)) = again else {
            return Err(trouble);
        };
        ticket = next;
        kept = if kept == exchanges { kept / 2 } else { 0 };
        let provider = &question.app.upstream.providers()[provider];
        log::info(
            "chat shortened",
            &[
                ("id", Value::Str(question.id.as_str())),
                ("provider", Value::Str(&provider.name)),
                ("exchanges", Value::U64(exchanges as u64)),
                ("kept", Value::U64(kept as u64)),
            ],
        );
    }
}

/// Asks one provider, with so many of the chat's newest exchanges, and reads up to the first text.
async fn ask(
    question: &Question,
    provider: usize,
    ticket: Ticket,
    kept: usize,
    first_event_by: Instant,
) -> Result<Opened, Trouble> {
    let app = &question.app;
    let config = &app.shared.config;
    let row = &app.upstream.providers()[provider];
    let body = prompt_of(question, row, kept);
    let end = question.received + config.chat.stream_max;
    let visitor = question.visitor();
    let exchange = app
        .upstream
        .send(ticket, visitor, &body, first_event_by.min(end))
        .await;
    drop(body);
    let mut exchange = exchange.map_err(Trouble::Provider)?;
    exchange.set_receive_bytes(question.receive_bytes as usize);
    question.write_chat().await?;
    let permit = app.shared.pools.answers.take_for(question.client(), 0);
    let permit = permit.expect("nothing can always be taken");
    let answer = Answer::new(config.chat.answer_bytes_max, permit);
    let mut reader = Reader::new(exchange, row, answer);
    let mut lines = Vec::new();
    loop {
        let silent_at = match reader.has_event {
            true => clock::now() + config.upstream.between_events_timeout,
            false => first_event_by,
        };
        let over_at = reader.over_at();
        let silent_at = over_at.map_or(silent_at, |over_at| silent_at.min(over_at));
        let step = timeout_at(
            silent_at.min(end),
            poll_fn(|cx| {
                match reader.poll_lines(app.reading(), cx, &mut lines) {
                    Poll::Ready(step) => Poll::Ready(Some(step)),
                    // Something was heard, a comment perhaps: the limit starts anew.
                    Poll::Pending if std::mem::take(&mut reader.heard) => Poll::Ready(None),
                    Poll::Pending => Poll::Pending,
                }
            }),
        );
        let step = match step.await {
            Ok(None) => continue,
            Ok(Some(step)) => step,
            Err(_) if over_at.is_some() => reader.conclude(&mut lines),
            Err(_) if clock::now() >= end => return Err(Trouble::TooLong),
            Err(_) => {
                reader.silent(visitor);
                return Err(Trouble::Silent);
            }
        };
        let end = match step {
            Step::Failed(trouble) => return Err(trouble),
            Step::Lines => None,
            done @ Step::Done(_) => Some(done),
        };
        return Ok(Opened { reader, lines, end });
    }
}

/// The body of the request to that provider.
fn prompt_of(question: &Question, row: &Provider, kept: usize) -> Vec<u8> {
    let mut body = Vec::new();
    let messages = question.history.borrow();
    let prompt = Prompt {
        model: &row.model,
        system: &question.app.shared.config.chat.system_prompt,
        history: &messages[history::newest_exchanges(&messages, kept)..],
        question_escaped: &question.text.borrow(),
        user: question.user.as_deref().filter(|_| row.send_user),
        extra: &row.extra,
    };
    prompt::write(&prompt, &mut body);
    body
}

/// From the first text on no other provider can be asked: history and prompt are needed no more.
fn release_prompt(question: &Question) {
    *question.history.borrow_mut() = Vec::new();
    if let Some(memory) = question.memory.borrow_mut().as_mut() {
        let smaller = memory.resize(question.text.borrow().capacity().min(memory.units()));
        debug_assert!(smaller, "a permit can always become smaller");
    }
}

/// Writes down why a provider's answer did not come, or did not come to its end: the provider's
/// failure, or a shortage of our own.
pub fn log_failure(question: &Question, provider: usize, trouble: &Trouble) {
    if let Some(cause) = trouble.cause() {
        metrics::provider_error(provider, cause);
    }
    let cause = trouble.message();
    let (status, code) = match trouble {
        Trouble::Provider(failure) => (failure.status(), failure.code()),
        Trouble::Stream(Fault::Provider(error)) => (None, error.code()),
        _ => (None, ""),
    };
    let provider = &question.app.upstream.providers()[provider];
    let mut fields = vec![("id", Value::Str(question.id.as_str()))];
    if !trouble.is_ours() {
        fields.push(("provider", Value::Str(&provider.name)));
    }
    fields.push(("cause", Value::Str(&cause)));
    fields.extend(status.map(|status| ("status", Value::U64(status.into()))));
    fields.extend((!code.is_empty()).then_some(("code", Value::Str(code))));
    let event = match trouble.is_ours() {
        true => "chat failed",
        false => "provider failed",
    };
    log::warn(event, &fields);
}
