//! `openapi.yaml` says what the router does, and nothing else.

use std::collections::BTreeSet;

use cloudchat::router::ENDPOINTS;
use serde_json::Value;

use crate::kit::{Provider, Server};

const FILE: &str = include_str!("../../openapi.yaml");

fn file() -> Value {
    serde_saphyr::from_str(FILE).expect("it is YAML")
}

/// Every operation: path, method in capitals, and what is said of it.
fn operations(file: &Value) -> Vec<(String, String, Value)> {
    let paths = file["paths"].as_object().expect("it has paths");
    let of_path = paths.iter().flat_map(|(path, methods)| {
        let methods = methods.as_object().expect("a path has methods");
        let each = methods.iter();
        each.map(|(method, what)| (path.clone(), method.to_uppercase(), what.clone()))
    });
    of_path.collect()
}

#[test]
fn the_file_and_the_router_know_the_same_operations() {
    let said: BTreeSet<_> = operations(&file())
        .into_iter()
        .map(|(p, m, _)| (p, m))
        .collect();
    let done: BTreeSet<_> = ENDPOINTS
        .iter()
        .flat_map(|endpoint| {
            let methods = endpoint.allow.split(", ");
            let methods = methods.filter(|method| !matches!(*method, "HEAD" | "OPTIONS"));
            methods.map(|method| (endpoint.path.to_owned(), method.to_owned()))
        })
        .collect();
    assert_eq!(said, done);
}

#[test]
fn every_reference_leads_somewhere_and_errors_have_their_shape() {
    let file = file();
    let mut references = Vec::new();
    collect(&file, &mut references);
    assert!(references.len() > 50);
    for reference in &references {
        let pointer = reference.strip_prefix('#').expect("within the file");
        assert!(file.pointer(pointer).is_some(), "{reference}");
    }
    for name in file["components"]["schemas"]
        .as_object()
        .expect("schemas")
        .keys()
    {
        let used = format!("#/components/schemas/{name}");
        assert!(references.contains(&used), "{name} is not used");
    }
    for (path, method, what) in operations(&file) {
        let schema = match path.starts_with("/auth/") {
            true => "#/components/schemas/AuthError",
            false => "#/components/schemas/Error",
        };
        for (status, response) in what["responses"].as_object().expect("responses") {
            if status.starts_with('2') || path == "/auth/healthz" {
                continue;
            }
            let said = &response["content"]["application/json"]["schema"]["$ref"];
            assert_eq!(said, schema, "{method} {path} {status}");
            let waits = response["headers"].get("Retry-After").is_some();
            assert_eq!(
                waits,
                matches!(status.as_str(), "429" | "503"),
                "{method} {path} {status}"
            );
        }
    }
}

fn collect(value: &Value, references: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            let reference = members.get("$ref").and_then(Value::as_str);
            references.extend(reference.map(str::to_owned));
            members
                .values()
                .for_each(|value| collect(value, references));
        }
        Value::Array(values) => values.iter().for_each(|value| collect(value, references)),
        _ => {}
    }
}

#[test]
fn the_server_answers_as_the_file_says() {
    let server = Server::start(&Provider::friendly(), "");
    let file = file();
    for (path, method, what) in operations(&file) {
        let responses = what["responses"].as_object().expect("responses");
        let needs_login = what["security"] == serde_json::json!([{"cc_auth": []}]);
        let line = format!("{method} {}", path.replace("{id}", "0123456789abcdef"));
        let reply = server.call(&line, &[], Some(b"{}"));
        assert!(
            responses.contains_key(&reply.status.to_string()),
            "{line}: {}",
            reply.status
        );
        assert_eq!(
            reply.status == 401 && path != "/auth/login",
            needs_login,
            "{line}"
        );
        if method != "GET" {
            let reply = server.call(&line, &[("Origin", "null")], Some(b"{}"));
            assert_eq!(reply.status, 403, "{line}");
            assert!(responses.contains_key("403"), "{line}");
        }
        // Also where no body is asked for.
        let reply = server.call(&line, &[], Some(&vec![b' '; 300_000]));
        let is_refused = reply.status == 413;
        assert_eq!(is_refused, responses.contains_key("413"), "{line}");
        assert!(is_refused || what.get("requestBody").is_none(), "{line}");
    }
    // The cookies that it names.
    for name in ["cc_auth", "cc_app", "cc_dev"] {
        assert!(FILE.contains(&format!("`{name}`")), "{name}");
    }
    let reply = server.get("/openapi.yaml");
    assert_eq!((reply.status, reply.body.as_str()), (200, FILE));
    assert_eq!(reply.get("content-type"), Some("application/yaml"));
}
