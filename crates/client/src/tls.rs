//! Whom a client trusts when a server speaks TLS: the authorities of a file, or those of the system.

use std::path::Path;
use std::sync::Arc;

use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::error::Error;

/// What TLS to a server is set up with. With `ca`, a PEM file, its authorities alone are trusted.
///
/// # Errors
/// When the file holds none, or without one the system has none.
pub fn config(ca: Option<&Path>) -> Result<Arc<ClientConfig>, Error> {
    let roots = match ca {
        Some(path) => of_file(path)?,
        None => of_system()?,
    };
    with(roots).map(Arc::new)
}

/// Connects to servers of `http://`, or with `https` also to those of `https://`, whose authorities are only looked for
/// then. `plain` connects.
///
/// # Errors
/// As [`config`].
pub fn connector(
    https: bool,
    ca: Option<&Path>,
    mut plain: HttpConnector,
) -> Result<HttpsConnector<HttpConnector>, Error> {
    let config = if https { ClientConfig::clone(&*config(ca)?) } else { with(RootCertStore::empty())? };
    // The scheme is looked at above it.
    plain.enforce_http(false);
    Ok(HttpsConnectorBuilder::new().with_tls_config(config).https_or_http().enable_http1().wrap_connector(plain))
}

/// What is wrong with the server's certificate, if that is why a call failed.
pub(crate) fn distrust(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    match of_tls(error) {
        Some(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)) => {
            Some("no authority that is trusted here has signed it".into())
        }
        Some(rustls::Error::InvalidCertificate(why)) => Some(why.to_string()),
        _ => None,
    }
}

/// Whether a call failed as the other side speaks something else than TLS.
pub(crate) fn is_not_tls(error: &(dyn std::error::Error + 'static)) -> bool {
    matches!(of_tls(error), Some(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)))
}

/// The error of TLS that is the cause of another.
fn of_tls<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e rustls::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // An error of IO holds another without naming it as its source.
        let held = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        cause = held.map(|held| held as &(dyn std::error::Error + 'static)).or_else(|| error.source());
    }
    None
}

fn with(roots: RootCertStore) -> Result<ClientConfig, Error> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions();
    let config = config.map_err(|error| Error::NoAuthorities { reason: error.to_string() })?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

fn of_file(path: &Path) -> Result<RootCertStore, Error> {
    let bad = |reason: String| Error::BadCa { path: path.display().to_string(), reason };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| bad(error.to_string()))? {
        let certificate = certificate.map_err(|error| bad(error.to_string()))?;
        roots.add(certificate).map_err(|error| bad(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(bad("it holds no certificate in PEM".into()));
    }
    Ok(roots)
}

fn of_system() -> Result<RootCertStore, Error> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Systems carry some that nobody can read.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let reasons: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
        return Err(Error::NoAuthorities { reason: reasons.join("; ") });
    }
    Ok(roots)
}
