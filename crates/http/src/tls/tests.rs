//! Real handshakes: what is served, what is cut, and certificates that change under way.

use std::net::SocketAddr;

use axum::body::Body;
use axum::extract::Request;
use axum::routing::{get, post};
use axum::{Router, response::Response};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsConnector, client};

use super::*;
use crate::serve::{Encrypted, serve};
use crate::{Family, Refusal, body, with_fallbacks};

/// Nothing here takes this long unless something is broken.
const PATIENCE: Duration = Duration::from_secs(60);

/// A listener with certificates of its own; it ends with the runtime of the test.
struct Served {
    address: SocketAddr,
    files: TlsFiles,
    tls: Tls,
    _dir: tempfile::TempDir,
}

/// Writes a new pair, and returns the certificate.
fn issue(files: &TlsFiles) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(vec!["cameo.test".into()]).unwrap();
    std::fs::write(&files.certificate, made.cert.pem()).unwrap();
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    made.cert.der().clone()
}

impl Served {
    async fn start() -> (Self, CertificateDer<'static>) {
        let dir = tempfile::tempdir().unwrap();
        let files = TlsFiles { certificate: dir.path().join("tls.pem"), key: dir.path().join("tls.key") };
        let certificate = issue(&files);
        let take = async |body: Body| match body::read(body, 1000).await {
            Ok(whole) => Response::new(Body::from(whole.bytes.len().to_string())),
            Err(error) => Refusal::from(error).response(Family::Native),
        };
        let how = async |request: Request| request.extensions().get::<Encrypted>().map_or("plain", |_| "encrypted");
        let router = Router::new().route("/take", post(take)).route("/how", get(how));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tls = Tls::open(files.clone()).unwrap();
        tokio::spawn(serve(listener, Some(tls.clone()), with_fallbacks(router), std::future::pending()));
        (Self { address, files, tls, _dir: dir }, certificate)
    }

    async fn connect(&self, trusted: &CertificateDer<'static>) -> io::Result<client::TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(trusted.clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(roots).with_no_client_auth();
        let tcp = TcpStream::connect(self.address).await?;
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("cameo.test").unwrap(), tcp).await
    }
}

/// What comes until the server closes; a reset is a failure.
async fn rest(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut all = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut all)).await.expect("the end").expect("no reset");
    String::from_utf8_lossy(&all).into_owned()
}

const HOW: &[u8] = b"GET /how HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn requests_are_served_encrypted_and_also_who_sends_too_much_is_answered() {
    let (served, certificate) = Served::start().await;
    let mut stream = served.connect(&certificate).await.unwrap();
    stream.write_all(HOW).await.unwrap();
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("encrypted"), "{answer}");

    // More than the buffers of both systems hold: it is only sent if the server reads on after its answer.
    let body = vec![b'x'; 20 << 20];
    let head = format!("POST /take HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
    let mut stream = served.connect(&certificate).await.unwrap();
    stream.write_all(&[head.as_bytes(), &body].concat()).await.unwrap();
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test]
async fn who_speaks_plain_http_is_told() {
    let (served, _) = Served::start().await;
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    stream.write_all(HOW).await.unwrap();
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("https://"), "{answer}");
    assert!(answer.contains("application/problem+json"), "{answer}");
}

/// The clock stands still and jumps when nobody has anything to do.
#[tokio::test(start_paused = true)]
async fn who_does_not_end_the_handshake_is_cut() {
    let (served, _) = Served::start().await;
    // Silent; and silent after the first bytes of a handshake.
    for begun in [&b""[..], &[HANDSHAKE_RECORD, 3, 1, 2, 0, 1]] {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        let before = tokio::time::Instant::now();
        stream.write_all(begun).await.unwrap();
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
        assert!(before.elapsed() <= HANDSHAKE_TIMEOUT, "{:?}", before.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_certificate_is_used_without_a_restart_and_half_of_one_is_not() {
    let (served, first) = Served::start().await;
    let mut before = served.connect(&first).await.unwrap();
    let old_key = std::fs::read(&served.files.key).unwrap();
    let second = issue(&served.files);
    let new_key = std::fs::read(&served.files.key).unwrap();
    // Caught between the two files: the pair before stays.
    std::fs::write(&served.files.key, &old_key).unwrap();
    tokio::time::sleep(LOOK_EVERY * 3).await;
    served.connect(&first).await.expect("the first certificate is still in use");
    std::fs::write(&served.files.key, &new_key).unwrap();
    let end = tokio::time::Instant::now() + LOOK_EVERY * 20;
    while served.connect(&second).await.is_err() {
        assert!(tokio::time::Instant::now() < end, "the new certificate never comes");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    served.connect(&first).await.expect_err("the first certificate has gone");
    // Who was there before is served on.
    before.write_all(HOW).await.unwrap();
    assert!(rest(&mut before).await.ends_with("encrypted"));
}

#[test]
fn what_is_wrong_with_the_files_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let files = TlsFiles { certificate: dir.path().join("tls.pem"), key: dir.path().join("tls.key") };
    let failure = |files: &TlsFiles| describe(&Tls::open(files.clone()).unwrap_err());
    assert!(failure(&files).contains("tls.pem"));
    issue(&files);
    let empty = dir.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    assert!(failure(&TlsFiles { certificate: empty.clone(), ..files.clone() }).contains("holds no certificate"));
    assert!(failure(&TlsFiles { key: empty, ..files.clone() }).contains("a private key from"));
    let other = TlsFiles { certificate: dir.path().join("other.pem"), key: dir.path().join("other.key") };
    issue(&other);
    let mixed = TlsFiles { key: other.key, ..files };
    assert!(failure(&mixed).contains("cannot be used together"), "{}", failure(&mixed));
}

#[tokio::test]
async fn who_is_slow_with_its_hello_keeps_nobody_else_from_a_handshake() {
    let (served, certificate) = Served::start().await;
    let (addresses, each) = (5, OF_ONE_ADDRESS + 10);
    let mut slow = Vec::new();
    for n in 0..addresses {
        for _ in 0..each {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind(SocketAddr::from(([127, 0, 1, 1 + n], 0))).unwrap();
            let mut stream = socket.connect(served.address).await.unwrap();
            stream.write_all(&[HANDSHAKE_RECORD, 3, 1, 2, 0, 1]).await.unwrap();
            slow.push(stream);
        }
    }
    // More than there are places for handshakes, and they have none of them; no address has more than its part.
    const { assert!(5 * OF_ONE_ADDRESS > HANDSHAKES) };
    assert!(served.tls.hellos.available_permits() >= HELLOS - usize::from(addresses) * OF_ONE_ADDRESS);
    assert_eq!(served.tls.handshakes.available_permits(), HANDSHAKES);
    let mut stream = served.connect(&certificate).await.expect("a handshake beside the slow ones");
    stream.write_all(HOW).await.unwrap();
    assert!(rest(&mut stream).await.ends_with("encrypted"));
    drop(slow);
    // All of it is given back.
    let all = async {
        while !served.tls.addresses.lock().is_empty() || served.tls.hellos.available_permits() < HELLOS {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, all).await.expect("places are given back");
}
