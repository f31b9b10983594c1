//! The rows of `[[chat.guide]]`: texts that a question may ask the model to be given, by its `guideMode`.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::read::{Section, quoted};

/// Most rows: all of them stay in memory.
const GUIDES_MAX: usize = 8;
/// Longest text: it goes out with each question that asks for it.
const GUIDE_BYTES_MAX: usize = 64 << 10;
/// Longest name.
const MODE_BYTES_MAX: usize = 64;

/// A text for the model, and the `guideMode` that asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guide {
    /// 1 to 64 of `[A-Za-z0-9._-]`; unique.
    pub mode: String,
    /// Where the text was read.
    pub file: PathBuf,
    /// Not blank, without NUL; up to 64 KiB.
    pub text: String,
}

/// The rows in their order. What `file` names is read now, from the folder of the configuration unless it
/// is an absolute path.
pub fn read(chat: &mut Section<'_, '_>, config: Option<&Path>) -> Vec<Guide> {
    let folder = config.and_then(Path::parent).unwrap_or(Path::new(""));
    let rows = chat.rows("guide");
    if rows.len() > GUIDES_MAX {
        chat.mistake("guide", format_args!("at most {GUIDES_MAX} are allowed"));
        return Vec::new();
    }
    let mut guides: Vec<Guide> = Vec::new();
    for (i, table) in rows.into_iter().enumerate() {
        let row = Section::new(chat.reader, format!("chat.guide[{i}]"), table);
        let Some(guide) = guide(row, folder) else {
            continue;
        };
        if guides.iter().any(|other| other.mode == guide.mode) {
            let what = format!("{} is the mode of an earlier row too", quoted(&guide.mode));
            chat.mistake(&format!("guide[{i}].mode"), what);
        }
        guides.push(guide);
    }
    guides
}

/// One row; `None` if something in it is missing or wrong, which is then noted.
fn guide(mut row: Section<'_, '_>, folder: &Path) -> Option<Guide> {
    let mistakes_before = row.reader.mistakes.len();
    let mode = row.text("mode", mode);
    let found = row.text("file", |name| {
        let file = folder.join(name);
        match text(&file) {
            Ok(text) => Ok((file, text)),
            Err(what) => Err(format!("{} {what}", quoted(name))),
        }
    });
    if row.reader.mistakes.len() == mistakes_before {
        for (key, missing) in [("mode", mode.is_none()), ("file", found.is_none())] {
            if missing {
                row.mistake(key, "is missing");
            }
        }
    }
    row.finish();
    let (mode, (file, text)) = (mode?, found?);
    Some(Guide { mode, file, text })
}

fn mode(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if text.is_empty() || text.len() > MODE_BYTES_MAX || !text.bytes().all(plain) {
        return Err(format!(
            "{} is no mode (1 to {MODE_BYTES_MAX} of A-Z a-z 0-9 . _ -)",
            quoted(text)
        ));
    }
    Ok(text.into())
}

/// The text of a file; Err: what is wrong with it.
fn text(path: &Path) -> Result<String, String> {
    let unreadable = |error: std::io::Error| format!("cannot be read: {error}");
    // Opening a pipe would wait for its writer.
    if !path.metadata().map_err(unreadable)?.is_file() {
        return Err("is no file".into());
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(GUIDE_BYTES_MAX as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() > GUIDE_BYTES_MAX {
        return Err(format!("is longer than {GUIDE_BYTES_MAX} bytes"));
    }
    let text = String::from_utf8(bytes).map_err(|_| "is no UTF-8")?;
    if text.trim().is_empty() {
        return Err("is empty".into());
    }
    if text.contains('\0') {
        return Err("holds a NUL".into());
    }
    Ok(text)
}
