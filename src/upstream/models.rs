//! A provider's list of models (`GET {path}/models`): what it serves, and how much a model can take.

use serde_json::Value;

/// The list, of any provider's form.
#[derive(Debug)]
pub struct Models(Vec<Value>);

impl Models {
    /// Reads `{"data":[…]}` (OpenAI), `{"models":[…]}` or the bare array; `None`: this is no list, or an
    /// empty one, which tells nothing.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let mut list: Value = serde_json::from_slice(body).ok()?;
        let keys = ["data", "models"];
        let rows = match keys.iter().find(|key| list[**key].is_array()) {
            Some(key) => list[*key].take(),
            None => list,
        };
        match rows {
            Value::Array(rows) if !rows.is_empty() => Some(Self(rows)),
            _ => None,
        }
    }

    /// Whether requests may name this model: by its id or by an alias (llama.cpp).
    pub fn serves(&self, model: &str) -> bool {
        self.row(model).is_some()
    }

    /// The models' ids.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|row| row["id"].as_str())
    }

    /// How many tokens a prompt and its answer may have together: `max_model_len` (vLLM), `context_length`
    /// (OpenRouter), `meta.n_ctx` or, where that is missing, `meta.n_ctx_train` (llama.cpp, whose server may allow
    /// fewer than the model was trained for); `None`: the list does not tell.
    pub fn context(&self, model: &str) -> Option<u64> {
        let row = self.row(model)?;
        let told = [
            "/max_model_len",
            "/context_length",
            "/meta/n_ctx",
            "/meta/n_ctx_train",
        ];
        let mut told = told.iter().filter_map(|place| row.pointer(place)?.as_u64());
        told.find(|tokens| *tokens > 0)
    }

    fn row(&self, model: &str) -> Option<&Value> {
        let is_it = |name: &Value| name == model;
        self.0.iter().find(|row| {
            let aliases = row["aliases"].as_array();
            is_it(row)
                || ["id", "name", "model"].iter().any(|key| is_it(&row[*key]))
                || aliases.is_some_and(|aliases| aliases.iter().any(is_it))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LLAMA: &str = r#"{"models":[{"name":"x.gguf","model":"x.gguf"}],"object":"list","data":[{"id":"x.gguf","aliases":["gpt"],"object":"model","meta":{"n_ctx_train":32768,"n_params":7}}]}"#;
    const VLLM: &str = r#"{"object":"list","data":[{"id":"m","object":"model","root":"m","parent":null,"max_model_len":4096,"permission":[{"id":"p"}]}]}"#;
    const LITELLM: &str = r#"{"data":[{"id":"gpt","object":"model","created":1677610602,"owned_by":"openai"}],"object":"list"}"#;

    #[test]
    fn a_model_is_served_by_its_id_or_an_alias() {
        let check = |list: &str, model: &str, expect: Option<bool>| {
            let served = Models::parse(list.as_bytes()).map(|list| list.serves(model));
            assert_eq!(served, expect, "{model} in {list}");
        };
        for (list, model) in [
            (LLAMA, "x.gguf"),
            (LLAMA, "gpt"),
            (VLLM, "m"),
            (LITELLM, "gpt"),
        ] {
            check(list, model, Some(true));
            check(list, "other", Some(false));
            check(list, "", Some(false));
        }
        check(VLLM, "p", Some(false));
        check(r#"[{"id":"a"}]"#, "a", Some(true));
        check(
            r#"{"models":[{"name":"a"},{"model":"b"}]}"#,
            "b",
            Some(true),
        );
        check(
            r#"{"data":["a",{"id":null,"aliases":"b"},7,{"aliases":[7,null]}]}"#,
            "a",
            Some(true),
        );
        check(
            r#"{"data":["a",{"id":null,"aliases":"b"},7,{"aliases":[7,null]}]}"#,
            "b",
            Some(false),
        );
        for no_list in [
            "",
            "[]",
            r#"{"models":[]}"#,
            "<html>",
            "7",
            "null",
            r#"{"data":{}}"#,
            r#"{"data":[{"id":"a"}"#,
        ] {
            check(no_list, "a", None);
        }
    }

    #[test]
    fn the_context_is_what_the_server_allows() {
        let check = |list: &str, model: &str, expect: Option<u64>| {
            let list = Models::parse(list.as_bytes()).expect("it is a list");
            assert_eq!(list.context(model), expect, "{model}");
        };
        check(LLAMA, "gpt", Some(32768));
        check(VLLM, "m", Some(4096));
        check(LITELLM, "gpt", None);
        check(LITELLM, "other", None);
        check(
            r#"{"data":[{"id":"a","meta":{"n_ctx":2048,"n_ctx_train":4096}}]}"#,
            "a",
            Some(2048),
        );
        check(r#"[{"id":"a","context_length":8192}]"#, "a", Some(8192));
        check(
            r#"[{"id":"a","context_length":"8192","max_model_len":0,"meta":7}]"#,
            "a",
            None,
        );
    }
}
