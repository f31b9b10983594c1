//! The stories of the account store, straight to PostgreSQL.

#[path = "../store/accounts.rs"]
mod accounts;
#[path = "../store/forms.rs"]
mod forms;
#[path = "../store/set_back.rs"]
mod set_back;

mod logins {
    pub use crate::support::login;
}

mod support {
    pub use crate::support::{HOUR, T0};
    pub type Open = crate::support::Open<0>;
}
