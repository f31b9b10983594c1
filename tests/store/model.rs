//! Random calls against a reference that needs no store.

use std::collections::HashMap;

use cloudchat::store::{Begun, Found, Owner, Sessions, Window};

use super::ME;
use super::support::{HOUR, Open, Random, T0, key, text, turn};

/// The reference: what a chat and a window are, without a store.
#[derive(Default)]
struct Model {
    chats: HashMap<usize, (Owner, [u8; 16], i64, String)>,
    windows: HashMap<usize, (u32, i64)>,
}

#[tokio::test]
async fn twenty_thousand_random_calls_agree_with_a_map() {
    let open = Open::fresh();
    let store = &open.stores.sessions;
    let mut model = Model::default();
    let mut random = Random(20_261);
    let mut now = T0;
    for step in 0..20_000 {
        now += random.below(2000) as i64;
        let (n, owner) = (random.below(12), [ME, Owner::Anonymous][random.below(2)]);
        let mut generation = [random.below(3) as u8; 16];
        if let Some(known) = model.chats.get(&n)
            && random.below(4) > 0
        {
            generation = known.1;
        }
        match random.below(8) {
            0..3 => model.begin(store, now, n, owner, random.below(3)).await,
            3 => {
                model
                    .open(store, now, n, owner, generation, random.below(2) == 0)
                    .await
            }
            4..7 => {
                model
                    .save(store, now, n, generation, &format!("q{step}"))
                    .await
            }
            _ => model.reset(store, now, n, owner).await,
        }
    }
    open.stop();
}

impl Model {
    async fn begin(&mut self, store: &Sessions, now: i64, n: usize, owner: Owner, w: usize) {
        let window = Window::new(&[w as u8], 3, 10_000);
        let begun = store
            .begin_chat(now, Some(key(n)), owner, vec![window])
            .await
            .unwrap();
        let state = self.windows.entry(w).or_insert((0, now + 10_000));
        if state.1 <= now {
            *state = (0, now + 10_000);
        }
        if state.0 == 3 {
            let retry_after_s = ((state.1 - now) as u32).div_ceil(1000);
            return assert_eq!(begun, Begun::Limited { retry_after_s });
        }
        state.0 += 1;
        let known = self
            .chats
            .get(&n)
            .filter(|chat| chat.0 == owner && chat.2 > now);
        let Begun::Ready { chat } = begun else {
            panic!("limited at {} of 3", state.0)
        };
        assert_eq!(
            chat.as_ref().map(|chat| chat.generation),
            known.map(|chat| chat.1)
        );
        assert_eq!(text(&chat), known.map_or("", |chat| &chat.3));
    }

    async fn open(
        &mut self,
        store: &Sessions,
        now: i64,
        n: usize,
        owner: Owner,
        generation: [u8; 16],
        new: bool,
    ) {
        store
            .open_chat(now, key(n), owner, generation, 60_000, new)
            .await
            .unwrap();
        match self.chats.get_mut(&n) {
            Some(chat) if chat.0 == owner && chat.1 == generation => chat.2 = now + 60_000,
            None if new => {
                self.chats
                    .insert(n, (owner, generation, now + 60_000, String::new()));
            }
            Some(_) | None => {}
        }
    }

    async fn save(
        &mut self,
        store: &Sessions,
        now: i64,
        n: usize,
        generation: [u8; 16],
        question: &str,
    ) {
        let saved = store
            .save_turn(now, turn(key(n), generation, question))
            .await
            .unwrap();
        let known = self.chats.get_mut(&n).filter(|chat| chat.1 == generation);
        assert_eq!(saved, known.is_some());
        let Some(chat) = known else { return };
        chat.2 = now + HOUR;
        let mut words: Vec<String> = chat.3.split_whitespace().map(str::to_owned).collect();
        words.extend([question.to_owned(), format!("a:{question}")]);
        if words.len() == 18 {
            words.drain(..6);
        }
        chat.3 = words.join(" ");
    }

    async fn reset(&mut self, store: &Sessions, now: i64, n: usize, owner: Owner) {
        store.reset_chat(key(n), owner).await.unwrap();
        let Some(chat) = self.chats.get_mut(&n).filter(|chat| chat.0 == owner) else {
            return;
        };
        chat.3.clear();
        chat.1 = [0xff; 16];
        if let Begun::Ready {
            chat: Some(Found { generation, .. }),
        } = store
            .begin_chat(now.min(chat.2 - 1), Some(key(n)), owner, Vec::new())
            .await
            .unwrap()
        {
            chat.1 = generation;
        }
    }
}
