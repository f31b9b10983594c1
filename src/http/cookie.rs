//! Cookies: reading the ones we set, and setting them (RFC 6265).

use hyper::HeaderMap;
use hyper::header::{COOKIE, HeaderValue};

use crate::entropy;

/// The first value sent under this name, without quotes around it.
pub fn get<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut lines = headers.get_all(COOKIE).iter();
    let value = lines.find_map(|line| find(line.as_bytes(), name))?;
    let bare = value
        .strip_prefix(b"\"")
        .and_then(|value| value.strip_suffix(b"\""));
    Some(std::str::from_utf8(bare.unwrap_or(value)).unwrap_or_default())
}

/// The first value of this name in one line of pairs.
fn find<'a>(mut line: &'a [u8], name: &str) -> Option<&'a [u8]> {
    loop {
        let end = memchr::memchr(b';', line).unwrap_or(line.len());
        let pair = line[..end].trim_ascii().strip_prefix(name.as_bytes());
        if let Some(value) = pair.and_then(|rest| rest.strip_prefix(b"=")) {
            return Some(value);
        }
        line = line.get(end + 1..)?;
    }
}

/// The first value of this cookie if it looks like one of our tokens: 43 characters of base64url.
/// Anything else is unknown without asking a store.
pub fn token<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    get(headers, name).filter(|value| entropy::is_token(value))
}

/// A `Set-Cookie` value with the attributes that all our cookies have.
pub fn set(name: &str, value: &str, max_age_seconds: u64, secure: bool) -> HeaderValue {
    let secure = if secure { "; Secure" } else { "" };
    let text = format!(
        "{name}={value}; Max-Age={max_age_seconds}; Path=/; HttpOnly; SameSite=Lax{secure}"
    );
    HeaderValue::from_str(&text)
        .expect("names are checked tokens and values are base64url with dots")
}

/// A `Set-Cookie` value that removes a cookie: the same attributes, and no time to live.
pub fn clear(name: &str, secure: bool) -> HeaderValue {
    set(name, "", 0, secure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_a_name_counts_without_its_quotes() {
        for (lines, expect) in [
            (&["a=1; cc=2"][..], Some("2")),
            (&["cc=1; cc=2"], Some("1")),
            (&["a=1", "cc=\"3\""], Some("3")),
            (&["ccc=1; xcc=2"], None),
            (&["cc"], None),
            (&["cc=\""], Some("\"")),
            (&["cc=a=b"], Some("a=b")),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(COOKIE, line.parse().unwrap());
            }
            assert_eq!(get(&headers, "cc"), expect, "{lines:?}");
        }
    }

    #[test]
    fn only_43_characters_of_base64url_are_a_token() {
        let good = "A-_z".repeat(10) + "abc";
        for (value, is) in [
            (good.clone(), true),
            (format!("\"{good}\""), true),
            (good.replace('z', "+"), false),
            (good.clone() + "a", false),
            (String::new(), false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(COOKIE, format!("cc={value}").parse().unwrap());
            assert_eq!(token(&headers, "cc").is_some(), is, "{value}");
        }
    }

    #[test]
    fn set_cookie_has_all_attributes() {
        let expect = "n=v; Max-Age=3600; Path=/; HttpOnly; SameSite=Lax; Secure";
        assert_eq!(set("n", "v", 3600, true), expect);
        assert_eq!(
            set("n", "v", 3600, false),
            expect.strip_suffix("; Secure").unwrap()
        );
        let cleared = "n=; Max-Age=0; Path=/; HttpOnly; SameSite=Lax; Secure";
        assert_eq!(clear("n", true), cleared);
    }
}
