-- Who may log in. Times are milliseconds since 1970, UTC.
CREATE TABLE users (
    id                  INTEGER PRIMARY KEY AUTOINCREMENT,           -- never given again: old sessions of a deleted user lead nowhere
    uid                 TEXT NOT NULL UNIQUE,                        -- 12 hex digits, random
    email               TEXT NOT NULL UNIQUE,                        -- lower case
    phone               TEXT UNIQUE,
    display_name        TEXT,
    is_active           INTEGER NOT NULL DEFAULT 1 CHECK (is_active IN (0, 1)),
    sessions_not_before INTEGER NOT NULL DEFAULT 0,                  -- older sessions are dead; only ever grows
    created_at          INTEGER NOT NULL,
    updated_at          INTEGER NOT NULL
) STRICT;

CREATE TABLE credentials (
    user_id       INTEGER PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE,
    password_hash TEXT NOT NULL,                                     -- PHC string
    parameters    TEXT NOT NULL,                                     -- its part before the salt
    changed_at    INTEGER NOT NULL,                                  -- when the person chose the password; only ever grows
    updated_at    INTEGER NOT NULL
) STRICT;

-- How many passwords are hashed with which parameters: a login with an unknown identifier asks, and must not count rows.
CREATE TABLE hash_mix (
    parameters  TEXT PRIMARY KEY,
    credentials INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TRIGGER credential_made AFTER INSERT ON credentials BEGIN
    INSERT INTO hash_mix VALUES (new.parameters, 1) ON CONFLICT DO UPDATE SET credentials = credentials + 1;
END;
CREATE TRIGGER credential_gone AFTER DELETE ON credentials BEGIN
    UPDATE hash_mix SET credentials = credentials - 1 WHERE parameters = old.parameters;
    DELETE FROM hash_mix WHERE parameters = old.parameters AND credentials = 0;
END;
CREATE TRIGGER credential_rehashed AFTER UPDATE OF parameters ON credentials WHEN old.parameters <> new.parameters BEGIN
    INSERT INTO hash_mix VALUES (new.parameters, 1) ON CONFLICT DO UPDATE SET credentials = credentials + 1;
    UPDATE hash_mix SET credentials = credentials - 1 WHERE parameters = old.parameters;
    DELETE FROM hash_mix WHERE parameters = old.parameters AND credentials = 0;
END;

-- Reset tokens that have been used, so that none works twice; kept for longer than a token lives.
CREATE TABLE used_tokens (
    sha256  BLOB PRIMARY KEY CHECK (length(sha256) = 32),
    used_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX used_tokens_by_age ON used_tokens (used_at);

-- Mails to be sent. Recipients are looked up at sending time, so a row names a user, or what somebody typed.
CREATE TABLE outbox (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    kind       TEXT NOT NULL CHECK (kind IN ('welcome', 'reset', 'reset_done', 'password_changed')),
    user_id    INTEGER,
    identifier TEXT,
    created_at INTEGER NOT NULL,
    due_at     INTEGER NOT NULL,                                     -- not to be claimed before; a claim moves it by its lease
    tries      INTEGER NOT NULL DEFAULT 0                            -- claims so far
) STRICT;
CREATE INDEX outbox_by_due ON outbox (due_at);
