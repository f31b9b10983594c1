-- The end of `secret_hash` where that is the hash of a password in NFC, and not as it was typed. A hash with another end
-- is of a password as typed: the replaced service, and a process of ours that runs since before this, leave this alone.
LOCK TABLE credentials IN ACCESS EXCLUSIVE MODE;
ALTER TABLE credentials ADD COLUMN nfc_of TEXT;
