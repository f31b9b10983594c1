//! What the package installs: `/etc/cloudchat/config.toml` and `/etc/cloudchat/cloudchat.env`. Every command but
//! `demo` reads them where they are and nothing else was named, so that a command typed by the operator means the
//! store of the server that systemd runs.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::{env_file, environment};

/// Where the package's files are.
const FOLDER: &str = "/etc/cloudchat";
/// What systemd makes of the unit's `StateDirectory=`.
const DATA: &str = "/var/lib/cloudchat";
/// Most bytes of an environment file that are read; it holds a few lines.
const ENV_FILE_BYTES_MAX: u64 = 1 << 20;

/// The settings that are in force where nothing else was named.
pub struct Installed {
    file: Option<PathBuf>,
    /// Of the environment file; secrets, so they have no `Debug`.
    variables: Vec<(String, String)>,
    /// The server's data folder, if these are the server's settings.
    data: Option<String>,
}

impl Installed {
    /// Looks for the package's files; `given` is the file of `--config`, and if it is another one, nothing else is
    /// read. A unit of systemd has the environment file's variables already, and may not read it.
    ///
    /// # Errors
    /// One line that names a file that is there and cannot be read.
    pub fn find(given: Option<&Path>) -> Result<Self, String> {
        let is_unit = environment("STATE_DIRECTORY").is_some_and(|folders| !folders.is_empty());
        Self::find_in(Path::new(FOLDER), Path::new(DATA), given, is_unit)
    }

    fn find_in(
        folder: &Path,
        data: &Path,
        given: Option<&Path>,
        is_unit: bool,
    ) -> Result<Self, String> {
        let file = folder.join("config.toml");
        let there = match given {
            Some(given) if !is_same(given, &file) => {
                return Ok(Self {
                    file: Some(given.to_owned()),
                    variables: Vec::new(),
                    data: None,
                });
            }
            Some(_) => true,
            None => present(&file)?,
        };
        let variables = match is_unit {
            true => None,
            false => read(&folder.join("cloudchat.env"))?,
        };
        let is_installed = there || variables.is_some();
        let data = (is_installed && !is_unit && data.is_dir()).then(|| data.display().to_string());
        Ok(Self {
            file: given.map(Path::to_owned).or(there.then_some(file)),
            variables: variables.unwrap_or_default(),
            data,
        })
    }

    /// The configuration file: the one that was given, or the package's.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// A variable: of the process's environment, even if it is empty there, or else of the environment file.
    pub fn variable(&self, name: &str) -> Option<String> {
        let in_file = || {
            let mut found = self.variables.iter().rev();
            found.find_map(|(key, value)| (key.trim_end() == name).then(|| value.clone()))
        };
        let of_unit = || self.data.clone().filter(|_| name == "STATE_DIRECTORY");
        environment(name).or_else(in_file).or_else(of_unit)
    }
}

/// Whether the file is there. Err: one line, if that cannot be told.
fn present(file: &Path) -> Result<bool, String> {
    match File::open(file) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(unreadable(file, &error)),
    }
}

/// The variables of the file; `None` if it is not there.
fn read(file: &Path) -> Result<Option<Vec<(String, String)>>, String> {
    let mut text = String::new();
    let whole = File::open(file)
        .and_then(|file| file.take(ENV_FILE_BYTES_MAX + 1).read_to_string(&mut text));
    match whole {
        Ok(bytes) if bytes as u64 > ENV_FILE_BYTES_MAX => Err(format!(
            "{}: longer than {ENV_FILE_BYTES_MAX} bytes",
            file.display()
        )),
        Ok(_) => Ok(Some(env_file::parse(&text))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(file, &error)),
    }
}

fn unreadable(file: &Path, error: &io::Error) -> String {
    format!(
        "{}: cannot be read: {error}; it holds the server's settings: run this as root, or name another \
         configuration with --config",
        file.display()
    )
}

