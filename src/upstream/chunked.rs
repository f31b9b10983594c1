//! The chunked transfer coding (RFC 9112, section 7.1), decoded in place: the body's bytes move to
//! the front of the buffer they were read into. Pure, and resumable at every byte.
//!
//! Strict where leniency has let requests be smuggled: lines end in CRLF, sizes are 1 to 16
//! hexadecimal digits. Extensions and trailers are skipped, within bounds.

use std::fmt;

/// Longest chunk extension, in bytes.
pub const EXTENSION_BYTES_MAX: u16 = 1024;
/// Longest trailer section, in bytes.
pub const TRAILER_BYTES_MAX: u16 = 4096;

/// What one call decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decoded {
    /// Body bytes, now at the front of the buffer.
    pub written: usize,
    /// Bytes used; less than the buffer only when the body ended and something follows it.
    pub consumed: usize,
}

/// The bytes are no chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotChunked {
    /// Body bytes before the fault, at the front of the buffer.
    pub written: usize,
}

impl fmt::Display for NotChunked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the chunked framing is broken")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In a chunk's size, of which `digits` have been read.
    Size {
        digits: u8,
    },
    /// Behind the size; `skipped` bytes of extension so far.
    Extension {
        skipped: u16,
    },
    /// The size line's CR has been read.
    SizeEnd,
    /// In the chunk's data; `left` says how much is to come.
    Data,
    /// Behind the data: its CR, then its LF.
    DataCr,
    DataLf,
    /// At the start of a trailer line, or of the empty one that ends the body.
    TrailerStart,
    /// Inside a trailer line.
    Trailer,
    /// A trailer line's CR has been read.
    TrailerEnd,
    /// The last line's CR has been read.
    LastLf,
    Done,
}

