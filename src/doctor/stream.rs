//! A chat as it arrives through the proxy: line by line, uncompressed, to its end.

use std::time::Duration;

use serde_json::Value;

use super::Report;
use super::fetch::{End, Reply, Unreached};
use super::proxy::Need;
use super::site::Site;

/// Texts that an answer must have for its pace to tell anything.
const TEXTS_MIN: usize = 5;
/// Texts that came over a longer time than this were not held back.
const BURST: Duration = Duration::from_millis(20);
/// A whole answer that took less may well be a fast model's.
const PACE_MIN: Duration = Duration::from_millis(100);
/// Pieces that came closer together than this came at once.
const AT_ONCE: Duration = Duration::from_millis(5);
/// So many texts at once, each time after [`PACE_MIN`] without any, were gathered.
const GATHERED_MIN: usize = 4;
/// An answer is watched for so long: proxies that end it do so after 15 s (Envoy).
const WATCHED: Duration = Duration::from_secs(20);
/// A model needs some 20 s for it, or stops at `max_tokens`; what is not watched is not generated.
const QUESTION: &str =
    r#"{"message":"Write the numbers from 1 to 600 in English words, one a line, nothing else."}"#;

/// Asks one question, and sees whether the answer comes as the model writes it: line by line, uncompressed,
/// to its end, or for as long as it is watched.
pub async fn check(report: &mut Report, site: &Site) -> Result<(), Unreached> {
    let reply = site.watch("/deepseek_chat", QUESTION, WATCHED).await?;
    if reply.status != 200 {
        // Whoever has to log in first cannot be helped from here.
        let said: Option<Value> = serde_json::from_slice(&reply.body).ok();
        let said = said.and_then(|said| said["error"].as_str().map(str::to_owned));
        report.expect(
            "stream",
            reply.status == 401,
            format!("a chat gets {}: {}", reply.status, said.unwrap_or_default()),
            "cloudchat doctor on the server itself says what is wrong with the provider",
        );
        return Ok(());
    }
    let encoding = reply.all("content-encoding").next();
    report.expect(
        "stream",
        encoding.is_none(),
        format!(
            "answers are compressed ({}), which holds lines back or costs memory for each",
            encoding.unwrap_or_default()
        ),
        site.proxies.fix(Need::Plain),
    );
    if encoding.is_some() {
        return Ok(());
    }
    let pace = pace(&reply);
    report.expect(
        "stream",
        pace.is_none(),
        format!("answers are held back: {}", pace.unwrap_or_default()),
        site.proxies.fix(Need::Unbuffered),
    );
    let took = reply.pieces.last().map_or(Duration::ZERO, |piece| piece.0);
    report.expect(
        "stream",
        reply.end == End::Watched || has_last_line(&reply.body),
        format!(
            "answers are cut: one ended after {:.1} s without its last line",
            took.as_secs_f64()
        ),
        site.proxies.fix(Need::Unlimited),
    );
    Ok(())
}

/// What shows that lines were not sent on as they came, if anything does.
fn pace(reply: &Reply) -> Option<String> {
    let arrivals = arrivals(reply);
    let (first, last) = (arrivals.first()?.0, arrivals.last()?.0);
    let texts: usize = arrivals.iter().map(|(_, texts)| texts).sum();
    if texts < TEXTS_MIN {
        return None;
    }
    let took = last.saturating_sub(first);
    if took < BURST {
        let silence = first.as_millis();
        let took = took.as_millis();
        let all = format!("{texts} texts came within {took} ms after {silence} ms of silence");
        return (last > PACE_MIN).then_some(all);
    }
    let pauses = arrivals.windows(2).map(|two| two[1].0 - two[0].0);
    let gathered = pauses.zip(&arrivals[1..]);
    let gathered =
        gathered.filter(|(pause, (_, texts))| *pause >= PACE_MIN && *texts >= GATHERED_MIN);
    let gathered: usize = gathered.map(|(_, (_, texts))| texts).sum();
    let each = took.as_millis() / (arrivals.len() - 1).max(1) as u128;
    (gathered > texts / 2).then(|| format!("several texts at once come every {each} ms or so"))
}

