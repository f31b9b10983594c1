//! A simulated model provider: a real HTTP server that streams events as DeepSeek does, with
//! words of its own at a human pace. It says that it is a simulation.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::task::{Context, Poll, ready};
use std::thread;
use std::time::Duration;

use http_body_util::{BodyExt as _, Limited};
use hyper::Request;
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::spawn_local;
use tokio::time::{Interval, interval};

use crate::connection;
use crate::connection::Serving;
use crate::demo::script;
use crate::http::body::{Broken, Chunk, Source};
use crate::http::reply::Reply;
use crate::http::wire::Busy;
use crate::log::{self, Value};

/// One word, or one Chinese character, each time.
const PACE: Duration = Duration::from_millis(35);
/// Longest request that is read.
const REQUEST_BYTES_MAX: usize = 512 * 1024;

/// The only client is this process's own.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(3600);

/// The name of the simulated model.
pub const MODEL: &str = "simulation";

/// Starts the provider on a free loopback port, in a thread of its own.
///
/// # Errors
/// One line on what cannot be had.
pub fn start() -> Result<SocketAddr, String> {
    let failed = |error: std::io::Error| format!("simulated provider: {error}");
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let run = move || {
        let ended = run(listener).map_err(|error| error.to_string());
        log::error(
            "simulated provider ended",
            &[("result", Value::Display(&format_args!("{ended:?}")))],
        );
    };
    let thread = thread::Builder::new().name("provider".to_string());
    thread.spawn(run).map_err(failed)?;
    Ok(address)
}

fn run(listener: std::net::TcpListener) -> std::io::Result<Infallible> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())?
        .block_on(serve(listener))
}

async fn serve(listener: std::net::TcpListener) -> std::io::Result<Infallible> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        spawn_local(connection::serve_other(socket, CLIENT_TIMEOUT, answer));
    }
}

#[derive(Deserialize)]
struct Ask {
    messages: Vec<script::Message>,
}

fn answer(request: Request<Incoming>, busy: Busy) -> Serving {
    if request.uri().path().ends_with("/models") {
        let models = json!({"object": "list", "data": [{"id": MODEL, "object": "model"}]});
        return Serving::Now(Some(Reply::ok(models.to_string())));
    }
    Serving::Later(Box::pin(async move {
        let body = Limited::new(request.into_body(), REQUEST_BYTES_MAX)
            .collect()
            .await;
        let body = body.map(|b| b.to_bytes()).unwrap_or_default();
        let messages = serde_json::from_slice::<Ask>(&body).map(|ask| ask.messages);
        let text = script::answer(&messages.unwrap_or_default());
        Reply::events(Events::of(&text, busy))
    }))
}

/// Events that leave one by one.
struct Events {
    left: VecDeque<String>,
    pace: Interval,
    _busy: Busy,
}

impl Events {
    /// The chunks of a completion: role, words, finish reason, end mark.
    fn of(text: &str, busy: Busy) -> Self {
        let event = |delta: serde_json::Value, finish: Option<&str>| {
            let choice = json!({"index": 0, "delta": delta, "finish_reason": finish});
            let chunk =
                json!({"object": "chat.completion.chunk", "model": MODEL, "choices": [choice]});
            format!("data: {chunk}\n\n")
        };
        let words = script::pieces(text).map(|word| event(json!({"content": word}), None));
        let mut left = VecDeque::from([event(json!({"role": "assistant", "content": ""}), None)]);
        left.extend(words);
        left.push_back(event(json!({}), Some("stop")) + "data: [DONE]\n\n");
        Self {
            left,
            pace: interval(PACE),
            _busy: busy,
        }
    }
}

impl Source for Events {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Chunk, Broken>>> {
        if self.left.is_empty() {
            return Poll::Ready(None);
        }
        ready!(self.pace.poll_tick(cx));
        let next = self.left.pop_front();
        Poll::Ready(next.map(|event| Ok(Chunk::owned(event.into_bytes()))))
    }
}
