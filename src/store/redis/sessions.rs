//! Logins in Redis, beside those of the old service.
//!
//! `sess:<cookie>` alone decides whether a session lives, for both services. What we know besides
//! stands twice: beside it for whoever is asking (one round trip), and in the user's hash for lists
//! and for ending all. Either may be evicted or missing: a session of the old service is noted when
//! its account has first admitted it, and started when its life says it did.

use fred::types::Value;

use super::Link;
use super::ask::{Ask, elements, number, text, texts};
use super::sweep::Ended;
use crate::model::{Token, UserId};
use crate::store::logins::{SEEN_EVERY_MS, short_id};
use crate::store::{NewSession, SESSIONS_PER_USER_MAX, Session, SessionInfo, StoreError, lives};

const NOTE: &str = include_str!("scripts/note_session.lua");
const SEE: &str = include_str!("scripts/see_session.lua");
const END: &str = include_str!("scripts/end_session.lua");
const SHORTEN: &str = include_str!("scripts/shorten_session.lua");

/// What is known of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Facts {
    created_ms: i64,
    ends_ms: i64,
    seen_ms: i64,
}

impl Facts {
    fn parse(mut text: &str) -> Option<Self> {
        Some(Self {
            created_ms: take_number(&mut text)?,
            ends_ms: take_number(&mut text)?,
            seen_ms: take_number(&mut text)?,
        })
    }

    fn text(self) -> String {
        let Self {
            created_ms,
            ends_ms,
            seen_ms,
        } = self;
        format!("{created_ms} {ends_ms} {seen_ms}")
    }

    fn session(self, user: UserId, is_noted: bool) -> Session {
        Session {
            user,
            created_ms: self.created_ms,
            is_noted,
        }
    }

    /// As it stands beside the session: whose it is too.
    fn beside(self, user: UserId) -> String {
        format!("{user} {}", self.text())
    }

    /// Of this user, by what stands beside the session.
    fn of(user: UserId, beside: Value) -> Option<Self> {
        let beside = text(beside)?;
        let mut rest = &beside[..];
        (take_number(&mut rest)? == user.0).then_some(())?;
        Self::parse(rest)
    }
}

/// The first number of a text of numbers with a blank between each and the next, which is left with the others.
fn take_number(text: &mut &str) -> Option<i64> {
    let end = memchr::memchr(b' ', text.as_bytes());
    let (number, rest) = match end {
        Some(end) => (&text[..end], &text[end + 1..]),
        None => (*text, ""),
    };
    *text = rest;
    number.parse().ok()
}

impl Link {
    pub(in crate::store) async fn create_session(&self, new: NewSession) -> Result<(), StoreError> {
        let (user, token) = (new.user, new.token.as_str());
        let facts = Facts {
            created_ms: new.start_ms,
            ends_ms: new.start_ms.saturating_add(new.ttl_ms),
            seen_ms: new.start_ms,
        };
        let [session, beside] = self.keys().both(token);
        let note = self.ask_note(
            user,
            token,
            facts,
            new.ttl_ms,
            &new.address,
            &new.user_agent,
        );
        let mut asks = vec![
            note,
            Ask::set(beside, facts.beside(user), new.ttl_ms),
            Ask::set(session, user.to_string(), new.ttl_ms),
        ];
        asks.extend(
            new.replaces
                .iter()
                .map(|token| self.ask_end(token.as_str())),
        );
        let mut answers = self.ask_all(asks).await?.into_iter();
        let gone = texts(answers.next().unwrap_or(Value::Null));
        let mut asks: Vec<_> = gone.iter().map(|token| self.ask_end(token)).collect();
        if let Some(replaced) = &new.replaces
            && let Some(owner) = answers.nth(2).and_then(number)
        {
            let key = self.keys().sessions_of(UserId(owner));
            asks.push(Ask::delete_fields(key, vec![replaced.as_str().to_owned()]));
        }
        self.ask_all(asks).await.map(drop)
    }

    fn ask_note(
        &self,
        user: UserId,
        token: &str,
        facts: Facts,
        ttl_ms: i64,
        address: &str,
        user_agent: &str,
    ) -> Ask {
        // Neither holds a line break: headers cannot.
        let noted = format!("{}\n{address}\n{user_agent}", facts.text());
        let arguments = [
            token.into(),
            noted.into(),
            facts.seen_ms.into(),
            ttl_ms.into(),
            i64::from(SESSIONS_PER_USER_MAX).into(),
        ];
        Ask::script(NOTE, [self.keys().sessions_of(user)], arguments)
    }

    fn ask_end(&self, token: &str) -> Ask {
        Ask::script(END, self.keys().both(token), [])
    }

    /// Whose session it is, and what stands beside it.
    async fn look(&self, token: &Token) -> Result<Option<(UserId, Option<Facts>)>, StoreError> {
        let both = Ask::get_both(self.keys().both(token.as_str()));
        let mut answers = elements(self.ask_one(both).await?).into_iter();
        let Some(user) = answers.next().and_then(number).map(UserId) else {
            return Ok(None);
        };
        let facts = answers.next().and_then(|beside| Facts::of(user, beside));
        Ok(Some((user, facts)))
    }

