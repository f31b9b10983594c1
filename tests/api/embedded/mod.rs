//! What only the embedded stores can show: these tests reach into the SQLite files. `tests/run` leaves
//! this module out for other stores; what they do when a store is down is in `tests/production`.

mod environment;
mod full_disk;
mod locks;
mod session_lock;
mod sessions_without_accounts;
mod set_back;

use rusqlite::Connection;

use crate::kit::Server;

/// Opens a store's file as another process does.
fn open(server: &Server, name: &str) -> Connection {
    let path = server.data().join(name);
    assert!(path.exists(), "{name} is there: the stores are embedded");
    let file = Connection::open(path).expect("it is the store's file");
    file.busy_timeout(crate::kit::PATIENCE)
        .expect("it can be set");
    file
}

/// Holds the file's lock until dropped, as a backup gone wrong would.
fn hang(server: &Server, name: &str) -> Connection {
    let file = open(server, name);
    file.execute_batch("BEGIN EXCLUSIVE")
        .expect("the lock is given");
    file
}
