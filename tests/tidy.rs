//! Rules about the code that the compiler does not hold: layers, purity, sizes.

use std::fs;
use std::path::{Path, PathBuf};

/// A file longer than this does more than one job; 400 is the aim.
const LINES_MAX: usize = 450;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every file with that ending below a folder, with its path from the root.
fn files(folder: &str, ending: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    collect(&root().join(folder), ending, &mut found);
    assert!(!found.is_empty(), "{folder} has no .{ending} files");
    found.sort();
    found
}

fn collect(folder: &Path, ending: &str, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).expect("the folder is there").flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, ending, found);
        } else if path.extension().is_some_and(|e| e == ending) {
            let text = fs::read_to_string(&path).expect("sources are UTF-8");
            let name = path.strip_prefix(root()).expect("it lies below the root");
            found.push((name.to_string_lossy().into_owned(), text));
        }
    }
}

/// The lines of code with their numbers: without comments and without the tests at the end.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text
        .lines()
        .take_while(|line| line.trim() != "#[cfg(test)]");
    let code = lines.map(|line| line.split("//").next().unwrap_or_default());
    code.enumerate().map(|(n, line)| (n + 1, line))
}

/// Fails with all that was found, one a line.
fn none(rule: &str, found: &[String]) {
    assert!(found.is_empty(), "{rule}:\n{}", found.join("\n"));
}

/// The module that a source file belongs to, as the root of its crate names it.
fn module_of(path: &str) -> &str {
    let path = path.strip_prefix("src/").expect("it is a source");
    path.split(['/', '.']).next().expect("a path has parts")
}

/// The modules named after each `crate::` of a line, groups in braces included.
fn uses(line: &str) -> Vec<String> {
    let word = |text: &str| {
        text.chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect()
    };
    let mut found = Vec::new();
    for (at, _) in line.match_indices("crate::") {
        let rest = &line[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(group) => found.extend(group.split(',').map(|part| word(part.trim()))),
            None => found.push(word(rest)),
        }
    }
    found
}

#[test]
fn modules_use_only_what_stands_below_them() {
    let roots = ["src/service.rs", "src/base.rs"];
    let roots =
        roots.map(|path| fs::read_to_string(root().join(path)).expect("a crate has a root"));
    let order: Vec<&str> = roots
        .iter()
        .flat_map(|text| text.lines())
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .collect();
    let level = |module: &str| order.iter().position(|m| *m == module);
    let mut found = Vec::new();
    for (path, text) in files("src", "rs") {
        let module = module_of(&path);
        let Some(own) = level(module) else {
            assert!(
                matches!(module, "base" | "lib" | "main" | "service"),
                "{path} is in neither src/service.rs nor src/base.rs"
            );
            continue;
        };
        for (n, line) in code(&text) {
            let upward = uses(line)
                .into_iter()
                .filter(|used| used != module && level(used).is_some_and(|other| other < own));
            found.extend(upward.map(|used| format!("{path}:{n}: {module} uses {used}")));
        }
    }
    none(
        "a module uses only what stands below it in src/service.rs and src/base.rs",
        &found,
    );
}

#[test]
fn the_rules_of_this_test_see_what_they_look_for() {
    assert_eq!(uses("use crate::config::{Config, Log};"), ["config"]);
    assert_eq!(uses("use crate::{app::App, log};"), ["app", "log"]);
    assert_eq!(
        uses("    crate::log::info(crate::clock::now())"),
        ["log", "clock"]
    );
    assert_eq!(module_of("src/http/reply.rs"), "http");
    assert_eq!(module_of("src/limits.rs"), "limits");
    let text = "use a; // crate::b\n#[cfg(test)]\nmod tests { use crate::c; }";
    assert_eq!(
        code(text).map(|(_, line)| line).collect::<String>(),
        "use a; "
    );
}

/// Lines of code below `folder` that hold one of these words, unless `allowed` says so.
fn words(folder: &str, words: &[&str], allowed: impl Fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in files(folder, "rs") {
        let lines = code(&text).filter(|(_, line)| words.iter().any(|word| line.contains(word)));
        let lines: Vec<_> = lines.filter(|_| !allowed(&path)).collect();
        found.extend(
            lines
                .iter()
                .map(|(n, line)| format!("{path}:{n}: {}", line.trim())),
        );
    }
    found
}

#[test]
fn the_protocol_is_pure() {
    let impure = [
        "tokio",
        "hyper",
        "std::net",
        "std::io",
        "std::time",
        "std::thread",
        "std::fs",
        "async ",
    ];
    none(
        "src/llm turns bytes into bytes",
        &words("src/llm", &impure, |_| false),
    );
}

#[test]
fn only_reply_names_statuses() {
    let found = words("src", &["StatusCode"], |path| path == "src/http/reply.rs");
    none("only src/http/reply.rs gives a status", &found);
}

#[test]
fn only_the_stores_know_sql() {
    let sql = ["rusqlite", "SELECT ", "INSERT ", "DELETE FROM"];
    none(
        "only src/store knows SQL",
        &words("src", &sql, |path| path.starts_with("src/store/")),
    );
}

#[test]
fn files_have_one_job() {
    let all = ["src", "tests", "bench", "fuzz"]
        .map(|folder| files(folder, "rs"))
        .concat();
    let long = all
        .iter()
        .filter(|(path, text)| text.lines().count() > LINES_MAX && !path.contains("/target/"));
    let long: Vec<_> = long
        .map(|(path, text)| format!("{path}: {}", text.lines().count()))
        .collect();
    none(&format!("no file is longer than {LINES_MAX} lines"), &long);
    let silent = all.iter().filter(|(path, text)| {
        !path.contains("/target/") && !text.starts_with("//!") && !text.starts_with("#![")
    });
    let silent: Vec<_> = silent.map(|(path, _)| path.clone()).collect();
    none("every file begins by saying what it is for", &silent);
}

#[test]
fn nothing_is_left_unfinished() {
    let all = ["src", "tests"].map(|folder| files(folder, "rs")).concat();
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("X", "XX"),
    ];
    let mut found = Vec::new();
    for (path, text) in &all {
        let lines = text
            .lines()
            .filter(|line| marks.iter().any(|mark| line.contains(mark)));
        found.extend(lines.map(|line| format!("{path}: {line}")));
    }
    none("no stubs, no open ends", &found);
}

#[test]
fn tests_do_not_sleep() {
    let found = words("tests", &["sleep("], |path| {
        matches!(path, "tests/api/kit/mod.rs" | "tests/tidy.rs")
    });
    none("tests wait for what they wait for", &found);
}

#[test]
fn every_migration_is_compiled_in() {
    let sources: String = files("src", "rs")
        .into_iter()
        .map(|(_, text)| text)
        .collect();
    let missing = files("sql", "sql").into_iter().map(|(path, _)| path);
    let missing: Vec<_> = missing
        .filter(|path| !sources.contains(path.as_str()))
        .collect();
    none("every file of sql/ is named in an include_str!", &missing);
}
