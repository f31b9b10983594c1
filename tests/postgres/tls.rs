//! TLS as `sslmode` asks for it, with a certificate of an authority of the test's own.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;

use cloudchat::store::migrate;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::services::Services;
use super::support::{quiet, settings};

/// Files that only their owner may read, who is the server's user.
fn give(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    // As root the server runs as this user; else as we do.
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let entry = passwd.lines().find(|line| line.starts_with("postgres:"));
    let uid = entry.and_then(|line| line.split(':').nth(2)?.parse().ok());
    if fs::metadata(path).unwrap().uid() == 0 {
        chown(path, uid, None).unwrap();
    }
}

#[test]
fn a_certificate_is_verified_as_far_as_is_asked() {
    let services = Services::start("postgres");
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &ca).unwrap();
    let path = |name: &str| folder.path().join(name);
    give(&path("server.pem"), &certificate.pem());
    give(&path("server.key"), &key.serialize_pem());
    fs::write(path("ca.pem"), ca.pem()).unwrap();
    let other =
        CertifiedIssuer::self_signed(CertificateParams::default(), KeyPair::generate().unwrap());
    fs::write(path("other.pem"), other.unwrap().pem()).unwrap();

    let database = services.database();
    let direct = format!("{}/{database}", services.address("POSTGRES"));
    let by_name = direct.replace("127.0.0.1", "localhost");
    let connects = |url: &str, parameters: &str| {
        let settings = settings(&folder, &format!("{url}?{parameters}"), "auto");
        migrate(settings.database.as_ref().unwrap(), false, quiet)
    };
    let refused = connects(&direct, "sslmode=require").unwrap_err();
    assert!(refused.contains("server does not support TLS"), "{refused}");
    assert!(connects(&direct, "sslmode=prefer").is_ok());
    for (name, file) in [
        ("ssl_cert_file", "server.pem"),
        ("ssl_key_file", "server.key"),
    ] {
        let sql = format!("ALTER SYSTEM SET {name} = '{}'", path(file).display());
        services.psql("POSTGRES_ADMIN", "postgres", &sql);
    }
    services.psql("POSTGRES_ADMIN", "postgres", "ALTER SYSTEM SET ssl = on");
    services.psql("POSTGRES_ADMIN", "postgres", "SELECT pg_reload_conf()");
    // It takes the new settings when it gets to it.
    while services.psql("POSTGRES_ADMIN", "postgres", "SHOW ssl") != "on" {}

    let ca = format!("sslrootcert={}", path("ca.pem").display());
    let other = format!("sslrootcert={}", path("other.pem").display());
    for (url, parameters, refused) in [
        (&direct, "sslmode=disable".to_owned(), None),
        (&direct, "sslmode=prefer".to_owned(), None),
        (&direct, "sslmode=require".to_owned(), None),
        (&direct, format!("sslmode=verify-ca&{ca}"), None),
        (&by_name, format!("sslmode=verify-full&{ca}"), None),
        (
            &direct,
            format!("sslmode=verify-full&{ca}"),
            Some("not valid for name"),
        ),
        (
            &by_name,
            format!("sslmode=verify-ca&{other}"),
            Some("invalid peer certificate"),
        ),
        (
            &by_name,
            format!("sslmode=require&{other}"),
            Some("invalid peer certificate"),
        ),
        (
            &by_name,
            "sslmode=verify-full".to_owned(),
            Some("invalid peer certificate"),
        ),
    ] {
        let outcome = connects(url, &parameters);
        match refused {
            None => assert!(outcome.is_ok(), "{parameters}: {outcome:?}"),
            Some(part) => {
                let line = outcome.unwrap_err();
                assert!(line.contains(part), "{parameters}: {line}");
            }
        }
    }
}
