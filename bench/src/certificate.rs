//! TLS for both ends: a provider certificate made for one run, and a client that trusts its issuer.

use std::sync::Arc;

use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::args::fail;

/// A certificate authority and a server certificate made for this run; the authority's PEM goes to `file`.
pub fn acceptor(file: &str) -> TlsAcceptor {
    let made = make_certificate().unwrap_or_else(|error| fail(&format!("certificate: {error}")));
    let (pem, chain, key) = made;
    if let Err(error) = std::fs::write(file, pem) {
        fail(&format!("--ca-file {file}: {error}"));
    }
    let key = PrivateKeyDer::try_from(key).expect("rcgen writes keys that rustls reads");
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("the certificate was made for this key");
    TlsAcceptor::from(Arc::new(config))
}

/// Trusts only the authority in a PEM file; a mistake ends the program.
pub fn connector(file: &str) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    let read = CertificateDer::from_pem_file(file).map_err(|error| error.to_string());
    let added = read.and_then(|certificate| {
        let added = roots.add(certificate);
        added.map_err(|error| error.to_string())
    });
    if let Err(error) = added {
        fail(&format!("--tls-ca {file}: {error}"));
    }
    let config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

type Made = (String, Vec<CertificateDer<'static>>, Vec<u8>);

fn make_certificate() -> Result<Made, rcgen::Error> {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // With rcgen's default for both, the leaf would pass for self-signed.
    let names = &mut authority.distinguished_name;
    names.push(DnType::CommonName, "bench provider authority");
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let names = [
        "localhost".to_owned(),
        "127.0.0.1".to_owned(),
        "::1".to_owned(),
    ];
    let leaf = CertificateParams::new(names)?.signed_by(&key, &authority)?;
    Ok((
        authority.pem(),
        vec![leaf.der().clone()],
        key.serialize_der(),
    ))
}
