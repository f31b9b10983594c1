//! The bare hyper server that `/test` is compared with: what the HTTP library itself costs.
//!
//! Same hyper, same connection settings, same allocator, one current-thread runtime per core on a
//! shared port. Every request gets the same JSON, of the size and with the headers of `/test`.
//!
//! ```text
//! cargo run --release -p bench --bin hello -- --listen 127.0.0.1:5001
//! ```

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Barrier};

use bench::args::{Args, fail};
use bench::listen;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, body::Incoming};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpSocket, TcpStream};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "hello [--listen 127.0.0.1:0] [--threads N]\nprints its address as http://…";

/// As long as an answer of `/test`.
const BODY: &[u8] =
    br#"{"timestamp":1752421640.8777,"request_id":"7b3c1a52-4a0e-4f64-9a44-1c1f3d0f2b6e"}"#;
const REQUEST_ID: HeaderValue = HeaderValue::from_static("7b3c1a52-4a0e-4f64-9a44-1c1f3d0f2b6e");

fn main() {
    let args = Args::read(USAGE, &["listen", "threads"], &[]);
    let listen = args.text("listen").unwrap_or("127.0.0.1:0");
    let Ok(addr) = listen.parse() else {
        fail(&format!("--listen: {listen} is no address"))
    };
    listen::raise_open_files();
    if let Err(error) = run(addr, args.number("threads", listen::cores())) {
        fail(&format!("hello: {error}"));
    }
}

fn run(addr: SocketAddr, threads: usize) -> io::Result<()> {
    let (addr, sockets) = listen::bind_shared(addr, threads)?;
    let listening = Arc::new(Barrier::new(sockets.len() + 1));
    let mut running = Vec::new();
    for socket in sockets {
        let listening = Arc::clone(&listening);
        running.push(std::thread::spawn(move || core(socket, &listening)));
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

fn core(socket: TcpSocket, listening: &Barrier) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())?;
    runtime.block_on(async {
        let listener = socket.listen(1024)?;
        listening.wait();
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::task::spawn_local(connection(stream));
        }
    })
}

async fn connection(stream: TcpStream) {
    let served = http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(8192)
        .writev(false)
        .serve_connection(TokioIo::new(stream), service_fn(hello));
    // A client that closes in the middle is nothing to report.
    drop(served.await);
}

async fn hello(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = Response::new(Full::new(Bytes::from_static(BODY)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(HeaderName::from_static("x-request-id"), REQUEST_ID);
    Ok(response)
}
