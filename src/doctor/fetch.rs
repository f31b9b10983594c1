//! One HTTP request on a connection of its own, with a deadline for each step.

use std::sync::Arc;
use std::time::{Duration, SystemTime};
use std::{fmt, io};

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, DATE, HOST, HeaderMap, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::clock;

/// Looking up, connecting and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// From the request to its head, and between two pieces of its body.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest body that is kept; the lists of models of large gateways have half a megabyte.
const BODY_BYTES_MAX: usize = 2 << 20;

/// Where a request goes.
#[derive(Debug, Clone)]
pub struct Target {
    /// `https`.
    pub tls: bool,
    /// Host name or address, without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// What stands before each path.
    pub path: String,
}

impl Target {
    /// The value of `Host`.
    pub fn authority(&self) -> String {
        let host = match self.host.contains(':') {
            true => format!("[{}]", self.host),
            false => self.host.clone(),
        };
        match (self.tls, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

/// How a body ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// As it should.
    Whole,
    /// The transfer broke.
    Broken,
    /// It was read for as long as was asked for.
    Watched,
}

/// What came back.
#[derive(Debug)]
pub struct Reply {
    /// Its status.
    pub status: u16,
    /// Its headers.
    pub headers: HeaderMap,
    /// As much of its body as is kept, and when each piece came.
    pub body: Vec<u8>,
    /// From sending the request to each piece, and the bytes that were there then.
    pub pieces: Vec<(Duration, usize)>,
    /// How it ended.
    pub end: End,
    /// How far our clock is ahead of the server's `Date`, in seconds; behind if negative.
    pub skew: Option<f64>,
}

impl Reply {
    /// The values of a header.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers
            .get_all(name)
            .into_iter()
            .filter_map(|value| value.to_str().ok())
    }
}

/// Why there was no answer.
#[derive(Debug)]
pub struct Unreached {
    what: String,
    /// The server was reached, but its TLS handshake failed.
    pub handshake: Option<Handshake>,
}

/// What went wrong in a TLS handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handshake {
    /// The certificate is not trusted, not valid now, or not for this name.
    Certificate,
    /// The server does not speak TLS.
    NoTls,
    /// The server refused.
    Refused,
}

impl Unreached {
    fn new(what: impl Into<String>) -> Self {
        let (what, handshake) = (what.into(), None);
        Self { what, handshake }
    }

    fn handshake(error: &io::Error) -> Self {
        let tls = error.get_ref().and_then(|e| e.downcast_ref());
        let handshake = match tls {
            Some(rustls::Error::InvalidCertificate(_)) => Handshake::Certificate,
            Some(rustls::Error::InvalidMessage(_)) => Handshake::NoTls,
            _ => Handshake::Refused,
        };
        Self {
            what: format!("the TLS handshake failed: {error}"),
            handshake: Some(handshake),
        }
    }
}

impl fmt::Display for Unreached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

fn failed(what: &str) -> impl Fn(&dyn fmt::Display) -> Unreached {
    move |cause| Unreached::new(format!("{what}: {cause}"))
}

