//! Login sessions, reset tokens and reservations: what the rules can rely on.

use std::collections::HashMap;

use cloudchat::model::{Token, UserId};
use cloudchat::store::{
    NewSession, Owner, Reservation, Reserved, SESSIONS_PER_USER_MAX, Session, Window,
};

use super::support::{HOUR, Open, Random, T0, found, key};

const ME: UserId = UserId(7);
const YOU: UserId = UserId(8);

pub fn login(user: UserId, start_ms: i64) -> (Token, NewSession) {
    let token = Token::new();
    let new = NewSession {
        token: token.clone(),
        user,
        start_ms,
        ttl_ms: HOUR,
        address: "192.0.2.1".to_owned(),
        user_agent: "é".repeat(300),
        replaces: None,
    };
    (token, new)
}

#[tokio::test]
async fn a_session_lives_until_it_ends_expires_or_is_replaced() {
    let open = Open::fresh();
    let store = &open.stores.sessions;
    let (first, new) = login(ME, T0);
    store.create_session(new).await.unwrap();
    let alive = Some(Session {
        user: ME,
        created_ms: T0,
        is_noted: true,
    });
    assert_eq!(store.session(T0, &first).await, Ok(alive));
    assert_eq!(store.session(T0 + HOUR - 1, &first).await, Ok(alive));
    assert_eq!(store.session(T0 + HOUR, &first).await, Ok(None));
    assert_eq!(store.session(T0, &Token::new()).await, Ok(None));
    let (second, mut new) = login(ME, T0 + 1);
    new.replaces = Some(first.clone());
    store.create_session(new).await.unwrap();
    assert_eq!(store.session(T0, &first).await, Ok(None));
    for (at, seen) in [(59_999, 1), (60_001, 60_001), (120_000, 60_001)] {
        store.session(T0 + at, &second).await.unwrap();
        let all = store.sessions_of(T0 + at, ME).await.unwrap();
        assert_eq!((all.len(), all[0].last_seen_ms - T0), (1, seen));
    }
    let all = store.sessions_of(T0, ME).await.unwrap();
    assert!(all[0].is(&second) && !all[0].is(&first));
    assert_eq!(all[0].address, "192.0.2.1");
    assert_eq!(all[0].user_agent, "é".repeat(200));
    assert_eq!(all[0].id.len(), 16);
    assert_eq!(store.sessions_of(T0 + 2 * HOUR, ME).await, Ok(vec![]));
    // Only its user can name it.
    assert_eq!(store.end_session_by_id(YOU, &all[0].id).await, Ok(false));
    assert_eq!(store.end_session_by_id(ME, &all[0].id).await, Ok(true));
    assert_eq!(store.end_session(&second).await, Ok(None));
    let (third, new) = login(ME, T0);
    store.create_session(new).await.unwrap();
    assert_eq!(store.end_session(&third).await, Ok(Some(ME)));
    assert_eq!(store.session(T0, &third).await, Ok(None));
    open.stop();
}

#[tokio::test]
async fn the_oldest_session_of_a_user_ends_for_the_fifty_first() {
    let open = Open::fresh();
    let store = &open.stores.sessions;
    let mut tokens = Vec::new();
    for n in 0..55 {
        let (token, new) = login(ME, T0 + n);
        store.create_session(new).await.unwrap();
        tokens.push(token);
    }
    for (n, token) in tokens.iter().enumerate() {
        let alive = store.session(T0, token).await.unwrap().is_some();
        assert_eq!(alive, n >= 5, "{n}");
    }
    // A new one stays although its clock is behind.
    let (late, new) = login(ME, T0 - HOUR / 2);
    store.create_session(new).await.unwrap();
    assert!(store.session(T0 - 1, &late).await.unwrap().is_some());
    let max = SESSIONS_PER_USER_MAX as usize;
    assert_eq!(store.sessions_of(T0 - 1, ME).await.unwrap().len(), max);
    let kept = tokens.last().unwrap();
    assert_eq!(store.end_sessions_of(ME, Some(kept), T0).await, Ok(49));
    assert_eq!(store.end_sessions_of(ME, Some(kept), T0).await, Ok(0));
    assert_eq!(store.end_sessions_of(ME, None, T0).await, Ok(1));
    open.stop();
}

