//! `cloudchat user`: accounts, for the person with shell access. It works on the server's own store,
//! also while the server runs: the files are shared, and the server sees each change with its next
//! look at the account.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use clap::{Args, Subcommand};

use super::place::Place;
use super::{Failure, print, tell};
use crate::clock::Clock;
use crate::config::Statements;
use crate::model::{DisplayName, Email, NewUser, PasswordHash, Phone, User, UserId};
use crate::store::{Backend, Registered, StoreError, Stores, Upkeep};

mod output;
mod password;

use output::{Change, Details};

/// Users read and printed at once, so that memory has a bound however many there are.
const PAGE_USERS: u32 = 256;

/// What --json prints; part of the help, so that scripts can rely on it.
const JSON_HELP: &str = "\
A USER is named by email address, phone number, uid or id. Run this as root, or as the user
that the server runs as.
Exit codes: 0 done, 1 no such user, a conflict or a failure, 2 wrong arguments or configuration.

With --json:
  list   one line per user: {\"id\",\"uid\",\"email\",\"phone\",\"display_name\",\"is_active\",\"created_at\"}
  show   one such object, with \"password_changed_at\" (null: has none, or not known) and \"sessions\"
  else   {\"done\",\"id\",\"uid\",\"sessions_ended\"}; \"done\" is the command, times are RFC 3339";

#[derive(Args)]
#[command(after_help = JSON_HELP)]
pub(super) struct UserArgs {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    place: Place,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Action {
    /// Print all users, in the order of their ids
    List,
    /// Print a user, with the number of its sessions
    Show { user: String },
    /// Make a user; the password is asked for, or read as a line from stdin; sends no mail
    Create {
        #[arg(value_parser = email)]
        email: Email,
        #[arg(long, value_parser = phone)]
        phone: Option<Phone>,
        #[arg(long, value_name = "NAME", value_parser = display_name)]
        display_name: Option<DisplayName>,
    },
    /// Let a user log in no more, and end its sessions
    Disable { user: String },
    /// Let a user log in again
    Enable { user: String },
    /// Delete a user with its sessions and chats, for good
    Delete {
        user: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Replace a user's password, end its sessions, and tell the user by mail; the new one is asked
    /// for, or read as a line from stdin
    SetPassword { user: String },
    /// End a user's sessions; it may log in again
    EndSessions { user: String },
}

fn email(text: &str) -> Result<Email, &'static str> {
    Email::parse(text).ok_or("no email address")
}

fn phone(text: &str) -> Result<Phone, &'static str> {
    Phone::parse(text).ok_or("no phone number: 1 to 32 characters without @")
}

fn display_name(text: &str) -> Result<DisplayName, &'static str> {
    DisplayName::parse(text).ok_or("no display name: 1 to 80 characters")
}

pub(super) fn run(args: &UserArgs) -> Result<(), Failure> {
    if matches!(args.action, Action::Delete { yes: false, .. }) && !io::stdin().is_terminal() {
        let mistake = "delete needs --yes where it cannot ask".to_owned();
        return Err(Failure::Mistakes(vec![mistake]));
    }
    let mut config = args.place.enter()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Stopped(format!("runtime: {error}")))?;
    // A handful of statements, each sent once.
    if let Some(database) = &mut config.store.database {
        database.statements = Statements::Unnamed;
    }
    let backend =
        Backend::start_with(&config.store, Upkeep::Never, tell).map_err(Failure::Stopped)?;
    let desk = Desk {
        stores: backend.connect(),
        json: args.json,
    };
    let outcome = runtime.block_on(desk.carry_out(&args.action));
    let stopped = backend.stop().map_err(Failure::Stopped);
    outcome.and(stopped)
}

fn refused(error: StoreError) -> Failure {
    Failure::Stopped(error.to_string())
}

/// Where the commands are carried out.
struct Desk {
    stores: Stores,
    json: bool,
}

