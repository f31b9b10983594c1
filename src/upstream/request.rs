//! One request and the head of its response. The provider may answer before it has read the whole
//! request (a bad key, a prompt too long), so both directions are served at once.

use std::io::{IoSlice, Write as _};
use std::task::{Context, Poll, ready};

use super::connection::Connection;
use super::head::{self, Head};
use crate::config::Provider;
use crate::limits::HEAD_BYTES_MAX;

/// Bytes read at once while waiting for the head; nothing is allocated before they arrive.
const HEAD_READ_BYTES: usize = 1024;

/// The parts of a provider's request heads that never change. No `Debug`: they hold the key.
pub(super) struct Heads {
    /// Up to the value of `Content-Length`.
    chat: Vec<u8>,
    models: Vec<u8>,
}

impl Heads {
    /// # Errors
    /// One line, if the row holds something that cannot stand in a request head.
    pub fn new(provider: &Provider) -> Result<Self, String> {
        let visible = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        let key = provider.key.as_ref().map(|key| key.0.as_str());
        for (what, text) in [
            ("key", key.unwrap_or_default()),
            ("host", &provider.host),
            ("path", &provider.path),
        ] {
            if !visible(text) {
                return Err(format!(
                    "provider {}: its {what} holds characters other than visible ASCII",
                    provider.name
                ));
            }
        }
        let ends_line = |text: &str| text.contains(['\r', '\n', '\0']);
        let mut further = provider.headers.iter();
        if further.any(|(name, value)| ends_line(name) || ends_line(&value.0)) {
            return Err(format!(
                "provider {}: its headers hold line ends",
                provider.name
            ));
        }
        let common = common_fields(provider, key);
        let path = &provider.path;
        let chat = format!(
            "POST {path}/chat/completions HTTP/1.1\r\n{common}Accept: text/event-stream\r\n\
             Content-Type: application/json\r\nContent-Length: "
        );
        let models =
            format!("GET {path}/models HTTP/1.1\r\n{common}Accept: application/json\r\n\r\n");
        Ok(Self {
            chat: chat.into_bytes(),
            models: models.into_bytes(),
        })
    }

    /// The head of a chat request with a body of `length` bytes.
    pub fn chat(&self, length: usize) -> Vec<u8> {
        let mut head = Vec::with_capacity(self.chat.len() + 24);
        head.extend_from_slice(&self.chat);
        write!(head, "{length}\r\n\r\n").expect("writing to memory does not fail");
        head
    }

    /// The whole request for the list of models.
    pub fn models(&self) -> &[u8] {
        &self.models
    }
}

/// `Host` (RFC 9112, 3.2: with the port unless it is the scheme's own), the key, who asks, and the row's own
/// fields.
fn common_fields(provider: &Provider, key: Option<&str>) -> String {
    let host = if provider.host.contains(':') {
        format!("[{}]", provider.host)
    } else {
        provider.host.clone()
    };
    let port = match (provider.tls, provider.port) {
        (true, 443) | (false, 80) => String::new(),
        (_, port) => format!(":{port}"),
    };
    let key = key.map_or(String::new(), |key| {
        format!("Authorization: Bearer {key}\r\n")
    });
    let mut fields = format!(
        "Host: {host}{port}\r\n{key}User-Agent: cloudchat/{}\r\n",
        env!("CARGO_PKG_VERSION")
    );
    for (name, value) in &provider.headers {
        fields.extend([name, ": ", &value.0, "\r\n"]);
    }
    fields
}

/// A response whose head has been read.
pub(super) struct Answer {
    pub head: Head,
    /// Bytes of the body that came with the head.
    pub early: Box<[u8]>,
    /// Whether the whole request was sent; if not, the connection cannot be used again.
    pub sent: bool,
}

/// Why there is no head.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoHead {
    /// The connection ended; `silent` = without a single byte of response.
    Closed { silent: bool },
    /// What came is no head.
    Malformed(&'static str),
}

/// A request on its way.
pub(super) struct RoundTrip<'a> {
    head: &'a [u8],
    body: &'a [u8],
    written: usize,
    outgoing: Outgoing,
    /// Bytes of the response read so far; at most [`HEAD_BYTES_MAX`] and one read.
    read: Vec<u8>,
    /// Bytes of interim responses (1xx) that have been skipped.
    skipped: usize,
    found: Option<Head>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outgoing {
    Writing,
    Flushing,
    Sent,
    /// The provider takes no more; it may still have said why.
    Failed,
}

impl<'a> RoundTrip<'a> {
    /// A request of `head` and `body`.
    pub fn new(head: &'a [u8], body: &'a [u8]) -> Self {
        Self {
            head,
            body,
            written: 0,
            outgoing: Outgoing::Writing,
            read: Vec::new(),
            skipped: 0,
            found: None,
        }
    }

