//! One connection to a provider, plain or TLS, and how it is made. Dropping it, or the future that
//! makes it, closes the socket at once.

use std::io;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::SockRef;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::dial::{Resolver, race};
use super::failure::Failure;

/// Bytes that TLS may hold back while a large prompt is written (rustls would take 64 KiB).
const TLS_WRITE_BYTES_MAX: usize = 16 * 1024;

/// Where to connect to, and how.
pub(super) struct Target {
    pub host: String,
    pub port: u16,
    /// With `https`: whom to expect, and whom to trust.
    pub tls: Option<(ServerName<'static>, Arc<ClientConfig>)>,
    /// The largest `SO_RCVBUF` in bytes as asked for; the kernel doubles it.
    pub receive_bytes: usize,
}

/// Resolves, connects and shakes hands, all before `by`. The address that this worked with is remembered;
/// when it has failed, everything that was known of the host is forgotten.
///
/// # Errors
/// [`Failure::Unreachable`] with the cause.
pub(super) async fn connect(
    target: &Target,
    resolver: &Resolver,
    by: Instant,
) -> Result<Connection, Failure> {
    let made = timeout_at(by, connect_unbounded(target, resolver, by)).await;
    let made = made.unwrap_or_else(|_| Err(Failure::unreachable("connect-timeout")));
    match made {
        Ok((address, connection)) => {
            resolver.remember(address);
            Ok(connection)
        }
        Err(failure) => {
            resolver.forget();
            Err(failure)
        }
    }
}

async fn connect_unbounded(
    target: &Target,
    resolver: &Resolver,
    by: Instant,
) -> Result<(SocketAddr, Connection), Failure> {
    let candidates = resolver
        .candidates(&target.host, target.port)
        .await
        .map_err(|error| unresolved(&error))?;
    let attempt = |address| connect_one(address, target.receive_bytes);
    let (address, tcp) = race(&candidates, by, attempt)
        .await
        .map_err(|error| Failure::of_system(&error, &code_of(&error)))?;
    let transport = match &target.tls {
        None => Transport::Plain(tcp),
        Some((name, config)) => TlsConnector::from(Arc::clone(config))
            .connect_with(name.clone(), tcp, |session| {
                session.set_buffer_limit(Some(TLS_WRITE_BYTES_MAX));
            })
            .await
            .map(|stream| Transport::Tls(Box::new(stream)))
            .map_err(|error| Failure::unreachable(&code_of(&error)))?,
    };
    let connection = Connection {
        transport,
        receive_bytes: target.receive_bytes,
    };
    Ok((address, connection))
}

/// The resolver does not tell when it failed for want of a descriptor; a socket would.
fn unresolved(error: &io::Error) -> Failure {
    let shortage = TcpSocket::new_v4().err();
    Failure::of_system(shortage.as_ref().unwrap_or(error), "resolve")
}

/// The receive buffer is set before connecting: later the window has been announced already.
async fn connect_one(address: SocketAddr, receive_bytes: usize) -> io::Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_recv_buffer_size(u32::try_from(receive_bytes).unwrap_or(u32::MAX))?;
    let tcp = socket.connect(address).await?;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

/// A word for log lines: the kind of a socket's error, or what is wrong with TLS.
fn code_of(error: &io::Error) -> String {
    let tls = error
        .get_ref()
        .and_then(|e| e.downcast_ref::<rustls::Error>());
    match (tls, error.kind()) {
        // Only the names of the variants: what they hold comes from the other side.
        (Some(tls), _) => {
            let text = format!("{tls:?}");
            let names = text.split(['{', ' ', '"', '[']).next().unwrap_or_default();
            format!(
                "tls-{}",
                names.trim_end_matches(['(', ')']).replace('(', ".")
            )
        }
        (None, io::ErrorKind::TimedOut) => "connect-timeout".to_owned(),
        (None, kind) => format!("{kind:?}"),
    }
}

/// An established connection.
pub(super) struct Connection {
    transport: Transport,
    /// `SO_RCVBUF`, as last asked for.
    receive_bytes: usize,
}

enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection {
    /// Sets `SO_RCVBUF`, as asked for in bytes, for the answer that begins; no more than it was
    /// when connecting.
    pub fn set_receive_bytes(&mut self, bytes: usize) {
        if self.receive_bytes == bytes {
            return;
        }
        self.receive_bytes = bytes;
        let tcp = match &self.transport {
            Transport::Plain(tcp) => tcp,
            Transport::Tls(tls) => tls.get_ref().0,
        };
        // A socket that refuses is broken, which the next read tells.
        SockRef::from(tcp)
            .set_recv_buffer_size(bytes)
            .unwrap_or_default();
    }

    /// Reads into `buf`; `Ok(0)` is the end (with TLS: an announced one).
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buf = ReadBuf::new(buf);
        ready!(match &mut self.transport {
            Transport::Plain(tcp) => Pin::new(tcp).poll_read(cx, &mut buf),
            Transport::Tls(tls) => Pin::new(tls).poll_read(cx, &mut buf),
        })?;
        Poll::Ready(Ok(buf.filled().len()))
    }

    /// Writes some of `bufs`.
    pub fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.transport {
            Transport::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
            Transport::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
        }
    }

    /// Hands everything to the kernel.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Transport::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    /// Whether an idle connection is still good: neither closed by the other side, nor holding
    /// bytes that nobody asked for. The kernel is asked directly, because tokio may not have heard
    /// yet that something arrived.
    pub fn is_quiet(&mut self) -> bool {
        let tcp = match &mut self.transport {
            Transport::Plain(tcp) => tcp,
            Transport::Tls(tls) => tls.get_mut().0,
        };
        let peeked = SockRef::from(&*tcp).peek(&mut [MaybeUninit::uninit()]);
        if !peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            return false;
        }
        // Bytes that TLS has decrypted already.
        let mut cx = Context::from_waker(Waker::noop());
        self.poll_read(&mut cx, &mut [0]).is_pending()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sockets_are_small_and_prompt() {
        let any = ("127.0.0.1", 0);
        let listener = tokio::net::TcpListener::bind(any)
            .await
            .expect("a free port");
        let address = listener.local_addr().expect("is bound");
        let tcp = connect_one(address, 8192).await.expect("it listens");
        let buffer = SockRef::from(&tcp).recv_buffer_size();
        assert_eq!(
            buffer.expect("is a socket"),
            2 * 8192,
            "the kernel doubles it"
        );
        assert!(tcp.nodelay().expect("is TCP"));
    }

    #[test]
    fn codes_of_errors() {
        let check = |error: io::Error, expect: &str| assert_eq!(code_of(&error), expect);
        let tls = |error: rustls::Error| io::Error::new(io::ErrorKind::InvalidData, error);
        check(io::ErrorKind::ConnectionRefused.into(), "ConnectionRefused");
        check(io::ErrorKind::TimedOut.into(), "connect-timeout");
        check(
            tls(rustls::Error::General("secret".to_owned())),
            "tls-General",
        );
        let unknown = rustls::CertificateError::UnknownIssuer;
        check(tls(unknown.into()), "tls-InvalidCertificate.UnknownIssuer");
    }
}
