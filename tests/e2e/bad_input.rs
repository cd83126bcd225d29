//! Whatever a caller sends, it is answered before its connection ends, and the next caller is served.

use std::io::ErrorKind;
use std::time::Duration;

use cameo_tests::http::{Request, Response};
use cameo_tests::random::Random;
use cameo_tests::server::Server;
use cameo_tests::wait;

use crate::common::{BULK_V2, VISITS, plain, visit, visit_count};

/// Sends bytes, says that no more will come, and reads the answer that must come all the same.
fn answer_to(server: &Server, bytes: &[u8]) -> Response {
    let mut connection = server.connect();
    connection.write(bytes).expect("the server takes the bytes");
    connection.read().unwrap_or_else(|e| panic!("no answer ({e}) to {:?}", String::from_utf8_lossy(bytes)))
}

#[test]
fn rubbish_is_answered() {
    let server = Server::start();
    let cases: [&[u8]; 9] = [
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /healthz HTTP/9.9\r\n\r\n",
        b"GET\r\n\r\n",
        b"POST /v1/demo/visits HTTP/1.1\r\nHost: a\r\nContent-Length: many\r\n\r\n{}",
        b"POST /v1/demo/visits HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n{}",
        b"POST /v1/demo/visits HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"POST /v1/demo/visits HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: banana\r\n\r\n{}",
        b"GET /healthz HTTP/1.1\r\nbad header\r\n\r\n",
    ];
    for bytes in cases {
        let answer = answer_to(&server, bytes);
        let shown = String::from_utf8_lossy(bytes);
        assert!((400..600).contains(&answer.status), "{shown:?}: {}", answer.status);
    }
    visit(&server, &plain("after-rubbish"));
}

#[test]
fn rubbish_behind_a_good_request_does_not_lose_its_answer() {
    let server = Server::start();
    let good = Request::post(VISITS, "application/json", plain("pipe").to_string());
    let bytes = [good.head().into_bytes(), good.body.clone().unwrap_or_default()].concat();
    let mut connection = server.connect();
    connection.write(&[&bytes[..], &bytes[..], b"rubbish\r\n\r\n"].concat()).expect("the server takes the bytes");
    for number in 1..=2 {
        assert_eq!(connection.read().unwrap_or_else(|e| panic!("answer {number}: {e}")).status, 200);
    }
    assert_eq!(connection.read().expect("an answer to the rubbish").status, 400);
    assert_eq!(visit_count(&server, "pipe"), 2);
}

#[test]
fn a_body_that_ends_early_stores_nothing() {
    let server = Server::start();
    let visit = plain("half").to_string();
    let head = format!(
        "POST {VISITS} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        visit.len() + 10
    );
    let mut connection = server.connect();
    connection.write(head.as_bytes()).expect("the head");
    connection.write(visit.as_bytes()).expect("the body");
    connection.finish_writing().expect("a half-open connection");
    // The caller has gone: an answer is welcome, an ended connection is all that HTTP promises.
    if let Ok(answer) = connection.read() {
        assert_eq!(answer.status, 400, "{}", answer.text());
    }
    let chunked = format!(
        "POST {BULK_V2} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1f\r\nbatch=pcId,a\nhalf,1\nhalf-2,2\n\r\nzz\r\n"
    );
    let answer = answer_to(&server, chunked.as_bytes());
    assert!((400..500).contains(&answer.status), "{} {}", answer.status, answer.text());
    assert_eq!(visit_count(&server, "half"), 0);
}

#[test]
fn a_slow_request_is_served_and_disturbs_nobody() {
    let server = Server::start();
    let body = plain("slow").to_string();
    let request = Request::post(VISITS, "application/json", body);
    let bytes = [request.head().into_bytes(), request.body.unwrap_or_default()].concat();
    let mut slow = server.connect();
    for (at, byte) in bytes.iter().enumerate() {
        slow.write(&[*byte]).expect("the server takes a byte");
        if at % 16 == 0 {
            wait::pass(Duration::from_millis(2));
            visit(&server, &plain("fast"));
        }
    }
    assert_eq!(slow.read().expect("an answer").status, 200);
}