    pub(in crate::store) async fn session(
        &self,
        now_ms: i64,
        token: &Token,
    ) -> Result<Option<Session>, StoreError> {
        let Some((user, facts)) = self.look(token).await? else {
            return Ok(None);
        };
        let is_noted = facts.is_some();
        let facts = match facts {
            Some(facts) => facts,
            None => self.find_out(now_ms, token, user).await?.0,
        };
        if facts.ends_ms <= now_ms {
            return Ok(None);
        }
        if !is_noted {
            return Ok(Some(facts.session(user, false)));
        }
        let life_ms = self.0.shared.lives.session_ms;
        if lives::is_too_long(facts.ends_ms.saturating_sub(now_ms), life_ms) {
            self.shorten(now_ms, token, user, facts).await?;
        } else if now_ms.abs_diff(facts.seen_ms) >= SEEN_EVERY_MS {
            // A failure is reported where it happens, and concerns a column of a list only.
            self.see(now_ms, token, user, facts).await.ok();
        }
        Ok(Some(facts.session(user, true)))
    }

    /// Has a session that was made before the clock was set back live as long from now as one that is made now.
    async fn shorten(
        &self,
        now_ms: i64,
        token: &Token,
        user: UserId,
        facts: Facts,
    ) -> Result<(), StoreError> {
        let life_ms = self.0.shared.lives.session_ms;
        let facts = Facts {
            ends_ms: now_ms.saturating_add(life_ms),
            seen_ms: now_ms,
            ..facts
        };
        let arguments = [facts.beside(user).into(), life_ms.into()];
        let both = self.keys().both(token.as_str());
        let shorten = Ask::script(SHORTEN, both, arguments);
        self.ask_one(shorten).await.map(drop)
    }

    async fn see(
        &self,
        now_ms: i64,
        token: &Token,
        user: UserId,
        facts: Facts,
    ) -> Result<(), StoreError> {
        let facts = Facts {
            seen_ms: now_ms,
            ..facts
        };
        let [_, beside] = self.keys().both(token.as_str());
        let key = self.keys().sessions_of(user);
        let asks = [
            Ask::replace(beside, facts.beside(user)),
            Ask::script(SEE, [key], [token.as_str().into(), now_ms.into()]),
        ];
        let [_, was_noted] = self.ask(asks).await?;
        if was_noted == Value::Integer(0) {
            let ttl_ms = facts.ends_ms.saturating_sub(now_ms);
            let note = self.ask_note(user, token.as_str(), facts, ttl_ms, "", "");
            self.end_all(vec![note]).await?;
        }
        Ok(())
    }

    /// Carries out a note, and ends the sessions that it leaves no room for.
    async fn end_all(&self, note: Vec<Ask>) -> Result<(), StoreError> {
        let mut answers = self.ask_all(note).await?.into_iter();
        let gone = texts(answers.next().unwrap_or(Value::Null));
        let asks = gone.iter().map(|token| self.ask_end(token)).collect();
        self.ask_all(asks).await.map(drop)
    }

    /// Finds out about a session that nothing stands beside: the old service has made it, or that was
    /// evicted. Whether it is among its user's, too.
    async fn find_out(
        &self,
        now_ms: i64,
        token: &Token,
        user: UserId,
    ) -> Result<(Facts, bool), StoreError> {
        let name = token.as_str();
        let session = self.keys().session(name);
        let asks = [
            Ask::field(self.keys().sessions_of(user), name.to_owned()),
            Ask::life_ms(session),
        ];
        let [noted, life_ms] = self.ask(asks).await?;
        let noted = text(noted);
        let noted = noted
            .as_deref()
            .and_then(|noted| Facts::parse(noted.lines().next()?));
        // Without an end, or with one that is farther away than any is made, it may be of any age.
        let ttl_ms = self.0.shared.lives.session_ms;
        let life_ms = number(life_ms).filter(|life_ms| (0..=ttl_ms).contains(life_ms));
        let facts = noted.unwrap_or(Facts {
            created_ms: life_ms.map_or(0, |life_ms| now_ms - (ttl_ms - life_ms)),
            ends_ms: now_ms.saturating_add(life_ms.unwrap_or(ttl_ms)),
            seen_ms: now_ms,
        });
        Ok((facts, noted.is_some()))
    }

    pub(in crate::store) async fn note_session(
        &self,
        now_ms: i64,
        token: &Token,
        user: UserId,
    ) -> Result<(), StoreError> {
        let (facts, is_listed) = self.find_out(now_ms, token, user).await?;
        let ttl_ms = facts.ends_ms.saturating_sub(now_ms);
        if ttl_ms <= 0 {
            return Ok(());
        }
        let name = token.as_str();
        let [_, beside] = self.keys().both(name);
        let mut asks = Vec::with_capacity(2);
        if !is_listed {
            asks.push(self.ask_note(user, name, facts, ttl_ms, "", ""));
        }
        asks.push(Ask::set(beside, facts.beside(user), ttl_ms));
        self.end_all(asks).await
    }

