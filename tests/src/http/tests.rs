//! The client itself, against a listener that says what the test tells it to.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::thread::JoinHandle;

use super::*;

/// Accepts one connection, reads `read` bytes, writes `reply`, closes.
fn listener(read: usize, reply: &'static [u8]) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut vec![0; read]).unwrap();
        stream.write_all(reply).unwrap();
    });
    (address, thread)
}

#[test]
fn answers_follow_each_other_on_one_connection() {
    let reply = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: b\r\n\r\nhi\
                  HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n\
                  HTTP/1.1 204 No Content\r\n\r\n";
    let (address, thread) = listener(0, reply);
    let mut connection = Connection::open(address).unwrap();
    let first = connection.read().unwrap();
    assert_eq!((first.status, first.header("x-a"), first.text().as_str()), (200, "b", "hi"));
    let second = connection.read().unwrap();
    assert_eq!((second.status, second.text().as_str()), (404, "abcd"));
    assert_eq!(connection.read().unwrap().status, 204);
    thread.join().unwrap();
}

#[test]
fn an_early_answer_is_read_while_the_body_is_still_being_sent() {
    // Far more than the system's buffers hold; the listener reads only the first hundred bytes.
    let (address, thread) = listener(100, b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n");
    let request = Request::post("/", "text/plain", vec![b'x'; 40 << 20]);
    let answer = Connection::open(address).unwrap().send(&request);
    // A listener that closes without draining may reset the connection; that it must not is the servers' promise.
    assert!(answer.is_err() || answer.is_ok_and(|a| a.status == 413));
    thread.join().unwrap();
}

#[test]
fn an_end_without_an_answer_is_an_error() {
    let (address, thread) = listener(0, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhi");
    assert!(Connection::open(address).unwrap().read().is_err());
    thread.join().unwrap();
}