#[tokio::test]
async fn a_reset_token_is_the_users_last_and_expires() {
    let open = Open::fresh();
    let store = &open.stores.sessions;
    let (first, second) = (Token::new(), Token::new());
    store.put_reset_token(T0, &first, ME, HOUR).await.unwrap();
    assert_eq!(store.reset_token(T0 + HOUR - 1, &first).await, Ok(Some(ME)));
    assert_eq!(store.reset_token(T0 + HOUR, &first).await, Ok(None));
    store
        .put_reset_token(T0, &second, ME, i64::MAX)
        .await
        .unwrap();
    assert_eq!(store.reset_token(T0, &first).await, Ok(None));
    let day = 24 * HOUR;
    assert_eq!(store.reset_token(T0 + day - 1, &second).await, Ok(Some(ME)));
    assert_eq!(store.reset_token(T0 + day, &second).await, Ok(None));
    store.drop_reset_tokens(ME, None).await.unwrap();
    assert_eq!(store.reset_token(T0, &second).await, Ok(None));
    open.stop();
}

#[tokio::test]
async fn all_chats_of_a_user_go_and_no_others() {
    let open = Open::fresh();
    let store = &open.stores.sessions;
    let (me, you) = (Owner::User(ME.0), Owner::User(YOU.0));
    for n in 0..60 {
        let owner = [me, you, Owner::Anonymous][n % 3];
        let made = store.open_chat(T0, key(n), owner, [1; 16], HOUR, true);
        made.await.unwrap();
    }
    for n in 60..130 {
        let made = store.open_chat(T0, key(n), me, [1; 16], HOUR, true);
        made.await.unwrap();
    }
    store.delete_chats_of(ME).await.unwrap();
    store.delete_chat(key(1), me).await.unwrap();
    store.delete_chat(key(2), Owner::Anonymous).await.unwrap();
    for n in 0..130 {
        let owner = if n < 60 {
            [me, you, Owner::Anonymous][n % 3]
        } else {
            me
        };
        let kept = owner != me && n != 2;
        assert_eq!(found(store, key(n), owner).await.is_some(), kept, "{n}");
    }
    open.stop();
}

#[tokio::test]
async fn random_reservations_agree_with_a_map() {
    let open = Open::fresh();
    let store = &open.stores.sessions;
    let mut model: HashMap<usize, (u32, i64)> = HashMap::new();
    let mut open_hits: Vec<(Vec<(usize, i64)>, Reservation)> = Vec::new();
    let (mut random, mut now) = (Random(4), T0);
    for step in 0..5000 {
        now += random.below(1500) as i64;
        if random.below(3) == 0 && !open_hits.is_empty() {
            let (hits, reservation) = open_hits.swap_remove(random.below(open_hits.len()));
            store.release(reservation).await.unwrap();
            for (n, ends) in hits {
                let state = model.get_mut(&n).unwrap();
                // Only the window that was hit gets its hit back.
                state.0 -= u32::from(state.1 == ends);
            }
            continue;
        }
        let picked: Vec<usize> = (0..1 + random.below(3)).map(|_| random.below(6)).collect();
        let window = |n: &usize| Window::new(&[*n as u8], 2 + *n as u32, 10_000);
        let windows: Vec<Window> = picked.iter().map(window).collect();
        let reserved = store.reserve(now, &windows).await.unwrap();
        let mut after = model.clone();
        let mut over = None;
        for (which, n) in picked.iter().enumerate() {
            let state = after.entry(*n).or_insert((0, now + 10_000));
            if state.1 <= now {
                *state = (0, now + 10_000);
            }
            if state.0 >= 2 + *n as u32 {
                let retry_after_s = ((state.1 - now) as u32).div_ceil(1000);
                over = Some((which, retry_after_s));
                break;
            }
            state.0 += 1;
        }
        match (reserved, over) {
            (Reserved::Done(reservation), None) => {
                let hits = picked.iter().map(|n| (*n, after[n].1)).collect();
                open_hits.push((hits, reservation));
                model = after;
            }
            (
                Reserved::Over {
                    which,
                    retry_after_s,
                },
                Some(expect),
            ) => {
                assert_eq!((which, retry_after_s), expect, "step {step}");
            }
            (reserved, over) => panic!("step {step}: {reserved:?}, not {over:?}"),
        }
    }
    open.stop();
}
