//! The processes that have served one after the other, as far as they have not ended: the last of them has to be
//! the last to end.
//!
//! When the main process of a service has ended, systemd sends a second stop signal to all others, which
//! would cut the answers that an old process still has. Where it is not told when a cgroup is empty (v1 in a
//! container), it may then wait in vain until `TimeoutStopSec=` is over.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::time::sleep;

/// From the time when the kernel closes the files of a process until it counts as ended, and more.
const END_PAUSE: Duration = Duration::from_millis(50);

/// Two connected sockets through which nothing is sent. Each process of the lineage holds both, and the
/// kernel closes them when it ends.
#[derive(Debug)]
pub struct Lineage {
    reader: UnixStream,
    writer: UnixStream,
}

impl Lineage {
    /// That of a process that nobody has handed over to.
    ///
    /// # Errors
    /// There are no more file descriptors.
    pub fn new() -> io::Result<Self> {
        let (reader, writer) = UnixStream::pair()?;
        Ok(Self { reader, writer })
    }

    /// As it was passed on.
    pub fn adopt([reader, writer]: [OwnedFd; 2]) -> Self {
        Self {
            reader: reader.into(),
            writer: writer.into(),
        }
    }

    /// To be passed on, in the order of [`Lineage::adopt`].
    pub fn ends(&self) -> [BorrowedFd<'_>; 2] {
        [self.reader.as_fd(), self.writer.as_fd()]
    }

    /// Waits until all other processes have ended, those that this one has started included.
    ///
    /// # Errors
    /// The socket cannot be used.
    pub async fn alone(self) -> io::Result<()> {
        drop(self.writer);
        self.reader.set_nonblocking(true)?;
        let mut reader = tokio::net::UnixStream::from_std(self.reader)?;
        reader.read(&mut [0]).await.map(drop)?;
        sleep(END_PAUSE).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    #[tokio::test(start_paused = true)]
    async fn the_last_one_is_alone() {
        let last = Lineage::new().expect("there are file descriptors");
        let copies = last.ends().map(|end| end.try_clone_to_owned());
        let other = copies.map(|copy| copy.expect("there are file descriptors"));
        let mut alone = std::pin::pin!(last.alone());
        let soon = timeout(Duration::from_secs(1), &mut alone).await;
        assert!(soon.is_err(), "another one lives");
        drop(other);
        alone.await.expect("the socket can be read");
    }
}
