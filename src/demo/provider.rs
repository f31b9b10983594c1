//! A simulated model provider: a real HTTP server that streams events as DeepSeek does, with
//! words of its own at a human pace. It says that it is a simulation.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::spawn_local;
use tokio::time::{Interval, interval};

use crate::demo::script;
use crate::log::{self, Value};

/// One word, or one Chinese character, each time.
const PACE: Duration = Duration::from_millis(35);
/// Longest request that is read.
const REQUEST_BYTES_MAX: usize = 512 * 1024;

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
        let serve =
            http1::Builder::new().serve_connection(TokioIo::new(socket), service_fn(answer));
        spawn_local(serve);
    }
}

#[derive(Deserialize)]
struct Ask {
    messages: Vec<script::Message>,
}

async fn answer(request: Request<Incoming>) -> Result<Response<Events>, Infallible> {
    if request.uri().path().ends_with("/models") {
        let models = json!({"object": "list", "data": [{"id": MODEL, "object": "model"}]});
        return Ok(response(
            "application/json",
            Events::whole(models.to_string()),
        ));
    }
    let body = Limited::new(request.into_body(), REQUEST_BYTES_MAX)
        .collect()
        .await;
    let body = body.map(|b| b.to_bytes()).unwrap_or_default();
    let messages = serde_json::from_slice::<Ask>(&body).map(|ask| ask.messages);
    let text = script::answer(&messages.unwrap_or_default());
    Ok(response("text/event-stream", Events::of(&text)))
}

fn response(content_type: &'static str, events: Events) -> Response<Events> {
    let mut response = Response::new(events);
    let content_type = HeaderValue::from_static(content_type);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// Events that leave one by one.
struct Events {
    left: VecDeque<String>,
    pace: Interval,
}

impl Events {
    fn whole(text: String) -> Self {
        Self {
            left: VecDeque::from([text]),
            pace: interval(PACE),
        }
    }

    /// The chunks of a completion: role, words, finish reason, end mark.
    fn of(text: &str) -> Self {
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
        }
    }
}

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left.is_empty() {
            return Poll::Ready(None);
        }
        ready!(self.pace.poll_tick(cx));
        let next = self.left.pop_front();
        Poll::Ready(next.map(|event| Ok(Frame::data(event.into()))))
    }
}
