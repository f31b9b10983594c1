//! Chats in Redis, as `store/chats` has them in SQL.

use fred::types::Value;

use super::Link;
use super::ask::{Ask, bytes, elements, number, raw, text, texts};
use super::keys::member;
use crate::entropy;
use crate::llm::history;
use crate::model::UserId;
use crate::store::chats::{GRACE_MS, UNREADABLE};
use crate::store::{
    Begun, ChatKey, Found, Generation, OwnChat, Owner, Reserved, StoreError, Turn, Window, lives,
};

const OPEN: &str = include_str!("scripts/open_chat.lua");
const SAVE: &str = include_str!("scripts/save_turn.lua");
const RESET: &str = include_str!("scripts/reset_chat.lua");
const DELETE: &str = include_str!("scripts/delete_chat.lua");
const MEND: &str = include_str!("scripts/mend_chat.lua");
const NOTE: &str = include_str!("scripts/note_chat.lua");

/// How long after its question a turn may still renew its chat: a stream's longest life
/// (`chat.stream_seconds_max`, up to a day), its first word and its save.
const RUNNING_MS_MAX: i64 = 25 * 60 * 60 * 1000;
/// Chats noted of one user: more than an hour's, at twenty a minute for ten hours a day. The oldest
/// ones beyond are not exported, and end by themselves.
const CHATS_NOTED_MAX: i64 = 2_000;
/// Chats deleted by one round trip.
const CHATS_AT_ONCE: usize = 25;

impl Link {
    pub(in crate::store) async fn begin_chat(
        &self,
        now_ms: i64,
        chat: Option<ChatKey>,
        owner: Owner,
        windows: Vec<Window>,
    ) -> Result<Begun, StoreError> {
        let mut asks = Vec::with_capacity(windows.len() + 1);
        asks.extend(windows.iter().map(|window| self.ask_hit(now_ms, window)));
        asks.extend(chat.map(|chat| self.ask_chat(&member(chat))));
        let mut answers = self.ask_all(asks).await?.into_iter();
        let hits = answers.by_ref().take(windows.len()).collect();
        if let Reserved::Over { retry_after_s, .. } = self.reserved(now_ms, &windows, hits).await? {
            return Ok(Begun::Limited { retry_after_s });
        }
        let found = match (chat, answers.next()) {
            (Some(chat), Some(answer)) => match self.stored(answer, owner, now_ms) {
                Some(stored) => Some(self.readable(&member(chat), stored).await?),
                None => None,
            },
            _ => None,
        };
        let chat = found.map(|stored| Found {
            generation: stored.generation,
            ends_ms: stored.ends_ms,
            messages: stored.messages,
        });
        Ok(Begun::Ready { chat })
    }

    fn ask_chat(&self, member: &str) -> Ask {
        let fields = &["owner", "generation", "messages", "ends"];
        Ask::fields(self.keys().chat(member), fields)
    }

    /// A history that does not parse counts as empty, from now on.
    async fn readable(&self, member: &str, stored: Stored) -> Result<Stored, StoreError> {
        if history::check(&stored.messages) {
            return Ok(stored);
        }
        self.0.shared.health().report(UNREADABLE);
        let messages = bytes(stored.messages);
        self.ask_one(Ask::script(MEND, [self.keys().chat(member)], [messages]))
            .await?;
        let messages = Vec::new();
        Ok(Stored { messages, ..stored })
    }

    pub(in crate::store) async fn open_chat(
        &self,
        now_ms: i64,
        chat: ChatKey,
        owner: Owner,
        generation: Generation,
        ttl_ms: i64,
        new: bool,
    ) -> Result<(), StoreError> {
        let member = member(chat);
        let ends_ms = now_ms.saturating_add(ttl_ms);
        let open = Ask::script(
            OPEN,
            [self.keys().chat(&member)],
            [
                owner_field(owner),
                bytes(generation),
                ends_ms.into(),
                life(ttl_ms),
                Value::from(i64::from(new)),
            ],
        );
        let note = owner.id().map(|user| {
            let rest_ms = ttl_ms.saturating_add(RUNNING_MS_MAX);
            let arguments = [
                member.into(),
                now_ms.into(),
                rest_ms.into(),
                CHATS_NOTED_MAX.into(),
            ];
            Ask::script(NOTE, [self.keys().chats_of(user)], arguments)
        });
        let asks = std::iter::once(open).chain(note).collect();
        self.ask_all(asks).await.map(drop)
    }

    pub(in crate::store) async fn save_turn(
        &self,
        now_ms: i64,
        turn: Turn,
    ) -> Result<bool, StoreError> {
        let limits = turn.limits;
        // The script puts it behind the others; how it is written and shortened is decided here.
        let exchange = history::append(
            &[],
            &turn.question_escaped,
            &turn.answer_escaped,
            limits.exchanges_max,
            limits.bytes_max,
        );
        let number = |number: usize| Value::from(i64::try_from(number).unwrap_or(i64::MAX));
        let save = Ask::script(
            SAVE,
            [self.keys().chat(&member(turn.chat))],
            [
                bytes(turn.generation),
                bytes(exchange),
                number(limits.exchanges_max),
                number(limits.bytes_max),
                now_ms.saturating_add(turn.ttl_ms).into(),
                life(turn.ttl_ms),
            ],
        );
        Ok(self.ask_one(save).await? == Value::Integer(1))
    }

