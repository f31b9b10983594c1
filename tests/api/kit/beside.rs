//! A server's stores as a second process on them has them: for what no request does.

use cloudchat::clock::Clock;
use cloudchat::config::{Config, Sources};
use cloudchat::model::{Credential, Email, Identifier, NewUser, PasswordHash};
use cloudchat::store::{Backend, Registered, StoreError, Stores};
use tokio::runtime::{Builder, Handle, Runtime};

use super::Server;

/// Handles to the stores of a running server.
pub struct Beside {
    pub stores: Stores,
    backend: Option<Backend>,
    runtime: Runtime,
}

impl Beside {
    pub fn new(server: &Server) -> Self {
        let (file, data) = (server.config(), server.data());
        let sources = Sources {
            file: Some(&file),
            data_dir: Some(&data),
            ..Sources::default()
        };
        let config = Config::load(sources).expect("the server has started with it");
        // What keeps a connection alive runs on a thread of its own, whoever waits for an answer.
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime can be made");
        let _inside = runtime.enter();
        let backend = Backend::start(&config.store, |_, _| ()).expect("the stores are there");
        Self {
            stores: backend.connect(),
            backend: Some(backend),
            runtime,
        }
    }

    /// For calls by other threads.
    pub fn runtime(&self) -> &Handle {
        self.runtime.handle()
    }

    /// Waits for the answer to a call.
    pub fn wait<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> T {
        self.runtime.block_on(call).expect("the store answers")
    }

    pub fn credential(&self, email: &str) -> Credential {
        let identifier = Identifier::parse(email).expect("an address");
        let found = self.wait(self.stores.accounts.credential(&identifier));
        found.expect("they are registered")
    }

    /// Makes an account with this hash of its password, as if it had registered.
    pub fn add(&self, email: &str, hash: &PasswordHash) {
        let user = NewUser {
            email: Email::parse(email).expect("an address"),
            phone: None,
            display_name: None,
            hash: hash.clone(),
            welcome: false,
        };
        let now_ms = Clock::System.wall_ms();
        let made = self.wait(self.stores.accounts.register(now_ms, user));
        assert!(matches!(made, Registered::Done(_)), "{email}: {made:?}");
    }

    /// Switches the account off, as `cloudchat user disable` does.
    pub fn disable(&self, email: &str) {
        let user = self.credential(email).user;
        let now_ms = Clock::System.wall_ms();
        assert!(self.wait(self.stores.accounts.set_active(now_ms, user, false)));
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if let Some(backend) = self.backend.take() {
            let ended = backend.stop();
            assert!(
                ended.is_ok() || std::thread::panicking(),
                "it ends well: {ended:?}"
            );
        }
    }
}
