//! How providers are trusted: rustls on ring, TLS 1.2 and 1.3, built-in or system roots and the
//! operator's own.

use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use crate::config::{Roots, Upstream};

/// Providers whose TLS sessions are remembered, so that a new connection costs one round trip less.
const SESSIONS_MAX: usize = 16;

/// The configuration that all cores share.
///
/// # Errors
/// One line that names the setting at fault.
pub(super) fn config(settings: &Upstream) -> Result<Arc<ClientConfig>, String> {
    let mut config = client(settings)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
    Ok(Arc::new(config))
}

/// What every TLS client of this process begins with: the same library, versions and roots.
///
/// # Errors
/// One line that names the setting at fault.
pub fn client(settings: &Upstream) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    match settings.roots {
        Roots::BuiltIn => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Roots::System => {
            let found = rustls_native_certs::load_native_certs();
            let (added, _) = roots.add_parsable_certificates(found.certs);
            if added == 0 {
                return Err("upstream.roots: the system has no root certificates".to_owned());
            }
        }
    }
    if let Some(file) = &settings.ca_file {
        add_file(&mut roots, file)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| format!("TLS: {error}"))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

fn add_file(roots: &mut RootCertStore, file: &Path) -> Result<(), String> {
    let wrong = |cause: String| format!("upstream.ca_file: {}: {cause}", file.display());
    let certificates =
        CertificateDer::pem_file_iter(file).map_err(|error| wrong(error.to_string()))?;
    let mut added = 0;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        roots
            .add(certificate)
            .map_err(|error| wrong(error.to_string()))?;
        added += 1;
    }
    if added == 0 {
        return Err(wrong("no certificate in it".to_owned()));
    }
    Ok(())
}
