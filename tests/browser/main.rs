//! A real browser, through the shipped site of Nginx: a front end's pages, and what a page's reader sees of an
//! answer that breaks off. When a body ends in an error, Chromium throws away what the reader has not taken yet.

#[expect(
    dead_code,
    unused_imports,
    reason = "the kit is that of the API's tests, which use all of it"
)]
#[path = "../api/kit/mod.rs"]
mod kit;

mod chromium;
mod pages;

use std::thread;

use serde_json::{Value, json};

use crate::chromium::Chromium;
use crate::kit::nginx::Nginx;
use crate::kit::provider::Call;
use crate::kit::{Provider, Server, pass};

/// Answers that a page reads at the same time; Chromium opens six connections to a host at most.
const AT_ONCE: usize = 5;
/// How long the page is busy between two reads, in milliseconds.
const PAUSES_MS: [u64; 4] = [0, 30, 100, 300];

/// Asks so many questions at once, as the site's front end does, and reads each answer with these pauses.
/// Gives, for each, its status, all that its reader got, and the error that it met.
const ASK: &str = r#"
const [count, pause, done] = arguments;
async function ask() {
  const response = await fetch('/cloudchat/deepseek_chat', {
    method: 'POST',
    credentials: 'include',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ message: 'Hi' }),
  });
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let text = '';
  let error = null;
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      text += decoder.decode(value, { stream: true });
      if (pause > 0) await new Promise((resolve) => setTimeout(resolve, pause));
    }
  } catch (thrown) {
    error = String(thrown);
  }
  return { status: response.status, text, error };
}
Promise.all(Array.from({ length: count }, ask)).then(done, (thrown) => done(String(thrown)));
"#;

/// Breaks off in the middle of an answer, each text a moment after the one before.
fn break_off(mut call: Call) {
    call.accept();
    for n in 0..6 {
        call.text(&format!("text {n} "));
        pass(0.02);
    }
}

/// Answers of which the page did not see the error line, out of how many; and what it saw instead.
fn lost(chromium: &mut Chromium) -> (Vec<String>, usize) {
    let mut lost = Vec::new();
    let mut all = 0;
    for pause in PAUSES_MS {
        let answers = chromium.run(ASK, &json!([AT_ONCE, pause]));
        let answers = answers.as_array().unwrap_or_else(|| panic!("{answers}"));
        for answer in answers {
            all += 1;
            assert_eq!(answer["status"], 200, "{answer}");
            let text = answer["text"].as_str().expect("it is a text");
            let is_error_line = |line: &str| {
                let line: Value = serde_json::from_str(line).unwrap_or_default();
                line["done"] == "error"
            };
            if !text.lines().any(is_error_line) {
                let last = text.lines().last().unwrap_or("nothing");
                lost.push(format!("{pause} ms between reads: saw {last}"));
            }
            // The break itself must not go: it is for clients that know nothing of the line.
            assert!(answer["error"].is_string(), "{answer}");
        }
    }
    (lost, all)
}

fn check(protocol: &str, replacements: &[(&str, &str)]) {
    let provider = Provider::played();
    let server = Server::start(&provider, "upstream.breaker_failures_max = 0");
    let nginx = Nginx::with(server.direct, replacements);
    let mut chromium = Chromium::start();
    chromium.open(&format!("https://[::1]:{}/cloudchat/test", nginx.tls));
    let spoken = "arguments[0](performance.getEntriesByType('navigation')[0].nextHopProtocol)";
    assert_eq!(chromium.run(spoken, &json!([])), protocol);
    let (lost, all) = thread::scope(|scope| {
        let reading = scope.spawn(|| lost(&mut chromium));
        while !reading.is_finished() {
            if let Some(call) = provider.try_call() {
                scope.spawn(|| break_off(call));
            }
            pass(0.002);
        }
        reading.join().expect("it does not panic")
    });
    assert_eq!(all, 4 * AT_ONCE);
    assert!(
        lost.is_empty(),
        "{protocol}: the error line was lost in {} of {all} answers:\n{}",
        lost.len(),
        lost.join("\n")
    );
}

#[test]
fn the_error_line_is_seen_over_http_2() {
    check("h2", &[]);
}

#[test]
fn the_error_line_is_seen_over_http_1_1() {
    check("http/1.1", &[(" ssl http2", " ssl"), ("# http2 on;", "")]);
}
