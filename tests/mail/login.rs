//! Who may log in to the mail server: Dovecot's authentication protocol, version 1, as far as
//! Postfix asks for it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Said at once on each connection.
const HANDSHAKE: &str = "VERSION\t1\t2\nMECH\tPLAIN\tplaintext\nSPID\t1\nCUID\t1\n\
                         COOKIE\t0123456789abcdef0123456789abcdef\nDONE\n";

/// Answers for as long as the process lives.
pub struct Logins {
    pub port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// The user and password that may log in.
    accepted: Mutex<(String, String)>,
    /// Whether each attempt so far was let in.
    outcomes: Mutex<Vec<bool>>,
}

impl Logins {
    /// Nobody may log in yet.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let port = listener.local_addr().expect("it is bound").port();
        let shared = Arc::new(Shared::default());
        let served = Arc::clone(&shared);
        thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let served = Arc::clone(&served);
                // It ends when Postfix closes the connection.
                thread::spawn(move || serve(&served, socket).unwrap_or_default());
            }
        });
        Self { port, shared }
    }

    pub fn accept(&self, user: &str, password: &str) {
        let mut accepted = self.shared.accepted.lock().expect("no thread panics");
        *accepted = (user.to_owned(), password.to_owned());
    }

    /// Whether each attempt so far was let in.
    pub fn outcomes(&self) -> Vec<bool> {
        let outcomes = self.shared.outcomes.lock().expect("no thread panics");
        outcomes.clone()
    }
}

fn serve(shared: &Shared, mut socket: TcpStream) -> std::io::Result<()> {
    socket.write_all(HANDSHAKE.as_bytes())?;
    for line in BufReader::new(socket.try_clone()?).lines() {
        let line = line?;
        let fields: Vec<&str> = line.split('\t').collect();
        let ["AUTH", id, "PLAIN", parameters @ ..] = fields.as_slice() else {
            continue;
        };
        let accepted = shared.accepted.lock().expect("no thread panics").clone();
        let expected = STANDARD.encode(format!("\0{}\0{}", accepted.0, accepted.1));
        let given = parameters.iter().find_map(|p| p.strip_prefix("resp="));
        let may = given == Some(expected.as_str());
        let outcomes = &shared.outcomes;
        outcomes.lock().expect("no thread panics").push(may);
        let word = if may { "OK" } else { "FAIL" };
        socket.write_all(format!("{word}\t{id}\tuser={}\n", accepted.0).as_bytes())?;
    }
    Ok(())
}
