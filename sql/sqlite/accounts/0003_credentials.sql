-- The same tables as on PostgreSQL (sql/postgres): one row of `credentials` for each way to log in, and users
-- who may have no address. Both tables are made anew; foreign keys are off meanwhile, or dropping `users`
-- would delete all credentials.
CREATE TABLE users_new (
    id                  INTEGER PRIMARY KEY AUTOINCREMENT,           -- never given again: old sessions of a deleted user lead nowhere
    uid                 TEXT NOT NULL UNIQUE,                        -- 12 hex digits, random
    email               TEXT UNIQUE,                                 -- lower case; NULL: made by another login
    phone               TEXT UNIQUE,
    display_name        TEXT,
    is_active           INTEGER DEFAULT 1 CHECK (is_active IN (0, 1)), -- NULL: may not log in
    created_at          INTEGER,
    sessions_not_before INTEGER NOT NULL DEFAULT 0                   -- older sessions are dead; only ever grows
) STRICT;
INSERT INTO users_new (id, uid, email, phone, display_name, is_active, created_at, sessions_not_before)
    SELECT id, uid, email, phone, display_name, is_active, created_at, sessions_not_before FROM users;
DELETE FROM sqlite_sequence WHERE name = 'users_new';
INSERT INTO sqlite_sequence (name, seq) SELECT 'users_new', seq FROM sqlite_sequence WHERE name = 'users';

CREATE TABLE credentials_new (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    user_id      INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    type         TEXT NOT NULL CHECK (type IN ('password', 'oauth', 'totp', 'webauthn')),
    secret_hash  TEXT,                                               -- password: PHC string
    provider     TEXT,
    provider_uid TEXT,
    created_at   INTEGER,
    changed_ms   INTEGER NOT NULL DEFAULT 0,                         -- when the person chose the password; only ever grows
    -- A password's hash up to the second `$` from its end: what stands before the salt.
    parameters   TEXT AS (CASE type WHEN 'password' THEN
        rtrim(rtrim(rtrim(rtrim(secret_hash, replace(secret_hash, '$', '')), '$'), replace(secret_hash, '$', '')), '$')
    END)
) STRICT;
INSERT INTO credentials_new (user_id, type, secret_hash, created_at, changed_ms)
    SELECT user_id, 'password', password_hash, changed_at, changed_at FROM credentials ORDER BY user_id;

-- Its triggers go with it.
DROP TABLE credentials;
DROP TABLE users;
ALTER TABLE users_new RENAME TO users;
ALTER TABLE credentials_new RENAME TO credentials;

CREATE UNIQUE INDEX idx_credentials_user_type_one ON credentials (user_id, type)
    WHERE type IN ('password', 'totp', 'webauthn');
CREATE UNIQUE INDEX idx_credentials_oauth_unique ON credentials (provider, provider_uid)
    WHERE provider IS NOT NULL AND provider_uid IS NOT NULL;
CREATE INDEX cloudchat_credentials_by_user ON credentials (user_id);

-- `hash_mix` counts as before.
CREATE TRIGGER credential_made AFTER INSERT ON credentials WHEN new.parameters IS NOT NULL BEGIN
    INSERT INTO hash_mix VALUES (new.parameters, 1) ON CONFLICT DO UPDATE SET credentials = credentials + 1;
END;
CREATE TRIGGER credential_gone AFTER DELETE ON credentials WHEN old.parameters IS NOT NULL BEGIN
    UPDATE hash_mix SET credentials = credentials - 1 WHERE parameters = old.parameters;
    DELETE FROM hash_mix WHERE parameters = old.parameters AND credentials = 0;
END;
CREATE TRIGGER credential_rehashed AFTER UPDATE ON credentials WHEN old.parameters IS NOT new.parameters BEGIN
    INSERT INTO hash_mix SELECT new.parameters, 1 WHERE new.parameters IS NOT NULL
        ON CONFLICT DO UPDATE SET credentials = credentials + 1;
    UPDATE hash_mix SET credentials = credentials - 1 WHERE parameters = old.parameters;
    DELETE FROM hash_mix WHERE parameters = old.parameters AND credentials = 0;
END;
