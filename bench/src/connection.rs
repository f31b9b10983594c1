//! What both ends need of a connection, plain or TLS.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// A byte stream that can be ended the rude way.
pub trait Connection: AsyncRead + AsyncWrite + Unpin {
    /// From here on closing sends a reset, and what is unsent is dropped.
    fn reset_on_close(&self) -> io::Result<()>;
}

impl Connection for TcpStream {
    fn reset_on_close(&self) -> io::Result<()> {
        self.set_zero_linger()
    }
}

impl Connection for tokio_rustls::server::TlsStream<TcpStream> {
    fn reset_on_close(&self) -> io::Result<()> {
        self.get_ref().0.set_zero_linger()
    }
}

impl Connection for tokio_rustls::client::TlsStream<TcpStream> {
    fn reset_on_close(&self) -> io::Result<()> {
        self.get_ref().0.set_zero_linger()
    }
}
