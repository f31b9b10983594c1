-- From the tables that CloudChat made by itself before it knew those of the service that it replaces: one
-- row of `credentials` for each user, with `user_id` as its key and a column `password_hash`.
LOCK TABLE users, credentials, sessions IN ACCESS EXCLUSIVE MODE;

DROP INDEX sessions_user_id_idx;

DROP TRIGGER cloudchat_hash_made ON credentials;
DROP TRIGGER cloudchat_hash_replaced ON credentials;
DROP TRIGGER cloudchat_password_replaced ON credentials;
DROP FUNCTION cloudchat_count_hashes(), cloudchat_note_change(), cloudchat_count_hash(TEXT, BIGINT),
    cloudchat_parameters(TEXT);
DROP TABLE hash_mix;

ALTER TABLE users ALTER COLUMN email DROP NOT NULL, ALTER COLUMN created_at DROP NOT NULL, DROP COLUMN updated_at;

ALTER TABLE credentials RENAME COLUMN password_hash TO secret_hash;
ALTER TABLE credentials DROP CONSTRAINT credentials_pkey;
-- One rewrite of the table for all of it.
ALTER TABLE credentials
    ADD COLUMN id BIGSERIAL PRIMARY KEY,
    ADD COLUMN type TEXT NOT NULL DEFAULT 'password' CHECK (type IN ('password', 'oauth', 'totp', 'webauthn')),
    ADD COLUMN provider TEXT,
    ADD COLUMN provider_uid TEXT,
    ALTER COLUMN secret_hash DROP NOT NULL,
    ALTER COLUMN created_at DROP NOT NULL,
    DROP COLUMN updated_at;
ALTER TABLE credentials ALTER COLUMN type DROP DEFAULT;
CREATE UNIQUE INDEX idx_credentials_user_type_one ON credentials (user_id, type)
    WHERE type IN ('password', 'totp', 'webauthn');
CREATE UNIQUE INDEX idx_credentials_oauth_unique ON credentials (provider, provider_uid)
    WHERE provider IS NOT NULL AND provider_uid IS NOT NULL;

ALTER TABLE sessions RENAME COLUMN id TO session_id;
ALTER TABLE sessions DROP CONSTRAINT sessions_pkey;
ALTER TABLE sessions
    ADD COLUMN id BIGSERIAL PRIMARY KEY,
    ADD UNIQUE (session_id),
    ADD COLUMN user_agent TEXT,
    ADD COLUMN ip INET,
    ADD COLUMN revoked_at TIMESTAMPTZ,
    ALTER COLUMN created_at DROP NOT NULL;
