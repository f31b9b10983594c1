//! The command line: one variant, one arm, one `run` per command.
//!
//! Exit codes: 0, 1 for a failure while running, 2 for wrong arguments or configuration.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory as _, Parser, Subcommand};

use crate::budget::Budget;
use crate::config::{self, Config, Guide, Installed, Provider, Sources};
use crate::demo::{self, DemoArgs};
use crate::{hasher, log, serve, store};

mod backup;
mod doctor;
mod migrate;
mod owner;
mod place;
mod reload;
mod user;

#[derive(Parser)]
#[command(name = "cloudchat", version, about, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server
    Serve(Settings),
    /// Tell whether a configuration would start, print the memory sum and every limit, and look at the database
    Check(CheckArgs),
    /// Look for what breaks a server in practice, and print the lines that fix it
    ///
    /// Asks each provider for its models and one short question, which may cost something
    Doctor(doctor::DoctorArgs),
    /// Print a configuration file with every key, its default and why it is there
    ExampleConfig,
    /// Run the server with a simulated model: nothing to configure, nothing to install
    Demo(Place),
    /// Copy the data folder's files, also while the server runs, and check the copies
    Backup(backup::BackupArgs),
    /// Put a backup in the place of the data folder's files, which are kept; the server must not run
    Restore(backup::RestoreArgs),
    /// Make or update the tables in PostgreSQL, also while servers run
    Migrate(migrate::MigrateArgs),
    /// Have a running server replaced by a new process, without losing a request; waits for the outcome
    Reload(reload::ReloadArgs),
    /// Look at and change accounts on the server's store, also while the server runs
    User(user::UserArgs),
}

#[derive(Args)]
struct Settings {
    /// Configuration file; without it /etc/cloudchat/config.toml, if it is there
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
struct CheckArgs {
    #[command(flatten)]
    settings: Settings,
    /// Also ask each provider one short question, which may cost something, and for its models
    #[arg(long)]
    ask: bool,
}

#[derive(Args)]
struct Place {
    /// Where to listen: host:port or unix:/path; may be repeated; replaces the file's list
    #[arg(long, value_name = "ADDR")]
    listen: Vec<String>,
    /// Folder for the stored data
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// Hashes whose median `check` shows; more than a handful, so that one disturbance does not count.
const HASHES_MEASURED: usize = 9;

/// Why a command ended early: the lines to print.
enum Failure {
    /// Wrong arguments or configuration.
    Mistakes(Vec<String>),
    /// What was looked for has been found, and printed.
    Found,
    /// Something failed while running.
    Stopped(String),
}

/// What the command line takes; the man pages and the shells' completions are made from it.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the command that `args` (the program's name first) ask for.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are "errors" too, with the code 0, and go to stdout.
            let printed = error.print().is_ok();
            return if error.exit_code() == 0 && printed {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(2)
            };
        }
    };
    // Also when one of them panics.
    let _written = log::UntilWritten;
    let result = match cli.command {
        Command::Serve(settings) => run_serve(&settings),
        Command::Check(args) => run_check(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::ExampleConfig => print(config::EXAMPLE),
        Command::Demo(place) => run_demo(place),
        Command::Backup(args) => backup::back_up(&args),
        Command::Restore(args) => backup::restore(&args),
        Command::Migrate(args) => migrate::run(&args),
        Command::Reload(args) => reload::run(&args),
        Command::User(args) => user::run(&args),
    };
    let (lines, code) = match result {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Found) => (Vec::new(), 1),
        Err(Failure::Stopped(line)) => (vec![line], 1),
        Err(Failure::Mistakes(lines)) => (lines, 2),
    };
    for line in lines {
        log::print(&format!("cloudchat: {line}\n"));
    }
    ExitCode::from(code)
}

fn run_serve(settings: &Settings) -> Result<(), Failure> {
    let (config, budget) = load(settings)?;
    log::init(config.log.format, config.log.journal);
    if let Some(owner) = owner::of(&config.store).map_err(Failure::Stopped)? {
        owner.become_it().map_err(Failure::Stopped)?;
        let name = owner.name();
        log::info(
            "data of another user",
            &[("served_as", name.as_str().into())],
        );
    }
    for warning in &config.warnings {
        log::warn("configuration", &[("warning", warning.into())]);
    }
    serve::run(config, &budget).map_err(Failure::Stopped)
}

fn run_check(args: &CheckArgs) -> Result<(), Failure> {
    let (config, budget) = load(&args.settings)?;
    let hash = hasher::measure(HASHES_MEASURED).map_err(Failure::Stopped)?;
    let text = report(&config, &budget) + &hash_cost(&config.auth, hash);
    print(&(text + &database(&config)))?;
    if !args.ask {
        return Ok(());
    }
    print("\nThe providers, asked one question each:\n")?;
    let report = crate::doctor::providers(&config).map_err(Failure::Stopped)?;
    print(&report.text())?;
    match report.findings.is_empty() {
        true => Ok(()),
        false => Err(Failure::Found),
    }
}

fn run_demo(place: Place) -> Result<(), Failure> {
    // The demo has a configuration of its own; this finds wrong arguments before it starts.
    Config::load(Sources {
        listen: &place.listen,
        data_dir: place.data_dir.as_deref(),
        ..Sources::default()
    })
    .map_err(Failure::Mistakes)?;
    demo::run(DemoArgs {
        listen: place.listen,
        data_dir: place.data_dir,
    })
    .map_err(Failure::Stopped)
}

