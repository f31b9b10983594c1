//! The `[mail]` table: which server takes our mails, and how they are signed.

use std::time::Duration;

use toml::Value;

use super::read::{Reader, Section, quoted, shown, truth};
use super::{Secret, parse};

/// Where mails go unless the connection begins with TLS.
const PORT: u16 = 587;
/// "Submissions" (RFC 8314): TLS from the first byte, whatever `smtp_tls` says.
const PORT_IMPLICIT_TLS: u16 = 465;
/// Longest names in characters: they stand in headers.
const NAME_CHARS_MAX: usize = 80;
/// Longest user name and password: both stand in one SMTP command (RFC 4954 allows 12,288 bytes).
const CREDENTIAL_BYTES_MAX: usize = 256;

/// Mails to users.
#[derive(Debug, Clone)]
pub struct Mail {
    /// Who takes them; without it they are not sent.
    pub server: Option<MailServer>,
    /// Who they come from, as people read it; 1 to 80 characters, no control characters.
    pub sender_name: String,
    /// The site's name in subjects and texts; the same bounds.
    pub site_name: String,
    /// What they are written in.
    pub language: Language,
    /// Mails waiting to be sent, 1 to 1,000,000; further ones are dropped.
    pub queue_max: usize,
    /// Pause after a failure, 0.05 to 3600 s; doubled with each further one.
    pub retry: Duration,
    /// How often an empty outbox is looked at, 0.05 to 3600 s.
    pub look: Duration,
}

/// An SMTP server that takes mails for anybody.
#[derive(Debug, Clone)]
pub struct MailServer {
    /// Host name or address, lower case, without brackets.
    pub host: String,
    /// 1 to 65535.
    pub port: u16,
    /// How the connection is protected.
    pub tls: TlsMode,
    /// Whether the server's certificate must be its own.
    pub is_verified: bool,
    /// User name and password, each of up to 256 bytes.
    pub credentials: Option<(String, Secret)>,
    /// The address mails come from; ASCII.
    pub from: String,
}

/// How the connection to a mail server is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// Not at all.
    None,
    /// By STARTTLS (RFC 3207), without which nothing is sent.
    StartTls,
    /// From the first byte (RFC 8314).
    Implicit,
}

/// What mails are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// Chinese.
    Zh,
    /// English.
    En,
}

/// The table and its variables; `can_link` is whether mails can hold a link to the web site.
pub fn read(reader: &mut Reader<'_>, can_link: bool, warnings: &mut Vec<String>) -> Mail {
    let mut section = reader.section("mail");
    let site_name = section.text("site_name", name);
    let site_name = site_name.unwrap_or_else(|| "RendaZhang 网站".into());
    let sender_name = section.text(("sender_name", "MAIL_SENDER_NAME"), |text| match text {
        "" => Ok(None),
        _ => name(text).map(Some),
    });
    let languages = [("zh", Language::Zh), ("en", Language::En)];
    let mail = Mail {
        server: server(&mut section, warnings),
        sender_name: sender_name.flatten().unwrap_or_else(|| site_name.clone()),
        site_name,
        language: section.choice("language", &languages),
        queue_max: section.integer("queue_max", 1000, 1..=1_000_000),
        retry: section.seconds("retry_seconds", 30.0, 0.05..=3600.0),
        look: section.seconds("look_seconds", 1.0, 0.05..=3600.0),
    };
    section.finish();
    if mail.server.is_some() && !can_link {
        warnings.push(
            "mails that reset a password cannot be sent: set server.frontend_base_url \
             (FRONTEND_BASE_URL), which their link begins with"
                .into(),
        );
    }
    mail
}

