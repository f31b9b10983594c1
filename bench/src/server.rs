//! A bare hyper server to compare with: same hyper, same connection settings, same allocator as the
//! server under test, one current-thread runtime per core on a shared port.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Barrier};

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, body::Incoming};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpSocket, TcpStream};

use crate::listen;

const REQUEST_ID: HeaderValue = HeaderValue::from_static("7b3c1a52-4a0e-4f64-9a44-1c1f3d0f2b6e");

/// Serves until a core fails, and prints the address as `http://…` when all listen. `prepare` makes
/// what a core answers with, once on each.
///
/// # Errors
/// The address cannot be had, or a core has failed.
pub fn run<Prepared, Answer, Answered>(
    addr: SocketAddr,
    threads: usize,
    prepare: impl Fn() -> Prepared + Clone + Send + 'static,
) -> io::Result<()>
where
    Prepared: Future<Output = io::Result<Answer>>,
    Answer: Fn(Request<Incoming>) -> Answered + Clone + 'static,
    Answered: Future<Output = Response<Full<Bytes>>> + 'static,
{
    let (addr, sockets) = listen::bind_shared(addr, threads)?;
    let listening = Arc::new(Barrier::new(sockets.len() + 1));
    let mut running = Vec::new();
    for socket in sockets {
        let (listening, prepare) = (Arc::clone(&listening), prepare.clone());
        running.push(std::thread::spawn(move || {
            core(socket, &listening, &prepare)
        }));
    }
    listening.wait();
    println!("http://{addr}");
    for thread in running {
        thread
            .join()
            .map_err(|_| io::Error::other("a thread died"))??;
    }
    Ok(())
}

fn core<Prepared, Answer, Answered>(
    socket: TcpSocket,
    listening: &Barrier,
    prepare: &impl Fn() -> Prepared,
) -> io::Result<()>
where
    Prepared: Future<Output = io::Result<Answer>>,
    Answer: Fn(Request<Incoming>) -> Answered + Clone + 'static,
    Answered: Future<Output = Response<Full<Bytes>>> + 'static,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())?;
    runtime.block_on(async {
        let answer = prepare().await?;
        let listener = socket.listen(1024)?;
        listening.wait();
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::task::spawn_local(connection(stream, answer.clone()));
        }
    })
}

async fn connection<Answer, Answered>(stream: TcpStream, answer: Answer)
where
    Answer: Fn(Request<Incoming>) -> Answered,
    Answered: Future<Output = Response<Full<Bytes>>>,
{
    let service = service_fn(|request| {
        let answered = answer(request);
        async { Ok::<_, Infallible>(answered.await) }
    });
    let served = http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(8192)
        .writev(false)
        .serve_connection(TokioIo::new(stream), service);
    // A client that closes in the middle is nothing to report.
    drop(served.await);
}

/// A 200 with this JSON and the headers of `/test`.
pub fn json(body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(HeaderName::from_static("x-request-id"), REQUEST_ID);
    response
}
