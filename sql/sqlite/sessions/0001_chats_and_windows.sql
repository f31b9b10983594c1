-- A chat: the history behind one cc_app cookie.
CREATE TABLE chats (
    key        BLOB NOT NULL UNIQUE CHECK (length(key) = 32),        -- SHA-256 of the cookie's value
    owner      INTEGER,                                              -- user id; NULL: anonymous
    generation BLOB NOT NULL CHECK (length(generation) = 16),        -- random; another one after a reset
    expires_ms INTEGER NOT NULL,                                     -- since 1970, UTC
    messages   BLOB NOT NULL                                         -- last, since it is long: one JSON message per line
) STRICT;
CREATE INDEX chats_by_expiry ON chats (expires_ms);

-- A rate-limit window: starts with its first hit, ends on time.
CREATE TABLE windows (
    key     BLOB PRIMARY KEY CHECK (length(key) <= 64),
    hits    INTEGER NOT NULL,
    ends_ms INTEGER NOT NULL                                         -- since 1970, UTC
) STRICT, WITHOUT ROWID;
CREATE INDEX windows_by_end ON windows (ends_ms);

-- Row counts, because count(*) reads a whole table and every insert asks whether it must make room.
CREATE TABLE totals (
    chats   INTEGER NOT NULL,
    windows INTEGER NOT NULL
) STRICT;
INSERT INTO totals VALUES (0, 0);
CREATE TRIGGER chat_made  AFTER INSERT ON chats BEGIN UPDATE totals SET chats = chats + 1; END;
CREATE TRIGGER chat_gone  AFTER DELETE ON chats BEGIN UPDATE totals SET chats = chats - 1; END;
CREATE TRIGGER window_made AFTER INSERT ON windows BEGIN UPDATE totals SET windows = windows + 1; END;
CREATE TRIGGER window_gone AFTER DELETE ON windows BEGIN UPDATE totals SET windows = windows - 1; END;
