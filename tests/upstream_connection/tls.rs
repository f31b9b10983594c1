//! Providers behind TLS.

use std::io::Write as _;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use cloudchat::config;
use cloudchat::upstream::{Failure, Shared};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::provider::*;

/// A server configuration for localhost and its certificate, self-signed, in PEM.
pub fn identity() -> (Arc<ServerConfig>, String) {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has them")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("they match");
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    (Arc::new(config), made.cert.pem())
}

pub fn accept(
    config: &Arc<ServerConfig>,
    socket: TcpStream,
) -> StreamOwned<ServerConnection, TcpStream> {
    let session = ServerConnection::new(Arc::clone(config)).expect("a valid configuration");
    StreamOwned::new(session, socket)
}

pub fn trusting(file: &Path) -> config::Upstream {
    config::Upstream {
        ca_file: Some(file.to_owned()),
        ..settings()
    }
}

pub fn tls_row(host: &str, port: u16) -> config::Provider {
    let mut row = row(port);
    (row.tls, row.host) = (true, host.to_owned());
    row
}

#[test]
fn an_own_root_is_trusted_if_it_is_named() {
    let (server, pem) = identity();
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("ca.pem");
    std::fs::write(&file, pem).expect("is writable");
    let fake = Fake::start(move |n, socket| {
        let mut stream = accept(&server, socket);
        while !request(&mut stream).is_empty() {
            write!(stream, "{STREAM}1\r\n{n}\r\n0\r\n\r\n").expect("the client reads");
        }
    });
    run(async {
        for host in ["localhost", "127.0.0.1"] {
            let before = fake.accepted();
            let upstream = upstream(&trusting(&file), tls_row(host, fake.port));
            for _ in 0..3 {
                let mut exchange = send(&upstream).await.expect("an answer");
                let (read, end) = body(&mut exchange, 64).await;
                assert_eq!((read.len(), end), (1, Ok(())));
                exchange.finish();
            }
            assert_eq!(fake.accepted(), before + 1, "the connection is kept warm");
        }
        let failure = send(&upstream(&settings(), tls_row("localhost", fake.port))).await;
        let failure = failure.expect_err("is not trusted");
        assert!(
            matches!(failure, Failure::Unreachable { .. }),
            "{failure:?}"
        );
        assert_eq!(failure.code(), "tls-InvalidCertificate.UnknownIssuer");
        assert_eq!(failure.to_string(), "The model provider cannot be reached");
    });
}

#[test]
fn a_cut_without_goodbye_is_a_cut() {
    let (server, pem) = identity();
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("ca.pem");
    std::fs::write(&file, pem).expect("is writable");
    let fake = Fake::start(move |_, socket| {
        let mut stream = accept(&server, socket);
        request(&mut stream);
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\nhello";
        stream.write_all(head.as_bytes()).expect("the client reads");
        stream.flush().expect("the client reads");
    });
    run(async {
        let upstream = upstream(&trusting(&file), tls_row("localhost", fake.port));
        let mut exchange = send(&upstream).await.expect("an answer");
        assert_eq!(
            body(&mut exchange, 64).await,
            (b"hello".to_vec(), Err(Failure::Cut))
        );
    });
}

#[test]
fn what_is_no_tls_is_unreachable() {
    let plain = Fake::start(|_, mut socket| {
        socket
            .write_all(b"HTTP/1.1 400 X\r\n\r\n")
            .expect("the client reads");
        ended(&mut socket);
    });
    run(async {
        let failure = send(&upstream(&settings(), tls_row("localhost", plain.port))).await;
        let failure = failure.expect_err("is no TLS");
        assert_eq!(failure.code(), "tls-InvalidMessage.InvalidContentType");
    });
}

#[test]
fn roots_that_cannot_be_read_are_one_clear_line() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("ca.pem");
    let error = |text: Option<&str>| {
        if let Some(text) = text {
            std::fs::write(&file, text).expect("is writable");
        }
        let shared = Shared::new(&trusting(&file), &[tls_row("localhost", 1)]);
        let error = shared.err().expect("is refused");
        assert!(
            error.starts_with("upstream.ca_file: ") && !error.contains('\n'),
            "{error}"
        );
    };
    error(None);
    error(Some("no certificate"));
    error(Some(
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ));
}
