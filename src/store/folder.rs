//! The data folder: made for its owner only, and refused where others could put files of theirs into it.

use std::fs::{self, DirBuilder, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::Path;

use rustix::process::geteuid;

use crate::config;

/// Makes the data folder, for this user only, unless it exists. Err: one line, also if it is not safe.
pub(super) fn make(dir: &Path) -> Result<(), String> {
    make_private(dir)?;
    look(dir).map(drop)
}

/// Makes a folder, for this user only, and those that it stands in, unless it exists. Err: one line.
pub(super) fn make_private(dir: &Path) -> Result<(), String> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|error| format!("{}: cannot make this folder: {error}", dir.display()))
}

/// Whose folder it is that holds the files of these settings, as user and group; `None` if they keep none, or there
/// is no folder yet.
///
/// # Errors
/// One line: it cannot be looked at, or others may write in it.
pub fn owner(settings: &config::Store) -> Result<Option<(u32, u32)>, String> {
    if settings.database.is_some() && settings.redis.is_some() {
        return Ok(None);
    }
    let found = look(&settings.dir)?;
    Ok(found.map(|found| (found.uid(), found.gid())))
}

fn look(dir: &Path) -> Result<Option<Metadata>, String> {
    let found = match fs::metadata(dir) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{}: {error}", dir.display())),
    };
    // A group is the owner's own affair, unless the owner is root and works in it.
    let is_roots = geteuid().is_root() && found.uid() == 0 && found.gid() != 0;
    let others = if is_roots { 0o022 } else { 0o002 };
    if found.mode() & others != 0 {
        return Err(format!(
            "{}: others may put files into this folder: chmod go-w it, or choose one of the server's own",
            dir.display()
        ));
    }
    Ok(Some(found))
}
