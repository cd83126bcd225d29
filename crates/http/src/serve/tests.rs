//! Raw bytes over real sockets: what a caller is told that sends too much, too many, two lengths, or another protocol.

use std::net::SocketAddr;
use std::time::Instant;

use axum::body::Body;
use axum::routing::{get, post};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::*;
use crate::refusal::{Family, Refusal};
use crate::{body, with_fallbacks};

/// Bytes that `/take` takes.
const TAKEN_BYTES: usize = 1000;
/// Nothing here takes this long unless something is broken.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server that ends with the test.
struct Served {
    address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

impl Served {
    async fn start() -> Self {
        let take = async |body: Body| match body::read(body, TAKEN_BYTES).await {
            Ok(whole) => Response::new(Body::from(whole.bytes.len().to_string())),
            Err(error) => Refusal::from(error).response(Family::Native),
        };
        let router = Router::new().route("/take", post(take)).route("/get/{id}", get(async || "got"));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(serve(listener, None, with_fallbacks(router), async {
            let _ = stopped.await;
        }));
        Self { address, _stop: stop }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Everything that comes back to these bytes until the server closes. Nothing is said about the end of the sending.
    async fn answers_to(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes).await.unwrap();
        rest(&mut stream).await
    }
}

/// What comes until the server closes; a reset is a failure.
async fn rest(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut all)).await.expect("the end").expect("no reset");
    String::from_utf8_lossy(&all).into_owned()
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