/// The server; `None` without a host. All keys are read in any case, so that mistakes in them show.
fn server(section: &mut Section<'_, '_>, warnings: &mut Vec<String>) -> Option<MailServer> {
    let host = section.text(("smtp_host", "SMTP_HOST"), |text| match text {
        "" => Ok(None),
        _ => parse::host(text).map(Some),
    });
    let tls = section.parsed(("smtp_tls", "SMTP_TLS"), truth, tls_mode);
    let port = match tls {
        Some(TlsMode::Implicit) => PORT_IMPLICIT_TLS,
        _ => PORT,
    };
    let port = section.integer(("smtp_port", "SMTP_PORT"), port, 1..=u16::MAX);
    let insecure = section.bool(("smtp_tls_insecure", "SMTP_TLS_INSECURE"), false);
    let user = section.text(("smtp_user", "SMTP_USER"), |text| {
        let fine = text.len() <= CREDENTIAL_BYTES_MAX && !text.contains(char::is_control);
        fine.then(|| String::from(text)).ok_or_else(|| {
            format!(
                "is no user name (up to {CREDENTIAL_BYTES_MAX} bytes without control characters)"
            )
        })
    });
    let user = user.filter(|user| !user.is_empty());
    let (variable, password) = password(section);
    let from = section.text(("from", "MAIL_FROM"), |text| match text {
        "" => Ok(None),
        _ => parse::mail_address(text).map(Some),
    });
    let is_from_wrong = from.is_none() && section.has_mistake("from", "MAIL_FROM");
    let host = host.flatten()?;
    // Most services want the sender to be the account that logs in.
    let user_as_sender = || parse::mail_address(user.as_deref()?).ok();
    let from = from.flatten().or_else(user_as_sender);
    if from.is_none() && !is_from_wrong {
        section.mistake("from", "is missing: the address that mails come from");
    }
    let tls = match port {
        PORT_IMPLICIT_TLS => TlsMode::Implicit,
        _ => tls.unwrap_or(TlsMode::StartTls),
    };
    if insecure && tls != TlsMode::None {
        warnings.push(
            "mail.smtp_tls_insecure: the mail server's certificate is not verified; whoever sits \
             between can read the mails and the password"
                .into(),
        );
    }
    let credentials = match (user, password) {
        (Some(user), Some(password)) => Some((user, password)),
        (Some(_), None) => {
            warnings.push(format!(
                "mail.smtp_user is set, but {variable} is not: mails are sent without a login"
            ));
            None
        }
        (None, _) => None,
    };
    if credentials.is_some() && tls == TlsMode::None && !parse::is_loopback(&host) {
        warnings.push("mail.smtp_tls is off: the password travels unencrypted".into());
    }
    Some(MailServer {
        host,
        port,
        tls,
        is_verified: !insecure,
        credentials,
        from: from?,
    })
}

/// `true` for STARTTLS, `false`, or `"implicit"`.
fn tls_mode(value: &Value) -> Result<TlsMode, String> {
    match value {
        Value::Boolean(true) => Ok(TlsMode::StartTls),
        Value::Boolean(false) => Ok(TlsMode::None),
        Value::String(text) if text == "implicit" => Ok(TlsMode::Implicit),
        other => Err(format!(
            "{} is not allowed; true, false or \"implicit\"",
            shown(other)
        )),
    }
}

/// The password and the variable it is looked for in.
fn password(section: &mut Section<'_, '_>) -> (String, Option<Secret>) {
    let variable = section.text("smtp_password_env", parse::variable_name);
    let variable = variable.unwrap_or_else(|| "SMTP_PASS".into());
    let password = Some(variable.as_str())
        .filter(|name| !name.is_empty())
        .and_then(|name| section.reader.variable(name));
    if let Some(password) = &password
        && (password.len() > CREDENTIAL_BYTES_MAX || password.contains('\0'))
    {
        let what = format!("is no password (up to {CREDENTIAL_BYTES_MAX} bytes, no NUL)");
        section.reader.variable_mistake(&variable, what);
    }
    (variable, password.map(Secret))
}

/// A name that stands in a header.
fn name(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() || text.chars().count() > NAME_CHARS_MAX || text.contains(char::is_control) {
        return Err(format!(
            "{} is no name (1 to {NAME_CHARS_MAX} characters, no control characters)",
            quoted(text)
        ));
    }
    Ok(text.into())
}
