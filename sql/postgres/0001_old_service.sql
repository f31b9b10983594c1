-- The tables of the service that CloudChat replaces, as that service makes them: a database that has them
-- keeps them, an empty one gets them, so that there is one kind of database. The indexes that are not unique
-- are built by `migrate` itself, without a lock that anybody would wait for.
CREATE TABLE IF NOT EXISTS users (
    id           BIGSERIAL PRIMARY KEY,
    uid          TEXT NOT NULL UNIQUE,                               -- 12 hex digits, random
    email        TEXT NOT NULL UNIQUE,                               -- lower case
    phone        TEXT UNIQUE,
    display_name TEXT,
    is_active    BOOLEAN DEFAULT TRUE,                               -- NULL: may not log in
    created_at   TIMESTAMPTZ DEFAULT now()
);

-- One row for each way to log in: at most one each of `password`, `totp` and `webauthn`, any number of `oauth`.
CREATE TABLE IF NOT EXISTS credentials (
    id           BIGSERIAL PRIMARY KEY,
    user_id      BIGINT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    type         TEXT NOT NULL CHECK (type IN ('password', 'oauth', 'totp', 'webauthn')),
    secret_hash  TEXT,                                               -- password: PHC string
    provider     TEXT,
    provider_uid TEXT,
    created_at   TIMESTAMPTZ DEFAULT now()
);
CREATE UNIQUE INDEX IF NOT EXISTS idx_credentials_user_type_one ON credentials (user_id, type)
    WHERE type IN ('password', 'totp', 'webauthn');
CREATE UNIQUE INDEX IF NOT EXISTS idx_credentials_oauth_unique ON credentials (provider, provider_uid)
    WHERE provider IS NOT NULL AND provider_uid IS NOT NULL;

-- Sessions live in Redis; neither service reads or writes this.
CREATE TABLE IF NOT EXISTS sessions (
    id         BIGSERIAL PRIMARY KEY,
    session_id TEXT NOT NULL UNIQUE,
    user_id    BIGINT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    user_agent TEXT,
    ip         INET,
    expires_at TIMESTAMPTZ,
    created_at TIMESTAMPTZ DEFAULT now(),
    revoked_at TIMESTAMPTZ
);