    pub(in crate::store) async fn chat_user(
        &self,
        now_ms: i64,
        token: &Token,
    ) -> Result<Option<Session>, StoreError> {
        match self.look(token).await? {
            None => Ok(None),
            Some((user, Some(facts))) => {
                Ok((facts.ends_ms > now_ms).then(|| facts.session(user, true)))
            }
            Some((_, None)) => Box::pin(self.session(now_ms, token)).await,
        }
    }

    pub(in crate::store) async fn end_session(
        &self,
        token: &Token,
    ) -> Result<Option<UserId>, StoreError> {
        let user = self.ask_one(self.ask_end(token.as_str())).await?;
        let user = number(user).map(UserId);
        if let Some(user) = user {
            self.forget(user, vec![token.as_str().to_owned()]).await?;
        }
        Ok(user)
    }

    async fn forget(&self, user: UserId, tokens: Vec<String>) -> Result<(), StoreError> {
        if tokens.is_empty() {
            return Ok(());
        }
        let key = self.keys().sessions_of(user);
        self.ask_one(Ask::delete_fields(key, tokens))
            .await
            .map(drop)
    }

    pub(in crate::store) async fn sessions_of(
        &self,
        now_ms: i64,
        user: UserId,
    ) -> Result<Vec<SessionInfo>, StoreError> {
        let noted = self.noted(user).await?;
        // The old service ends sessions without a word, and so does their life.
        let asks = noted
            .iter()
            .map(|(token, _)| Ask::get(self.keys().session(token)));
        let live = self.ask_all(asks.collect()).await?;
        let (mut sessions, mut gone) = (Vec::new(), Vec::new());
        for ((token, noted), owner) in noted.into_iter().zip(live) {
            let lives = number(owner) == Some(user.0);
            match Token::parse(&token).zip(Noted::parse(&noted)) {
                Some((token, noted)) if lives => sessions.push((noted, token)),
                _ => gone.push(token),
            }
        }
        self.forget(user, gone).await?;
        sessions.retain(|(noted, _)| noted.facts.ends_ms > now_ms);
        sessions.sort_by_key(|(noted, _)| std::cmp::Reverse(noted.facts.created_ms));
        let shown = sessions
            .into_iter()
            .map(|(noted, token)| noted.shown(&token));
        Ok(shown.collect())
    }

    /// The user's sessions and what is noted of each.
    async fn noted(&self, user: UserId) -> Result<Vec<(String, String)>, StoreError> {
        let answer = self.ask_one(Ask::all_fields(self.keys().sessions_of(user)));
        let mut texts = texts(answer.await?).into_iter();
        Ok(std::iter::from_fn(|| texts.next().zip(texts.next())).collect())
    }

    pub(in crate::store) async fn end_session_by_id(
        &self,
        user: UserId,
        id: &str,
    ) -> Result<bool, StoreError> {
        let noted = self.noted(user).await?.into_iter();
        let tokens = noted.filter_map(|(token, _)| Token::parse(&token));
        let named: Vec<_> = tokens
            .filter(|token| short_id(&token.sha256()) == id)
            .collect();
        let mut ended = false;
        for token in named {
            ended |= self.end_session(&token).await?.is_some();
        }
        Ok(ended)
    }

    pub(in crate::store) async fn end_sessions_of(
        &self,
        user: UserId,
        except: Option<&Token>,
        before_ms: i64,
    ) -> Result<u32, StoreError> {
        self.sweep_for(Ended {
            user,
            except: except.cloned(),
            before_ms,
        });
        let noted = self.noted(user).await?.into_iter();
        let tokens = noted.map(|(token, _)| token);
        let tokens: Vec<_> = tokens
            .filter(|token| except.is_none_or(|except| except.as_str() != token))
            .collect();
        let asks = tokens.iter().map(|token| self.ask_end(token)).collect();
        let ended = self.ask_all(asks).await?.into_iter();
        let ended = ended.filter_map(number).count();
        self.forget(user, tokens).await?;
        Ok(u32::try_from(ended).unwrap_or(u32::MAX))
    }
}

/// What is noted of a session among its user's.
struct Noted {
    facts: Facts,
    address: String,
    user_agent: String,
}

impl Noted {
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.splitn(3, '\n');
        Some(Self {
            facts: Facts::parse(lines.next()?)?,
            address: lines.next()?.to_owned(),
            user_agent: lines.next()?.to_owned(),
        })
    }

    fn shown(self, token: &Token) -> SessionInfo {
        let key = token.sha256();
        SessionInfo {
            id: short_id(&key),
            created_ms: self.facts.created_ms,
            last_seen_ms: self.facts.seen_ms,
            address: self.address,
            user_agent: self.user_agent,
            key,
        }
    }
}
