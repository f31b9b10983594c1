//! Making an account.

use super::{password, quota};
use crate::app::App;
use crate::error::Error;
use crate::hasher::Password;
use crate::http::address::Client;
use crate::http::fields::Field;
use crate::model::{DisplayName, Email, NewUser, Phone};
use crate::store::Registered;

/// What somebody fills in.
#[derive(Debug)]
pub struct Form<'a> {
    /// Required.
    pub email: Field<'a>,
    /// Required.
    pub password: Field<'a>,
    /// None, or a number that nobody else has.
    pub phone: Field<'a>,
    /// None, or any name.
    pub display_name: Field<'a>,
}

/// Makes an account and posts its welcome mail.
///
/// # Errors
/// The first of the form's fields that will not do; over a limit; somebody has the email address or
/// the phone number; busy; a store is down.
pub async fn register(app: &App, client: &Client, form: &Form<'_>) -> Result<(), Error> {
    let is_blank = form.email.text().is_some_and(|text| text.trim().is_empty());
    if form.email.is_none() || is_blank {
        return Err(Error::Invalid("email required"));
    }
    let email = form.email.text().and_then(Email::parse);
    let email = email.ok_or(Error::Invalid("Invalid email"))?;
    quota::count(app, &quota::registrations(client, &email)).await?;
    let phone = phone(&form.phone)?;
    let display_name = display_name(&form.display_name)?;
    let password = new_password(&form.password, "Weak password")?;
    let accounts = &app.stores.accounts;
    // Before the hash, which costs more; who is first of two at the same moment is decided below.
    let taken = accounts.taken(&email, phone.as_ref()).await?;
    if taken.email {
        return Err(EMAIL_TAKEN);
    }
    if taken.phone {
        return Err(PHONE_TAKEN);
    }
    let user = NewUser {
        email,
        phone,
        display_name,
        hash: password::hash(app, password).await?,
        welcome: true,
    };
    match accounts.register(app.clock.wall_ms(), user).await? {
        Registered::Done(_) => Ok(()),
        Registered::EmailTaken => Err(EMAIL_TAKEN),
        Registered::PhoneTaken => Err(PHONE_TAKEN),
    }
}

const EMAIL_TAKEN: Error = Error::Taken("Email already registered");
/// Somebody else has this number.
pub const PHONE_TAKEN: Error = Error::Taken("Phone already registered");

/// A phone number, or none if nothing was given.
///
/// # Errors
/// It is not usable as one.
pub fn phone(field: &Field<'_>) -> Result<Option<Phone>, Error> {
    optional(field, Phone::parse).ok_or(Error::Invalid("Invalid phone"))
}

/// A display name, or none if nothing was given.
///
/// # Errors
/// It is not usable as one.
pub fn display_name(field: &Field<'_>) -> Result<Option<DisplayName>, Error> {
    optional(field, DisplayName::parse).ok_or(Error::Invalid("Invalid display name"))
}

/// `None`: what was given will not do.
fn optional<T>(field: &Field<'_>, parse: impl Fn(&str) -> Option<T>) -> Option<Option<T>> {
    match field.text().map(str::trim) {
        Some("") => Some(None),
        Some(text) => parse(text).map(Some),
        None => field.is_none().then_some(None),
    }
}

/// A password that may be used from now on, composed.
///
/// # Errors
/// It is weak, with this message. What is no text counts as the empty one.
pub fn new_password(field: &Field<'_>, message: &'static str) -> Result<Password, Error> {
    let chosen = password::chosen(field.text().unwrap_or_default());
    chosen.map_err(|reason| Error::Weak { message, reason })
}
