-- Fills the empty tables of schema.sql as production has them: `:users` ordinary users, then the odd ones.
-- Reads hashes.txt, so psql must run in this folder, as populate.py sees to.

CREATE TEMP TABLE hashes (line SERIAL PRIMARY KEY, password TEXT, hash TEXT);
\copy hashes (password, hash) FROM 'hashes.txt'

-- 12 hex digits that look random: multiplying by an odd number gives each user another 48 bits.
CREATE FUNCTION pg_temp.uid(n BIGINT) RETURNS TEXT IMMUTABLE LANGUAGE SQL
    AS $$ SELECT lpad(to_hex((n * 25214903917) & 281474976710655), 12, '0') $$;

-- The ordinary ones: user<n>@example.org has the hash of line (n - 1) % 200 + 1. They came over two years;
-- every third gave a phone number, every second a name.
INSERT INTO users (uid, email, phone, display_name, is_active, created_at)
    SELECT pg_temp.uid(n), format('user%s@example.org', n),
        CASE WHEN n % 3 = 0 THEN '138' || lpad(n::TEXT, 8, '0') END,
        CASE n % 4 WHEN 1 THEN format('User %s', n) WHEN 3 THEN format('用户 %s', n) END,
        true, TIMESTAMPTZ '2023-09-01 08:00:00.123456+00' + n * (INTERVAL '730 days' / greatest(:users, 1))
    FROM generate_series(1, :users::BIGINT) AS n
    ORDER BY n;

-- Ids of the two tables differ, so that no statement gets away with taking one for the other. (Numbers
-- are missing in production too: an insert that fails uses one up.)
SELECT setval('credentials_id_seq', 5000000) \g /dev/null
INSERT INTO credentials (user_id, type, secret_hash, created_at)
    SELECT users.id, 'password', hashes.hash, users.created_at
    FROM generate_series(1, :users::BIGINT) AS n
    JOIN users ON users.email = format('user%s@example.org', n)
    JOIN hashes ON hashes.line = (n - 1) % 200 + 1
    ORDER BY n;

-- The odd ones. `line` of hashes.txt is the hash of their row of type `password`; without it they have no such row
-- yet. The password is `odd password 1` in every line from 201 on.
CREATE TEMP TABLE odd (
    n SERIAL, email TEXT, line INT DEFAULT 201, phone TEXT, is_active BOOLEAN DEFAULT true,
    created_at TIMESTAMPTZ DEFAULT '2025-08-31 12:00:00.5+00'
);

-- May not log in: neither true.
INSERT INTO odd (email, is_active) VALUES
    ('inactive-null@example.org', NULL),
    ('inactive-false@example.org', false);
-- Both of its rows lack a time.
INSERT INTO odd (email, created_at) VALUES ('created-null@example.org', NULL);
-- Addresses that CloudChat would not take: too long (271 characters), and characters that the old service let pass.
INSERT INTO odd (email) VALUES
    ('long-' || repeat('x', 254) || '@example.org'),
    ('"quoted"@example.org'),
    ('o''hara@example.org'),
    ('info@bücher.example'),
    ('<angle>@example.org');
-- Phone numbers of forms that CloudChat would refuse or that are easily changed on the way.
INSERT INTO odd (email, phone) VALUES
    ('phone-long@example.org', repeat('0123456789', 4)),
    ('phone-at@example.org', '030@123456'),
    ('phone-chinese@example.org', '电话一二三四五'),
    ('phone-punctuated@example.org', '+49 (0)30/123'),
    ('phone-zeros@example.org', '000049301234567');
-- Rows of type `password` that hold no hash of today: never made, no longer valid, empty, or of other kinds.
-- The one of 256 MiB is above what CloudChat accepts.
INSERT INTO odd (email, line) VALUES
    ('argon2-small@example.org', 202),
    ('argon2i@example.org', 203),
    ('argon2-256m@example.org', 204),
    ('hash-null@example.org', NULL),
    ('hash-empty@example.org', NULL),
    ('hash-bcrypt@example.org', NULL);
-- Accounts made by another login: no row at all, three logins, a security key; and one with every kind but that.
INSERT INTO odd (email, line) VALUES
    ('no-credentials@example.org', NULL),
    ('oauth-three@example.org', NULL),
    ('webauthn-only@example.org', NULL),
    ('password-totp-oauth@example.org', 201);

INSERT INTO users (uid, email, phone, display_name, is_active, created_at)
    SELECT pg_temp.uid(:users + n), email, phone, 'Odd ' || n, is_active, created_at
    FROM odd ORDER BY n;

INSERT INTO credentials (user_id, type, secret_hash, created_at)
    SELECT users.id, 'password', hashes.hash, odd.created_at
    FROM odd JOIN users ON users.email = odd.email JOIN hashes ON hashes.line = odd.line
    ORDER BY odd.n;

INSERT INTO credentials (user_id, type, secret_hash, provider, provider_uid, created_at)
    SELECT users.id, made.type, made.secret_hash, made.provider, made.provider_uid, users.created_at
    FROM (VALUES
        ('hash-null@example.org', 'password', NULL, NULL, NULL),
        ('hash-empty@example.org', 'password', '', NULL, NULL),
        ('hash-bcrypt@example.org', 'password', '$2b$12$abcdefghijklmnopqrstuuABCDEFGHIJKLMNOPQRSTUVWXYZ01234', NULL, NULL),
        ('oauth-three@example.org', 'oauth', NULL, 'google', '108204268033311374519'),
        ('oauth-three@example.org', 'oauth', NULL, 'wechat', 'o6_bmjrPTlm6_2sgVt7hMZOPfL2M'),
        ('oauth-three@example.org', 'oauth', NULL, 'github', '583231'),
        ('webauthn-only@example.org', 'webauthn', 'pQECAyYgASFYIGh0YTZqcm5zdGJ4b3V5d2tmcXZtZ2xkcGVjaGk', NULL, NULL),
        ('password-totp-oauth@example.org', 'totp', 'JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP', NULL, NULL),
        ('password-totp-oauth@example.org', 'oauth', NULL, 'google', '108204268033311374520')
    ) AS made (email, type, secret_hash, provider, provider_uid)
    JOIN users ON users.email = made.email;

DROP TABLE hashes, odd;
-- Production has statistics; the tests' server does not make them by itself.
ANALYZE users, credentials;
