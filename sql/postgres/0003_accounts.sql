-- What CloudChat needs besides the tables of the service that it replaces, which goes on working on them and
-- sees nothing of this. Our times are milliseconds since 1970, UTC.

-- What all servers of one site must share and nobody else may know.
CREATE TABLE secrets (
    name  TEXT PRIMARY KEY,
    value BYTEA NOT NULL CHECK (length(value) = 32)
);

-- Reset tokens that have been used, so that none works twice; kept for longer than a token lives.
CREATE TABLE used_tokens (
    sha256  BYTEA PRIMARY KEY CHECK (length(sha256) = 32),
    used_ms BIGINT NOT NULL
);
CREATE INDEX used_tokens_by_age ON used_tokens (used_ms);

-- Mails to be sent. Recipients are looked up at sending time, so a row names a user, or what was typed.
CREATE TABLE outbox (
    id         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind       TEXT NOT NULL CHECK (kind IN ('welcome', 'reset', 'reset_done', 'password_changed')),
    user_id    BIGINT,
    identifier TEXT,
    created_ms BIGINT NOT NULL,
    due_ms     BIGINT NOT NULL,                                      -- not to be claimed before; a claim moves it by its lease
    tries      INTEGER NOT NULL DEFAULT 0                            -- claims so far
);
CREATE INDEX outbox_by_due ON outbox (due_ms);

-- What an earlier version of ours left behind, which made this and then failed on these tables.
DROP INDEX IF EXISTS sessions_user_id_idx;

-- From here on others wait for us, so what follows changes catalogues only, never rows. A transaction that has
-- touched `credentials` has nearly always touched `users`, and is over when we have that.
LOCK TABLE users IN ACCESS EXCLUSIVE MODE;
SET LOCAL lock_timeout = '200ms';
LOCK TABLE credentials IN ACCESS EXCLUSIVE MODE;

-- An account that another login has made may have no address.
ALTER TABLE users ALTER COLUMN email DROP NOT NULL,
    ADD COLUMN sessions_not_before BIGINT NOT NULL DEFAULT 0;        -- older sessions are dead; only ever grows

ALTER TABLE credentials
    ADD COLUMN changed_ms BIGINT NOT NULL DEFAULT 0,                 -- when the person chose the password, 0: not known; only ever grows
    ADD COLUMN writes BIGINT NOT NULL DEFAULT 0;                     -- ours: a write that leaves it alone is the other service's
