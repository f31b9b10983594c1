//! A front end as Astro builds it, in the folder that the shipped site publishes.

use serde_json::json;

use crate::chromium::Chromium;
use crate::kit::nginx::{NAME, Nginx};
use crate::kit::{Provider, Server};

/// Scripts and styles in the page, a module with a hash in its name, pictures of another site's, and a script of
/// another site's that nobody has allowed.
const HOME: &str = r#"<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Home</title>
<style>h1 { margin: 3px }</style>
<script>
window.refused = [];
document.addEventListener('securitypolicyviolation', (event) => refused.push(event.effectiveDirective + ' ' + event.blockedURI));
document.documentElement.classList.add('dark-mode');
</script>
<script type="module" src="/_astro/page.Ab12_d-4.js"></script>
</head><body>
<h1 style="padding: 2px">Home</h1>
<img src="https://pictures.example.org/badge.png" alt=""><img src="data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA=" alt="">
<script src="https://other.example.org/counter.js"></script>
</body></html>"#;
const MODULE: &str = "\
import { ask } from './ask.Xy98_z-7.js';
window.answer = ask();
";
const ASK: &str = "\
export async function ask() {
  const response = await fetch('/cloudchat/deepseek_chat', {
    method: 'POST',
    credentials: 'include',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ message: 'Hi' }),
  });
  return response.status + ' ' + (await response.text());
}
";
const MISSING: &str = "<!doctype html><title>No such page</title>";
/// What has become of the page once all is there.
const LOOK: &str = r#"
const [done] = arguments;
const look = async () => {
  const heading = getComputedStyle(document.querySelector('h1'));
  done([document.documentElement.className, heading.margin, heading.padding, await window.answer, window.refused]);
};
if (document.readyState === 'complete') look(); else addEventListener('load', look);
"#;

#[test]
fn a_front_end_works_and_scripts_of_others_do_not_run() {
    let provider = Provider::friendly();
    let server = Server::start(&provider, "");
    let nginx = Nginx::before(server.direct);
    for (name, text) in [
        ("index.html", HOME),
        ("404.html", MISSING),
        ("_astro/page.Ab12_d-4.js", MODULE),
        ("_astro/ask.Xy98_z-7.js", ASK),
    ] {
        nginx.publish(name, text);
    }
    let mut chromium = Chromium::start();
    chromium.open(&format!("https://{NAME}:{}/", nginx.named));
    let seen = chromium.run(LOOK, &json!([]));
    let answer = seen[3].as_str().unwrap_or_else(|| panic!("{seen}"));
    assert!(
        answer.starts_with("200 {\"text\":") && answer.ends_with("{\"done\":\"stop\"}\n"),
        "{answer}"
    );
    assert_eq!(
        seen,
        json!([
            "dark-mode",
            "3px",
            "2px",
            answer,
            ["script-src-elem https://other.example.org/counter.js"]
        ])
    );
    chromium.open(&format!("https://{NAME}:{}/nowhere", nginx.named));
    let title = chromium.run("arguments[0](document.title)", &json!([]));
    assert_eq!(title, "No such page");
}
