//! What a response says, and what a chat client makes of it.

use serde_json::Value;

/// The head of a response.
#[derive(Debug, Clone)]
pub struct Head {
    pub status: u16,
    pub headers: Vec<(String, String)>,
}

/// A whole response.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub head: Head,
    pub body: String,
    /// Whether the body ended as HTTP wants it (`false`: broken transfer).
    pub whole: bool,
}

impl Head {
    /// The first header of that name (lower case).
    pub fn get(&self, name: &str) -> Option<&str> {
        self.all(name).into_iter().next()
    }

    /// All headers of that name (lower case).
    pub fn all(&self, name: &str) -> Vec<&str> {
        let mine = self.headers.iter().filter(|(n, _)| n == name);
        mine.map(|(_, value)| value.as_str()).collect()
    }
}

impl Reply {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.head.get(name)
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body)
            .unwrap_or_else(|e| panic!("no JSON ({e}): {:?} {}", self.body, self.status))
    }

    /// The lines of a stream, without the empty ones.
    pub fn lines(&self) -> Vec<&str> {
        self.body.lines().filter(|line| !line.is_empty()).collect()
    }

    /// The text of a stream, put together as a client does.
    pub fn text(&self) -> String {
        self.lines()
            .iter()
            .filter_map(|line| text_of(line))
            .collect()
    }

    /// The value of the cookie that this response sets, if it does.
    pub fn cookie(&self, name: &str) -> Option<String> {
        cookie_in(&self.head, name)
    }
}

/// The `text` of one line.
pub fn text_of(line: &str) -> Option<String> {
    let value: Value = serde_json::from_str(line).ok()?;
    Some(value.get("text")?.as_str()?.to_owned())
}

/// The value of the cookie that this head sets, if it does.
pub fn cookie_in(head: &Head, name: &str) -> Option<String> {
    let start = format!("{name}=");
    let set = head
        .all("set-cookie")
        .into_iter()
        .find_map(|v| v.strip_prefix(start.as_str()))?;
    Some(set.split(';').next().unwrap_or_default().to_owned())
}
