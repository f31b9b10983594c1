//! One question: admitted against every limit, asked, and answered with a status or a stream.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::time::{Instant, sleep_until};

use crate::app::App;
use crate::chat::answer::{Opening, Slot, Stream};
use crate::chat::limits::{self, Places};
use crate::chat::open::{Chat, Opened, Question, open};
use crate::entropy;
use crate::error::Error;
use crate::http::address::Client;
use crate::http::request::RequestId;
use crate::http::wire::Wire;
use crate::llm::prompt;
use crate::store::{Begun, ChatKey, Owner};
use crate::upstream::trouble::Trouble;

/// Length of the window in which questions are counted.
const WINDOW_MS: i64 = 60_000;

/// A question as it came in.
#[derive(Debug)]
pub struct Ask<'a> {
    /// The message.
    pub message: &'a str,
    /// A text that the model gets directly before it, and that is not remembered.
    pub guide: Option<&'a str>,
    /// Who asks.
    pub owner: Owner,
    /// Where it comes from.
    pub client: Client,
    /// The chat that it wants to continue: its cookie's value.
    pub cookie: Option<&'a str>,
    /// The request's id.
    pub id: RequestId,
    /// The connection.
    pub wire: Rc<Wire>,
    /// The client looks at the last line, so that a failure needs no broken body.
    pub ends_cleanly: bool,
    /// When the request was complete.
    pub received: Instant,
}

/// An answer that the client will see with status 200.
pub struct Answered {
    /// The body.
    pub stream: Stream,
    /// The cookie of the chat; none if the turn will not be remembered.
    pub cookie: Option<String>,
}

/// Answers a question.
///
/// # Errors
/// Over a limit, no room, no provider, or the provider's failure before the first text and the
/// first heartbeat.
pub async fn answer(app: &Rc<App>, ask: Ask<'_>) -> Result<Answered, Error> {
    let config = &app.shared.config.chat;
    let client = Places::take(app, ask.owner, &ask.client).ok_or(Error::TooMany(5))?;
    if app.upstream.providers().is_empty() {
        // Before anything is counted: a visitor can do nothing about it.
        return Err(Error::Unavailable {
            message: "No model provider is configured",
            retry_after: 60,
        });
    }
    let (chat, cookie, mut history) = find_chat(app, &ask).await?;
    let pools = &app.shared.pools;
    let stream = pools.streams.take(1).ok_or(Error::NO_ROOM)?;
    let slot = Slot { stream, client };
    // While there are few streams they get more of the kernel's memory, for which their clients
    // take more permits when they stall.
    let is_wide = pools.streams.used() <= pools.wide_streams_max;
    ask.wire.set_stall_permits(match is_wide {
        true => pools.wide_stall_permits,
        false => 1,
    });
    let text = prompt::escape(ask.message);
    if let Some(guide) = ask.guide {
        prompt::add_guide(guide, &mut history);
    }
    // Question and history stand in memory twice while the prompt is being sent.
    let memory = 2 * (text.len() + history.len() + config.system_prompt.len());
    let question = Rc::new(Question {
        app: Rc::clone(app),
        id: ask.id,
        received: ask.received,
        ends_cleanly: ask.ends_cleanly,
        text: RefCell::new(text),
        history: RefCell::new(history),
        chat: Cell::new(chat),
        exchanges_max: Cell::new(u32::try_from(config.history_max).unwrap_or(u32::MAX)),
        receive_bytes: u32::try_from(match is_wide {
            true => app.shared.config.upstream.receive_buffer_bytes,
            false => app.shared.config.upstream.socket_buffer_bytes,
        })
        .unwrap_or(u32::MAX),
        user: (app.upstream.providers().iter())
            .any(|row| row.send_user)
            .then(|| user(app, ask.owner, &cookie).into()),
        memory: RefCell::new(Some(
            pools
                .prompts
                .take_for(ask.client.share(), memory)
                .ok_or(Error::NO_ROOM)?,
        )),
    });
    let mut opening: Opening = Box::pin(open(Rc::clone(&question)));
    let first = first(app, &mut opening, ask.received + config.heartbeat).await;
    let stream = match first {
        First::Opened(opened) => {
            let opened = opened.map_err(Trouble::into_error)?;
            Stream::opened(Rc::clone(&question), opened, ask.wire, slot)
        }
        First::Heartbeat => {
            question.write_chat().await.map_err(Trouble::into_error)?;
            Stream::opening(Rc::clone(&question), opening, ask.wire, slot)
        }
        First::Ending => return Err(Error::RESTARTING),
    };
    let cookie = question.chat.get().map(|_| cookie);
    Ok(Answered { stream, cookie })
}

