//! Command lines of the form `--name value` and `--flag`; a mistake ends the program with code 2.

use std::str::FromStr;

/// The options given, checked against those that exist.
#[derive(Debug)]
pub struct Args {
    given: Vec<(String, String)>,
}

impl Args {
    /// Reads the process's arguments. `options` take a value, `flags` do not; `--help` prints `usage`.
    pub fn read(usage: &str, options: &[&str], flags: &[&str]) -> Self {
        let mut given = Vec::new();
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let name = word.strip_prefix("--").unwrap_or_default().to_owned();
            if name == "help" {
                println!("{usage}");
                std::process::exit(0);
            }
            let value = if options.contains(&name.as_str()) {
                words
                    .next()
                    .unwrap_or_else(|| fail(&format!("--{name} needs a value\n{usage}")))
            } else if flags.contains(&name.as_str()) {
                String::new()
            } else {
                fail(&format!("unknown argument {word}\n{usage}"))
            };
            given.push((name, value));
        }
        Self { given }
    }

    /// Whether an option or flag was given.
    pub fn has(&self, name: &str) -> bool {
        self.text(name).is_some()
    }

    /// The last value given for an option.
    pub fn text(&self, name: &str) -> Option<&str> {
        let found = self.given.iter().rfind(|(given, _)| given == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Every value given for an option, as numbers.
    pub fn numbers<T: FromStr>(&self, name: &str) -> Vec<T> {
        let given = self.given.iter().filter(|(given, _)| given == name);
        given.map(|(_, text)| parse(name, text)).collect()
    }

    /// The last value given, as a number; `default` when there is none.
    pub fn number<T: FromStr>(&self, name: &str, default: T) -> T {
        self.text(name).map_or(default, |text| parse(name, text))
    }
}

fn parse<T: FromStr>(name: &str, text: &str) -> T {
    text.parse()
        .unwrap_or_else(|_| fail(&format!("--{name}: {text:?} is not a fitting number")))
}

/// Says what is wrong and ends the process with exit code 2.
#[expect(
    clippy::print_stderr,
    reason = "these tools have no log; stderr is where they explain themselves"
)]
pub fn fail(message: &str) -> ! {
    eprintln!("{message}");
    std::process::exit(2)
}