/// When something came, and the texts that were complete then and not before.
fn arrivals(reply: &Reply) -> Vec<(Duration, usize)> {
    let mut arrivals: Vec<(Duration, usize)> = Vec::new();
    let (mut line_at, mut last) = (0, Duration::ZERO);
    for (at, bytes) in &reply.pieces {
        let mut texts = 0;
        while let Some(length) = memchr::memchr(b'\n', &reply.body[line_at..*bytes]) {
            texts += usize::from(reply.body[line_at..].starts_with(b"{\"text\""));
            line_at += length + 1;
        }
        let is_same = at.saturating_sub(last) < AT_ONCE;
        match arrivals.last_mut().filter(|_| is_same) {
            Some(arrival) => arrival.1 += texts,
            None => arrivals.push((*at, texts)),
        }
        last = *at;
    }
    arrivals
}

/// Whether an answer has come to its end, good or bad, as far as the server is concerned.
fn has_last_line(body: &[u8]) -> bool {
    let lines = body.split(|byte| *byte == b'\n');
    let last = lines.rev().find(|line| !line.trim_ascii().is_empty());
    let last: Option<Value> = last.and_then(|line| serde_json::from_slice(line).ok());
    last.is_some_and(|last| last["done"].is_string())
}

#[cfg(test)]
mod tests {
    use hyper::HeaderMap;

    use super::*;

    /// An answer of which so many texts each came so many milliseconds after the request, in so many pieces.
    fn answer(arrivals: &[(u64, usize)], in_pieces: usize) -> Reply {
        let (mut body, mut pieces) = (Vec::new(), Vec::new());
        for (ms, texts) in arrivals {
            for n in 0..*texts {
                body.extend(b"{\"text\":\"x\"}\n");
                if n % in_pieces == in_pieces - 1 || n == texts - 1 {
                    pieces.push((Duration::from_millis(*ms), body.len()));
                }
            }
        }
        Reply {
            status: 200,
            headers: HeaderMap::new(),
            body,
            pieces,
            end: End::Whole,
            skew: None,
        }
    }

    #[test]
    fn the_pace_of_an_answer_tells_whether_it_was_held_back() {
        let every = |ms: u64, texts: usize| -> Vec<(u64, usize)> {
            (1..=20).map(|n| (300 + n * ms, texts)).collect()
        };
        for (what, arrivals, is_held) in [
            ("nothing", vec![], false),
            ("few", vec![(900, 4)], false),
            ("a model", every(30, 1), false),
            ("a slow model", every(500, 1), false),
            ("a model that sends pairs", every(120, 2), false),
            ("a fast model", every(10, 6), false),
            ("all at once", vec![(900, 30)], true),
            ("all at once, from a fast model", vec![(90, 30)], false),
            ("gathered", every(200, 7), true),
            (
                "a large one now and then",
                [every(40, 1), vec![(1400, 9)]].concat(),
                false,
            ),
            (
                "4 KiB at a time",
                vec![(900, 300), (1900, 300), (2500, 120)],
                true,
            ),
        ] {
            for in_pieces in [1, 3, 1000] {
                let reply = answer(&arrivals, in_pieces);
                assert_eq!(
                    pace(&reply).is_some(),
                    is_held,
                    "{what}: {:?}",
                    pace(&reply)
                );
            }
        }
    }

    #[test]
    fn the_last_line_tells_that_an_answer_is_whole() {
        for (body, has) in [
            ("", false),
            ("\n\n", false),
            ("{\"text\":\"a\"}\n", false),
            ("{\"text\":\"a\"}\n{\"done\":\"st", false),
            ("{\"text\":\"a\"}\n{\"done\":\"stop\"}\n\n", true),
            ("{\"error\":\"x\",\"done\":\"error\"}\n", true),
        ] {
            assert_eq!(has_last_line(body.as_bytes()), has, "{body}");
        }
    }
}
