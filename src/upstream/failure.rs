//! How a request to a provider can fail. `Display` is fit for clients: it holds no text of the
//! provider's, no key and no address. Log lines take the fields; a [`Code`] cannot forge one.

use std::fmt;
use std::io;

use serde_json::Value;

/// Longest [`Code`] in bytes.
const CODE_BYTES_MAX: usize = 64;

/// A short cause for log lines: at most 64 of `[A-Za-z0-9_.-]`, possibly none.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Code(Box<str>);

impl Code {
    /// Keeps what is allowed of `text`.
    pub fn new(text: &str) -> Self {
        let allowed = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        let code: String = text.chars().filter(allowed).take(CODE_BYTES_MAX).collect();
        Self(code.into_boxed_str())
    }

    /// The code itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why there is no answer, or no more of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Not resolved, not connected within the limit, not trusted (TLS), or closed before its
    /// response head was complete; `code` says which.
    Unreachable {
        /// For instance `resolve`, `connect-timeout`, `ConnectionRefused`, `tls-…`, `closed`.
        code: Code,
    },
    /// An answer that means no.
    Refused {
        /// Its status.
        status: u16,
        /// The provider's own error code or type.
        code: Code,
    },
    /// The provider does not know the model (400, 404 or 422 with a body that says so).
    ModelNotServed {
        /// Its status.
        status: u16,
    },
    /// Question and history do not fit into the model's context (a 4xx or 500 whose body says so).
    PromptTooLong {
        /// Its status.
        status: u16,
        /// The provider's own error code or type.
        code: Code,
    },
    /// 429 or 5xx.
    Overloaded {
        /// Its status.
        status: u16,
        /// Seconds it asked us to wait, 1 to 3600.
        retry_after: Option<u32>,
        /// The provider's own error code or type.
        code: Code,
    },
    /// A success, but no event stream (a page of some proxy's, one JSON object).
    NoEventStream,
    /// A success without a single byte.
    Empty,
    /// The response head is no HTTP, or ambiguous, or too long.
    Malformed {
        /// Which rule it broke.
        code: &'static str,
    },
    /// No response head within the time limit.
    Silent,
    /// The body broke off, or its framing is broken.
    Cut,
    /// This server has no file descriptor or no memory for a connection: no fault of the
    /// provider's.
    NoRoom {
        /// The name of the system's error, for instance `EMFILE`.
        code: &'static str,
    },
}

impl Failure {
    pub(super) fn unreachable(code: &str) -> Self {
        Failure::Unreachable {
            code: Code::new(code),
        }
    }

    /// What a system's error means for whoever wanted a connection; `code` is its name if it is
    /// the provider's fault.
    pub(super) fn of_system(error: &io::Error, code: &str) -> Self {
        let shortage = match error.raw_os_error() {
            Some(libc::EMFILE) => "EMFILE",
            Some(libc::ENFILE) => "ENFILE",
            Some(libc::ENOMEM) => "ENOMEM",
            Some(libc::ENOBUFS) => "ENOBUFS",
            _ => return Self::unreachable(code),
        };
        Failure::NoRoom { code: shortage }
    }

    /// Whether the next provider may be asked, as long as no text has been sent. A request that
    /// this provider finds invalid (400, 422) is not tried elsewhere, nor is one for which there is
    /// no room here.
    pub fn may_fail_over(&self) -> bool {
        match self {
            Failure::Refused { status, .. } => matches!(status, 401..=404 | 408),
            Failure::NoRoom { .. } => false,
            _ => true,
        }
    }

    /// Whether this speaks against the provider as a whole: unreachable, 5xx, time-outs, and a
    /// success that is something else than an event stream.
    pub fn counts_for_breaker(&self) -> bool {
        match self {
            Failure::Unreachable { .. } | Failure::Silent | Failure::NoEventStream => true,
            Failure::Overloaded { status, .. } => *status >= 500,
            _ => false,
        }
    }