/// Where in the body the last byte left us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decoder {
    /// The size while it is being read, then the data bytes still to come.
    left: u64,
    state: State,
    /// Bytes of trailers skipped; at most [`TRAILER_BYTES_MAX`].
    trailers: u16,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// At the start of a body.
    pub fn new() -> Self {
        Self {
            left: 0,
            state: State::Size { digits: 0 },
            trailers: 0,
        }
    }

    /// Whether the body's last byte has been seen.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Decodes the next bytes of the body in place.
    ///
    /// # Errors
    /// [`NotChunked`]; the decoder must not be used afterwards.
    pub fn decode(&mut self, bytes: &mut [u8]) -> Result<Decoded, NotChunked> {
        let (mut read, mut written) = (0, 0);
        while read < bytes.len() && !self.is_done() {
            if self.state == State::Data {
                let n = usize::try_from(self.left)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len() - read);
                bytes.copy_within(read..read + n, written);
                (read, written) = (read + n, written + n);
                self.left -= n as u64;
                if self.left == 0 {
                    self.state = State::DataCr;
                }
            } else {
                self.state = self.step(bytes[read]).ok_or(NotChunked { written })?;
                read += 1;
            }
        }
        Ok(Decoded {
            written,
            consumed: read,
        })
    }

    /// The state behind one byte of framing; none if it may not stand there.
    fn step(&mut self, byte: u8) -> Option<State> {
        Some(match (self.state, byte) {
            (State::Size { digits }, _) if byte.is_ascii_hexdigit() => self.digit(digits, byte)?,
            (State::Size { digits: 1.. }, b';' | b' ' | b'\t') => State::Extension { skipped: 1 },
            (State::Size { digits: 1.. } | State::Extension { .. }, b'\r') => State::SizeEnd,
            (State::Extension { skipped }, _) if byte != b'\n' && skipped < EXTENSION_BYTES_MAX => {
                State::Extension {
                    skipped: skipped + 1,
                }
            }
            (State::SizeEnd, b'\n') if self.left == 0 => State::TrailerStart,
            (State::SizeEnd, b'\n') => State::Data,
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size { digits: 0 },
            (State::TrailerStart, b'\r') => State::LastLf,
            (State::Trailer, b'\r') => State::TrailerEnd,
            (State::TrailerEnd, b'\n') => State::TrailerStart,
            (State::LastLf, b'\n') => State::Done,
            (State::TrailerStart | State::Trailer, _)
                if byte != b'\n' && self.trailers < TRAILER_BYTES_MAX =>
            {
                self.trailers += 1;
                State::Trailer
            }
            _ => return None,
        })
    }

    /// One more digit of the size; sixteen fill a `u64` exactly.
    fn digit(&mut self, digits: u8, byte: u8) -> Option<State> {
        if digits == 16 {
            return None;
        }
        let value = match byte {
            b'0'..=b'9' => byte - b'0',
            _ => (byte | 0x20) - b'a' + 10,
        };
        self.left = self.left << 4 | u64::from(value);
        Some(State::Size { digits: digits + 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Decodes pieces of `input`: the body and the bytes left behind its end, or what came before
    /// the fault.
    fn decode(pieces: &[&[u8]]) -> Result<(Vec<u8>, bool, usize), Vec<u8>> {
        let (mut decoder, mut body, mut surplus) = (Decoder::new(), Vec::new(), 0);
        for piece in pieces {
            let mut bytes = piece.to_vec();
            let decoded = match decoder.decode(&mut bytes) {
                Ok(decoded) => decoded,
                Err(NotChunked { written }) => {
                    body.extend_from_slice(&bytes[..written]);
                    return Err(body);
                }
            };
            assert!(decoded.consumed == bytes.len() || decoder.is_done());
            surplus += bytes.len() - decoded.consumed;
            body.extend_from_slice(&bytes[..decoded.written]);
        }
        Ok((body, decoder.is_done(), surplus))
    }

    #[test]
    fn bodies() {
        let long = "x".repeat(2000);
        let check = |input: &str, expect: Result<(&str, bool, usize), &str>| {
            let expect = expect.map(|(body, done, left)| (body.as_bytes().to_vec(), done, left));
            let expect = expect.map_err(|before| before.as_bytes().to_vec());
            assert_eq!(decode(&[input.as_bytes()]), expect, "{input:?}");
        };
        check("5\r\nhello\r\n0\r\n\r\n", Ok(("hello", true, 0)));
        check(
            "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
            Ok(("hello world", true, 0)),
        );
        check(
            "00000000000000A\r\n0123456789\r\n0\r\n\r\n",
            Ok(("0123456789", true, 0)),
        );
        check(
            "a;x=\"y\"\r\n0123456789\r\n0;z\r\n\r\n",
            Ok(("0123456789", true, 0)),
        );
        check(
            "5  \r\nhello\r\n0\r\nX: y\r\nZ:\r\n\r\n",
            Ok(("hello", true, 0)),
        );
        check("1\r\nh\r\n0\r\n\r\nmore", Ok(("h", true, 4)));
        check("5\r\nhel", Ok(("hel", false, 0)));
        check("0\r\n", Ok(("", false, 0)));
        for broken in [
            "\r\n",
            ";\r\n",
            " 5\r\nhello",
            "5\nhello\n",
            "-1\r\n",
            "0x5\r\n",
            "5\r\nhelloX",
            "5\r\nhello\n",
            "5\rX",
            "g\r\n",
            "11112222333344445\r\n",
            "0\r\nX: y\n\r\n",
            "0\r\n\rX",
            "0\r\n\n",
            &format!("5;{long}"),
            &format!("0\r\nX: {long}{long}{long}"),
            "5;a\nb\r\n",
        ] {
            let before = if broken.contains("hello") && broken.starts_with("5\r") {
                "hello"
            } else {
                ""
            };
            check(broken, Err(before));
        }
        check(
            &format!("ffffffffffffffff\r\n{long}"),
            Ok((&long, false, 0)),
        );
    }

    #[test]
    fn cut_at_every_offset() {
        let input = b"5;a=b\r\nhello\r\n10\r\n0123456789abcdef\r\n0\r\nX: y\r\n\r\nrest";
        let whole = decode(&[input]).expect("is chunked");
        for cut in 0..=input.len() {
            assert_eq!(decode(&[&input[..cut], &input[cut..]]).as_ref(), Ok(&whole));
        }
        let bytes: Vec<&[u8]> = input.chunks(1).collect();
        assert_eq!(decode(&bytes), Ok(whole));
    }

    proptest! {
        #[test]
        fn what_was_encoded_comes_back(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..8), step in 1usize..64) {
            let mut input = Vec::new();
            for chunk in &chunks {
                input.extend_from_slice(format!("{:X}\r\n", chunk.len()).as_bytes());
                input.extend_from_slice(chunk);
                input.extend_from_slice(b"\r\n");
            }
            input.extend_from_slice(b"0\r\n\r\n");
            let pieces: Vec<&[u8]> = input.chunks(step).collect();
            prop_assert_eq!(decode(&pieces), Ok((chunks.concat(), true, 0)));
        }

        #[test]
        fn any_bytes_decode_alike_however_they_are_cut(input in "[0-9a-f;\r\n x]{0,80}", step in 1usize..20) {
            let pieces: Vec<&[u8]> = input.as_bytes().chunks(step).collect();
            prop_assert_eq!(decode(&pieces), decode(&[input.as_bytes()]));
        }

        #[test]
        fn no_bytes_make_it_panic(input in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&[&input]).is_ok();
        }
    }
}
