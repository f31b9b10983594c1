//! Every statement that requests send, with the types of its parameters: each is one round trip,
//! and does alone what it has to do, so that a transaction needs no second one.

use tokio_postgres::types::Type;

/// Declares the statements: the name, the types of its parameters, the text.
macro_rules! statements {
    ($($name:ident($($type:ident),*) $($text:expr)+;)*) => {
        /// A statement of [`Statement::sql`].
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Statement {
            $($name,)*
        }

        impl Statement {
            /// How many there are.
            pub const COUNT: usize = [$(stringify!($name)),*].len();

            pub fn sql(self) -> &'static str {
                match self {
                    $(Self::$name => concat!($($text),+),)*
                }
            }

            pub fn types(self) -> &'static [Type] {
                match self {
                    $(Self::$name => {
                        static TYPES: &[Type] = &[$(Type::$type),*];
                        TYPES
                    })*
                }
            }
        }
    };
}

/// A user as [`super::users`] reads it. The casts are for columns of type VARCHAR; on TEXT they cost nothing.
/// Whatever else the server would compute it would have to look up anew for each request.
macro_rules! user {
    () => {
        "id, uid::text, email::text, phone::text, display_name::text, is_active, created_at,
         sessions_not_before"
    };
}

/// A credential, in the same way.
macro_rules! credential {
    () => {
        "SELECT users.id, users.uid::text, secret_hash::text, coalesce(changed_ms, 0),
             coalesce(users.is_active, false), sessions_not_before, nfc_of
         FROM users LEFT JOIN credentials ON user_id = users.id AND type = 'password' WHERE "
    };
}

/// Later than every session that exists: `$n` is our time.
macro_rules! sessions_end {
    ($n:literal) => {
        concat!(
            "sessions_not_before = greatest(sessions_not_before, $",
            $n,
            ", (extract(epoch FROM clock_timestamp()) * 1000)::bigint) + 1"
        )
    };
}

/// Gives the users of a query a password: `$hash`, our time and the hash's mark are the numbers of parameters.
macro_rules! put_password {
    ($user:literal, $hash:literal, $now:literal, $mark:literal, $from:literal) => {
        concat!(
            "INSERT INTO credentials (user_id, type, secret_hash, created_at, changed_ms, writes, nfc_of)
             SELECT ",
            $user,
            ", 'password', $",
            $hash,
            ", to_timestamp($",
            $now,
            " / 1000.0), $",
            $now,
            ", 1, $",
            $mark,
            " FROM ",
            $from,
            " ON CONFLICT (user_id, type) WHERE type IN ('password', 'totp', 'webauthn')
              DO UPDATE SET secret_hash = excluded.secret_hash, nfc_of = excluded.nfc_of,
                  changed_ms = greatest(excluded.changed_ms, credentials.changed_ms + 1),
                  writes = credentials.writes + 1"
        )
    };
}

/// Whether fewer than `$n` mails wait, or than three quarters of these: the rest is kept for those that are
/// asked for.
macro_rules! has_room {
    ($n:literal) => {
        has_room!($n, "")
    };
    ($n:literal, $less:expr) => {
        concat!(
            "(SELECT count(*) FROM (SELECT FROM outbox LIMIT $",
            $n,
            ") waiting) < $",
            $n,
            $less
        )
    };
}

macro_rules! has_room_for_news {
    ($n:literal) => {
        has_room!($n, concat!(" - $", $n, " / 4"))
    };
}

/// A mail of a kind to the user of a query, unless one waits already: the user's column, our time and the most that
/// may wait are numbers of parameters.
macro_rules! letter {
    ($kind:literal, $user:literal, $now:literal, $from:literal, $max:literal) => {
        concat!(
            "letter AS (
             INSERT INTO outbox (kind, user_id, created_ms, due_ms)
             SELECT '",
            $kind,
            "', ",
            $user,
            ", $",
            $now,
            ", $",
            $now,
            " FROM ",
            $from,
            " WHERE ",
            has_room_for_news!($max),
            " AND NOT EXISTS (SELECT FROM outbox WHERE kind = '",
            $kind,
            "' AND user_id = ",
            $user,
            "))"
        )
    };
}