/// What happens first.
#[expect(
    clippy::large_enum_variant,
    reason = "it lives for a moment only; boxing would cost every chat an allocation"
)]
enum First {
    Opened(Result<Opened, Trouble>),
    Heartbeat,
    Ending,
}

async fn first(app: &App, opening: &mut Opening, heartbeat: Instant) -> First {
    // The connection's task polls this again when the server's phase changes.
    let ending = poll_fn(|_| match app.is_ending() {
        true => Poll::Ready(()),
        false => Poll::Pending,
    });
    tokio::select! {
        biased;
        opened = opening => First::Opened(opened),
        () = ending => First::Ending,
        () = sleep_until(heartbeat) => First::Heartbeat,
    }
}

/// Counts the question, and finds the chat it belongs to: the one of its cookie, or a new one.
/// Without the session store, and if the configuration allows it, there is none.
async fn find_chat(app: &App, ask: &Ask<'_>) -> Result<(Option<Chat>, String, Vec<u8>), Error> {
    let config = &app.shared.config.chat;
    let sent = ask.cookie.map(ChatKey::of);
    let now_ms = app.clock.wall_ms();
    let windows = limits::windows(config, ask.owner, &ask.client);
    let found = match app
        .stores
        .sessions
        .begin_chat(now_ms, sent, ask.owner, windows)
        .await
    {
        Ok(Begun::Limited { retry_after_s }) => return Err(Error::TooMany(retry_after_s)),
        Ok(Begun::Ready { chat }) => chat,
        Err(_) if config.without_history => {
            count_here(app, ask, now_ms)?;
            return Ok((None, String::new(), Vec::new()));
        }
        Err(_) => return Err(Error::STORE_DOWN),
    };
    let owner = ask.owner;
    if let (Some(found), Some(cookie), Some(key)) = (found, ask.cookie, sent) {
        let chat = Chat {
            key,
            owner,
            generation: found.generation,
            is_new: false,
            ends_ms: found.ends_ms,
        };
        return Ok((Some(chat), cookie.to_string(), found.messages));
    }
    let cookie = entropy::token();
    let chat = Chat {
        key: ChatKey::of(&cookie),
        owner,
        generation: entropy::bytes(),
        is_new: true,
        ends_ms: 0,
    };
    Ok((Some(chat), cookie, Vec::new()))
}

/// Counts in this process while the store is down.
fn count_here(app: &App, ask: &Ask<'_>, now_ms: i64) -> Result<(), Error> {
    let config = &app.shared.config.chat;
    let bucket = limits::principal(ask.owner, &ask.client);
    let limit = match ask.owner {
        Owner::Anonymous => config.anonymous_rate_per_minute,
        Owner::User(_) => config.rate_per_minute,
    };
    match limit {
        0 => Ok(()),
        limit => {
            let hit = app
                .shared
                .fallback_windows
                .hit(bucket, now_ms, limit, WINDOW_MS);
            hit.map_err(Error::TooMany)
        }
    }
}

/// What a provider may know of the user: an HMAC of the account, or of the chat if anonymous.
fn user(app: &App, owner: Owner, cookie: &str) -> String {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, app.stores.accounts.hmac_key());
    let mut context = ring::hmac::Context::with_key(&key);
    context.update(b"provider user\0");
    match owner {
        Owner::User(id) => context.update(&id.to_be_bytes()),
        Owner::Anonymous => context.update(cookie.as_bytes()),
    }
    URL_SAFE_NO_PAD.encode(context.sign())
}
