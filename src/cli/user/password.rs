//! A new password from the person at the terminal, or from a line of stdin. Never from arguments or
//! the environment, which other users of the machine can read.

use std::fs::File;
use std::io::{self, BufRead as _, IsTerminal as _, Read as _};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::accounts::password::{PASSWORD_CHARS_MAX, chosen};
use crate::hasher::{self, Password};
use crate::model::PasswordHash;

/// Bytes of a line that are read: more than the longest password and the line's end take, so that
/// what is too long is seen to be. One of four bytes may be typed as three of as many.
const LINE_BYTES_MAX: usize = 12 * PASSWORD_CHARS_MAX + 8;

const WEAK: &str = "weak password: 8 to 128 characters of two kinds (letters, digits, others), \
                    and none of the most common";

/// Asks for a password, twice on a terminal, and hashes it. Err: one line.
pub(super) fn new_hash() -> Result<PasswordHash, String> {
    let at_terminal = io::stdin().is_terminal();
    let password = match at_terminal {
        true => ask("New password: ")?,
        false => from_stdin()?,
    };
    let chosen = chosen(password.as_str()).map_err(|_| WEAK)?;
    if at_terminal && ask("Once more: ")?.as_str() != password.as_str() {
        return Err("the two passwords differ".to_owned());
    }
    hasher::hash_once(&chosen).map(PasswordHash::of_nfc)
}

fn ask(prompt: &str) -> Result<Password, String> {
    // rpassword shows its prompt first and hides what is typed after that: what is typed or pasted
    // in between would be seen.
    Unseen::begin()
        .and_then(|_unseen| rpassword::prompt_password(prompt))
        .map(Password::new)
        .map_err(|error| format!("cannot read the password: {error}"))
}

/// While it lives, the terminal does not show what is typed.
struct Unseen {
    terminal: File,
    before: Termios,
}

impl Unseen {
    fn begin() -> io::Result<Self> {
        let terminal = File::options().read(true).write(true).open("/dev/tty")?;
        let before = tcgetattr(&terminal)?;
        let mut unseen = before.clone();
        unseen.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&terminal, OptionalActions::Now, &unseen)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Unseen {
    fn drop(&mut self) {
        // A terminal that has gone away needs nothing.
        tcsetattr(&self.terminal, OptionalActions::Now, &self.before).unwrap_or_default();
    }
}

fn from_stdin() -> Result<Password, String> {
    // With its whole room at once: growing would leave copies behind.
    let mut line = Zeroizing::new(Vec::with_capacity(LINE_BYTES_MAX));
    io::stdin()
        .lock()
        .take(LINE_BYTES_MAX as u64)
        .read_until(b'\n', &mut line)
        .map_err(|error| format!("cannot read the password: {error}"))?;
    let text = str::from_utf8(&line).map_err(|_| "the password is not UTF-8".to_owned())?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    match text {
        "" => Err("no password on stdin".to_owned()),
        text => Ok(Password::new(text.to_owned())),
    }
}
