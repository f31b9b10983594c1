//! One connection to the SMTP server, made when there is something to send and used for what
//! follows at once. mail-send speaks the protocol; every step has a deadline.

use std::fmt;
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::Duration;

use mail_send::smtp::AssertReply;
use mail_send::smtp::message::{Parameter, Parameters};
use mail_send::{Credentials, Error, SmtpClient, SmtpClientBuilder};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::config::{MailServer, TlsMode, Upstream};
use crate::upstream::tls;

/// Looking up, connecting, TLS and login together.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// A command and its reply.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(20);
/// A message and its reply: whoever gives up too early sends it twice (RFC 5321 section 4.5.3.2.6,
/// which asks for ten minutes).
pub const MESSAGE_TIMEOUT: Duration = Duration::from_secs(600);
/// Saying goodbye.
const QUIT_TIMEOUT: Duration = Duration::from_secs(2);
/// The server does not take mail from us like this (RFC 4954): nobody's fault but our own.
const AUTHENTICATION_REQUIRED: u16 = 530;
/// The server waits for the message.
const READY: u16 = 354;
/// The server closes the connection (RFC 5321 section 3.8).
const CLOSING: u16 = 421;

/// Why a message was not taken. Neither address nor password stands in it.
#[derive(Debug, PartialEq, Eq)]
pub struct SendError {
    /// What follows from it.
    pub kind: Kind,
    /// The reply's code, if there was a reply.
    pub status: Option<u16>,
    /// For the log.
    pub cause: String,
}

/// What follows from a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The server cannot be used at the moment, for any message. This one was not taken.
    Down,
    /// The connection broke while the server had the message: it may have been taken.
    Unknown,
    /// This message may be taken later.
    Temporary,
    /// This message will never be taken.
    Permanent,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cause)
    }
}

impl SendError {
    fn new(error: &Error, kind: Kind) -> Self {
        let status = match error {
            Error::UnexpectedReply(reply) | Error::AuthenticationFailed(reply) => {
                Some(reply.code())
            }
            _ => None,
        };
        let kind = match status {
            Some(CLOSING) | None => Kind::Down,
            Some(_) => kind,
        };
        Self {
            kind,
            status,
            cause: cause(error),
        }
    }
}

/// A few words without what the server said: that may repeat an address.
fn cause(error: &Error) -> String {
    match error {
        Error::Io(error) => format!("connection: {:?}", error.kind()),
        Error::Tls(error) => match &**error {
            rustls::Error::InvalidCertificate(why) => {
                let why = format!("{why:?}");
                let why = why.split([' ', '(', '{']).next().unwrap_or_default();
                format!("certificate not accepted: {why}")
            }
            _ => "TLS failed".into(),
        },
        Error::UnexpectedReply(_) => "refused".into(),
        Error::AuthenticationFailed(_) => "login refused".into(),
        Error::UnsupportedAuthMechanism => "no way to log in that we know".into(),
        Error::Timeout => "no answer in time".into(),
        Error::MissingStartTls => "STARTTLS is not offered".into(),
        Error::UnparseableReply => "connection closed, or no SMTP".into(),
        _ => "no SMTP".into(),
    }
}

enum Connection {
    Plain(SmtpClient<TcpStream>),
    Tls(Box<SmtpClient<TlsStream<TcpStream>>>),
}

/// The way to the server.
pub struct Smtp {
    builder: SmtpClientBuilder<String>,
    is_plain: bool,
    /// The sender's address.
    from: String,
    open: Option<Connection>,
}

impl Smtp {
    /// Not connected yet. The roots are those that providers are trusted by.
    ///
    /// # Errors
    /// One line that names the setting at fault.
    pub fn new(server: &MailServer, trust: &Upstream) -> Result<Self, String> {
        let mut tls = match server.is_verified {
            true => tls::client(trust)?,
            false => unverified()?,
        };
        // One server, reached now and then: nothing to remember.
        tls.resumption = rustls::client::Resumption::disabled();
        let connector = TlsConnector::from(Arc::new(tls));
        let host = server.host.clone();
        let mut builder = SmtpClientBuilder::new_with_tls_connector(host, server.port, connector)
            .implicit_tls(server.tls == TlsMode::Implicit)
            .timeout(CONNECT_TIMEOUT)
            // A name in our own domain, whatever this machine calls itself.
            .helo_host(server.from.rsplit('@').next().unwrap_or_default());
        if server.host.parse::<Ipv6Addr>().is_ok() {
            builder.addr = format!("[{}]:{}", server.host, server.port);
        }
        if let Some((user, password)) = &server.credentials {
            let credentials = Credentials::new(user.clone(), password.0.clone());
            builder = builder.credentials(credentials);
        }
        Ok(Self {
            builder,
            is_plain: server.tls == TlsMode::None,
            from: server.from.clone(),
            open: None,
        })
    }

