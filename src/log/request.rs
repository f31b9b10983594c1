//! The line of a request. It comes with every request, so a core keeps it as it is until it has
//! nothing else to do, and then writes all of them in one go: what writes a line has left the
//! processor's caches between two requests, and is there for all but the first of a row.

use std::time::Duration;

use super::render::Line;
use super::{Field, Format};

/// Longest id of a request in bytes.
const ID_BYTES_MAX: usize = 64;

/// What is said of a request.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// What it is called.
    pub id: Id,
    /// When its answer was known, since the epoch.
    pub since_epoch: Duration,
    /// How long that took.
    pub took: Duration,
    /// Its method, a word of our own.
    pub method: &'static str,
    /// Its endpoint, a word of our own.
    pub route: &'static str,
    /// The status of its answer.
    pub status: u16,
    /// The worker that served it.
    pub worker: u16,
}

/// A request's id, which needs no escapes.
#[derive(Debug, Clone, Copy)]
pub struct Id {
    bytes: [u8; ID_BYTES_MAX],
    len: u8,
}

impl Id {
    /// Keeps [`ID_BYTES_MAX`] bytes, all of them ASCII.
    pub fn new(id: &[u8]) -> Self {
        let id = &id[..id.len().min(ID_BYTES_MAX)];
        let mut bytes = [0; ID_BYTES_MAX];
        bytes[..id.len()].copy_from_slice(id);
        Self {
            bytes,
            len: id.len() as u8,
        }
    }

    fn text(&self) -> &str {
        str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or_default()
    }
}

impl Request {
    /// Writes the line's fields, and further ones.
    pub(super) fn write(&self, line: &mut Line<'_>, more: &[Field<'_>]) {
        match line.format() {
            Format::Logfmt => {
                line.raw("level=info event=request id=");
                line.word(self.id.text());
                line.raw(" method=");
                line.word(self.method);
                line.raw(" route=");
                line.word(self.route);
                line.raw(" status=");
                line.number(self.status.into());
                line.raw(" ms=");
                line.millis(self.took);
                line.raw(" worker=");
                line.number(self.worker.into());
            }
            Format::Json => {
                line.raw(r#""level":"info","event":"request","id":"#);
                line.word(self.id.text());
                line.raw(r#","method":"#);
                line.word(self.method);
                line.raw(r#","route":"#);
                line.word(self.route);
                line.raw(r#","status":"#);
                line.number(self.status.into());
                line.raw(r#","ms":"#);
                line.millis(self.took);
                line.raw(r#","worker":"#);
                line.number(self.worker.into());
            }
        }
        line.fields(more);
    }
}
