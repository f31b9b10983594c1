//! The bare hyper server that `/test` is compared with: what the HTTP library itself costs. Every
//! request gets the same JSON, of the size and with the headers of `/test`.
//!
//! ```text
//! cargo run --release -p bench --bin hello -- --listen 127.0.0.1:5001
//! ```

use bench::args::{Args, fail};
use bench::{listen, server};
use hyper::{Request, body::Incoming};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "hello [--listen 127.0.0.1:0] [--threads N]\nprints its address as http://…";

/// As long as an answer of `/test`.
const BODY: &[u8] =
    br#"{"timestamp":1752421640.8777,"request_id":"7b3c1a52-4a0e-4f64-9a44-1c1f3d0f2b6e"}"#;

fn main() {
    let args = Args::read(USAGE, &["listen", "threads"], &[]);
    let listen = args.text("listen").unwrap_or("127.0.0.1:0");
    let Ok(addr) = listen.parse() else {
        fail(&format!("--listen: {listen} is no address"))
    };
    listen::raise_open_files();
    let threads = args.number("threads", listen::cores());
    let hello = |_: Request<Incoming>| std::future::ready(server::json(BODY));
    let run = server::run(addr, threads, move || std::future::ready(Ok(hello)));
    if let Err(error) = run {
        fail(&format!("hello: {error}"));
    }
}
