//! The body of `/auth/me/export`: the account first, then the chats, one in memory at a time.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::time::Instant;

use crate::accounts::profile::{self, ExportHeld};
use crate::app::App;
use crate::clock;
use crate::http::body::{Broken, Chunk, Source};
use crate::http::request::StreamRecord;
use crate::limits::PIECE_BYTES_MAX;
use crate::model::UserId;
use crate::store::{OwnChat, StoreError};

type Asking = Pin<Box<dyn Future<Output = Result<Option<OwnChat>, StoreError>>>>;

/// A JSON object on its way. A store that fails meanwhile breaks it off, so that nobody takes a
/// part for the whole.
pub(super) struct Export {
    app: Rc<App>,
    user: UserId,
    _held: ExportHeld,
    /// Bytes that are complete, sent up to `at`.
    unsent: Vec<u8>,
    at: usize,
    /// The place of the last chat.
    after: i64,
    asking: Option<Asking>,
    is_first: bool,
    is_over: bool,
    ends: Instant,
    record: StreamRecord,
}

impl Export {
    /// `start` is an object that holds all but the chats.
    pub(super) fn new(app: Rc<App>, user: UserId, held: ExportHeld, start: String) -> Self {
        let mut unsent = start.into_bytes();
        debug_assert_eq!(unsent.last(), Some(&b'}'), "an object ends so");
        unsent.pop();
        unsent.extend_from_slice(br#","chats":["#);
        Self {
            ends: clock::now() + app.shared.config.chat.stream_max,
            app,
            user,
            _held: held,
            unsent,
            at: 0,
            after: i64::MIN,
            asking: None,
            is_first: true,
            is_over: false,
            record: StreamRecord {
                end: "gone",
                provider: None,
                bytes: 0,
                deltas: 0,
                first_text: None,
            },
        }
    }

    fn broken(&mut self, end: &'static str) -> Poll<Option<Result<Chunk, Broken>>> {
        self.record.end = end;
        Poll::Ready(Some(Err(Broken)))
    }

    /// The next piece, small enough for hyper's buffer to keep its size.
    fn piece(&mut self) -> Option<Chunk> {
        let rest = &self.unsent[self.at..];
        let piece = &rest[..rest.len().min(PIECE_BYTES_MAX)];
        if piece.is_empty() {
            return None;
        }
        self.at += piece.len();
        self.record.bytes += piece.len() as u64;
        let mut lent = self.app.out.lend();
        lent.bytes.extend_from_slice(piece);
        Some(Chunk::lent(lent))
    }

    /// Takes the place of what has been sent.
    fn write(&mut self, chat: Option<OwnChat>) {
        self.at = 0;
        match chat {
            Some(chat) => {
                self.after = chat.place;
                self.unsent = written(chat, std::mem::take(&mut self.is_first));
            }
            None => {
                self.unsent = b"]}".to_vec();
                self.is_over = true;
            }
        }
    }
}

/// A chat as JSON. Its messages are JSON already, one a line.
fn written(chat: OwnChat, is_first: bool) -> Vec<u8> {
    let comma = if is_first { "" } else { "," };
    let expires = chat.expires_ms / 1000;
    let start = format!(r#"{comma}{{"expires":{expires},"messages":["#);
    let lines = chat.messages.strip_suffix(b"\n");
    let mut json = Vec::with_capacity(start.len() + chat.messages.len() + 2);
    json.extend_from_slice(start.as_bytes());
    json.extend_from_slice(lines.unwrap_or_default());
    for byte in &mut json[start.len()..] {
        if *byte == b'\n' {
            *byte = b',';
        }
    }
    json.extend_from_slice(b"]}");
    json
}

impl Source for Export {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Chunk, Broken>>> {
        if self.app.is_ending() {
            return self.broken("restarting");
        }
        if clock::now() >= self.ends {
            return self.broken("error");
        }
        loop {
            if let Some(piece) = self.piece() {
                return Poll::Ready(Some(Ok(piece)));
            }
            if self.is_over {
                self.record.end = "done";
                return Poll::Ready(None);
            }
            let asking = self.asking.get_or_insert_with(|| {
                let (app, user, after) = (Rc::clone(&self.app), self.user, self.after);
                Box::pin(async move { profile::next_chat(&app, user, after).await })
            });
            let chat = ready!(asking.as_mut().poll(cx));
            self.asking = None;
            match chat {
                Ok(chat) => self.write(chat),
                Err(_) => return self.broken("error"),
            }
        }
    }

    fn report(&self) -> StreamRecord {
        self.record.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chats_are_written_as_lists_of_their_messages() {
        let chat = |messages: &[u8]| OwnChat {
            place: 1,
            expires_ms: 7_999,
            messages: messages.to_vec(),
        };
        for (messages, is_first, expect) in [
            (&b""[..], true, r#"{"expires":7,"messages":[]}"#),
            (b"{}\n", false, r#",{"expires":7,"messages":[{}]}"#),
            (
                b"{\"a\":\"\\n\"}\n{}\n",
                true,
                r#"{"expires":7,"messages":[{"a":"\n"},{}]}"#,
            ),
        ] {
            let json = written(chat(messages), is_first);
            assert_eq!(String::from_utf8_lossy(&json), expect);
        }
    }
}
