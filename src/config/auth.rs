//! Logins and passwords: `[auth]`.

use super::Auth;
use super::read::Reader;

const DAY: f64 = 86_400.0;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// The settings of logins and passwords.
pub fn read(
    reader: &mut Reader<'_>,
    has_old_hashes: bool,
    is_cookie_secure: bool,
    warnings: &mut Vec<String>,
) -> Auth {
    let mut section = reader.section("auth");
    let memory = if has_old_hashes { "64M" } else { "19M" };
    let auth = Auth {
        session_ttl: section.seconds(
            ("session_ttl_seconds", "SESSION_TTL_SECONDS"),
            7.0 * DAY,
            1.0..=365.0 * DAY,
        ),
        reset_token_ttl: section.seconds(
            ("reset_token_ttl_seconds", "PWRESET_TOKEN_TTL"),
            900.0,
            1.0..=DAY,
        ),
        reset_revokes_sessions: section
            .bool(("reset_revokes_sessions", "PWRESET_REVOKE_SESSIONS"), true),
        debug_return_reset_token: section.bool(
            ("debug_return_reset_token", "DEBUG_RETURN_RESET_TOKEN"),
            false,
        ),
        rehash: section.bool("rehash", true),
        // What new hashes take is the least.
        hash_memory_max: section.memory("hash_memory_max", memory, 19 * MIB..=4 * GIB),
        hash_queue_max: section.integer("hash_queue_max", 32, 1..=1024),
        hash_timeout: section.seconds("hash_seconds_max", 5.0, 0.05..=60.0),
    };
    if auth.debug_return_reset_token && is_cookie_secure {
        let variable = "DEBUG_RETURN_RESET_TOKEN";
        let what = "lets anybody replace anybody's password: remove it, or, for tests without \
                    HTTPS, also set server.cookie_secure = false (COOKIE_SECURE=0)";
        match section.reader.variable(variable) {
            Some(_) => section.reader.variable_mistake(variable, what),
            None => section.mistake("debug_return_reset_token", what),
        }
    }
    section.finish();
    if auth.debug_return_reset_token {
        warnings.push(
            "auth.debug_return_reset_token: anybody can replace anybody's password; never use it \
             outside tests"
                .into(),
        );
    }
    auth
}
