//! The stories of the session store, on the master that sentinels name.

#[path = "../store/chats.rs"]
mod chats;
#[path = "../store/logins.rs"]
mod logins;
#[path = "../store/model.rs"]
mod model;

use cloudchat::store::Owner;

const ME: Owner = Owner::User(7);

mod support {
    pub use crate::support::*;
    pub type Open = crate::support::Open<2>;
}
