//! Texts for `guideMode`: where they are read, and one clear line for each mistake.

use super::*;

/// Loads a file with this text from a folder with these files; mistakes without the file's name.
fn load_beside(text: &str, files: &[(&str, &[u8])]) -> Result<Config, Vec<String>> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, bytes) in files {
        std::fs::write(folder.path().join(name), bytes).expect("room for it");
    }
    let file = folder.path().join("config.toml");
    std::fs::write(&file, text).expect("room for it");
    let sources = Sources {
        file: Some(&file),
        ..Sources::default()
    };
    let name = file.display().to_string();
    Config::load(sources).map_err(|mistakes| {
        let mistakes = mistakes.into_iter();
        mistakes.map(|line| line.replace(&name, "FILE")).collect()
    })
}

fn rows(count: usize) -> String {
    let row = |n| format!("[[chat.guide]]\nmode = \"m{n}\"\nfile = \"a.md\"\n");
    (0..count).map(row).collect()
}

#[test]
fn files_are_found_beside_the_configuration() {
    let full = vec![b'x'; 64 << 10];
    let files: [(&str, &[u8]); 2] = [("a.md", "公开\n".as_bytes()), ("b", &full)];
    let text = "[[chat.guide]]\nmode = \"public_site\"\nfile = \"a.md\"\n\
                [[chat.guide]]\nmode = \"b-1.x\"\nfile = \"./b\"\n";
    let config = load_beside(text, &files).unwrap();
    let guides = config.chat.guides.iter();
    let found: Vec<_> = guides
        .map(|guide| (&guide.mode[..], guide.text.len()))
        .collect();
    assert_eq!(found, [("public_site", 7), ("b-1.x", 64 << 10)]);
    assert_eq!(load_beside(&rows(8), &files).unwrap().chat.guides.len(), 8);
    // An absolute path is one.
    let away = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(away.path(), "x").expect("room for it");
    let text = format!(
        "chat.guide = [{{ mode = \"a\", file = {:?} }}]",
        away.path()
    );
    assert_eq!(load_beside(&text, &[]).unwrap().chat.guides[0].text, "x");
}

#[test]
fn each_mistake_is_one_line() {
    let long = vec![b'x'; (64 << 10) + 1];
    let files: [(&str, &[u8]); 5] = [
        ("a.md", b"a"),
        ("long", &long),
        ("latin", b"caf\xe9"),
        ("blank", b" \n"),
        ("nul", b"a\0"),
    ];
    let check = |text: &str, expected: &str| {
        let mistakes = load_beside(text, &files).expect_err(text);
        assert_eq!(mistakes, [expected], "{text}");
    };
    let file = |name: &str| format!("[[chat.guide]]\nmode = \"m\"\nfile = {name:?}\n");
    let named = |name: &str, what: &str| format!("FILE: chat.guide[0].file: {name:?} {what}");
    check(
        &file("gone.md"),
        &named(
            "gone.md",
            "cannot be read: No such file or directory (os error 2)",
        ),
    );
    check(&file("."), &named(".", "is no file"));
    check(&file("/dev/zero"), &named("/dev/zero", "is no file"));
    check(&file("long"), &named("long", "is longer than 65536 bytes"));
    check(&file("latin"), &named("latin", "is no UTF-8"));
    check(&file("blank"), &named("blank", "is empty"));
    check(&file("nul"), &named("nul", "holds a NUL"));
    check(
        "[[chat.guide]]\nmode = \"m\"\n",
        "FILE: chat.guide[0].file: is missing",
    );
    check(
        "[[chat.guide]]\nfile = \"a.md\"\n",
        "FILE: chat.guide[0].mode: is missing",
    );
    check(
        "[[chat.guide]]\nmode = \"a b\"\nfile = \"a.md\"\n",
        "FILE: chat.guide[0].mode: \"a b\" is no mode (1 to 64 of A-Z a-z 0-9 . _ -)",
    );
    check(
        "[[chat.guide]]\nmode = \"a\"\nfile = \"a.md\"\nfiles = 1\n",
        "FILE: chat.guide[0].files: unknown key; did you mean file?",
    );
    check(
        &(rows(2) + &rows(1)),
        "FILE: chat.guide[2].mode: \"m0\" is the mode of an earlier row too",
    );
    check(&rows(9), "FILE: chat.guide: at most 8 are allowed");
    check(
        "chat.guide = \"a.md\"",
        "FILE: chat.guide: must be tables: [[chat.guide]]",
    );
}

#[test]
fn they_are_part_of_the_memory_sum() {
    let text = vec![b'"'; 60 << 10];
    let files: [(&str, &[u8]); 1] = [("a.md", &text)];
    let budget = |rows: &str| {
        let config = load_beside(&format!("chat.history_bytes_max = \"1M\"\n{rows}"), &files);
        Budget::new(&config.unwrap()).unwrap()
    };
    let (with, without) = (budget(&rows(8)), budget(""));
    let row = |budget: &Budget| {
        let row = budget.rows.iter().find(|row| row.what == "guides");
        row.map(cloudchat::budget::Row::bytes)
    };
    assert_eq!((row(&with), row(&without)), (Some(8 * (60 << 10)), None));
    assert!(with.streams_max < without.streams_max);
    // Two questions with the longest find room in the pool of prompts, as it stands there: escaped.
    let line = r#"{"role":"system","content":""}"#.len() + 1 + 2 * (60 << 10);
    assert_eq!(with.prompt_bytes_max, without.prompt_bytes_max + 2 * line);
}
