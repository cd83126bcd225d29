//! A server that gives one scripted reply a connection, whatever was asked, and remembers what was.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::Client;

pub(super) struct Server {
    url: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

/// As it came; the body with its chunk lengths.
#[derive(Clone)]
pub(super) struct Request {
    pub(super) head: String,
    pub(super) body: Vec<u8>,
}

/// A whole reply.
pub(super) fn reply(status: u16, body: &str) -> String {
    match status {
        204 => "HTTP/1.1 204 x\r\nconnection: close\r\n\r\n".into(),
        _ => format!("HTTP/1.1 {status} x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len()),
    }
}

impl Server {
    /// Gives these replies in order, then takes no more connections.
    pub(super) async fn start(replies: impl IntoIterator<Item = String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen, replies) = (Arc::clone(&requests), replies.into_iter().collect::<Vec<_>>());
        tokio::spawn(async move {
            for reply in replies {
                let (mut stream, _) = listener.accept().await.unwrap();
                if let Some(request) = read(&mut stream).await {
                    seen.lock().push(request);
                }
                stream.write_all(reply.as_bytes()).await.unwrap();
                let _ = stream.shutdown().await;
            }
        });
        Self { url, requests }
    }

    pub(super) fn client(&self) -> Client {
        Client::new(&self.url, "demo").unwrap()
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        self.requests.lock().clone()
    }
}

async fn read(stream: &mut TcpStream) -> Option<Request> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(&mut bytes).await.unwrap() == 0 {
            return None;
        }
    };
    let mut body = bytes.split_off(end);
    let head = String::from_utf8(bytes).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let chunked = head.contains("transfer-encoding: chunked");
    let length = length.map_or(0, |length| length.parse::<usize>().unwrap());
    while if chunked { !body.ends_with(b"0\r\n\r\n") } else { body.len() < length } {
        assert_ne!(stream.read_buf(&mut body).await.unwrap(), 0, "the body broke off");
    }
    Some(Request { head, body })
}
