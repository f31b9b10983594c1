//! Reset tokens in Redis, beside those of the old service.

use super::Link;
use super::ask::{Ask, number, text};
use super::keys::hex;
use crate::model::{Token, UserId};
use crate::store::{RESET_TOKEN_TTL_MS_MAX, StoreError, lives};

const SWAP: &str = include_str!("scripts/swap.lua");

impl Link {
    pub(in crate::store) async fn put_reset_token(
        &self,
        now_ms: i64,
        token_sha256: [u8; 32],
        user: UserId,
        ttl_ms: i64,
    ) -> Result<(), StoreError> {
        let ttl_ms = ttl_ms.clamp(1, RESET_TOKEN_TTL_MS_MAX);
        let name = hex(&token_sha256);
        let asks = [
            Ask::set(
                self.keys().reset_token(&name),
                format!("{user} {}", now_ms.saturating_add(ttl_ms)),
                ttl_ms,
            ),
            self.ask_swap(user, &name, ttl_ms),
        ];
        let [_, older] = self.ask(asks).await?;
        match text(older) {
            Some(older) if *older != name => self.drop_reset_token(&older).await,
            _ => Ok(()),
        }
    }

    /// Remembers the name of the user's last token, or forgets it; the answer is the one before.
    fn ask_swap(&self, user: UserId, name: &str, ttl_ms: i64) -> Ask {
        let key = self.keys().reset_token_of(user);
        Ask::script(SWAP, [key], [name.into(), ttl_ms.into()])
    }

    async fn drop_reset_token(&self, name: &str) -> Result<(), StoreError> {
        let key = self.keys().reset_token(name);
        self.ask_one(Ask::delete(key)).await.map(drop)
    }

    /// Also one that the old service has mailed.
    pub(in crate::store) async fn reset_token(
        &self,
        now_ms: i64,
        token: &Token,
    ) -> Result<Option<UserId>, StoreError> {
        let asks = [
            Ask::get(self.keys().reset_token(&hex(&token.sha256()))),
            Ask::get(self.keys().old_reset_token(token)),
        ];
        let [ours, theirs] = self.ask(asks).await?;
        let life_ms = self.0.shared.lives.reset_token_ms;
        let is_good = |ends_ms: i64| lives::is_within(now_ms, ends_ms, life_ms);
        let user = match text(ours) {
            None => number(theirs),
            Some(ours) => ours.split_once(' ').and_then(|(user, ends_ms)| {
                let is_good = ends_ms.parse().is_ok_and(is_good);
                user.parse().ok().filter(|_| is_good)
            }),
        };
        Ok(user.map(UserId))
    }

    pub(in crate::store) async fn drop_reset_tokens(
        &self,
        user: UserId,
        used: Option<&Token>,
    ) -> Result<(), StoreError> {
        let mut asks = vec![self.ask_swap(user, "", 0)];
        asks.extend(used.map(|token| Ask::delete(self.keys().old_reset_token(token))));
        let mut answers = self.ask_all(asks).await?.into_iter();
        match answers.next().and_then(text) {
            Some(name) => self.drop_reset_token(&name).await,
            None => Ok(()),
        }
    }
}
