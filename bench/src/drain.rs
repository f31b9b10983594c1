//! Readers that do nothing, for the simulator's measurement of itself.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

/// Streams that are read and thrown away, by a thread of its own.
#[derive(Debug)]
pub struct Drain {
    stop: watch::Sender<bool>,
    /// Streams whose first bytes have come.
    ready: Arc<AtomicUsize>,
    thread: JoinHandle<io::Result<()>>,
}

impl Drain {
    /// Asks for so many streams, `sim` says of what kind.
    pub fn start(addr: SocketAddr, streams: usize, sim: &str) -> Self {
        let (stop, stopped) = watch::channel(false);
        let ready = Arc::new(AtomicUsize::new(0));
        let body =
            serde_json::json!({"messages": [{"role": "user", "content": format!("sim: {sim}")}]})
                .to_string();
        let request = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: {addr}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let counted = Arc::clone(&ready);
        let thread =
            std::thread::spawn(move || run(addr, streams, &request.into(), &counted, &stopped));
        Self {
            stop,
            ready,
            thread,
        }
    }

    /// Waits until all streams have begun, at most so long; the number that has.
    pub fn ready(&self, streams: usize, seconds: u64) -> usize {
        for _ in 0..seconds * 100 {
            if self.ready.load(Relaxed) >= streams || self.thread.is_finished() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.ready.load(Relaxed)
    }

    /// Closes all streams.
    pub fn stop(self) -> io::Result<()> {
        self.stop.send_replace(true);
        self.thread
            .join()
            .map_err(|_| io::Error::other("the reading thread died"))?
    }
}

fn run(
    addr: SocketAddr,
    streams: usize,
    request: &Arc<str>,
    ready: &Arc<AtomicUsize>,
    stopped: &watch::Receiver<bool>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())?;
    runtime.block_on(async {
        for _ in 0..streams {
            // One after the other, so that the backlog is never full.
            let mut io = TcpStream::connect(addr).await?;
            io.write_all(request.as_bytes()).await?;
            tokio::task::spawn_local(read(io, Arc::clone(ready)));
        }
        // An error says that the sender is gone, which also means to stop.
        drop(stopped.clone().wait_for(|stop| *stop).await);
        Ok(())
    })
}

async fn read(mut io: TcpStream, ready: Arc<AtomicUsize>) {
    let mut first = true;
    let mut input = Box::new([0; 16 << 10]);
    while let Ok(1..) = io.read(&mut input[..]).await {
        if std::mem::take(&mut first) {
            ready.fetch_add(1, Relaxed);
        }
    }
}