    pub(in crate::store) async fn reset_chat(
        &self,
        chat: ChatKey,
        owner: Owner,
    ) -> Result<(), StoreError> {
        let generation: Generation = entropy::bytes();
        let arguments = [owner_field(owner), bytes(generation)];
        let key = self.keys().chat(&member(chat));
        self.ask_one(Ask::script(RESET, [key], arguments))
            .await
            .map(drop)
    }

    pub(in crate::store) async fn delete_chat(
        &self,
        chat: ChatKey,
        owner: Owner,
    ) -> Result<(), StoreError> {
        let member = member(chat);
        let delete = self.ask_delete(&member, owner);
        let forget = owner
            .id()
            .map(|user| Ask::delete_fields(self.keys().chats_of(user), vec![member]));
        let asks = std::iter::once(delete).chain(forget).collect();
        self.ask_all(asks).await.map(drop)
    }

    fn ask_delete(&self, member: &str, owner: Owner) -> Ask {
        Ask::script(DELETE, [self.keys().chat(member)], [owner_field(owner)])
    }

    pub(in crate::store) async fn chats_of(
        &self,
        now_ms: i64,
        user: UserId,
        after: i64,
        rows_max: u32,
    ) -> Result<Vec<OwnChat>, StoreError> {
        let rows_max = usize::try_from(rows_max).unwrap_or(usize::MAX);
        let mut members = self.noted_chats(user).await?;
        members.retain(|(place, _)| *place > after);
        members.sort_unstable();
        let mut found = Vec::new();
        // Histories are long, so no more are read at once than are asked for.
        for some in members.chunks(rows_max.max(1)) {
            let asks = some.iter().map(|(_, member)| self.ask_chat(member));
            let answers = self.ask_all(asks.collect()).await?;
            for ((place, member), answer) in some.iter().zip(answers) {
                let Some(stored) = self.stored(answer, Owner::User(user.0), now_ms) else {
                    continue;
                };
                let stored = self.readable(member, stored).await?;
                found.push(OwnChat {
                    place: *place,
                    expires_ms: stored.ends_ms,
                    messages: stored.messages,
                });
            }
            if found.len() >= rows_max {
                found.truncate(rows_max);
                break;
            }
        }
        Ok(found)
    }

    pub(in crate::store) async fn delete_chats_of(&self, user: UserId) -> Result<(), StoreError> {
        let owner = Owner::User(user.0);
        for some in self.noted_chats(user).await?.chunks(CHATS_AT_ONCE) {
            let members: Vec<_> = some.iter().map(|(_, member)| member.clone()).collect();
            let asks = members.iter().map(|member| self.ask_delete(member, owner));
            let mut asks: Vec<_> = asks.collect();
            asks.push(Ask::delete_fields(self.keys().chats_of(user.0), members));
            self.ask_all(asks).await?;
        }
        Ok(())
    }

    /// The user's chats and where each stands among them.
    async fn noted_chats(&self, user: UserId) -> Result<Vec<(i64, String)>, StoreError> {
        let key = self.keys().chats_of(user.0);
        let mut texts = texts(self.ask_one(Ask::all_fields(key)).await?).into_iter();
        let noted = std::iter::from_fn(|| texts.next().zip(texts.next()));
        Ok(noted
            .map(|(member, noted)| (place(&member, &noted), member))
            .collect())
    }
}

/// A chat as it is stored.
struct Stored {
    generation: Generation,
    messages: Vec<u8>,
    ends_ms: i64,
}

impl Link {
    /// `None` if there is none of this owner, or it has ended.
    fn stored(&self, answer: Value, owner: Owner, now_ms: i64) -> Option<Stored> {
        let [stored_owner, generation, messages, ends] = elements(answer).try_into().ok()?;
        let ends_ms = number(ends)?;
        let is_theirs = text(stored_owner)? == owner_text(owner);
        let is_live = lives::is_within(now_ms, ends_ms, self.0.shared.lives.chat_ms);
        (is_theirs && is_live).then_some(())?;
        Some(Stored {
            generation: raw(generation)?.as_ref().try_into().ok()?,
            messages: raw(messages)?.to_vec(),
            ends_ms,
        })
    }
}

fn owner_text(owner: Owner) -> String {
    owner.id().map(|user| user.to_string()).unwrap_or_default()
}

fn owner_field(owner: Owner) -> Value {
    owner_text(owner).into()
}

/// The key's own end, some time after that of the chat.
fn life(ttl_ms: i64) -> Value {
    ttl_ms.saturating_add(GRACE_MS).into()
}

/// Where a chat stands among its user's: by when it was made, and then by its name, which is random.
fn place(member: &str, noted: &str) -> i64 {
    let made_ms = noted.split(' ').next().and_then(|made| made.parse().ok());
    let made_ms: i64 = made_ms.unwrap_or_default();
    let name = member
        .bytes()
        .take(3)
        .fold(0, |name, byte| (name << 7) | i64::from(byte));
    // Good for times up to the year 2109.
    (made_ms << 21) | name
}
