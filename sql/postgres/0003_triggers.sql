-- Keeps `changed_ms` true while the service that CloudChat replaces writes passwords, too. It runs as the role
-- that writes, perhaps one without any right on what is ours, so it touches nothing but the row at hand.
CREATE FUNCTION cloudchat_note_password() RETURNS TRIGGER LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    now_ms CONSTANT BIGINT := extract(epoch FROM clock_timestamp()) * 1000;
    -- The part of a hash before its salt.
    parameters CONSTANT TEXT := '^(.*)\$[^$]*\$[^$]*$';
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.changed_ms = 0 THEN
            NEW.changed_ms := now_ms;
        END IF;
    ELSIF NEW.writes = OLD.writes AND NEW.secret_hash IS DISTINCT FROM OLD.secret_hash
        -- That service hashes a password anew only to change the parameters. Where they stay as they were, the
        -- password is another one; where they change, it cannot be told, and counts as the same.
        AND substring(NEW.secret_hash FROM parameters) IS NOT DISTINCT FROM substring(OLD.secret_hash FROM parameters)
    THEN
        NEW.changed_ms := greatest(now_ms, OLD.changed_ms + 1);
    ELSIF NEW.writes = OLD.writes AND OLD.secret_hash IS NULL AND NEW.secret_hash IS NOT NULL THEN
        NEW.changed_ms := greatest(now_ms, OLD.changed_ms + 1);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER cloudchat_password_made BEFORE INSERT ON credentials
    FOR EACH ROW WHEN (NEW.type = 'password') EXECUTE FUNCTION cloudchat_note_password();
CREATE TRIGGER cloudchat_password_replaced BEFORE UPDATE OF secret_hash ON credentials
    FOR EACH ROW WHEN (NEW.type = 'password' AND NEW.secret_hash IS DISTINCT FROM OLD.secret_hash)
    EXECUTE FUNCTION cloudchat_note_password();
