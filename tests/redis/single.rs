//! The stories of the session store, on one server.

#[path = "../store/chats.rs"]
mod chats;
#[path = "../store/logins.rs"]
pub mod logins;
#[path = "../store/model.rs"]
mod model;

use cloudchat::store::Owner;

pub const ME: Owner = Owner::User(7);

mod support {
    pub use crate::support::*;
    pub type Open = crate::support::Open<0>;
}
