//! TLS to Redis, with a certificate of an authority of the test's own.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;

use cloudchat::store::Backend;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::services::Services;
use super::support::{quiet, with};

#[tokio::test]
async fn a_certificate_is_verified() {
    let services = Services::start("redis");
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &ca).unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    // The server runs as another user; the key protects a port of this test only.
    fs::write(path("server.pem"), certificate.pem()).unwrap();
    fs::write(path("server.key"), key.serialize_pem()).unwrap();
    fs::write(path("ca.pem"), ca.pem()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    drop(listener);
    for (name, value) in [
        ("tls-auth-clients", "no"),
        ("tls-cert-file", &path("server.pem")),
        ("tls-key-file", &path("server.key")),
        ("tls-ca-cert-file", &path("ca.pem")),
        ("tls-port", &port),
    ] {
        let set = services.redis(&["CONFIG", "SET", name, value]);
        assert_eq!(set, "OK", "{name}");
    }
    let password = services.address("REDIS").split_once('@').unwrap().0;
    let password = password.rsplit(':').next().unwrap();
    let settings = |host: &str, ca: &str| {
        let text = format!(
            "[redis]\nurl = \"rediss://:{password}@{host}:{port}\"\nca_file = \"{ca}\"\nconnect_seconds = 0.5\n"
        );
        with(&folder, &text)
    };
    let backend = Backend::start(&settings("localhost", &path("ca.pem")), quiet).unwrap();
    backend.connect().sessions.ping().await.unwrap();
    backend.stop().unwrap();
    // Another name, another authority, no such file.
    let wrong = Backend::start(&settings("127.0.0.1", &path("ca.pem")), |_, _| ()).unwrap();
    assert!(wrong.connect().sessions.ping().await.is_err());
    let other =
        CertifiedIssuer::self_signed(CertificateParams::default(), KeyPair::generate().unwrap());
    fs::write(path("other.pem"), other.unwrap().pem()).unwrap();
    let wrong = Backend::start(&settings("localhost", &path("other.pem")), |_, _| ()).unwrap();
    assert!(wrong.connect().sessions.ping().await.is_err());
    let error = Backend::start(&settings("localhost", &path("none.pem")), quiet).unwrap_err();
    assert!(error.starts_with("redis.ca_file: "), "{error}");
}
