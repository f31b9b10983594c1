-- Whose chat it is to the limits: when the file is full, the client that holds most makes room. Apart from
-- `chats`, where a column behind the long one would be read through all of it.
CREATE TABLE chat_clients (
    key    BLOB PRIMARY KEY,                                         -- the chat's
    client BLOB NOT NULL                                             -- a keyed hash of an address
) STRICT, WITHOUT ROWID;
CREATE TRIGGER chat_client_gone AFTER DELETE ON chats BEGIN DELETE FROM chat_clients WHERE key = old.key; END;
