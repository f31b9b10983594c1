//! The stories of the account store, through a PgBouncer that keeps prepared statements.

#[path = "../store/accounts.rs"]
mod accounts;
#[path = "../store/forms.rs"]
mod forms;

mod logins {
    pub use crate::support::login;
}

mod support {
    pub use crate::support::{HOUR, T0};
    pub type Open = crate::support::Open<1>;
}
