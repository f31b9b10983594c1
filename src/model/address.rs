//! The forms of an email address. One mailbox may be written with composed or decomposed characters (NFC, NFD), and
//! its domain in Unicode or in ASCII (U-labels and A-labels of RFC 5890, the latter in Punycode).

use std::borrow::Cow;
use std::fmt;

use idna::punycode;
use unicode_normalization::char::{
    canonical_combining_class, compose, decompose_canonical, decompose_compatible,
};
use zeroize::Zeroize as _;

/// What is longer is no address, however it was typed: 254 code points of 12 bytes.
const ADDRESS_BYTES_MAX: usize = 254 * 12;
/// Longest label of a domain, in ASCII (RFC 1035 section 2.3.4).
const LABEL_BYTES_MAX: usize = 63;
/// Longest domain, in ASCII (RFC 1035 section 2.3.4, less the length before the first label and the root's).
const DOMAIN_BYTES_MAX: usize = 253;
/// The other character that ends a label, once compatibility forms are replaced (UTS #46 section 2.3).
const FULL_STOP: char = '\u{3002}';
/// What an A-label begins with (RFC 5890 section 2.3.2.1).
const PREFIX: &str = "xn--";

/// The text with composed characters (Unicode's normalization form C).
pub fn nfc(text: &str) -> Cow<'_, str> {
    match text.is_ascii() {
        true => Cow::Borrowed(text),
        false => Cow::Owned(normalized(text, false)),
    }
}

/// Whether no more than 30 marks follow each other, as in every text that somebody reads (UAX #15, stream-safe text).
pub fn is_stream_safe(text: &str) -> bool {
    const MARKS_MAX: u32 = 30;
    let mut marks = 0;
    text.chars().all(|c| {
        marks = match canonical_combining_class(c) {
            0 => 0,
            _ => marks + 1,
        };
        marks <= MARKS_MAX
    })
}

/// A text in form C, or in form KC, which has no compatibility forms (UAX #15). The time grows with the square of the
/// length if marks come in the wrong order, so that whoever calls this bounds it.
///
/// The rules are few; the iterators of `unicode-normalization`, whose tables these are, would add 9 KiB to the program.
#[inline(never)]
fn normalized(text: &str, is_compatible: bool) -> String {
    // With its whole room at once, as form C takes less than two code points and no more than three bytes for each
    // byte: what grows leaves copies behind, and this may be a password.
    let mut marks: Vec<(u8, char)> = Vec::with_capacity(2 * text.len());
    let mut push = |c| {
        let class = canonical_combining_class(c);
        let mut at = marks.len();
        while class > 0 && at > 0 && marks[at - 1].0 > class {
            at -= 1;
        }
        marks.insert(at, (class, c));
    };
    let push: &mut dyn FnMut(char) = &mut push;
    for c in text.chars() {
        match is_compatible {
            true => decompose_compatible(c, &mut *push),
            false => decompose_canonical(c, &mut *push),
        }
    }
    // What is composed takes the place of what it was made of.
    let mut kept = 0;
    let mut starter: Option<usize> = None;
    for n in 0..marks.len() {
        let (class, c) = marks[n];
        // Another one between them that was kept blocks those of its class, and below.
        if let Some(starter) = starter
            && (starter + 1 == kept || marks[kept - 1].0 < class)
            && let Some(both) = compose(marks[starter].1, c)
        {
            marks[starter].1 = both;
            continue;
        }
        if class == 0 {
            starter = Some(kept);
        }
        marks[kept] = (class, c);
        kept += 1;
    }
    let mut composed = String::with_capacity(3 * text.len());
    composed.extend(marks[..kept].iter().map(|(_, c)| c));
    marks.zeroize();
    composed
}

/// Whether a character shows nothing by itself, or changes the order in which others are shown: blanks, controls,
/// those of the general category Cf, the default ignorable ones (UAX #44), the blank of Braille, and what is no
/// character.
#[inline(never)]
pub fn is_unseen(c: char) -> bool {
    c.is_whitespace()
        || c.is_control()
        || matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}'
        | '\u{890}'..='\u{891}' | '\u{8e2}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
        | '\u{ffa0}' | '\u{fff0}'..='\u{ffff}' | '\u{110bd}' | '\u{110cd}'
        | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}')
}

/// The ways to write an address that a store may hold it under.
#[derive(Clone)]
pub struct Forms<'a> {
    given: &'a str,
    /// In Unicode and in ASCII, where these may be others.
    made: Option<(String, String)>,
}

impl<'a> Forms<'a> {
    /// Of a text that is no address.
    pub fn one(given: &'a str) -> Self {
        Self { given, made: None }
    }