#[test]
fn an_early_answer_is_read_even_by_a_caller_that_keeps_sending() {
    let server = Server::start();
    // Refused by its path alone; three megabytes are on their way.
    let body = vec![b'x'; 3 << 20];
    for path in ["/v1/nobody/visits", "/nothing/here", "/healthz"] {
        let answer = server.send(&Request::post(path, "application/json", body.clone()));
        assert!((400..500).contains(&answer.status), "{path}: {}", answer.status);
    }
}

#[test]
fn wrong_verbs_and_paths_are_answered() {
    let server = Server::start();
    for (method, path, status) in [
        ("GET", VISITS, 405),
        ("DELETE", "/rest/v1/profiles/a?client=demo", 405),
        ("PUT", BULK_V2, 405),
        // The pages.
        ("GET", "/", 303),
        ("GET", "/v2/nothing", 404),
        ("BREW", "/healthz", 405),
    ] {
        let answer = server.send(&Request::new(method, path));
        assert_eq!(answer.status, status, "{method} {path}");
    }
    let answer = server.get("/rest/v1/profiles/a");
    assert_eq!(answer.status, 400, "no client: {}", answer.text());
    assert!(answer.text().contains("client"), "{}", answer.text());
}

#[test]
fn bodies_that_are_not_what_they_say_are_refused_by_name() {
    let server = Server::start();
    let cases: [(&str, &[u8]); 8] = [
        ("application/json", b""),
        ("application/json", b"{"),
        ("application/json", b"\xff\xfe"),
        ("application/json", b"\"text\""),
        ("application/json", b"{\"ids\":{\"tntId\":7}}"),
        ("application/json", b"{\"occurredAt\":\"yesterday\"}"),
        ("application/msgpack", b"\xc1"),
        // curl says form-urlencoded whatever it sends: a content type that says nothing means JSON.
        ("text/html", b"<html>"),
    ];
    for (content_type, body) in cases {
        let answer = server.send(&Request::post(VISITS, content_type, body));
        let shown = String::from_utf8_lossy(body);
        assert_eq!(answer.status, 400, "{content_type} {shown:?}: {}", answer.text());
        assert_eq!(answer.header("content-type"), "application/problem+json", "{shown:?}");
        assert!(answer.json()["detail"].as_str().is_some_and(|d| !d.is_empty()), "{shown:?}");
    }
}

#[test]
fn deep_nesting_is_refused_not_followed() {
    let server = Server::start();
    for (content_type, body) in [
        ("application/json", ["[".repeat(200_000), "]".repeat(200_000)].concat().into_bytes()),
        ("application/msgpack", vec![0x91; 200_000]),
    ] {
        let answer = server.send(&Request::post(VISITS, content_type, body));
        assert!((400..500).contains(&answer.status) || answer.status == 200, "{content_type}: {}", answer.status);
    }
    visit(&server, &plain("after-depth"));
}

#[test]
fn a_thousand_seeded_mutations_of_good_requests_leave_a_server_that_serves() {
    let server = Server::start();
    let mut random = Random::from_env("CAMEO_MUTATION_SEED");
    let good = Request::post(VISITS, "application/json", plain("mutated").to_string());
    let bulk = Request::post(BULK_V2, "text/csv", "batch=pcId,a\nmut-1,1\n");
    let whole: Vec<Vec<u8>> =
        [good, bulk].into_iter().map(|r| [r.head().into_bytes(), r.body.unwrap_or_default()].concat()).collect();
    for _ in 0..1000 {
        let mut bytes = whole[random.below(whole.len() as u64) as usize].clone();
        for _ in 0..=random.below(3) {
            let at = random.below(bytes.len() as u64) as usize;
            match random.below(3) {
                0 => bytes[at] = random.next() as u8,
                1 => bytes.insert(at, random.next() as u8),
                _ => drop(bytes.remove(at)),
            }
        }
        let mut connection = server.connect();
        connection.write(&bytes).expect("the server takes the bytes");
        // A length that grew leaves the server waiting for more, rightly; now no more will come.
        connection.finish_writing().expect("a half-open connection");
        match connection.read() {
            Ok(answer) => assert!(answer.status < 500, "{}: {:?}", answer.status, String::from_utf8_lossy(&bytes)),
            Err(e) => assert_ne!(e.kind(), ErrorKind::WouldBlock, "no answer: {:?}", String::from_utf8_lossy(&bytes)),
        }
    }
    visit(&server, &plain("after-mutations"));
}
