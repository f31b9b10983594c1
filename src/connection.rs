//! One HTTP/1.1 connection as hyper serves it, with the same types for every listener of this process: so hyper's
//! code is in the program once, and the compiler can put together what a request runs through.

use std::convert::Infallible;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use hyper::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::app::App;
use crate::http::address::Address;
use crate::http::body::Body;
use crate::http::wire::{Busy, ClientIo, Socket, Timeouts, Wire};
use crate::limits::Pool;
use crate::router::{self, Serving};

/// hyper's smallest write buffer; it also bounds a request's head.
const BUFFER_BYTES: usize = 8192;

/// A connection being served; to be polled to its end.
pub type Connection = http1::Connection<TokioIo<ClientIo>, Service>;

/// Who answers the requests of a connection.
pub enum Service {
    /// The API.
    Api {
        /// This core's.
        app: Rc<App>,
        /// The connection's record.
        wire: Rc<Wire>,
        /// The other end.
        peer: Address,
    },
    /// A small server beside it.
    Other(Box<dyn Fn(hyper::Request<Incoming>) -> Serving>),
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Service")
    }
}

impl hyper::service::Service<hyper::Request<Incoming>> for Service {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Serving;

    #[inline]
    fn call(&self, request: hyper::Request<Incoming>) -> Serving {
        match self {
            Self::Api { app, wire, peer } => router::serve(app, wire, *peer, request),
            Self::Other(answer) => answer(request),
        }
    }
}

/// Serves a client. hyper copies what it sends into one buffer (that is what `writev(false)` does), and leaves
/// the time limits to `io`.
pub fn serve(io: ClientIo, service: Service) -> Connection {
    http1::Builder::new()
        .max_buf_size(BUFFER_BYTES)
        .writev(false)
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(io), service)
}

/// Serves a client of a small server beside the API. It may take as long as `limit` for a head, between requests,
/// and for any byte of its answer; `answer` keeps the guard for as long as it answers.
pub fn serve_other(
    socket: TcpStream,
    limit: Duration,
    answer: impl Fn(hyper::Request<Incoming>, Busy) -> Serving + 'static,
) -> Connection {
    let wire = Wire::new();
    let timeouts = Timeouts {
        head: limit,
        idle: limit,
        write: limit,
    };
    let io = ClientIo::new(
        Socket::Tcp(socket),
        Rc::clone(&wire),
        timeouts,
        (Pool::new(1), None),
    );
    let answer = move |request| answer(request, wire.begin());
    serve(io, Service::Other(Box::new(answer)))
}
