-- What CloudChat needs besides. The service that it replaces goes on working on the same tables. Our times are
-- milliseconds since 1970, UTC.
LOCK TABLE users, credentials IN SHARE ROW EXCLUSIVE MODE;

ALTER TABLE users ADD COLUMN IF NOT EXISTS created_at TIMESTAMPTZ DEFAULT now();
ALTER TABLE users ADD COLUMN IF NOT EXISTS updated_at TIMESTAMPTZ DEFAULT now();
ALTER TABLE users ADD COLUMN sessions_not_before BIGINT NOT NULL DEFAULT 0;    -- older sessions are dead; only ever grows

ALTER TABLE credentials ADD COLUMN IF NOT EXISTS updated_at TIMESTAMPTZ DEFAULT now();
ALTER TABLE credentials ADD COLUMN changed_ms BIGINT NOT NULL DEFAULT 0;       -- when the person chose the password; only ever grows
ALTER TABLE credentials ADD COLUMN writes BIGINT NOT NULL DEFAULT 0;           -- ours: a write that leaves it alone is the other service's

-- These write nothing: they fail, with the column's name, if the tables are not as expected, or not unique where they must be.
INSERT INTO users (uid, email, phone, display_name, is_active, created_at, updated_at)
    SELECT 'x', 'x', 'x', 'x', TRUE, now(), now() WHERE FALSE ON CONFLICT (uid) DO NOTHING;
INSERT INTO users (uid, email) SELECT 'x', 'x' WHERE FALSE ON CONFLICT (email) DO NOTHING;
INSERT INTO users (uid, email) SELECT 'x', 'x' WHERE FALSE ON CONFLICT (phone) DO NOTHING;
INSERT INTO credentials (user_id, password_hash, updated_at)
    SELECT 0, 'x', now() WHERE FALSE ON CONFLICT (user_id) DO NOTHING;

-- The part of a hash before its salt: what verifying it costs depends on this alone.
CREATE FUNCTION cloudchat_parameters(phc TEXT) RETURNS TEXT LANGUAGE sql IMMUTABLE AS
    $$ SELECT coalesce(substring(phc FROM '^(.*)\$[^$]*\$[^$]*$'), '') $$;

-- How many passwords are hashed with which parameters: a login with an unknown identifier asks, and must not count rows.
CREATE TABLE hash_mix (
    parameters  TEXT PRIMARY KEY,
    credentials BIGINT NOT NULL
);
INSERT INTO hash_mix SELECT cloudchat_parameters(password_hash), count(*) FROM credentials GROUP BY 1;

CREATE FUNCTION cloudchat_count_hash(counted TEXT, change BIGINT) RETURNS VOID LANGUAGE sql AS
    $$ INSERT INTO hash_mix AS mix VALUES (counted, change)
       ON CONFLICT (parameters) DO UPDATE SET credentials = mix.credentials + change $$;

-- Always in the order of the parameters, so that two writers never wait for each other.
CREATE FUNCTION cloudchat_count_hashes() RETURNS TRIGGER LANGUAGE plpgsql AS $$
DECLARE
    was TEXT := CASE WHEN TG_OP <> 'INSERT' THEN cloudchat_parameters(OLD.password_hash) END;
    becomes TEXT := CASE WHEN TG_OP <> 'DELETE' THEN cloudchat_parameters(NEW.password_hash) END;
BEGIN
    IF was IS NOT DISTINCT FROM becomes THEN
        RETURN NULL;
    END IF;
    IF was < becomes THEN
        PERFORM cloudchat_count_hash(was, -1);
    END IF;
    IF becomes IS NOT NULL THEN
        PERFORM cloudchat_count_hash(becomes, 1);
    END IF;
    IF was IS NOT NULL AND (becomes IS NULL OR was > becomes) THEN
        PERFORM cloudchat_count_hash(was, -1);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER cloudchat_hash_made AFTER INSERT OR DELETE ON credentials
    FOR EACH ROW EXECUTE FUNCTION cloudchat_count_hashes();
CREATE TRIGGER cloudchat_hash_replaced AFTER UPDATE OF password_hash ON credentials
    FOR EACH ROW EXECUTE FUNCTION cloudchat_count_hashes();

-- A password that the other service has replaced counts as chosen now.
CREATE FUNCTION cloudchat_note_change() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.writes = OLD.writes AND NEW.password_hash <> OLD.password_hash THEN
        NEW.changed_ms := greatest((extract(epoch FROM clock_timestamp()) * 1000)::BIGINT, OLD.changed_ms + 1);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER cloudchat_password_replaced BEFORE UPDATE OF password_hash ON credentials
    FOR EACH ROW EXECUTE FUNCTION cloudchat_note_change();

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

-- Mails to be sent. Recipients are looked up at sending time, so a row names a user, or what somebody typed.
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
