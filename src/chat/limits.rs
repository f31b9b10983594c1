//! What one client may have of the chats: answers at once, and rate-limit windows.
//!
//! A user counts, wherever they are, and so does the address that they come from, or ten accounts would make
//! one visitor ten. Of IPv6 the network counts, too.

use crate::app::App;
use crate::config;
use crate::http::address::{Bucket, Client, NETWORK_FACTOR};
use crate::limits::KeyedPool;
use crate::store::{Owner, Window};

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const DAY_MS: i64 = 24 * HOUR_MS;
/// Users of one address may together ask so many times as often as one of them.
const RATE_FACTOR: u32 = 10;
/// The same for answers at once.
const STREAMS_FACTOR: usize = 8;

/// What a question is counted by first: its user, or the address of those who are not logged in.
pub fn principal(owner: Owner, client: &Client) -> Bucket {
    match owner {
        Owner::User(id) => Bucket::of_user(id),
        Owner::Anonymous => client.bucket,
    }
}

/// The places of one answer among those of its client. What they are follows from user and address, so that a stream
/// need not remember each.
#[derive(Debug)]
pub struct Places {
    pool: KeyedPool<Bucket>,
    /// 0: not logged in.
    user: i64,
    bucket: Bucket,
    is_proxy: bool,
}

// Each stream has one.
const _: () = assert!(size_of::<Places>() <= 32);

impl Places {
    /// Takes them, or none if one is not to be had.
    pub fn take(app: &App, owner: Owner, client: &Client) -> Option<Self> {
        let places = || Self {
            pool: app.shared.clients.clone(),
            user: user(owner),
            bucket: client.bucket,
            is_proxy: client.is_proxy,
        };
        let each = app.shared.config.chat.streams_per_client_max;
        let keys: Vec<_> = keys(user(owner), client.bucket, client.is_proxy, each).collect();
        app.shared.clients.count(&keys).then(places)
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        let keys = keys(self.user, self.bucket, self.is_proxy, 0);
        self.pool.give_back(keys.map(|(key, _)| key));
    }
}

/// What an answer counts in, and the most of each.
fn keys(
    user: i64,
    bucket: Bucket,
    is_proxy: bool,
    each_max: usize,
) -> impl Iterator<Item = (Bucket, usize)> {
    let network = bucket.network();
    let wide = |n: usize| n.saturating_mul(NETWORK_FACTOR as usize);
    let keys = match user {
        0 => [
            Some((bucket, each_max)),
            network.map(|network| (network, wide(each_max))),
            None,
        ],
        id => {
            let at_address = each_max.saturating_mul(STREAMS_FACTOR);
            // Behind a proxy that names nobody they would be everybody's.
            let address = (!is_proxy).then(|| (bucket.of_users(), at_address));
            [
                Some((Bucket::of_user(id), each_max)),
                address,
                network.map(|network| (network.of_users(), wide(at_address))),
            ]
        }
    };
    keys.into_iter().flatten()
}

/// A user's number; 0: nobody is logged in.
fn user(owner: Owner) -> i64 {
    match owner {
        Owner::Anonymous => 0,
        Owner::User(id) => id,
    }
}

/// The windows that a question is counted in, the one that it most likely meets first.
pub fn windows(config: &config::Chat, owner: Owner, client: &Client) -> Vec<Window> {
    let mut windows = Vec::with_capacity(3);
    let mut add = |kind: &[u8], key: &[u8], limit: u32, length_ms: i64| {
        if limit > 0 {
            windows.push(Window::new(&[kind, key].concat(), limit, length_ms));
        }
    };
    let (bucket, network) = (client.bucket, client.network);
    match owner {
        Owner::Anonymous => {
            let limit = config.anonymous_rate_per_minute;
            add(b"chat:", bucket.as_bytes(), limit, MINUTE_MS);
            if let Some(network) = network {
                let limit = limit.saturating_mul(NETWORK_FACTOR);
                add(b"chat:", network.as_bytes(), limit, MINUTE_MS);
            }
        }
        Owner::User(id) => {
            let limit = config.rate_per_minute;
            add(b"chat:", Bucket::of_user(id).as_bytes(), limit, MINUTE_MS);
            let limit = limit.saturating_mul(RATE_FACTOR);
            if !client.is_proxy {
                add(b"chat-a:", bucket.as_bytes(), limit, MINUTE_MS);
            }
            if let Some(network) = network {
                let limit = limit.saturating_mul(NETWORK_FACTOR);
                add(b"chat-a:", network.as_bytes(), limit, MINUTE_MS);
            }
        }
    }
    if !client.is_proxy {
        add(b"chat-d:", bucket.as_bytes(), config.per_day_max, DAY_MS);
    }
    if let Some(network) = network {
        let limit = config.per_day_max.saturating_mul(NETWORK_FACTOR);
        add(b"chat-d:", network.as_bytes(), limit, DAY_MS);
    }
    add(b"chat-s:", b"", config.site_per_hour_max, HOUR_MS);
    windows
}
