//! Whom servers are vouched for by.

use std::path::Path;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

/// The authorities of the file, or those of the operating system. `key` names the setting.
///
/// Err: one line that names the setting and what is wrong.
pub(super) fn load(key: &str, file: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let Some(file) = file else {
        let found = rustls_native_certs::load_native_certs();
        return match roots.add_parsable_certificates(found.certs) {
            (0, _) => Err(format!(
                "{key}: the system has no root certificates; name some here"
            )),
            _ => Ok(roots),
        };
    };
    let wrong = |cause: String| format!("{key}: {}: {cause}", file.display());
    let certificates =
        CertificateDer::pem_file_iter(file).map_err(|error| wrong(error.to_string()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        let added = roots.add(certificate);
        added.map_err(|error| wrong(error.to_string()))?;
    }
    match roots.is_empty() {
        true => Err(wrong("no certificate in it".to_owned())),
        false => Ok(roots),
    }
}
