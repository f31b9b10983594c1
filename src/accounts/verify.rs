//! Checking a password: counted before, the same work whether there is such a user or not.

use std::rc::Rc;

use ring::hmac;

use super::quota::{Guess, Subject};
use super::{Browser, device, password};
use crate::app::App;
use crate::clock;
use crate::error::Error;
use crate::hasher::{Against, Cost};
use crate::model::{Credential, Identifier, PasswordHash};

/// A right password.
#[derive(Debug)]
pub struct Verified {
    /// What it was checked against: the user is active, and has this hash.
    pub credential: Credential,
    /// The same as stored now, if it had to be made anew with today's parameters.
    pub hash: PasswordHash,
}

/// Checks a password of whoever this identifier belongs to; `credential` is what the store says.
/// On success nothing stays counted.
///
/// # Errors
/// [`Error::InvalidCredentials`] for a wrong password, no user, an inactive one, or after too many
/// of these; busy; the store is down.
pub async fn verify(
    app: &App,
    browser: &Browser<'_>,
    identifier: &Identifier,
    credential: Option<Credential>,
    typed: &str,
) -> Result<Verified, Error> {
    let accounts = &app.stores.accounts;
    let key = accounts.device_key();
    let subject = match device::recognise(key, browser.device, credential.as_ref()) {
        Some(nonce) => Subject::Device(nonce),
        None => Subject::Identifier(identifier),
    };
    // Asked for whether it is needed or not, as the known and the unknown must cost the same.
    let mix = mix(app).await?;
    let guess = Guess::begin(app, &browser.client, subject).await?;
    let stored = credential.as_ref().and_then(|known| known.hash.as_ref());
    // Too long is nobody's, and too long for the hasher's queue; the guess stays counted.
    let compared = password::to_compare(typed, stored).ok_or(Error::InvalidCredentials)?;
    let against = match &credential {
        Some(Credential {
            user,
            hash: Some(hash),
            ..
        }) => Against::Stored {
            user: user.0,
            hash: hash.as_str().to_owned(),
        },
        _ => Against::Dummy(dummy(app, &mix, identifier)),
    };
    let Ok(verdict) = app.hasher.verify(against, compared).await else {
        guess.give_back(app).await?;
        return Err(Error::NO_ROOM);
    };
    let Some(credential) = credential.filter(|user| verdict.matches && user.is_active) else {
        return Err(Error::InvalidCredentials);
    };
    let hash = credential.hash.clone().ok_or(Error::InvalidCredentials)?;
    guess.give_back(app).await?;
    let hash = match verdict.needs_rehash && app.shared.config.auth.rehash {
        true => rehash(app, &credential, hash, typed).await?,
        false => hash,
    };
    Ok(Verified { credential, hash })
}

/// What the stored hashes cost, at most some seconds ago.
async fn mix(app: &App) -> Result<Rc<[(Cost, u64)]>, Error> {
    if let Some(known) = app.hash_mix.borrow_mut().if_fresh(clock::now()) {
        return Ok(known);
    }
    let memory_max = app.shared.config.auth.hash_memory_max;
    let cost = |text: &str| {
        let cost = Cost::parse(text).filter(|cost| cost.fits(memory_max));
        // What cannot be verified costs one of today's.
        cost.unwrap_or(Cost::TODAY)
    };
    let stored = app.stores.accounts.hash_mix().await?;
    let stored = stored.iter().map(|(text, n)| (cost(text), u64::from(*n)));
    let stored: Rc<[_]> = stored.collect();
    app.hash_mix
        .borrow_mut()
        .keep(Rc::clone(&stored), clock::now());
    Ok(stored)
}

/// The work that an unknown identifier, or a user without a password, is met with: today's or an older one, in
/// the proportion that the store holds, and the same each time.
fn dummy(app: &App, mix: &[(Cost, u64)], identifier: &Identifier) -> Cost {
    let key = hmac::Key::new(hmac::HMAC_SHA256, app.stores.accounts.mix_key());
    let tag = hmac::sign(&key, &identifier.key_bytes());
    let tag = tag.as_ref().try_into();
    Cost::dummy(mix, &tag.expect("an HMAC-SHA256 has 32 bytes"))
}

/// Replaces a hash with other parameters than today's, unless it has changed meanwhile; what is
/// stored now, as far as we know. A busy hasher leaves it to the next login.
async fn rehash(
    app: &App,
    credential: &Credential,
    old: PasswordHash,
    typed: &str,
) -> Result<PasswordHash, Error> {
    let Some(compared) = password::to_compare(typed, Some(&old)) else {
        return Ok(old);
    };
    let Ok(new) = password::hash(app, compared).await else {
        return Ok(old);
    };
    let accounts = &app.stores.accounts;
    let replaced = accounts.rehash(credential.user, &old, new.clone());
    Ok(if replaced.await? { new } else { old })
}
