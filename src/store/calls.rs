//! The calls to the store's thread that follow one pattern: a method of a file, its arguments and
//! its answer. Each stands here once, with its name; the variant of the closed enum, the method of
//! [`Queue`] and the arm that carries it out are made from that.

use super::chats::SessionFile;
use super::embedded::{Call, Queue, Reply, answer};
use super::secrets::AccountFile;
use super::{
    ChatKey, NewSession, OutboxRow, OwnChat, Owner, Posted, Registered, Reservation, Reserved,
    Session, SessionInfo, StoreError, Taken, TokenUse, Updated, Window,
};
use crate::model::{
    Credential, DisplayName, Email, Identifier, NewUser, PasswordHash, Phone, Token, User, UserId,
};

/// `read` marks calls that are skipped when nobody waits for them any more; a `write` is carried
/// out all the same, since ending something is right however late. A `bound` write stands or falls
/// with its caller, who was told 503 and may try again: it is rolled back unless somebody waits for
/// it right before its commit.
macro_rules! calls {
    ($(#[$doc:meta])* $name:ident for $file:ty {
        $($kind:ident $variant:ident $method:ident($($arg:ident: $ty:ty),*) -> $out:ty;)*
    }) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub(super) enum $name {
            $($variant { $($arg: $ty,)* reply: Reply<$out> },)*
        }

        impl $name {
            /// Something whose caller has gone, and that is for the caller only.
            pub(super) fn is_moot(&self) -> bool {
                match self {
                    $(Self::$variant { reply, .. } => calls!(@moot $kind) && reply.is_closed(),)*
                }
            }

            pub(super) fn carry_out(self, file: &mut $file) {
                match self {
                    $(Self::$variant { $($arg,)* reply } => {
                        let outcome = calls!(@do $kind file, reply, $method($($arg),*));
                        answer(reply, outcome);
                    })*
                }
            }
        }

        impl Queue {
            $(pub(super) async fn $method(&self, $($arg: $ty),*) -> Result<$out, StoreError> {
                self.call(|reply| Call::$name($name::$variant { $($arg,)* reply })).await
            })*
        }
    };
    (@moot read) => { true };
    (@moot write) => { false };
    (@moot bound) => { true };
    (@do bound $file:ident, $reply:ident, $method:ident($($arg:ident),*)) => {
        $file.$method(&|| !$reply.is_closed(), $($arg),*)
    };
    (@do $kind:ident $file:ident, $reply:ident, $method:ident($($arg:ident),*)) => {
        $file.$method($($arg),*)
    };
}

calls! {
    /// What is asked of the account file.
    Account for AccountFile {
        read Taken taken(email: Email, phone: Option<Phone>) -> Taken;
        bound Register register(now_ms: i64, user: NewUser) -> Registered;
        read Credential credential(identifier: Identifier) -> Option<Credential>;
        read CredentialOf credential_of(user: UserId) -> Option<Credential>;
        read User user(user: UserId) -> Option<User>;
        write Rehash rehash(user: UserId, old: PasswordHash, new: PasswordHash)
            -> bool;
        bound UseResetToken use_reset_token(
            now_ms: i64, token_sha256: [u8; 32], user: UserId, new: PasswordHash,
            end_sessions: bool
        ) -> TokenUse;
        bound ChangePassword change_password(
            now_ms: i64, user: UserId, old: PasswordHash, new: PasswordHash
        ) -> Option<Credential>;
        bound SetPassword set_password(now_ms: i64, user: UserId, new: PasswordHash) -> bool;
        write UpdateProfile update_profile(
            user: UserId, display_name: Option<Option<DisplayName>>, phone: Option<Option<Phone>>
        ) -> Updated;
        write DeleteUser delete_user(user: UserId) -> bool;
        write SetActive set_active(now_ms: i64, user: UserId, is_active: bool) -> bool;
        write EndSessionsBeforeNow end_sessions_before_now(now_ms: i64, user: UserId) -> bool;
        read ListUsers list_users(after: UserId, rows_max: u32) -> Vec<User>;
        read FindUsers find_users(text: String) -> Vec<User>;
        read HashMix hash_mix() -> Vec<(String, u32)>;
        bound PostResetRequest post_reset_request(now_ms: i64, identifier: Identifier) -> Posted;
        write ClaimLetters claim_letters(now_ms: i64, lease_ms: i64, rows_max: u32)
            -> Vec<OutboxRow>;
        write FinishLetter finish_letter(id: i64) -> ();
        write RetryLetter retry_letter(id: i64, next_ms: i64) -> ();
        write ReleaseLetters release_letters(now_ms: i64) -> ();
    }
}

calls! {
    /// What is asked of the session file about logins, tokens and limits.
    Login for SessionFile {
        write CreateSession create_session(new: NewSession) -> ();
        read Session session(now_ms: i64, token: Token) -> Option<Session>;
        write EndSession end_session(token: Token) -> Option<UserId>;
        read SessionsOf sessions_of(now_ms: i64, user: UserId) -> Vec<SessionInfo>;
        write EndSessionById end_session_by_id(user: UserId, id: String) -> bool;
        write EndSessionsOf end_sessions_of(user: UserId, except: Option<Token>) -> u32;
        write PutResetToken put_reset_token(
            now_ms: i64, token_sha256: [u8; 32], user: UserId, ttl_ms: i64
        ) -> ();
        read ResetToken reset_token(now_ms: i64, token_sha256: [u8; 32]) -> Option<UserId>;
        write DropResetTokens drop_reset_tokens(user: UserId) -> ();
        write DeleteChat delete_chat(chat: ChatKey, owner: Owner) -> ();
        read ChatsOf chats_of(now_ms: i64, user: UserId, after: i64, rows_max: u32) -> Vec<OwnChat>;
        write DeleteChatsOf delete_chats_of(user: UserId, rows_max: u32) -> u32;
        write Reserve reserve(now_ms: i64, windows: Vec<Window>) -> Reserved;
        write Release release(reservation: Reservation) -> ();
    }
}