statements! {
    Taken(TEXT_ARRAY, TEXT)
        "SELECT EXISTS (SELECT FROM users WHERE email = ANY ($1)),
                EXISTS (SELECT FROM users WHERE phone = $2)";

    // No row: something of it is taken.
    Register(TEXT, TEXT, TEXT, TEXT, TEXT, INT8, BOOL, INT8, TEXT, TEXT_ARRAY)
        "WITH made AS (
             INSERT INTO users (uid, email, phone, display_name, is_active, created_at)
             SELECT $1, $2, $3, $4, true, to_timestamp($6 / 1000.0)
             WHERE NOT EXISTS (SELECT FROM users WHERE email = ANY ($10))
             ON CONFLICT DO NOTHING RETURNING id
         ), credential AS (
             " put_password!("id", 5, 6, 9, "made") "
         ), letter AS (
             INSERT INTO outbox (kind, user_id, created_ms, due_ms)
             SELECT 'welcome', id, $6, $6 FROM made WHERE $7 AND " has_room_for_news!(8) "
         )
         SELECT id, $7 AND NOT " has_room_for_news!(8) " FROM made";

    // What was typed comes first: the replaced service took in all forms as accounts of their own.
    // One user first, then its credential: as one join the plan may go through all credentials, but only where there is
    // such a user, and the time would tell.
    CredentialByEmail(TEXT_ARRAY) credential!() "users.id = (
        SELECT id FROM users WHERE email = ANY ($1) ORDER BY array_position($1, email::text) LIMIT 1)";
    CredentialByPhone(TEXT) credential!() "users.phone = $1";
    CredentialOf(INT8) credential!() "users.id = $1";
    User(INT8) "SELECT " user!() " FROM users WHERE id = $1";
    ListUsers(INT8, INT8) "SELECT " user!() " FROM users WHERE id > $1 ORDER BY id LIMIT $2";
    FindUsers(TEXT_ARRAY, TEXT, INT8)
        "SELECT " user!() " FROM users WHERE email = ANY ($1) OR phone = $2 OR uid = ANY ($1) OR id = $3
         ORDER BY id";
    // Of some 128 pages (1 MiB) of a larger table, chosen at random: a count that each write kept up would have
    // all writers wait for each other, for as long as the slowest transaction of either service.
    HashMix(INT8)
        "SELECT parameters, count(*) FROM (
             SELECT coalesce(substring(secret_hash FROM '^(.*)\\$[^$]*\\$[^$]*$'), '') AS parameters
             FROM credentials
             TABLESAMPLE SYSTEM (least(100, 12800.0 / greatest(1, pg_relation_size('credentials') / 8192)))
             WHERE type = 'password' AND secret_hash IS NOT NULL
         ) seen
         GROUP BY parameters ORDER BY count(*) DESC, parameters LIMIT $1";

    Rehash(INT8, TEXT, TEXT, TEXT)
        "UPDATE credentials SET secret_hash = $3, nfc_of = $4, writes = writes + 1
         WHERE user_id = $1 AND type = 'password' AND secret_hash = $2 RETURNING 1";

    // The account is locked first in all that follow, so that two never wait for each other.
    UseResetToken(INT8, BYTEA, TEXT, INT8, BOOL, INT8, INT8, INT8, TEXT)
        "WITH account AS (
             SELECT id FROM users WHERE id = $1 AND is_active FOR UPDATE
         ), swept AS (
             DELETE FROM used_tokens WHERE sha256 IN (
                 SELECT sha256 FROM used_tokens WHERE used_ms <= $7
                 ORDER BY used_ms LIMIT $8 FOR UPDATE SKIP LOCKED)
         ), used AS (
             INSERT INTO used_tokens (sha256, used_ms) SELECT $2, $4 FROM account
             ON CONFLICT DO NOTHING RETURNING sha256
         ), credential AS (
             " put_password!("$1", 3, 4, 9, "used") "
         ), ended AS (
             UPDATE users SET " sessions_end!(4) " FROM used WHERE id = $1 AND $5
         ), " letter!("reset_done", "$1", 4, "used", 6) "
         SELECT EXISTS (SELECT FROM account), EXISTS (SELECT FROM used),
                NOT " has_room_for_news!(6);

    ChangePassword(INT8, TEXT, TEXT, INT8, INT8, TEXT)
        "WITH account AS (
             SELECT users.id FROM users JOIN credentials ON user_id = users.id AND type = 'password'
             WHERE users.id = $1 AND users.is_active AND secret_hash = $2 FOR UPDATE
         ), credential AS (
             UPDATE credentials SET secret_hash = $3, changed_ms = greatest($4, changed_ms + 1),
                 writes = writes + 1, nfc_of = $6
             FROM account WHERE user_id = account.id AND type = 'password' RETURNING changed_ms
         ), ended AS (
             UPDATE users SET " sessions_end!(4) " FROM account WHERE users.id = account.id
             RETURNING uid::text, sessions_not_before
         ), " letter!("password_changed", "account.id", 4, "account", 5) "
         SELECT uid, changed_ms, sessions_not_before, NOT " has_room_for_news!(5) "
         FROM credential, ended";

    SetPassword(INT8, TEXT, INT8, INT8, TEXT)
        "WITH ended AS (
             UPDATE users SET " sessions_end!(3) " WHERE id = $1 RETURNING id
         ), credential AS (
             " put_password!("id", 2, 3, 5, "ended") "
         ), " letter!("reset_done", "ended.id", 3, "ended", 4) "
         SELECT NOT " has_room_for_news!(4) " FROM ended";

    UpdateProfile(INT8, BOOL, TEXT, BOOL, TEXT)
        "UPDATE users SET display_name = CASE WHEN $2 THEN $3 ELSE display_name END,
             phone = CASE WHEN $4 THEN $5 ELSE phone END
         WHERE id = $1 RETURNING " user!();

    // The credentials would go with their user; a table that was made by hand may lack that.
    DeleteUser(INT8)
        "WITH credential AS (
             DELETE FROM credentials WHERE user_id = $1
         ), gone AS (
             DELETE FROM users WHERE id = $1 RETURNING id, email::text, phone::text
         ), letters AS (
             DELETE FROM outbox USING gone
             WHERE user_id = gone.id OR identifier IN (gone.email, gone.phone)
         )
         SELECT 1 FROM gone";

    Activate(INT8) "UPDATE users SET is_active = true WHERE id = $1 RETURNING 1";
    Deactivate(INT8, INT8)
        "UPDATE users SET is_active = false, " sessions_end!(2) " WHERE id = $1 RETURNING 1";
    EndSessions(INT8, INT8) "UPDATE users SET " sessions_end!(2) " WHERE id = $1 RETURNING 1";

    PostResetRequest(TEXT, INT8, INT8)
        "WITH letter AS (
             INSERT INTO outbox (kind, identifier, created_ms, due_ms)
             SELECT 'reset', $1, $2, $2 WHERE " has_room!(3) "
                 AND NOT EXISTS (SELECT FROM outbox WHERE kind = 'reset' AND identifier IS NOT DISTINCT FROM $1)
         )
         SELECT 1 WHERE " has_room!(3);
    // What is locked is read once, whatever the plan.
    ClaimLetters(INT8, INT8, INT8, INT8)
        "WITH due AS (
             SELECT id, due_ms FROM outbox WHERE due_ms <= $1 OR due_ms > $4
             ORDER BY due_ms, id LIMIT $3 FOR UPDATE SKIP LOCKED
         )
         UPDATE outbox SET due_ms = $2, tries = tries + 1 FROM due WHERE outbox.id = due.id
         RETURNING outbox.id, kind, user_id, identifier, created_ms, tries - 1, due.due_ms";
    FinishLetter(INT8) "DELETE FROM outbox WHERE id = $1";
    RetryLetter(INT8, INT8) "UPDATE outbox SET due_ms = $2 WHERE id = $1";

    // What it reads must be there. A standby says `on`, too.
    Ping(TEXT) "SELECT current_setting('transaction_read_only') = 'off' FROM secrets WHERE name = $1";
}
