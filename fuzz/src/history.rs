//! Whatever is stored, appending to it keeps both limits, and a valid history stays valid.
#![no_main]

use cloudchat::llm::{history, prompt};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let [bytes_max, exchanges_max, cut, text @ ..] = input else {
        return;
    };
    let (bytes_max, exchanges_max) = (usize::from(*bytes_max) * 4, usize::from(*exchanges_max));
    let (stored, rest) = text.split_at(text.len().min(usize::from(*cut)));
    let turn = prompt::escape(&String::from_utf8_lossy(rest));
    let from_anything = history::append(stored, &turn, &turn, exchanges_max, bytes_max);
    assert!(from_anything.len() <= bytes_max);
    let _: bool = history::check(stored);

    // Escapes that the text itself holds, surrogate halves included, and turns of any length.
    let escapes: Vec<u8> = rest
        .iter()
        .flat_map(|byte| match byte {
            b'H' => b"\\ud83d".to_vec(),
            b'L' => b"\\uDE0a".to_vec(),
            byte => prompt::escape(&char::from(*byte).to_string()),
        })
        .collect();
    let mut chat = Vec::new();
    for _ in 0..4 {
        chat = history::append(&chat, &escapes, &escapes, exchanges_max, bytes_max);
        assert!(history::check(&chat) && chat.len() <= bytes_max);
    }
});