impl Desk {
    async fn carry_out(&self, action: &Action) -> Result<(), Failure> {
        match action {
            Action::List => self.list().await,
            Action::Show { user } => {
                let user = self.find(user).await?;
                let details = self.details(&user).await?;
                print(&output::show(&user, &details, self.json))
            }
            Action::Create {
                email,
                phone,
                display_name,
            } => self.create(email, phone, display_name).await,
            Action::Disable { user } => self.set_active(user, false).await,
            Action::Enable { user } => self.set_active(user, true).await,
            Action::Delete { user, yes } => self.delete(user, *yes).await,
            Action::SetPassword { user } => self.set_password(user).await,
            Action::EndSessions { user } => {
                let user = self.find(user).await?;
                let ended = self.stores.accounts.end_sessions_before_now(now(), user.id);
                still_there(ended.await)?;
                let ended = self.end_sessions(&user, now()).await?;
                self.report("end-sessions", &user, Some(ended))
            }
        }
    }

    async fn list(&self) -> Result<(), Failure> {
        let mut after = UserId(0);
        if !self.json {
            print(&output::header())?;
        }
        loop {
            let users = self.stores.accounts.list_users(after, PAGE_USERS).await;
            let users = users.map_err(refused)?;
            let Some(last) = users.last() else {
                return Ok(());
            };
            after = last.id;
            let lines: String = users.iter().map(|u| output::line(u, self.json)).collect();
            print(&lines)?;
        }
    }

    async fn details(&self, user: &User) -> Result<Details, Failure> {
        let credential = self.stores.accounts.credential_of(user.id).await;
        let credential = credential
            .map_err(refused)?
            .filter(|credential| credential.hash.is_some());
        let sessions = self.stores.sessions.sessions_of(now(), user.id).await;
        let live = |created_ms| user.admits(created_ms);
        Ok(Details {
            has_password: credential.is_some(),
            password_changed_ms: credential
                .map(|credential| credential.password_changed_ms)
                .filter(|changed_ms| *changed_ms != 0),
            sessions: sessions
                .map_err(refused)?
                .iter()
                .filter(|session| live(session.created_ms))
                .count(),
        })
    }

    async fn create(
        &self,
        email: &Email,
        phone: &Option<Phone>,
        display_name: &Option<DisplayName>,
    ) -> Result<(), Failure> {
        // Asked first to save typing a password in vain; `register` decides.
        let taken = self.stores.accounts.taken(email, phone.as_ref()).await;
        let taken = taken.map_err(refused)?;
        free(!taken.email, !taken.phone)?;
        let new = NewUser {
            email: email.clone(),
            phone: phone.clone(),
            display_name: display_name.clone(),
            hash: new_hash()?,
            welcome: false,
        };
        match self.stores.accounts.register(now(), new).await {
            Ok(Registered::Done(id)) => {
                let user = self.stores.accounts.user(id).await.map_err(refused)?;
                let user = user.ok_or_else(gone)?;
                self.report("create", &user, None)
            }
            Ok(Registered::EmailTaken) => free(false, true),
            Ok(Registered::PhoneTaken) => free(true, false),
            Err(error) => Err(refused(error)),
        }
    }

    async fn set_active(&self, name: &str, is_active: bool) -> Result<(), Failure> {
        let user = self.find(name).await?;
        let set = self.stores.accounts.set_active(now(), user.id, is_active);
        still_there(set.await)?;
        if is_active {
            return self.report("enable", &user, None);
        }
        let ended = self.end_sessions(&user, now()).await?;
        self.drop_reset_tokens(&user).await?;
        self.report("disable", &user, Some(ended))
    }

    async fn set_password(&self, name: &str) -> Result<(), Failure> {
        let user = self.find(name).await?;
        let hash = new_hash()?;
        let now_ms = now();
        let set = self.stores.accounts.set_password(now_ms, user.id, hash);
        still_there(set.await)?;
        let ended = self.end_sessions(&user, now_ms).await?;
        self.drop_reset_tokens(&user).await?;
        self.report("set-password", &user, Some(ended))
    }

