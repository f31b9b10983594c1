-- The end of `secret_hash` where that is the hash of a password in NFC, and not as it was typed. A hash with another end
-- is of a password as typed: whoever writes one without this need not know of it.
ALTER TABLE credentials ADD COLUMN nfc_of TEXT;