/// Sends a request and reads the whole answer.
///
/// # Errors
/// No connection, no trust, no HTTP, or no answer in time.
pub async fn fetch(
    target: &Target,
    tls: &Arc<ClientConfig>,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<Reply, Unreached> {
    watch(target, tls, method, path, headers, body, Duration::MAX).await
}

/// As [`fetch`], but reads the answer for so long at most.
///
/// # Errors
/// As there.
pub async fn watch(
    target: &Target,
    tls: &Arc<ClientConfig>,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
    longest: Duration,
) -> Result<Reply, Unreached> {
    let mut request = Request::builder()
        .method(method)
        .uri(format!("{}{path}", target.path))
        .header(HOST, target.authority())
        .header(
            USER_AGENT,
            concat!("cloudchat-doctor/", env!("CARGO_PKG_VERSION")),
        );
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    if !body.is_empty() {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    let request = request
        .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
        .map_err(|error| failed("request")(&error))?;
    let connect = async {
        let tcp = TcpStream::connect((target.host.as_str(), target.port)).await;
        let tcp = tcp.map_err(|error| failed("connecting")(&error))?;
        tcp.set_nodelay(true)
            .map_err(|error| failed("connecting")(&error))?;
        if !target.tls {
            return Ok::<Box<dyn Io>, Unreached>(Box::new(tcp));
        }
        let name = ServerName::try_from(target.host.clone());
        let name = name.map_err(|error| failed("host")(&error))?;
        let stream = TlsConnector::from(Arc::clone(tls)).connect(name, tcp).await;
        Ok(Box::new(
            stream.map_err(|error| Unreached::handshake(&error))?,
        ))
    };
    match timeout(CONNECT_TIMEOUT, connect).await {
        Err(_) => Err(Unreached::new("connecting: no answer in time")),
        Ok(io) => exchange(io?, request, longest).await,
    }
}

/// A connection, with or without TLS: hyper's client in the binary once, not twice.
trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

async fn exchange(
    io: Box<dyn Io>,
    request: Request<Full<Bytes>>,
    longest: Duration,
) -> Result<Reply, Unreached> {
    let shaken = http1::handshake(TokioIo::new(io)).await;
    let (mut sender, connection) = shaken.map_err(|error| failed("HTTP")(&error))?;
    // Its end shows in the answer.
    let driver = tokio::spawn(async move { connection.await.unwrap_or_default() });
    let sent = clock::now();
    let answered = timeout(ANSWER_TIMEOUT, sender.send_request(request)).await;
    let response = answered.map_err(|_| Unreached::new("no answer in time"))?;
    let response = response.map_err(|error| failed("no answer")(&error))?;
    let reply = read(response, sent, longest).await;
    driver.abort();
    reply
}

async fn read(
    response: Response<Incoming>,
    sent: tokio::time::Instant,
    longest: Duration,
) -> Result<Reply, Unreached> {
    let wall = clock::wall();
    let date = response
        .headers()
        .get(DATE)
        .and_then(|date| date.to_str().ok());
    let skew = date
        .and_then(http_date)
        .map(|date| seconds_ahead(wall, date));
    let (head, mut incoming) = response.into_parts();
    let (mut body, mut pieces) = (Vec::new(), Vec::new());
    let end = loop {
        let left = longest.saturating_sub(sent.elapsed());
        let next = match timeout(left.min(ANSWER_TIMEOUT), incoming.frame()).await {
            Ok(next) => next,
            Err(_) if left <= ANSWER_TIMEOUT => break End::Watched,
            Err(_) => return Err(Unreached::new("the answer stopped")),
        };
        match next {
            Some(Ok(frame)) => {
                let data = frame.into_data().unwrap_or_default();
                let room = BODY_BYTES_MAX - body.len();
                body.extend_from_slice(&data[..data.len().min(room)]);
                pieces.push((clock::now() - sent, body.len()));
            }
            // An answer that breaks off says what it says all the same.
            Some(Err(_)) => break End::Broken,
            None => break End::Whole,
        }
    };
    Ok(Reply {
        status: head.status.as_u16(),
        headers: head.headers,
        body,
        pieces,
        end,
        skew,
    })
}

fn seconds_ahead(ours: SystemTime, theirs: SystemTime) -> f64 {
    match ours.duration_since(theirs) {
        Ok(ahead) => ahead.as_secs_f64(),
        Err(behind) => -behind.duration().as_secs_f64(),
    }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, 5.6.7); the obsolete forms are not sent any more.
fn http_date(text: &str) -> Option<SystemTime> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let mut parts = text.split_once(", ")?.1.split(' ');
    let (day, month, year) = (parts.next()?, parts.next()?, parts.next()?);
    let time = parts.next()?;
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    humantime::parse_rfc3339(&format!("{year}-{month:02}-{day}T{time}Z")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_as_they_are_sent() {
        let seconds = |text| {
            let date: Option<SystemTime> = http_date(text);
            date.map(|date| {
                date.duration_since(SystemTime::UNIX_EPOCH)
                    .unwrap()
                    .as_secs()
            })
        };
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(seconds("Sunday, 06-Nov-94 08:49:37 GMT"), None);
        assert_eq!(seconds(""), None);
    }
}
