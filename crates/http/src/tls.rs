//! TLS of a listener: certificate and key from PEM files, which may be replaced while it serves; handshakes that are
//! bounded in time and number.
//!
//! What it is not: who a caller is says a token or a password, not a certificate.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, version};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// How long a caller may take from connecting to the end of its handshake. Ours: a few lost packets on a slow line.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Handshakes under way at a time. Ours: each is up to a millisecond of work and some 50 KB; further ones wait, and the
/// time they wait is part of their [`HANDSHAKE_TIMEOUT`].
const HANDSHAKES: usize = 512;
/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// First byte of every TLS connection: a record of type handshake (RFC 8446, 5.1).
const HANDSHAKE_RECORD: u8 = 22;

/// Where certificate and key are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// PEM file of the certificate, followed by those between it and the authority.
    pub certificate: PathBuf,
    /// PEM file of its private key.
    pub key: PathBuf,
}

/// Why certificate and key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds no PEM.
    #[error("cannot read {what} from {path}")]
    File {
        /// What it should hold.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: pem::Error,
    },
    /// There is no certificate in the file.
    #[error("{path} holds no certificate: a PEM file with BEGIN CERTIFICATE is needed")]
    NoCertificate {
        /// Which file.
        path: PathBuf,
    },
    /// The two do not belong together, or are of a kind that is not spoken.
    #[error("certificate {certificate} and key {key} cannot be used together")]
    Pair {
        /// Which file.
        certificate: PathBuf,
        /// Which file.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// The library takes none of our versions.
    #[error("TLS cannot be set up")]
    SetUp(#[source] rustls::Error),
}

/// The pair that handshakes are done with now.
#[derive(Debug)]
struct Current(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

/// A listener's TLS. Cheap to clone.
#[derive(Clone)]
pub struct Tls {
    files: TlsFiles,
    acceptor: TlsAcceptor,
    current: Arc<Current>,
    handshakes: Arc<Semaphore>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

/// What a new connection turned out to be.
pub(crate) enum Begun {
    /// TLS, with its handshake done.
    Tls(Box<TlsStream<TcpStream>>),
    /// Something else, of which nothing has been read.
    Plain(TcpStream),
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// Names the file, and says what is wrong with it.
    pub fn open(files: TlsFiles) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let current = Arc::new(Current(ArcSwap::from_pointee(read(&files, &provider)?)));
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13, &version::TLS12])
            .map_err(TlsError::SetUp)?;
        let resolver = Arc::clone(&current);
        let mut config = config.with_no_client_auth().with_cert_resolver(resolver);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Ok(Self { files, acceptor, current, handshakes: Arc::new(Semaphore::new(HANDSHAKES)) })
    }

    /// Looks at the files every few seconds, for ever, and uses what it finds for new connections. A pair that cannot be
    /// used (one file is new and the other is not yet) leaves the one before.
    pub(crate) async fn renew(self) {
        let provider = Arc::new(ring::default_provider());
        let mut said = String::new();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let (files, provider) = (self.files.clone(), Arc::clone(&provider));
            let Ok(found) = tokio::task::spawn_blocking(move || read(&files, &provider)).await else { continue };
            match found {
                Ok(pair) => {
                    said.clear();
                    if pair.cert != self.current.0.load().cert {
                        self.current.0.store(Arc::new(pair));
                        tracing::info!(tls.certificate = %self.files.certificate.display(), "a new certificate is in use");
                    }
                }
                Err(error) => {
                    let says = error.to_string();
                    if says != said {
                        tracing::warn!(error = describe(&error), "the certificate before stays in use");
                        said = says;
                    }
                }
            }
        }
    }

    /// Takes a connection through its handshake. Who does not begin with TLS gets no handshake: it shall be told in
    /// words.
    pub(crate) async fn accept(&self, tcp: TcpStream) -> io::Result<Begun> {
        let begun = async {
            let mut first = [0];
            if tcp.peek(&mut first).await? == 1 && first[0] != HANDSHAKE_RECORD {
                return Ok(Begun::Plain(tcp));
            }
            // The semaphore is never closed.
            let _place = self.handshakes.acquire().await;
            Ok(Begun::Tls(Box::new(self.acceptor.accept(tcp).await?)))
        };
        let begun = match tokio::time::timeout(HANDSHAKE_TIMEOUT, begun).await {
            Ok(begun) => begun,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the handshake took too long")),
        };
        if begun.is_err() {
            metrics::counter!("cameo_tls_handshakes_failed_total").increment(1);
        }
        begun
    }
}

fn describe(error: &TlsError) -> String {
    let cause = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
    format!("{error}{cause}")
}

fn read(files: &TlsFiles, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let file = |what, path: &Path| {
        let path = path.to_owned();
        move |source| TlsError::File { what, path, source }
    };
    let chain = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(file("a certificate", &files.certificate))?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate { path: files.certificate.clone() });
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(file("a private key", &files.key))?;
    CertifiedKey::from_der(chain, key, provider).map_err(|source| TlsError::Pair {
        certificate: files.certificate.clone(),
        key: files.key.clone(),
        source,
    })
}

#[cfg(test)]
mod tests;