    /// Of an address in lower case. Where no domain can be what follows its last `@`, the text has one form, in NFC;
    /// one that is longer than any address has itself.
    #[inline(never)]
    pub fn of(given: &'a str) -> Self {
        let is_prefix = |part: &[u8]| part == PREFIX.as_bytes();
        let is_plain = given.is_ascii() && !given.as_bytes().windows(4).any(is_prefix);
        if is_plain || given.len() > ADDRESS_BYTES_MAX {
            return Self::one(given);
        }
        let whole = nfc(given).into_owned();
        let (local, rest) = whole.rsplit_once('@').unwrap_or_default();
        let made = match domain(rest) {
            Some((unicode, ascii)) => {
                let at = |domain: String| [local, "@", &domain].concat();
                (at(unicode), at(ascii))
            }
            None => (whole.clone(), whole),
        };
        Self {
            given,
            made: Some(made),
        }
    }

    /// All of them, some alike: as given, which a store is asked for first, then in Unicode, then in ASCII.
    pub fn all(&self) -> [&str; 3] {
        match &self.made {
            Some((unicode, ascii)) => [self.given, unicode, ascii],
            None => [self.given; 3],
        }
    }

    /// The one that stands for all: NFC, its domain in ASCII where there can be such a domain.
    pub fn into_key(self) -> Cow<'a, str> {
        match self.made {
            Some((_, ascii)) => Cow::Owned(ascii),
            None => Cow::Borrowed(self.given),
        }
    }
}

/// Who somebody is has no place in a log.
impl fmt::Debug for Forms<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Forms")
    }
}

/// A domain in Unicode and in ASCII. `None`: no domain is written like this.
///
/// Of UTS #46 this has what needs no tables of its own: compatibility forms are replaced, and characters that are
/// not visible refused; which other characters a registry sells is not looked at.
pub fn domain(text: &str) -> Option<(String, String)> {
    let (mut unicode, mut ascii) = (String::new(), String::new());
    for text in plain(text).split(['.', FULL_STOP]) {
        let (shown, encoded) = label(text)?;
        unicode += &shown;
        unicode.push('.');
        ascii += &encoded;
        ascii.push('.');
    }
    unicode.pop();
    ascii.pop();
    (ascii.len() <= DOMAIN_BYTES_MAX).then_some((unicode, ascii))
}

/// A part of a domain in both forms.
#[inline(never)]
fn label(text: &str) -> Option<(String, String)> {
    // No character takes less than a byte of Punycode, whose time grows with the square of the length.
    if text.len() > 4 * LABEL_BYTES_MAX {
        return None;
    }
    let (shown, ascii) = match text.strip_prefix(PREFIX) {
        Some(encoded) => (decoded(encoded)?, text.to_owned()),
        None if text.is_ascii() => (text.to_owned(), text.to_owned()),
        None => {
            let chars: Vec<char> = text.chars().collect();
            (
                text.to_owned(),
                PREFIX.to_owned() + &punycode::encode(&chars)?,
            )
        }
    };
    let of_domain = |c: char| match c.is_ascii() {
        true => c.is_ascii_alphanumeric() || c == '-' || c == '_',
        false => !is_unseen(c),
    };
    let fits = (1..=LABEL_BYTES_MAX).contains(&ascii.len())
        && !shown.starts_with('-')
        && !shown.ends_with('-')
        && shown.chars().all(of_domain);
    fits.then_some((shown, ascii))
}

/// The U-label of an A-label, which comes without its prefix (RFC 3492 section 6.2); that `idna` encodes it to the same
/// again proves that it is the one. (Its own decoder would add 8 KiB to the program.)
fn decoded(encoded: &str) -> Option<String> {
    let (basic, rest) = encoded.rsplit_once('-').unwrap_or(("", encoded));
    let mut chars: Vec<char> = basic.chars().collect();
    let mut digits = rest.bytes();
    let (mut code, mut at, mut bias) = (128_u32, 0_u32, 72_u32);
    while digits.len() > 0 {
        let (before, mut weight, mut base) = (at, 1_u32, 36_u32);
        loop {
            let digit = match digits.next()? {
                byte @ b'a'..=b'z' => byte - b'a',
                byte @ b'0'..=b'9' => byte - b'0' + 26,
                _ => return None,
            };
            let digit = u32::from(digit);
            at = at.checked_add(digit.checked_mul(weight)?)?;
            let threshold = base.saturating_sub(bias).clamp(1, 26);
            if digit < threshold {
                break;
            }
            weight = weight.checked_mul(36 - threshold)?;
            base += 36;
        }
        let length = u32::try_from(chars.len()).ok()? + 1;
        let mut delta = (at - before) / if before == 0 { 700 } else { 2 };
        delta += delta / length;
        bias = 0;
        while delta > 455 {
            delta /= 35;
            bias += 36;
        }
        bias += 36 * delta / (delta + 38);
        code = code.checked_add(at / length)?;
        at %= length;
        chars.insert(at as usize, char::from_u32(code)?);
        at += 1;
    }
    let is_same = punycode::encode(&chars)? == encoded;
    let text: String = chars.into_iter().collect();
    (is_same && !text.is_ascii() && plain(&text) == text).then_some(text)
}