/// Whether both names lead to one file.
fn is_same(one: &Path, other: &Path) -> bool {
    let id = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino()));
    matches!((id(one), id(other)), (Ok(one), Ok(other)) if one == other)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name that no environment has.
    const NAME: &str = "CLOUDCHAT_TEST_INSTALLED";

    struct Etc(tempfile::TempDir);

    impl Etc {
        fn new() -> Self {
            let etc = Self(tempfile::tempdir().expect("there is room"));
            fs::create_dir(etc.path("data")).expect("it is ours");
            etc
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.path(name), text).expect("it is ours");
        }

        fn find(&self, given: Option<&Path>, is_unit: bool) -> Result<Installed, String> {
            Installed::find_in(self.0.path(), &self.path("data"), given, is_unit)
        }
    }

    #[test]
    fn what_is_installed_is_read_where_nothing_else_is_named() {
        let etc = Etc::new();
        let found = etc.find(None, false).expect("nothing is there");
        assert_eq!(found.file(), None);
        // Nothing is installed, so the folder is somebody else's.
        assert_eq!(found.variable("STATE_DIRECTORY"), None);

        let (config, data) = (etc.path("config.toml"), etc.path("data"));
        etc.write("config.toml", "");
        etc.write("cloudchat.env", &format!("{NAME}=one\n{NAME}='two'\n"));
        // With a link to it, or the file itself, named.
        let link = etc.path("link.toml");
        std::os::unix::fs::symlink(&config, &link).expect("it is ours");
        for given in [None, Some(config.as_path()), Some(&link)] {
            let found = etc.find(given, false).expect("all can be read");
            assert_eq!(found.file(), given.or(Some(&config)));
            assert_eq!(found.variable(NAME).as_deref(), Some("two"));
            let state = found.variable("STATE_DIRECTORY");
            assert_eq!(state, Some(data.display().to_string()));
        }
        // Another file stands for itself.
        etc.write("other.toml", "");
        for other in ["other.toml", "missing.toml"].map(|name| etc.path(name)) {
            let found = etc.find(Some(&other), false).expect("it is only named");
            assert_eq!(found.file(), Some(other.as_path()));
            assert_eq!(found.variable(NAME), None);
            assert_eq!(found.variable("STATE_DIRECTORY"), None);
        }
        // A unit has the variables from systemd.
        let found = etc.find(Some(&config), true).expect("it is not asked for");
        assert_eq!(found.variable(NAME), None);
        assert_eq!(found.variable("STATE_DIRECTORY"), None);
        // The environment wins; nothing tests run in lacks this one.
        etc.write("cloudchat.env", "PATH=/nowhere\n");
        let found = etc.find(None, false).expect("all can be read");
        assert_eq!(found.variable("PATH"), environment("PATH"));
        // Without the server's folder there is no server.
        fs::remove_dir(&data).expect("it is empty");
        let found = etc.find(None, false).expect("all can be read");
        assert_eq!(found.variable("STATE_DIRECTORY"), None);
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        let etc = Etc::new();
        // A folder cannot be read, not even by root.
        fs::create_dir(etc.path("cloudchat.env")).expect("it is ours");
        let error = etc.find(None, false).err().expect("it is no file");
        assert!(error.contains("cloudchat.env: cannot be read: "), "{error}");
        assert!(error.contains("run this as root"), "{error}");
        assert!(etc.find(None, true).is_ok(), "a unit does not read it");
        fs::remove_dir(etc.path("cloudchat.env")).expect("it is empty");
        fs::write(etc.path("cloudchat.env"), b"A=\xff\n").expect("it is ours");
        let error = etc.find(None, false).err().expect("it is no UTF-8");
        assert!(error.contains("cloudchat.env: cannot be read: "), "{error}");
        let long = "#".repeat(ENV_FILE_BYTES_MAX as usize + 1);
        etc.write("cloudchat.env", &long);
        let error = etc.find(None, false).err().expect("it is too long");
        assert!(error.contains("longer than"), "{error}");
    }
}
