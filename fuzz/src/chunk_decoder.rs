//! Invariant: no bytes make the chunk decoder panic, and what it decodes does not depend on how
//! its input is cut. The first byte says how.
#![no_main]

use cloudchat::upstream::chunked::Decoder;
use libfuzzer_sys::fuzz_target;

/// The body, and whether it ended; `None` in its place if the framing is broken.
fn decode(input: &[u8], step: usize) -> (Vec<u8>, Option<bool>) {
    let (mut decoder, mut body) = (Decoder::new(), Vec::new());
    for piece in input.chunks(step) {
        let mut bytes = piece.to_vec();
        match decoder.decode(&mut bytes) {
            Ok(decoded) => {
                assert!(decoded.written <= decoded.consumed && decoded.consumed <= bytes.len());
                body.extend_from_slice(&bytes[..decoded.written]);
            }
            Err(fault) => {
                body.extend_from_slice(&bytes[..fault.written]);
                return (body, None);
            }
        }
    }
    (body, Some(decoder.is_done()))
}

fuzz_target!(|input: &[u8]| {
    let Some((step, input)) = input.split_first() else {
        return;
    };
    assert_eq!(
        decode(input, usize::from(*step).max(1)),
        decode(input, usize::MAX)
    );
});