    /// The provider's status, if it sent one that is no success.
    pub fn status(&self) -> Option<u16> {
        match self {
            Failure::Refused { status, .. }
            | Failure::ModelNotServed { status }
            | Failure::PromptTooLong { status, .. }
            | Failure::Overloaded { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// The cause for log lines; empty if the variant says it all.
    pub fn code(&self) -> &str {
        match self {
            Failure::Unreachable { code }
            | Failure::Refused { code, .. }
            | Failure::PromptTooLong { code, .. }
            | Failure::Overloaded { code, .. } => code.as_str(),
            Failure::Malformed { code } | Failure::NoRoom { code } => code,
            _ => "",
        }
    }

    /// The failure that a final response with another status than 200 means; `body` is as much of
    /// its body as was read.
    pub(super) fn from_response(status: u16, retry_after: Option<u32>, body: &[u8]) -> Self {
        let said = Said::parse(status, body);
        match status {
            400 | 413 | 422 | 500 if said.prompt_is_too_long => Failure::PromptTooLong {
                status,
                code: said.code,
            },
            400 | 404 | 422 if said.model_is_missing => Failure::ModelNotServed { status },
            429 | 500.. => Failure::Overloaded {
                status,
                retry_after,
                code: said.code,
            },
            200..=299 if body.is_empty() => Failure::Empty,
            200..=299 => Failure::NoEventStream,
            _ => Failure::Refused {
                status,
                code: said.code,
            },
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Failure::Unreachable { .. } => "The model provider cannot be reached",
            Failure::Refused { status, .. } => {
                return write!(
                    f,
                    "The model provider refused the request (status {status})"
                );
            }
            Failure::ModelNotServed { .. } => "Model not served",
            Failure::PromptTooLong { .. } => "The message is too long for the model",
            Failure::Overloaded { .. } => "The model provider is overloaded",
            Failure::NoEventStream => "The model provider sent no event stream",
            Failure::Empty => "The model provider sent no events",
            Failure::Malformed { .. } => "The model provider sent an invalid response",
            Failure::Silent => "The model provider did not answer in time",
            Failure::Cut => "The model provider broke off its answer",
            Failure::NoRoom { .. } => "Busy, try again",
        })
    }
}

impl std::error::Error for Failure {}

/// What an error body says, as far as we care.
struct Said {
    code: Code,
    model_is_missing: bool,
    prompt_is_too_long: bool,
}

impl Said {
    /// `{"error":{"message","type","param","code"}}`, the same without `error` around it, or any
    /// other text. The code of an error that only repeats the status says less than its type.
    fn parse(status: u16, body: &[u8]) -> Self {
        let Ok(json) = serde_json::from_slice::<Value>(body) else {
            let text = String::from_utf8_lossy(body);
            return Said {
                code: Code::default(),
                model_is_missing: says_missing(&text),
                prompt_is_too_long: says_too_long(&text),
            };
        };
        let error = json.get("error").filter(|error| error.is_object());
        let error = error.unwrap_or(&json);
        let text = |name: &str| match error.get(name) {
            // LiteLLM writes Python's `None` as a text.
            Some(Value::String(text)) if text != "None" => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            _ => String::new(),
        };
        let (code, kind) = (text("code"), text("type"));
        let message = match &json["error"] {
            Value::String(message) => message.clone(),
            _ => text("message"),
        };
        let says =
            |what: fn(&str) -> bool| [&code, &kind, &message].into_iter().any(|text| what(text));
        let (model_is_missing, prompt_is_too_long) = (says(says_missing), says(says_too_long));
        let repeats = code.is_empty() || code == status.to_string();
        let code = if repeats && !kind.is_empty() {
            kind
        } else {
            code
        };
        Said {
            code: Code::new(&code),
            model_is_missing,
            prompt_is_too_long,
        }
    }
}

/// Whether a text says that a model does not exist: `Model Not Exist` (DeepSeek),
/// `model_not_found` (OpenAI, DashScope), ``The model `x` does not exist`` (vLLM), `model "x" not
/// found` (Ollama), `Invalid model name` (LiteLLM). Other words must stand behind "model" and near
/// it.
fn says_missing(text: &str) -> bool {
    const NEAR: usize = 200;
    const WORDS: [&str; 6] = [
        "not exist",
        "not found",
        "not_found",
        "notfound",
        "not_exist",
        "is not served",
    ];
    let text = text.to_ascii_lowercase();
    if text.contains("invalid model name") {
        return true;
    }
    text.match_indices("model").any(|(at, _)| {
        let behind = &text.as_bytes()[at..text.len().min(at + NEAR)];
        let behind = String::from_utf8_lossy(behind);
        WORDS.iter().any(|word| behind.contains(word))
    })
}

/// Whether a text, or a code, says that the prompt exceeds the model's context:
/// `exceed_context_size_error` (llama.cpp), `context_length_exceeded` (OpenAI, llama-cpp-python),
/// `This model's maximum context length is …` (vLLM).
pub fn says_too_long(text: &str) -> bool {
    const WORDS: [&str; 3] = [
        "exceed_context_size_error",
        "context_length_exceeded",
        "maximum context length",
    ];
    let text = text.to_ascii_lowercase();
    WORDS.iter().any(|word| text.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_of_refusals() {
        let check = |status: u16, body: &str, missing: bool, code: &str| {
            let failure = Failure::from_response(status, None, body.as_bytes());
            let found = matches!(failure, Failure::ModelNotServed { .. });
            assert_eq!((found, failure.code()), (missing, code), "{body}");
        };
        check(
            400,
            r#"{"error":{"message":"Model Not Exist","type":"invalid_request_error","param":null,"code":"invalid_request_error"}}"#,
            true,
            "",
        );
        check(
            404,
            r#"{"error":{"message":"The model `x` does not exist or you do not have access to it.","type":"invalid_request_error","param":null,"code":"model_not_found"}}"#,
            true,
            "",
        );
        check(
            404,
            r#"{"object":"error","message":"The model `x` does not exist.","type":"NotFoundError","code":404}"#,
            true,
            "",
        );
        check(
            404,
            r#"{"error":{"message":"model \"x\" not found, try pulling it first","type":"api_error","param":null,"code":null}}"#,
            true,
            "",
        );
        check(404, r#"{"error":"model 'x' not found"}"#, true, "");
        check(
            400,
            r#"{"error":{"message":"/chat/completions: Invalid model name passed in model=x. Call `/v1/models` to view available models for your key.","type":"invalid_request_error","param":"model","code":"400"}}"#,
            true,
            "",
        );
        check(
            400,
            r#"{"error":{"message":"bad","type":"invalid_request_error","code":"400"}}"#,
            false,
            "invalid_request_error",
        );
        check(404, r#"{"code":"ModelNotFound","message":"no"}"#, true, "");
        check(404, "<html>404 Not Found: the model</html>", false, "");
        check(404, "model x does not exist", true, "");
        check(
            400,
            r#"{"error":{"message":"bad","type":"invalid_request_error","code":null}}"#,
            false,
            "invalid_request_error",
        );
        check(
            401,
            r#"{"error":{"message":"the model does not exist","code":"invalid_api_key"}}"#,
            false,
            "invalid_api_key",
        );
        check(402, r#"{"error":{"code":"a b\n<c>\u0000é"}}"#, false, "abc");
        check(403, r#"{"error":{"code":30001}}"#, false, "30001");
        check(422, r#"{"error":[1,2"#, false, "");
        check(418, "[]", false, "");
    }

    #[test]
    fn what_follows_from_a_status() {
        let check = |status: u16, fail_over: bool, breaker: bool| {
            let failure = Failure::from_response(status, None, b"");
            let found = (failure.may_fail_over(), failure.counts_for_breaker());
            assert_eq!(found, (fail_over, breaker), "{failure:?}");
        };
        for status in [401, 402, 403, 404, 429] {
            check(status, true, false);
        }
        for status in [500, 503, 599] {
            check(status, true, true);
        }
        for status in [301, 400, 413, 418, 422] {
            check(status, false, false);
        }
        assert_eq!(
            Failure::from_response(200, None, b"<html>"),
            Failure::NoEventStream
        );
        assert_eq!(Failure::from_response(204, None, b""), Failure::Empty);
        assert!(!Failure::Empty.counts_for_breaker() && Failure::Empty.may_fail_over());
        assert!(
            Failure::Silent.counts_for_breaker() && Failure::unreachable("x").counts_for_breaker()
        );
        assert!(!Failure::Cut.counts_for_breaker() && Failure::NoEventStream.counts_for_breaker());
        let missing = Failure::ModelNotServed { status: 400 };
        assert!(missing.may_fail_over() && !missing.counts_for_breaker());
        let shortage = Failure::of_system(&io::Error::from_raw_os_error(libc::EMFILE), "x");
        assert_eq!(shortage, Failure::NoRoom { code: "EMFILE" });
        assert!(!shortage.may_fail_over() && !shortage.counts_for_breaker());
        let refused = io::Error::from_raw_os_error(libc::ECONNREFUSED);
        assert_eq!(Failure::of_system(&refused, "x"), Failure::unreachable("x"));
    }

    #[test]
    fn prompts_that_are_too_long() {
        for (status, body, code) in [
            (
                400,
                r#"{"error":{"code":400,"message":"request (23 tokens) exceeds the available context size (16 tokens), try increasing it","type":"exceed_context_size_error","n_prompt_tokens":23,"n_ctx":16}}"#,
                "exceed_context_size_error",
            ),
            (
                400,
                r#"{"error":{"message":"x","type":"invalid_request_error","param":"messages","code":"context_length_exceeded"}}"#,
                "context_length_exceeded",
            ),
            (
                400,
                r#"{"object":"error","message":"This model's maximum context length is 16 tokens. However, you requested 23","type":"BadRequestError","param":null,"code":400}"#,
                "BadRequestError",
            ),
        ] {
            let failure = Failure::from_response(status, None, body.as_bytes());
            let code = Code::new(code);
            assert_eq!(failure, Failure::PromptTooLong { status, code });
            assert!(failure.may_fail_over() && !failure.counts_for_breaker());
        }
        let other = br#"{"error":{"message":"max_tokens is too long","code":null}}"#;
        let failure = Failure::from_response(400, None, other);
        assert!(matches!(failure, Failure::Refused { .. }), "{failure:?}");
    }

    #[test]
    fn codes_are_short_and_plain() {
        assert_eq!(Code::new(&"x".repeat(100)).as_str().len(), CODE_BYTES_MAX);
        assert_eq!(Code::new("a\nlevel=b \u{2028}c").as_str(), "alevelbc");
    }
}
