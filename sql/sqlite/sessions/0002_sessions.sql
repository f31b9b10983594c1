-- A login, under the SHA-256 of its cookie. Times are milliseconds since 1970, UTC.
CREATE TABLE sessions (
    key          BLOB NOT NULL UNIQUE CHECK (length(key) = 32),
    user_id      INTEGER NOT NULL,
    created_ms   INTEGER NOT NULL,
    last_seen_ms INTEGER NOT NULL,
    expires_ms   INTEGER NOT NULL,
    address      TEXT NOT NULL,                                      -- where the login came from
    user_agent   TEXT NOT NULL
) STRICT;
CREATE INDEX sessions_by_user ON sessions (user_id, created_ms);
CREATE INDEX sessions_by_expiry ON sessions (expires_ms);

-- A mailed token, under its SHA-256; one for each user.
CREATE TABLE reset_tokens (
    user_id    INTEGER PRIMARY KEY,
    key        BLOB NOT NULL UNIQUE CHECK (length(key) = 32),
    expires_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX reset_tokens_by_expiry ON reset_tokens (expires_ms);

-- A user who goes takes all chats along.
CREATE INDEX chats_by_owner ON chats (owner) WHERE owner IS NOT NULL;

ALTER TABLE totals ADD COLUMN sessions INTEGER NOT NULL DEFAULT 0;
CREATE TRIGGER session_made AFTER INSERT ON sessions BEGIN UPDATE totals SET sessions = sessions + 1; END;
CREATE TRIGGER session_gone AFTER DELETE ON sessions BEGIN UPDATE totals SET sessions = sessions - 1; END;