    async fn delete(&self, name: &str, yes: bool) -> Result<(), Failure> {
        let user = self.find(name).await?;
        if !yes && !confirmed(&user)? {
            return Err(Failure::Stopped("nothing was deleted".to_owned()));
        }
        still_there(self.stores.accounts.delete_user(user.id).await)?;
        let ended = self.end_sessions(&user, now()).await?;
        self.drop_reset_tokens(&user).await?;
        let chats = self.stores.sessions.delete_chats_of(user.id).await;
        chats.map_err(|error| left_behind(&user, "chats", error))?;
        self.report("delete", &user, Some(ended))
    }

    /// Removes the rows of sessions that the account has ended already.
    async fn end_sessions(&self, user: &User, before_ms: i64) -> Result<u32, Failure> {
        let ended = self
            .stores
            .sessions
            .end_sessions_of(user.id, None, before_ms)
            .await;
        self.stores.sessions.swept().await;
        ended.map_err(|error| left_behind(user, "sessions", error))
    }

    async fn drop_reset_tokens(&self, user: &User) -> Result<(), Failure> {
        let dropped = self.stores.sessions.drop_reset_tokens(user.id, None).await;
        dropped.map_err(|error| left_behind(user, "reset tokens", error))
    }

    async fn find(&self, name: &str) -> Result<User, Failure> {
        let mut found = self
            .stores
            .accounts
            .find_users(name)
            .await
            .map_err(refused)?;
        if found.len() > 1 {
            let uids: Vec<&str> = found.iter().map(|user| user.uid.as_str()).collect();
            let (users, uids) = (uids.len(), uids.join(", "));
            return Err(Failure::Stopped(format!(
                "{name:?} names {users} users, uid {uids}; give an email address or uid"
            )));
        }
        found
            .pop()
            .ok_or_else(|| Failure::Stopped(format!("no such user: {name:?}")))
    }

    fn report(
        &self,
        done: &'static str,
        user: &User,
        sessions_ended: Option<u32>,
    ) -> Result<(), Failure> {
        let change = Change {
            done,
            id: user.id.0,
            uid: &user.uid,
            sessions_ended: sessions_ended.unwrap_or(0),
        };
        print(&output::change(&change, user, self.json))
    }
}

fn now() -> i64 {
    Clock::System.wall_ms()
}

fn new_hash() -> Result<PasswordHash, Failure> {
    password::new_hash().map_err(Failure::Stopped)
}

fn free(email: bool, phone: bool) -> Result<(), Failure> {
    let taken = match (email, phone) {
        (true, true) => return Ok(()),
        (false, _) => "this email address belongs to another user",
        (true, false) => "this phone number belongs to another user",
    };
    Err(Failure::Stopped(taken.to_owned()))
}

fn gone() -> Failure {
    Failure::Stopped("the user was deleted meanwhile".to_owned())
}

fn still_there(changed: Result<bool, StoreError>) -> Result<(), Failure> {
    match changed {
        Ok(true) => Ok(()),
        Ok(false) => Err(gone()),
        Err(error) => Err(refused(error)),
    }
}

/// The account was changed, which is what counts: what is left is dead, and goes when it expires.
fn left_behind(user: &User, what: &str, error: StoreError) -> Failure {
    let uid = &user.uid;
    Failure::Stopped(format!(
        "{uid}: the account is changed, but its {what} could not be removed: {error}"
    ))
}

/// Asks on the terminal whether this user is the one to delete.
fn confirmed(user: &User) -> Result<bool, Failure> {
    let failed = |error: io::Error| Failure::Stopped(format!("cannot ask: {error}"));
    let name = output::name(user);
    let uid = &user.uid;
    let mut err = io::stderr().lock();
    write!(err, "Delete {name} (uid {uid}) for good? Type yes: ").map_err(failed)?;
    err.flush().map_err(failed)?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(failed)?;
    Ok(answer.trim() == "yes")
}