fn load(settings: &Settings) -> Result<(Config, Budget), Failure> {
    let place = &settings.place;
    let (config, file) = read(
        settings.config.as_deref(),
        &place.listen,
        place.data_dir.as_deref(),
    )?;
    let budget = Budget::new(&config).map_err(|mistake| {
        let file = file.map_or_else(String::new, |file| format!("{}: ", file.display()));
        Failure::Mistakes(vec![format!("{file}{mistake}")])
    })?;
    Ok((config, budget))
}

/// The configuration, with what the package has installed, and the file that it was read from.
fn read(
    file: Option<&Path>,
    listen: &[String],
    data_dir: Option<&Path>,
) -> Result<(Config, Option<PathBuf>), Failure> {
    let installed = Installed::find(file).map_err(|mistake| Failure::Mistakes(vec![mistake]))?;
    let config = Config::load(Sources {
        file: installed.file(),
        env: &|name| installed.variable(name),
        names: &config::environment_names(),
        listen,
        data_dir,
    });
    let config = config.map_err(Failure::Mistakes)?;
    Ok((config, installed.file().map(Path::to_owned)))
}

/// What the store reports; an error that follows says less.
fn tell(event: &'static str, detail: String) {
    writeln!(io::stderr(), "cloudchat: {event}: {detail}").unwrap_or_default();
}

fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| Failure::Stopped(format!("cannot print: {error}")))
}

/// What `check` prints about a configuration without mistakes.
fn report(config: &Config, budget: &Budget) -> String {
    let mut text = String::from("The configuration is valid: `cloudchat serve` would start.\n");
    let listen: Vec<String> = config
        .server
        .listen
        .iter()
        .map(ToString::to_string)
        .collect();
    for (name, value) in [
        ("listen", listen.join(" ")),
        ("workers", config.server.workers.to_string()),
        ("data folder", data_folder(config)),
        ("accounts", accounts(config)),
    ] {
        line(&mut text, format_args!("  {name:<12} {value}"));
    }
    line(
        &mut text,
        format_args!("\nProviders, in order of preference:"),
    );
    for provider in &config.providers {
        line(&mut text, format_args!("  {}", described(provider)));
    }
    if config.providers.is_empty() {
        line(&mut text, format_args!("  none"));
    }
    if !config.chat.guides.is_empty() {
        line(&mut text, format_args!("\nGuides, by guideMode:"));
    }
    for Guide {
        mode,
        file,
        text: of,
    } in &config.chat.guides
    {
        let (bytes, file) = (of.len(), file.display());
        line(&mut text, format_args!("  {mode}: {bytes} bytes, {file}"));
    }
    if !config.warnings.is_empty() {
        line(&mut text, format_args!("\nWarnings:"));
    }
    for warning in &config.warnings {
        line(&mut text, format_args!("  {warning}"));
    }
    line(
        &mut text,
        format_args!("\nMemory, in bytes, and the limits that follow from it:"),
    );
    text + &budget.table()
}

/// Where files are kept; a folder without accounts may be the wrong one.
fn data_folder(config: &Config) -> String {
    let dir = config.store.dir.display();
    match store::Backend::is_made(&config.store) {
        true => dir.to_string(),
        false => format!("{dir} (no accounts yet: `cloudchat serve` makes them)"),
    }
}

/// Who keeps the accounts.
fn accounts(config: &Config) -> String {
    let Some(database) = &config.store.database else {
        return "SQLite, in the data folder".to_owned();
    };
    let (cores, each) = (config.server.workers, database.connections_per_core);
    let connections = cores * each;
    format!("{}, {connections} connections", database.shown())
}

/// Whether the database is ready for it. It may be away, or be migrated later: the configuration is valid all the
/// same.
fn database(config: &Config) -> String {
    let Some(database) = &config.store.database else {
        return String::new();
    };
    let found = match store::would_start_on_postgres(database) {
        Ok(()) => format!("{}: schema and rights are as needed", database.shown()),
        Err(why) => format!("not ready: {why}"),
    };
    format!("\nThe database:\n  {found}\n")
}

/// What a password costs on this machine, and what that means for the queue.
fn hash_cost(auth: &config::Auth, each: Duration) -> String {
    let mut text = String::new();
    let (ms, rate) = (each.as_secs_f64() * 1e3, 1.0 / each.as_secs_f64());
    let cost = hasher::Cost::TODAY;
    line(
        &mut text,
        format_args!("\nA password hash ({cost}) on this machine, one at a time:"),
    );
    line(
        &mut text,
        format_args!("  {ms:.1} ms each, {rate:.1} per second and thread (one thread)"),
    );
    let (queue, longest) = (auth.hash_queue_max, ms / 1e3 * auth.hash_queue_max as f64);
    let allowed = auth.hash_timeout.as_secs_f64();
    line(
        &mut text,
        format_args!(
            "  {longest:.1} s for auth.hash_queue_max = {queue} of them; auth.hash_seconds_max = {allowed}"
        ),
    );
    if longest > allowed {
        line(
            &mut text,
            format_args!(
                "  the last of a full queue would wait too long: lower auth.hash_queue_max"
            ),
        );
    }
    text
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("a String takes every line");
}

/// A provider without its key and the values of its header fields.
fn described(provider: &Provider) -> String {
    let mut text = format!(
        "{} at {}, model {}, {}",
        provider.name,
        provider.base_url(),
        provider.model,
        if provider.key.is_some() {
            "with a key"
        } else {
            "no key"
        }
    );
    if !provider.headers.is_empty() {
        let names = provider.headers.iter().map(|(name, _)| name.as_str());
        text += &format!(", headers {}", names.collect::<Vec<_>>().join(" "));
    }
    text
}