#[tokio::test]
async fn a_body_that_announces_too_much_is_answered_at_once_and_closed() {
    let served = Served::start().await;
    let began = Instant::now();
    // Nothing of it is ever sent.
    for length in ["1001", "100000000", "99999999999999"] {
        let head = format!("POST /take HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
        let answer = served.answers_to(head.as_bytes()).await;
        assert_eq!(status(&answer), "413", "{answer}");
        assert!(answer.to_ascii_lowercase().contains("connection: close"), "{answer}");
    }
    assert!(began.elapsed() < LINGER_NOTICED, "{:?}", began.elapsed());
}

#[tokio::test]
async fn whoever_holds_all_places_and_sends_nothing_keeps_others_out_for_moments() {
    let (short, long) = (Duration::from_millis(200), 2 * PATIENCE);
    let bounds = Bounds { connections: 8, header: long, crowded: short };
    assert_eq!([8, 4, 3, 0].map(|free| bounds.patience(free)), [long, long, short, short]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().route("/get/{id}", get(async || "got"));
    tokio::spawn(serve_within(bounds, listener, None, router, std::future::pending()));
    let mut silent = Vec::new();
    for _ in 0..16 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let mut caller = TcpStream::connect(address).await.unwrap();
    caller.write_all(b"GET /get/1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    assert!(rest(&mut caller).await.ends_with("got"));
}

/// Well below what the server waits for a body, or for a caller to close.
const LINGER_NOTICED: Duration = Duration::from_secs(3);

#[tokio::test]
async fn who_asks_before_sending_is_told_not_to() {
    let served = Served::start().await;
    let ask = |length| {
        format!(
            "POST /take HTTP/1.1\r\nHost: a\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
        )
    };
    let answer = served.answers_to(ask(1001).as_bytes()).await;
    assert_eq!(status(&answer), "413", "{answer}");
    assert!(!answer.contains("100 Continue"), "{answer}");

    let mut stream = served.connect().await;
    stream.write_all(ask(2).as_bytes()).await.unwrap();
    let mut first = [0; 25];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"{}").await.unwrap();
    assert_eq!(status(&rest(&mut stream).await), "200");
}

#[tokio::test]
async fn who_sends_before_reading_gets_the_answer_all_the_same() {
    let served = Served::start().await;
    // More than the buffers of both systems hold: it is only sent if the server reads on.
    let body = vec![b'x'; 40 << 20];
    let head =
        |path: &str, length: usize| format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
    for path in ["/take", "/nothing/here", "/get/1", "/take/%zz"] {
        let answer = served.answers_to(&[head(path, body.len()).as_bytes(), &body].concat()).await;
        assert!(matches!(status(&answer), "413" | "404" | "405" | "400"), "{path}: {answer}");
    }
    let chunk = format!("{:x}\r\n", body.len());
    let chunked = "POST /take HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let answer = served.answers_to(&[chunked.as_bytes(), chunk.as_bytes(), &body, b"\r\n0\r\n\r\n"].concat()).await;
    assert_eq!(status(&answer), "413", "{answer}");
}

#[tokio::test]
async fn a_refusal_with_a_small_body_keeps_the_connection() {
    let served = Served::start().await;
    let both = "POST /nothing HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}\
        POST /take HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc";
    let answers = served.answers_to(both.as_bytes()).await;
    assert_eq!(status(&answers), "404", "{answers}");
    assert!(answers.contains("HTTP/1.1 200 OK") && answers.ends_with('3'), "{answers}");
}

#[tokio::test]
async fn a_large_head_and_many_headers_are_answered() {
    let served = Served::start().await;
    let one = format!("GET /get/1 HTTP/1.1\r\nHost: a\r\nx: {}\r\n\r\n", "v".repeat(300 << 10));
    let many = format!("GET /get/1 HTTP/1.1\r\nHost: a\r\n{}\r\n", "x: y\r\n".repeat(5000));
    let few_more = format!("GET /get/1 HTTP/1.1\r\nHost: a\r\n{}\r\n", "x: y\r\n".repeat(100));
    for head in [one, many, few_more] {
        let answer = served.answers_to(head.as_bytes()).await;
        assert_eq!(status(&answer), "431", "{} bytes: {answer}", head.len());
    }
    let enough = format!("GET /get/1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{}\r\n", "x: y\r\n".repeat(98));
    assert_eq!(status(&served.answers_to(enough.as_bytes()).await), "200");
}

#[tokio::test]
async fn what_two_readers_could_read_differently_is_refused() {
    let served = Served::start().await;
    for fields in [
        "Content-Length: 2\r\nContent-Length: 3",
        "Content-Length: 2, 3",
        "Content-Length: +2",
        "Content-Length: 0x2",
        "Content-Length: 2\r\nContent-Length: two",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding : chunked",
        "Content-Length: 2\r\nHost: b",
    ] {
        let request = format!("POST /take HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n{{}}");
        assert_eq!(status(&served.answers_to(request.as_bytes()).await), "400", "{fields}");
    }
    // Both: the coding counts, and the connection ends, so that nothing behind it is taken for a request (RFC 9112, 6.1).
    for fields in ["Content-Length: 4\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 4"]
    {
        let request = format!(
            "POST /take HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n0\r\n\r\nGET /get/1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        );
        let answers = served.answers_to(request.as_bytes()).await;
        assert!(answers.ends_with("\r\n\r\n0") && !answers.contains("got"), "{fields}: {answers}");
    }
}

#[tokio::test]
async fn http_2_is_told_that_it_is_not_spoken() {
    let served = Served::start().await;
    let began = Instant::now();
    let answer = served.answers_to(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    assert_eq!(status(&answer), "505", "{answer}");
    let (head, text) = answer.split_once("\r\n\r\n").unwrap();
    let length: usize = head.split("content-length: ").nth(1).unwrap().split("\r\n").next().unwrap().parse().unwrap();
    assert_eq!(length, text.len());
    assert_eq!(serde_json::from_str::<serde_json::Value>(text).unwrap()["status"], 505);
    assert!(began.elapsed() < LINGER_NOTICED, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_bad_escape_in_a_path_is_no_text() {
    let served = Served::start().await;
    let answer = served.answers_to(b"GET /get/%zz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert_eq!(status(&answer), "400", "{answer}");
    assert!(answer.contains("two hexadecimal digits"), "{answer}");
    let answer = served.answers_to(b"GET /get/%7a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert_eq!(status(&answer), "200", "{answer}");
}

#[tokio::test]
async fn idle_connections_do_not_hold_up_the_end() {
    let served = Served::start().await;
    let mut idle = served.connect().await;
    idle.write_all(b"GET /get/1 HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut first = [0; 15];
    idle.read_exact(&mut first).await.unwrap();
    let began = Instant::now();
    drop(served);
    assert!(rest(&mut idle).await.ends_with("got"));
    assert!(began.elapsed() < LINGER_NOTICED, "{:?}", began.elapsed());
}
