//! Invariant: no bytes make the parser of provider response heads panic, a head never reaches
//! beyond its bytes, and more bytes never change a verdict.
#![no_main]

use cloudchat::upstream::head::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let whole = parse(bytes);
    if let Ok(Some((head, length))) = &whole {
        assert!(*length <= bytes.len() && head.status >= 100);
    }
    let half = parse(&bytes[..bytes.len() / 2]);
    assert!(half == Ok(None) || half == whole);
});
