//! The user that a command of root works as: the owner of the data folder. What root made or changed there, the server
//! could not read, or a link of that user could lead elsewhere.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::process::{Gid, Uid, geteuid};
use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};

use crate::config;
use crate::store;

/// Who a process of root becomes.
#[derive(Debug)]
pub(super) struct Owner {
    uid: u32,
    gid: u32,
    /// As /etc/passwd has it.
    name: Option<String>,
}

/// Whose the store's files are, if this is root and they are another user's.
///
/// Err: one line, if the data folder cannot be looked at, or others may write in it.
pub(super) fn of(settings: &config::Store) -> Result<Option<Owner>, String> {
    let Some((uid, gid)) = store::folder_owner(settings)? else {
        return Ok(None);
    };
    if !geteuid().is_root() || uid == 0 {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let mut owners = users.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, number) = (fields.next()?, fields.nth(1)?);
        let own: u32 = fields.next()?.parse().ok()?;
        (number.parse() == Ok(uid)).then(|| (name.to_owned(), own))
    });
    // The group of a folder may be one that its owner is not in.
    let (name, gid) = match owners.next() {
        Some((name, own)) => (Some(name), own),
        None => (None, gid),
    };
    Ok(Some(Owner { uid, gid, name }))
}

impl Owner {
    /// Its name or number.
    pub(super) fn name(&self) -> String {
        let number = || format!("uid {}", self.uid);
        self.name.clone().unwrap_or_else(number)
    }

    /// Becomes this user, with its one group, for good. Called before there is a second thread.
    pub(super) fn become_it(&self) -> Result<(), String> {
        set_thread_groups(&[])
            .and_then(|()| set_thread_gid(Gid::from_raw(self.gid)))
            .and_then(|()| set_thread_uid(Uid::from_raw(self.uid)))
            .map_err(|error| {
                let name = self.name();
                format!("cannot become {name}, the owner of the data folder: {error}")
            })
    }
}

/// Whether nobody but root can have put there what stands at this path, or can replace it.
pub(super) fn only_root_writes(path: &Path) -> bool {
    let safe = |path: &Path| {
        fs::symlink_metadata(path).is_ok_and(|found| {
            let is_sticky = found.is_dir() && found.mode() & 0o1000 != 0;
            found.uid() == 0 && (found.mode() & 0o022 == 0 || found.is_symlink() || is_sticky)
        })
    };
    // The way to it as it was named, and as its links lead.
    let ways = (std::env::current_dir(), fs::canonicalize(path));
    let (Ok(here), Ok(there)) = ways else {
        return false;
    };
    let named = here.join(path);
    [named, there].iter().all(|way| way.ancestors().all(safe))
}
