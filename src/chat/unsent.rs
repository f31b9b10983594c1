//! The first lines of an answer, and long ones, on their way to the client.

use crate::http::body::{Chunk, Scratch};
use crate::limits::{PIECE_BYTES_MAX, Permit};

/// Lines that are sent in pieces, because hyper's buffer would keep the size of a large one.
pub struct Unsent {
    lines: Vec<u8>,
    /// How many bytes have been handed out.
    at: usize,
    /// Held if the lines are longer than ordinary ones can be.
    _long: Option<Permit>,
}

impl Unsent {
    /// Nothing has been handed out yet.
    pub fn new(lines: Vec<u8>, long: Option<Permit>) -> Self {
        Self {
            lines,
            at: 0,
            _long: long,
        }
    }

    /// The next piece, in the core's own buffer.
    pub fn next(&mut self, scratch: &Scratch) -> Option<Chunk> {
        let rest = &self.lines[self.at..];
        let piece = &rest[..rest.len().min(PIECE_BYTES_MAX)];
        self.at += piece.len();
        (!piece.is_empty()).then(|| {
            let mut lent = scratch.lend();
            lent.bytes.extend_from_slice(piece);
            Chunk::lent(lent)
        })
    }
}
