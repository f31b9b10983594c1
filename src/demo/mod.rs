//! The demonstration: the same server with a simulated provider, and a short conversation with it.

mod client;
mod provider;
mod script;

use std::io::{self, BufRead as _, IsTerminal as _, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::thread;

use crate::budget::Budget;
use crate::config::{self, Config, Listen, Sources};
use crate::log;
use crate::serve::{self, Running, Signals};
use client::Client;

/// What is asked before the reader gets to type.
const QUESTIONS: [&str; 2] = [
    "Hello! My name is Ada. What are you?",
    "What is my name, and what did I say first?",
];

/// The arguments of `cloudchat demo`.
#[derive(Debug)]
pub struct DemoArgs {
    /// Where to listen, instead of 127.0.0.1:5000.
    pub listen: Vec<String>,
    /// Folder for the stored data, instead of one in the user's cache.
    pub data_dir: Option<PathBuf>,
}

/// Runs the demonstration until Ctrl-C.
///
/// # Errors
/// One line on why it cannot start.
pub fn run(args: DemoArgs) -> Result<(), String> {
    let config = configure(args, provider::start()?)?;
    // Request lines would run through the conversation; warnings and errors still show.
    log::hide_info();
    let budget = Budget::new(&config)?;
    let data = config.store.dir.display().to_string();
    let signals = Signals::listen()?;
    let running = serve::start(config, &budget)?;
    if let Some(server) = tcp_address(&running) {
        let talk = move || {
            talk(server, &data).unwrap_or_else(|error| {
                log::warn(
                    "conversation ended",
                    &[("cause", log::Value::Display(&error))],
                );
            })
        };
        let thread = thread::Builder::new().name("conversation".to_string());
        thread
            .spawn(talk)
            .map_err(|error| format!("thread: {error}"))?;
    }
    running.until_signal(signals)
}

/// The defaults, with the simulated provider as the model.
fn configure(args: DemoArgs, provider: SocketAddr) -> Result<Config, String> {
    let cache = || {
        let cache = config::environment("XDG_CACHE_HOME").map(PathBuf::from);
        let home = || config::environment("HOME").map(|home| PathBuf::from(home).join(".cache"));
        let cache = cache.filter(|dir| dir.is_absolute()).or_else(home);
        cache
            .unwrap_or_else(|| PathBuf::from("."))
            .join("cloudchat-demo")
    };
    let base_url = format!("http://{provider}/v1");
    let environment = |name: &str| match name {
        "DEEPSEEK_BASE_URL" => Some(base_url.clone()),
        "DEEPSEEK_MODEL" => Some(provider::MODEL.to_string()),
        // The demonstration is plain HTTP, and not every client keeps a secure cookie then.
        "COOKIE_SECURE" => Some("0".to_string()),
        _ => None,
    };
    let config = Config::load(Sources {
        file: None,
        env: &environment,
        listen: &args.listen,
        data_dir: Some(&args.data_dir.unwrap_or_else(cache)),
        ..Sources::default()
    });
    let mut config = config.map_err(|mistakes| mistakes.join("; "))?;
    config.warnings.clear();
    // No proxy is in front, and a warning that none names its clients would stand in the middle of the talk.
    config.server.trusted_proxies.clear();
    Ok(config)
}

/// An address of the server that a client on this machine can use.
fn tcp_address(running: &Running) -> Option<SocketAddr> {
    running.addresses.iter().find_map(|listen| match listen {
        Listen::Tcp(address) => {
            let ip = match address.ip() {
                IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
                IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
                ip => ip,
            };
            Some(SocketAddr::new(ip, address.port()))
        }
        Listen::Unix(_) => None,
    })
}

/// Shows a conversation, says what else to try, and lets the reader go on with it.
fn talk(server: SocketAddr, data: &str) -> io::Result<()> {
    let mut out = io::stdout();
    let mut client = Client::new(server);
    writeln!(
        out,
        "CloudChat is running on http://{server}, with a simulated model.\n"
    )?;
    for question in QUESTIONS {
        writeln!(out, "you> {question}")?;
        ask(&mut client, question, &mut out)?;
    }
    writeln!(
        out,
        "Try it from another terminal; the second line continues the chat of the first:\n\n\
         curl -N -c cookies -b cookies http://{server}/deepseek_chat -H 'Content-Type: application/json' -d '{{\"message\":\"My name is Bob.\"}}'\n\
         curl -N -c cookies -b cookies http://{server}/deepseek_chat -H 'Content-Type: application/json' -d '{{\"message\":\"What is my name?\"}}'\n\
         curl -b cookies -X POST http://{server}/reset_chat\n\n\
         With a real model: DEEPSEEK_API_KEY=… cloudchat serve, or DEEPSEEK_BASE_URL=http://… for any\n\
         server on this machine that speaks OpenAI's API. Data of the demonstration: {data}\n\
         Ctrl-C ends it.\n"
    )?;
    if !io::stdin().is_terminal() {
        return Ok(());
    }
    let mut question = String::new();
    loop {
        write!(out, "you> ")?;
        out.flush()?;
        question.clear();
        if io::stdin().lock().read_line(&mut question)? == 0 {
            return writeln!(out, "(the server goes on; Ctrl-C ends it)");
        }
        if !question.trim().is_empty() {
            ask(&mut client, question.trim(), &mut out)?;
        }
    }
}

fn ask(client: &mut Client, question: &str, out: &mut impl Write) -> io::Result<()> {
    write!(out, "bot> ")?;
    out.flush()?;
    if let Err(error) = client.ask(question, out) {
        writeln!(out, "({error})")?;
    }
    writeln!(out)
}
