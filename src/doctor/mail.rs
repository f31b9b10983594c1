//! The mail server: connected, protected, logged in to. No mail is sent.

use super::Report;
use crate::config::{Config, TlsMode};
use crate::mail::smtp::Smtp;

pub async fn check(report: &mut Report, config: &Config) {
    let Some(server) = &config.mail.server else {
        return;
    };
    report.expect(
        "mail",
        server.tls != TlsMode::None,
        format!(
            "{} gets the password and all mails in the clear",
            server.host
        ),
        "SMTP_TLS=1",
    );
    report.expect(
        "mail",
        server.is_verified,
        format!(
            "anybody can stand in for {}: its certificate is not verified",
            server.host
        ),
        "SMTP_TLS_INSECURE=0",
    );
    let mut smtp = match Smtp::new(server, &config.upstream) {
        Ok(smtp) => smtp,
        Err(why) => return report.check("mail", Err((why, "see [mail]".into()))),
    };
    let connected = smtp.connect().await.map_err(|error| {
        let fix = match error.to_string().as_str() {
            "login refused" => "SMTP_USER=… and SMTP_PASS=… as the mail server knows them",
            why if why.starts_with("certificate") => {
                "SMTP_HOST=… as the certificate names it, and upstream.ca_file if its authority is your own"
            }
            "STARTTLS is not offered" => "SMTP_PORT=465, or the port that offers STARTTLS",
            "TLS failed" if server.tls == TlsMode::Implicit => {
                "SMTP_TLS=1 and the port for STARTTLS (587), if this one does not begin with TLS"
            }
            "TLS failed" => "openssl s_client -starttls smtp -connect … shows why",
            "no answer in time" if server.tls != TlsMode::Implicit => {
                "SMTP_TLS=implicit if this port begins with TLS; else SMTP_HOST=… and SMTP_PORT=… that this host may reach"
            }
            _ => "SMTP_HOST=… and SMTP_PORT=… of a server that this host may reach",
        };
        let what = format!("{}:{}: {error}", server.host, server.port);
        (what, fix.to_owned())
    });
    report.check("mail", connected);
    smtp.close().await;
}
