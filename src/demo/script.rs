//! What the simulated model says: its own words about what it was asked, now and before.

use serde::Deserialize;

/// A message of the prompt.
#[derive(Debug, Deserialize)]
pub struct Message {
    /// Who said it: `system`, `user` or `assistant`.
    pub role: String,
    /// What was said.
    pub content: String,
}

/// Longest part of a question that is quoted, in characters.
const QUOTE_CHARS_MAX: usize = 60;

/// An answer to the last question that refers to those before it.
pub fn answer(messages: &[Message]) -> String {
    let questions: Vec<&str> = messages
        .iter()
        .filter(|m| m.role == "user")
        .map(|m| m.content.as_str())
        .collect();
    let Some((now, before)) = questions.split_last() else {
        return "(simulation) I was asked nothing.".to_string();
    };
    match now.chars().any(is_chinese) {
        true => chinese(now, before),
        false => english(now, before),
    }
}

fn english(now: &str, before: &[&str]) -> String {
    let Some(first) = before.first() else {
        let hello = name(now).map_or("Hello".to_string(), |name| {
            format!("Nice to meet you, {name}")
        });
        return format!(
            "{hello}! I am a simulation, not a language model, but every word takes the way of a \
             real one: provider, event stream, transcoder, chunk, you. You said “{}” ({} words); \
             ask me something else and I will show that I remember it. 🙂",
            quote(now),
            now.split_whitespace().count()
        );
    };
    let last = before.last().unwrap_or(first);
    let count = before.len();
    let name = before.iter().find_map(|q| name(q));
    let name = name.map_or(String::new(), |name| format!("Your name is {name}. "));
    let turns = if count == 1 { "question" } else { "questions" };
    format!(
        "{name}I remember {count} {turns} from before: you began with “{}”{}. Now you say “{}”. \
         (This is a simulation; with DEEPSEEK_API_KEY set, `cloudchat serve` asks a real model.)",
        quote(first),
        match count {
            1 => String::new(),
            _ => format!(", and just now it was “{}”", quote(last)),
        },
        quote(now),
    )
}

fn chinese(now: &str, before: &[&str]) -> String {
    let Some(first) = before.first() else {
        return format!(
            "你好！我只是一个模拟程序，不是真正的语言模型，但每个字走的都是真实的路径。你说的是“{}”。\
             再问我一个问题，我会证明我还记得它。🙂",
            quote(now)
        );
    };
    format!(
        "我记得之前的 {} 个问题：你最先说的是“{}”，现在你问“{}”。（这是模拟的回答；设置 DEEPSEEK_API_KEY 后，\
         `cloudchat serve` 会使用真正的模型。）",
        before.len(),
        quote(first),
        quote(now)
    )
}

/// The name in "my name is …", if one is given.
fn name(question: &str) -> Option<&str> {
    let at = question.to_ascii_lowercase().find("my name is ")?;
    let rest = &question[at + "my name is ".len()..];
    let name = rest.split(|c: char| !c.is_alphanumeric()).next()?;
    (!name.is_empty()).then_some(name)
}

fn quote(question: &str) -> String {
    let mut quoted: String = question.chars().take(QUOTE_CHARS_MAX).collect();
    if quoted.len() < question.len() {
        quoted.push('…');
    }
    quoted
}

fn is_chinese(c: char) -> bool {
    ('\u{4e00}'..='\u{9fff}').contains(&c)
}

/// A text in the pieces that a model would send: a word with its blank, a Chinese character.
pub fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let mut chars = rest.char_indices();
        let (_, first) = chars.next()?;
        let end = match is_chinese(first) {
            true => first.len_utf8(),
            false => chars
                .find(|(_, c)| is_chinese(*c) || *c == ' ')
                .map_or(rest.len(), |(at, _)| at),
        };
        let (piece, tail) = rest.split_at(end);
        rest = tail;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(content: &str) -> Message {
        Message {
            role: "user".to_string(),
            content: content.to_string(),
        }
    }

    #[test]
    fn the_second_answer_refers_to_the_first_question() {
        let first = answer(&[user("My name is Ada, hello")]);
        assert!(
            first.contains("Ada") && first.contains("simulation"),
            "{first}"
        );
        let second = answer(&[user("My name is Ada, hello"), user("Who am I?")]);
        assert!(
            second.contains("Your name is Ada") && second.contains("simulation"),
            "{second}"
        );
        let second = answer(&[user("你好"), user("我刚才说了什么？")]);
        assert!(
            second.contains("“你好”") && second.contains("模拟"),
            "{second}"
        );
    }

    #[test]
    fn the_pieces_make_up_the_text() {
        for text in ["", "one", " two words ", "你好 world, 再见!"] {
            assert_eq!(pieces(text).collect::<String>(), text);
        }
        assert_eq!(
            pieces("你好 a b").collect::<Vec<_>>(),
            ["你", "好", " a", " b"]
        );
    }
}