    /// Makes sure that there is a connection on which a message can begin.
    ///
    /// # Errors
    /// [`Kind::Down`].
    pub async fn connect(&mut self) -> Result<(), SendError> {
        if let Some(mut open) = self.open.take() {
            let reset = match &mut open {
                Connection::Plain(client) => client.rset().await,
                Connection::Tls(client) => client.rset().await,
            };
            if reset.is_ok() {
                self.open = Some(open);
                return Ok(());
            }
            // It was closed since the last message.
        }
        let connected = match self.is_plain {
            true => timeout(CONNECT_TIMEOUT, self.builder.connect_plain())
                .await
                .unwrap_or(Err(Error::Timeout))
                .map(Connection::Plain),
            false => self
                .builder
                .connect()
                .await
                .map(|client| Connection::Tls(Box::new(client))),
        };
        let mut connection = connected.map_err(|error| SendError {
            kind: Kind::Down,
            ..SendError::new(&error, Kind::Down)
        })?;
        match &mut connection {
            Connection::Plain(client) => client.timeout = COMMAND_TIMEOUT,
            Connection::Tls(client) => client.timeout = COMMAND_TIMEOUT,
        }
        self.open = Some(connection);
        Ok(())
    }

    /// Sends a message to one recipient over the connection that [`connect`](Self::connect) has
    /// made.
    ///
    /// # Errors
    /// The server did not take it, or it is not known whether it did.
    pub async fn send(&mut self, to: &str, message: &[u8]) -> Result<(), SendError> {
        // Whoever stops waiting half-way leaves no connection on which replies are still to come.
        let Some(mut open) = self.open.take() else {
            return Err(SendError::new(&Error::UnparseableReply, Kind::Down));
        };
        let sent = match &mut open {
            Connection::Plain(client) => deliver(client, &self.from, to, message).await,
            Connection::Tls(client) => deliver(client, &self.from, to, message).await,
        };
        let is_broken = |error: &SendError| matches!(error.kind, Kind::Down | Kind::Unknown);
        if !sent.as_ref().is_err_and(is_broken) {
            self.open = Some(open);
        }
        sent
    }

    /// Closes the connection, if there is one.
    pub async fn close(&mut self) {
        let quit = async {
            match self.open.take() {
                Some(Connection::Plain(client)) => client.quit().await,
                Some(Connection::Tls(client)) => client.quit().await,
                None => Ok(()),
            }
        };
        // What the server says to that changes nothing.
        let _: Result<_, _> = timeout(QUIT_TIMEOUT, quit).await;
    }
}

async fn deliver<S>(
    client: &mut SmtpClient<S>,
    from: &str,
    to: &str,
    message: &[u8],
) -> Result<(), SendError>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let mut parameters = Parameters::new();
    if !to.is_ascii() {
        // RFC 6531; a server that does not know it refuses, and cannot reach this recipient.
        parameters.add(Parameter::from("SMTPUTF8"));
    }
    let refused = |error: &Error, permanently: bool| {
        let code = match error {
            Error::UnexpectedReply(reply) => reply.code(),
            _ => 0,
        };
        let is_final = (500..600).contains(&code) && code != AUTHENTICATION_REQUIRED;
        match is_final && permanently {
            true => SendError::new(error, Kind::Permanent),
            false => SendError::new(error, Kind::Temporary),
        }
    };
    // A sender that is refused says nothing about the recipient.
    let sender = client.mail_from(from, &parameters).await;
    sender.map_err(|error| refused(&error, !to.is_ascii()))?;
    let recipient = client.rcpt_to(to, &Parameters::new()).await;
    recipient.map_err(|error| refused(&error, true))?;
    let ready = client.cmd(b"DATA\r\n").await;
    let ready = ready.and_then(|reply| reply.assert_code(READY));
    ready.map_err(|error| refused(&error, true))?;
    let taken = timeout(MESSAGE_TIMEOUT, async {
        client.write_message(message).await?;
        client.read().await
    });
    let taken = taken.await.unwrap_or(Err(Error::Timeout));
    let taken = taken.and_then(AssertReply::assert_positive_completion);
    taken.map_err(|error| match &error {
        Error::UnexpectedReply(_) => refused(&error, true),
        _ => SendError {
            kind: Kind::Unknown,
            ..SendError::new(&error, Kind::Unknown)
        },
    })
}

/// TLS that keeps listeners out, but takes any certificate.
fn unverified() -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = AnyCertificate(provider.signature_verification_algorithms);
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS: {error}"))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(config)
}

/// Asks for a handshake signed with the certificate's key, but not whose certificate it is.
#[derive(Debug)]
struct AnyCertificate(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
