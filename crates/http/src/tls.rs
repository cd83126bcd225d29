//! TLS of a listener: certificate and key from PEM files, which may be replaced while it serves; handshakes that are
//! bounded in time and number.
//!
//! What it is not: who a caller is says a token or a password, not a certificate.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{Acceptor, ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, version};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

/// How long a caller may take from connecting to the end of its handshake. Ours: a few lost packets on a slow line.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it may take to send its whole ClientHello, which is the first it sends. Ours: half of the handshake's.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Callers whose ClientHello is waited for. Ours: nobody's time is spent on them, and a few KB each; further ones wait in turn.
const HELLOS: usize = 4096;
/// Handshakes under way at a time, of callers who have sent their ClientHello. Ours: each is up to a millisecond of work and
/// some 50 KB; further ones wait, and the time they wait is part of their [`HANDSHAKE_TIMEOUT`].
const HANDSHAKES: usize = 512;
/// Connections of one address (of a network of 64 bits with IPv6) between their begin and the end of their handshake. Ours: a
/// quarter of [`HANDSHAKES`], so that no caller takes them all; further ones wait, as a balancer's may well do for a moment.
const OF_ONE_ADDRESS: usize = 128;
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
    config: Arc<ServerConfig>,
    current: Arc<Current>,
    hellos: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
    addresses: Addresses,
}

/// The places of each address that has a connection in its handshake.
type Addresses = Arc<Mutex<HashMap<IpAddr, Arc<Semaphore>>>>;

/// The places of one address; they are forgotten with the last who asks for one.
struct OfAddress {
    all: Addresses,
    address: IpAddr,
    places: Arc<Semaphore>,
}

impl OfAddress {
    fn new(all: &Addresses, peer: IpAddr) -> Self {
        let address = match peer.to_canonical() {
            IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() >> 64 << 64).into()),
            v4 => v4,
        };
        let mut held = all.lock();
        let places = Arc::clone(held.entry(address).or_insert_with(|| Arc::new(Semaphore::new(OF_ONE_ADDRESS))));
        drop(held);
        Self { all: Arc::clone(all), address, places }
    }
}

impl Drop for OfAddress {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        // This one's and the map's: they are handed out under the lock alone.
        if Arc::strong_count(&self.places) == 2 {
            all.remove(&self.address);
        }
    }
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
        let config = Arc::new(config);
        let (hellos, handshakes) = (Arc::new(Semaphore::new(HELLOS)), Arc::new(Semaphore::new(HANDSHAKES)));
        Ok(Self { files, config, current, hellos, handshakes, addresses: Addresses::default() })
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
    pub(crate) async fn accept(&self, tcp: TcpStream, peer: IpAddr) -> io::Result<Begun> {
        let begun = async {
            // The semaphores are never closed.
            let of_address = OfAddress::new(&self.addresses, peer);
            let _of_address = of_address.places.acquire().await;
            let hello = {
                let _place = self.hellos.acquire().await;
                let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the ClientHello took too long");
                tokio::time::timeout(HELLO_TIMEOUT, hello(tcp)).await.map_err(late)??
            };
            let start = match hello {
                Hello::Tls(start) => start,
                Hello::Plain(tcp) => return Ok(Begun::Plain(tcp)),
            };
            let _place = self.handshakes.acquire().await;
            Ok(Begun::Tls(Box::new(start.into_stream(Arc::clone(&self.config)).await?)))
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

enum Hello {
    Tls(Box<StartHandshake<TcpStream>>),
    Plain(TcpStream),
}

/// Reads what a caller begins with: a whole ClientHello, or a first byte of something else.
async fn hello(tcp: TcpStream) -> io::Result<Hello> {
    let mut first = [0];
    if tcp.peek(&mut first).await? == 1 && first[0] != HANDSHAKE_RECORD {
        return Ok(Hello::Plain(tcp));
    }
    Ok(Hello::Tls(Box::new(LazyConfigAcceptor::new(Acceptor::default(), tcp).await?)))
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
