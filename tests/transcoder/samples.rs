//! Every recorded stream, cut at every byte offset and byte by byte: what comes out is the text
//! that stands here.

use std::collections::BTreeSet;

use super::{assert_cuts_do_not_matter, joined};

/// File, number of lines, the text, and how it ends.
type Row = (
    &'static str,
    usize,
    &'static str,
    Result<&'static str, &'static str>,
);

const SAMPLES: &[Row] = &[
    ("blank-data.sse", 2, "Hello", Ok("stop")),
    ("content-list.sse", 2, "Hello", Ok("stop")),
    ("crlf.sse", 2, "CRLF", Ok("stop")),
    ("deepseek-thinking.sse", 3, "Hello!", Ok("stop")),
    (
        "deepseek.sse",
        11,
        "你好！我是 DeepSeek，很高兴为你服务。 😊",
        Ok("stop"),
    ),
    ("done-only.sse", 0, "", Err("Cut")),
    ("empty-choices.sse", 1, "ok", Ok("stop")),
    (
        "error-in-stream.sse",
        2,
        "Half",
        Err("Provider(ProviderError(\"503\"))"),
    ),
    (
        "event-error.sse",
        0,
        "",
        Err("Provider(ProviderError(\"Throttling.AllocationQuota\"))"),
    ),
    (
        "finish-error.sse",
        1,
        "Hel",
        Err("Provider(ProviderError(\"502\"))"),
    ),
    ("length.sse", 1, "too lo", Ok("length")),
    (
        "llama-cpp-emoji.sse",
        58,
        "Here are ten food emoji:\n\n- 🥑 avocado\n- 🧇 waffle\n- 👩🏽‍🍳 cook\n- 🪨 waffle\n- 🪨 cook\n\
         - 🥑 avocado\n- 🧇 waffle\n- 👩🏽‍🍳 cook\n- 🪨 waffle\n\n",
        Ok("stop"),
    ),
    (
        "llama-cpp-ping.sse",
        5,
        "你好！我是一个人工智能",
        Ok("length"),
    ),
    (
        "llama-cpp-zh.sse",
        35,
        "长城是中国古代的交通工具之一，它从西周开始修建。它长约2000公里，从西周开始到今天的长江流域。\n\n",
        Ok("stop"),
    ),
    ("no-done.sse", 2, "All said", Ok("stop")),
    ("no-done-ping.sse", 2, "Hello", Ok("stop")),
    (
        "openai.sse",
        5,
        "Quote: \"a\\b\"\n\t<tag> & 'x' café 你好😊 done",
        Ok("stop"),
    ),
    (
        "qwen.sse",
        4,
        "你好！我是通义千问，可以帮你写代码：\n```rust\nfn main() {}\n```",
        Ok("stop"),
    ),
    (
        "refused.sse",
        0,
        "",
        Err("Provider(ProviderError(\"data_inspection_failed\"))"),
    ),
    ("truncated.sse", 2, "Cut he", Err("Cut")),
];

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/upstream");

fn check((file, lines, text, end): &Row) {
    let stream =
        std::fs::read(format!("{FOLDER}/{file}")).expect("the sample is in the repository");
    let (out, found) = assert_cuts_do_not_matter(&stream);
    assert_eq!(joined(&out), *text, "{file}");
    assert_eq!(out.lines().count(), *lines, "{file}");
    assert_eq!(
        found,
        end.map(str::to_owned).map_err(str::to_owned),
        "{file}"
    );
}

#[test]
fn small_samples_come_out_as_recorded_however_they_are_cut() {
    SAMPLES.iter().filter(|row| row.1 < 30).for_each(check);
}

#[test]
fn the_emoji_sample_comes_out_as_recorded_however_it_is_cut() {
    SAMPLES.iter().filter(|row| row.1 == 58).for_each(check);
}

#[test]
fn the_chinese_sample_comes_out_as_recorded_however_it_is_cut() {
    SAMPLES.iter().filter(|row| row.1 == 35).for_each(check);
}

#[test]
fn every_sample_has_its_row() {
    let found: BTreeSet<String> = std::fs::read_dir(FOLDER)
        .expect("the samples are in the repository")
        .map(|entry| entry.expect("it can be listed").file_name())
        .map(|name| name.into_string().expect("it is ASCII"))
        .collect();
    assert_eq!(found, SAMPLES.iter().map(|row| row.0.to_owned()).collect());
}
