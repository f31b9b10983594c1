-- The tables of the old service, from the description of its database. Times, names and defaults are its own;
-- constraints have the names that PostgreSQL gives them.

CREATE TABLE users (
    id           BIGSERIAL PRIMARY KEY,
    uid          TEXT NOT NULL UNIQUE,
    email        TEXT NOT NULL UNIQUE,
    phone        TEXT UNIQUE,
    display_name TEXT,
    is_active    BOOLEAN DEFAULT true,
    created_at   TIMESTAMPTZ DEFAULT now()
);

CREATE TABLE credentials (
    id           BIGSERIAL PRIMARY KEY,
    user_id      BIGINT NOT NULL REFERENCES users(id) ON DELETE CASCADE,
    type         TEXT NOT NULL CHECK (type IN ('password', 'oauth', 'totp', 'webauthn')),
    secret_hash  TEXT,
    provider     TEXT,
    provider_uid TEXT,
    created_at   TIMESTAMPTZ DEFAULT now()
);

CREATE TABLE sessions (
    id         BIGSERIAL PRIMARY KEY,
    session_id TEXT NOT NULL UNIQUE,
    user_id    BIGINT NOT NULL REFERENCES users(id) ON DELETE CASCADE,
    user_agent TEXT,
    ip         INET,
    expires_at TIMESTAMPTZ,
    revoked_at TIMESTAMPTZ,
    created_at TIMESTAMPTZ DEFAULT now()
);

CREATE UNIQUE INDEX idx_credentials_user_type_one ON credentials (user_id, type) WHERE type IN ('password', 'totp', 'webauthn');
CREATE UNIQUE INDEX idx_credentials_oauth_unique ON credentials (provider, provider_uid)
    WHERE provider IS NOT NULL AND provider_uid IS NOT NULL;
CREATE INDEX idx_users_email_ci ON users (lower(email));
CREATE INDEX idx_sessions_user ON sessions (user_id);
CREATE INDEX idx_sessions_expires ON sessions (expires_at);