    /// Goes on until the head of the final response has been read and, if it is a success, the
    /// request has been sent.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        connection: &mut Connection,
    ) -> Poll<Result<Answer, NoHead>> {
        let sending = self.poll_send(cx, connection).is_pending();
        if self.found.is_none() {
            self.found = Some(ready!(self.poll_head(cx, connection))?);
        }
        match self.found {
            // A refusal makes the rest of the request pointless.
            Some(head) if !sending || head.status != 200 => Poll::Ready(Ok(Answer {
                head,
                early: std::mem::take(&mut self.read).into_boxed_slice(),
                sent: self.outgoing == Outgoing::Sent,
            })),
            _ => Poll::Pending, // `poll_send` has registered the waker
        }
    }

    /// Ready when there is nothing more to send, for better or worse.
    fn poll_send(&mut self, cx: &mut Context<'_>, connection: &mut Connection) -> Poll<()> {
        while self.outgoing == Outgoing::Writing {
            let head = &self.head[self.written.min(self.head.len())..];
            let body = &self.body[self.written.saturating_sub(self.head.len())..];
            if head.is_empty() && body.is_empty() {
                self.outgoing = Outgoing::Flushing;
                break;
            }
            let pieces = [IoSlice::new(head), IoSlice::new(body)];
            match ready!(connection.poll_write(cx, &pieces)) {
                Ok(0) | Err(_) => self.outgoing = Outgoing::Failed,
                Ok(n) => self.written += n,
            }
        }
        if self.outgoing == Outgoing::Flushing {
            self.outgoing = match ready!(connection.poll_flush(cx)) {
                Ok(()) => Outgoing::Sent,
                Err(_) => Outgoing::Failed,
            };
        }
        Poll::Ready(())
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        connection: &mut Connection,
    ) -> Poll<Result<Head, NoHead>> {
        loop {
            let mut bytes = [0; HEAD_READ_BYTES];
            let n = match ready!(connection.poll_read(cx, &mut bytes)) {
                Ok(n @ 1..) => n,
                Ok(0) | Err(_) => {
                    let silent = self.read.is_empty() && self.skipped == 0;
                    return Poll::Ready(Err(NoHead::Closed { silent }));
                }
            };
            self.read.extend_from_slice(&bytes[..n]);
            // Without a line end the head cannot have become complete.
            if bytes[..n].contains(&b'\n')
                && let Some(head) = self.parse()?
            {
                return Poll::Ready(Ok(head));
            }
            if self.skipped + self.read.len() > HEAD_BYTES_MAX {
                return Poll::Ready(Err(NoHead::Malformed("head-too-long")));
            }
        }
    }

    /// The final response's head, if it is complete; interim ones are skipped (RFC 9110, 15.2).
    fn parse(&mut self) -> Result<Option<Head>, NoHead> {
        loop {
            let found = head::parse(&self.read).map_err(|error| NoHead::Malformed(error.code()))?;
            let Some((head, length)) = found else {
                return Ok(None);
            };
            self.skipped += length;
            self.read.drain(..length);
            match head.status {
                _ if self.skipped > HEAD_BYTES_MAX => {
                    return Err(NoHead::Malformed("head-too-long"));
                }
                // Nobody asked for another protocol.
                101 => return Err(NoHead::Malformed("head-upgrade")),
                100..=199 => {}
                _ => return Ok(Some(head)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn provider(host: &str, port: u16, key: &str) -> Provider {
        Provider {
            name: "test".to_owned(),
            tls: true,
            host: host.to_owned(),
            port,
            path: "/v1".to_owned(),
            model: "m".to_owned(),
            key: (!key.is_empty()).then(|| Secret(key.to_owned())),
            headers: Vec::new(),
            send_user: false,
            done_is_complete: false,
            extra: String::new(),
        }
    }

    #[test]
    fn heads() {
        let check = |provider: &Provider, host: &str, key: &str| {
            let heads = Heads::new(provider).expect("is valid");
            let chat = String::from_utf8(heads.chat(42)).expect("ASCII");
            let agent = concat!("User-Agent: cloudchat/", env!("CARGO_PKG_VERSION"));
            assert_eq!(
                chat,
                format!(
                    "POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\n{key}{agent}\r\nAccept: text/event-stream\r\nContent-Type: application/json\r\nContent-Length: 42\r\n\r\n"
                )
            );
            assert!(heads.models().starts_with(b"GET /v1/models HTTP/1.1\r\n"));
        };
        check(
            &provider("a.example", 443, "k"),
            "a.example",
            "Authorization: Bearer k\r\n",
        );
        check(&provider("::1", 8443, ""), "[::1]:8443", "");
        let mut with_fields = provider("a.example", 443, "");
        let mut field = |name: &str, value: &str| {
            let field = (name.to_owned(), Secret(value.to_owned()));
            with_fields.headers.push(field);
            Heads::new(&with_fields).map(|heads| (heads.chat(1), heads.models().to_vec()))
        };
        field("X-A", "b c").expect("is valid");
        let (chat, models) = field("X-D", "e").expect("is valid");
        for head in [chat, models] {
            let head = String::from_utf8(head).expect("ASCII");
            assert!(
                head.contains("\r\nX-A: b c\r\nX-D: e\r\nAccept: "),
                "{head}"
            );
        }
        let error = field("X-F", "g\r\nX-H: i")
            .map(drop)
            .expect_err("is refused");
        assert_eq!(error, "provider test: its headers hold line ends");
        for (host, key) in [
            ("a\r\nb", "k"),
            ("a", "k\r\nX: y"),
            ("a", "k k"),
            ("ä", "k"),
        ] {
            let error = Heads::new(&provider(host, 443, key))
                .err()
                .expect("is refused");
            assert!(
                error.starts_with("provider test: its ") && !error.contains('\n'),
                "{error}"
            );
        }
    }
}
