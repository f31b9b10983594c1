//! One HTTP/1.1 connection as hyper serves it, with the same types for every listener of this process: so hyper's
//! code is in the program once, and the compiler can put together what a request runs through.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::http::body::Body;
use crate::http::reply::Reply;
use crate::http::wire::{Busy, ClientIo, Socket, Timeouts, Wire};
use crate::limits::Pool;

/// hyper's smallest write buffer; it also bounds a request's head.
const BUFFER_BYTES: usize = 8192;

/// A connection being served; to be polled to its end. A type of its own so that hyper's code is compiled here,
/// for speed, and not where it is polled.
pub struct Connection(http1::Connection<TokioIo<ClientIo>, Service>);

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connection")
    }
}

impl Connection {
    /// Ends it after the request that is being answered.
    pub fn graceful_shutdown(&mut self) {
        Pin::new(&mut self.0).graceful_shutdown();
    }
}

impl Future for Connection {
    /// How a connection ends says nothing that the requests' lines do not say.
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.0).poll(cx).map(drop)
    }
}

/// What answers the requests of a connection: one type for all, behind a pointer, so that hyper's code does not
/// depend on the API's.
struct Service(Box<dyn Fn(hyper::Request<Incoming>) -> Serving>);

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Service")
    }
}

impl hyper::service::Service<hyper::Request<Incoming>> for Service {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Serving;

    fn call(&self, request: hyper::Request<Incoming>) -> Serving {
        (self.0)(request)
    }
}

/// A request being served. What has to wait is boxed, because hyper keeps room for this as long as
/// the connection lives.
pub enum Serving {
    /// The response is there.
    Now(Option<Reply>),
    /// It will come.
    Later(Pin<Box<dyn Future<Output = Reply>>>),
}

impl Future for Serving {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Now(reply) => {
                let reply = reply.take().expect("hyper polls once to the end");
                Poll::Ready(Ok(reply.into_response()))
            }
            Self::Later(reply) => {
                let reply = reply.as_mut().poll(cx);
                reply.map(|reply| Ok(reply.into_response()))
            }
        }
    }
}

/// Serves a client. hyper copies what it sends into one buffer (that is what `writev(false)` does), and leaves
/// the time limits to `io`.
pub fn serve(
    io: ClientIo,
    answer: impl Fn(hyper::Request<Incoming>) -> Serving + 'static,
) -> Connection {
    let service = Service(Box::new(answer));
    Connection(
        http1::Builder::new()
            .max_buf_size(BUFFER_BYTES)
            .writev(false)
            .header_read_timeout(None)
            .serve_connection(TokioIo::new(io), service),
    )
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
    serve(io, move |request| answer(request, wire.begin()))
}