/// Lower case, and without compatibility forms such as full-width letters.
fn plain(text: &str) -> String {
    normalized(&normalized(text, true).to_lowercase(), true)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use unicode_normalization::UnicodeNormalization as _;

    use super::*;

    proptest! {
        /// Any text becomes what `unicode-normalization` makes of it.
        #[test]
        fn normal_forms_are_those_of_unicode(
            text in "(?s).{0,12}|[a-z\u{300}-\u{345}\u{ac00}-\u{ac30}\u{1100}-\u{11ff}\u{958}\u{fb2c}\u{1d160}Å≮ﬁ]{0,24}",
        ) {
            prop_assert_eq!(normalized(&text, false), text.nfc().collect::<String>());
            prop_assert_eq!(normalized(&text, true), text.nfkc().collect::<String>());
        }
    }

    #[test]
    fn no_text_has_many_marks_in_a_row() {
        let marks = |n: usize| format!("a{}b", "\u{301}".repeat(n));
        assert!(is_stream_safe(&marks(30)) && is_stream_safe(&marks(30).repeat(9)));
        assert!(!is_stream_safe(&marks(31)));
    }

    #[test]
    fn domains_in_both_forms() {
        let long = "ü".repeat(200);
        for (text, expect) in [
            ("example.com", Some(("example.com", "example.com"))),
            (
                "bücher.example",
                Some(("bücher.example", "xn--bcher-kva.example")),
            ),
            (
                "bu\u{308}cher.example",
                Some(("bücher.example", "xn--bcher-kva.example")),
            ),
            (
                "xn--bcher-kva.example",
                Some(("bücher.example", "xn--bcher-kva.example")),
            ),
            // Those of RFC 3492 section 7.1 and of the root zone.
            (
                "例え.テスト",
                Some(("例え.テスト", "xn--r8jz45g.xn--zckzah")),
            ),
            ("пример.рф", Some(("пример.рф", "xn--e1afmkfd.xn--p1ai"))),
            ("中国.cn", Some(("中国.cn", "xn--fiqs8s.cn"))),
            (
                "straße.example",
                Some(("straße.example", "xn--strae-oqa.example")),
            ),
            ("ＥＸample．com", Some(("example.com", "example.com"))),
            ("a_b.r3---x.c", Some(("a_b.r3---x.c", "a_b.r3---x.c"))),
            // An ASCII label that is no A-label, and one that another text would lead to.
            ("xn--.c", None),
            ("xn--a.c", None),
            ("xn--abc-.c", None),
            ("xn--bcher-kvA\u{301}.c", None),
            ("例。cn", Some(("例.cn", "xn--fsq.cn"))),
            ("a..b", None),
            ("", None),
            ("a…b", None),
            ("-a.b", None),
            ("a-.b", None),
            ("-ü.b", None),
            ("a%b.c", None),
            ("℀.c", None),
            ("a b.c", None),
            ("exam\u{ad}ple.com", None),
            ("a\u{202e}b.c", None),
            (&long, None),
            (&format!("{}.c", "a".repeat(300_000)), None),
            (&format!("xn--{}.c", "9".repeat(300_000)), None),
        ] {
            let found = domain(text);
            let found = found.as_ref().map(|(a, b)| (a.as_str(), b.as_str()));
            assert_eq!(found, expect, "{text:?}");
        }
        let hidden = punycode::encode_str("exam\u{ad}ple").unwrap();
        assert_eq!(domain(&format!("xn--{hidden}.com")), None);
        let label = "a".repeat(63);
        assert!(domain(&label).is_some() && domain(&format!("{label}a")).is_none());
        let longest = [label.as_str(); 4].join(".");
        assert_eq!(longest.len(), 255);
        assert!(domain(&longest).is_none() && domain(&longest[2..]).is_some());
    }

    #[test]
    fn forms_of_one_mailbox_have_one_key() {
        let key = |text: &str| Forms::of(text).into_key().into_owned();
        let ascii = "gräfin@xn--bcher-kva.example";
        for text in [
            "gräfin@bücher.example",
            "gra\u{308}fin@bu\u{308}cher.example",
            "gräfin@xn--bcher-kva.example",
        ] {
            assert_eq!(key(text), ascii);
            let forms = Forms::of(text);
            assert_eq!(forms.all(), [text, "gräfin@bücher.example", ascii]);
        }
        // What no domain is written like has itself.
        for text in ["a@b..c", "a@xn--a.c", "ü@a@b.c", "ü", "a@[1.2.3.4]"] {
            assert_eq!(Forms::of(text).all(), [text; 3]);
            assert_eq!(key(text), text);
        }
        assert_eq!(key("u\u{308}@b..c"), "ü@b..c");
    }

    #[test]
    fn what_is_not_seen_is_known() {
        for c in "\u{ad}\u{61c}\u{200b}\u{200d}\u{200e}\u{202e}\u{2066}\u{2060}\u{3164}\u{fe0f}\u{feff}\u{e0041}".chars() {
            assert!(is_unseen(c), "{c:?}");
        }
        for c in "a-ä中ا\u{301}\u{ac00}\u{2010}😀".chars() {
            assert!(!is_unseen(c), "{c:?}");
        }
    }
}
