//! Every limit of TARGET_API and DESIGN that a caller can reach over the wire: at the limit it passes, one past it
//! there is an error that names the limit, and nothing was stored.

use std::fmt::Write as _;

use cameo_tests::http::{Request, Response};
use cameo_tests::server::Server;
use cameo_tests::xml;
use serde_json::{Map, Value, json};

use crate::common::{BULK_V2, VISITS, attribute, complete, fetch, plain, status_path, upload, visit, visit_count};

/// What a case puts into a visit, given a length or a count.
type Build = fn(usize) -> Value;

fn text(length: usize) -> String {
    // Two bytes each: a limit of characters must not be one of bytes.
    "é".repeat(length)
}

fn entries(count: usize) -> Value {
    Value::Object((0..count).map(|i| (format!("n{i}"), json!("v"))).collect::<Map<_, _>>())
}

fn list(count: usize) -> Value {
    (0..count).map(|i| format!("c{i}")).collect::<Vec<_>>().into()
}

/// The field an error must name, the limit, and a visit that has so much of it.
const VISIT_LIMITS: [(&str, usize, Build); 21] = [
    ("sessionId", 128, |n| json!({"sessionId": text(n)})),
    ("eventId", 128, |n| json!({"eventId": text(n)})),
    ("tntId", 128, |n| json!({"ids": {"tntId": text(n)}})),
    ("ecid", 128, |n| json!({"ids": {"ecid": text(n)}})),
    ("thirdPartyId", 256, |n| json!({"ids": {"thirdPartyId": text(n)}})),
    (
        "customerIds",
        256,
        |n| json!({"ids": {"customerIds": [{"id": text(n), "integrationCode": "c", "authenticatedState": "authenticated"}]}}),
    ),
    (
        "integrationCode",
        128,
        |n| json!({"ids": {"customerIds": [{"id": "i", "integrationCode": text(n), "authenticatedState": "authenticated"}]}}),
    ),
    ("mbox", 250, |n| json!({"mbox": text(n)})),
    ("parameters", 100, |n| json!({"parameters": entries(n)})),
    ("parameters", 128, |n| json!({"parameters": {text(n): "v"}})),
    ("parameters", 5000, |n| json!({"parameters": {"p": text(n)}})),
    ("profile", 50, |n| json!({"profile": entries(n)})),
    ("profile", 128, |n| json!({"profile": {text(n): "v"}})),
    ("profile", 256, |n| json!({"profile": {"p": text(n)}})),
    ("url", 4096, |n| json!({"page": {"url": text(n)}})),
    ("referrer", 4096, |n| json!({"page": {"referrer": text(n)}})),
    ("order", 250, |n| json!({"order": {"id": text(n), "total": 1.5}})),
    ("order", 128, |n| json!({"order": {"id": "o", "productIds": [text(n)]}})),
    ("order", 50, |n| json!({"order": {"id": "o", "productIds": list(n)}})),
    ("categories", 50, |n| json!({"categories": list(n)})),
    ("userAgent", 2048, |n| json!({"userAgent": text(n)})),
];

#[test]
fn every_limit_of_a_visit() {
    let server = Server::start();
    for (number, (field, limit, build)) in VISIT_LIMITS.into_iter().enumerate() {
        let with_id = |length: usize, id: &str| {
            let mut body = build(length);
            if body.get("ids").is_none() {
                body["ids"] = json!({"tntId": id});
            }
            body
        };
        let good = server.post_json(VISITS, &with_id(limit, &format!("at-{number}")));
        assert_eq!(good.status, 200, "{field} at its limit {limit}: {}", good.text());

        let id = format!("past-{number}");
        let reply = server.post_json(VISITS, &with_id(limit + 1, &id));
        assert_eq!(reply.status, 400, "{field} past its limit {limit}: {}", reply.text());
        let problem = reply.json();
        assert_eq!(problem["limit"], limit, "{field}: {problem}");
        assert!(problem["field"].as_str().is_some_and(|f| f.contains(field)), "{field}: {problem}");
        let detail = problem["detail"].as_str().unwrap_or_default();
        assert!(detail.contains(&limit.to_string()), "{field}: {problem}");
        fetch(&server, &id).expect(404);
    }
}

#[test]
fn forbidden_characters_are_named() {
    let server = Server::start();
    for (field, body) in [
        ("sessionId", json!({"sessionId": "a b"})),
        ("sessionId", json!({"sessionId": "a?"})),
        ("sessionId", json!({"sessionId": "{"})),
        ("sessionId", json!({"sessionId": "a}"})),
        ("sessionId", json!({"sessionId": "a/b"})),
        ("sessionId", json!({"sessionId": ""})),
        ("thirdPartyId", json!({"ids": {"thirdPartyId": "a+b"}})),
        ("thirdPartyId", json!({"ids": {"thirdPartyId": "a/b"}})),
        ("tntId", json!({"ids": {"tntId": "a\u{7}b"}})),
        ("visitCount", json!({"profile": {"visitCount": "7"}})),
        ("occurredAt", json!({"occurredAt": 4_102_444_800_000_u64})),
    ] {
        let reply = server.post_json(VISITS, &body);
        assert_eq!(reply.status, 400, "{body}: {}", reply.text());
        assert!(reply.text().contains(field), "{body}: {}", reply.text());
    }
}

#[test]
fn ten_thousand_visits_a_call_and_not_one_more() {
    let server = Server::start();
    let many = |count: usize, id: &str| {
        let mut lines = String::new();
        for _ in 0..count {
            let _ = writeln!(lines, "{}", plain(id));
        }
        server.send(&Request::post(VISITS, "application/x-ndjson", lines))
    };
    let reply = many(10_000, "full").expect(200).json();
    assert_eq!(reply["accepted"], 10_000);
    assert_eq!(reply["results"].as_array().map(Vec::len), Some(10_000));
    assert_eq!(visit_count(&server, "full"), 10_000);

    let reply = many(10_001, "over").expect(413);
    assert_eq!(reply.json()["limit"], 10_000, "{}", reply.text());
    assert_eq!(visit_count(&server, "over"), 0);
}

/// Megabytes as the interface counts them; whether 10^6 or 2^20, a body of this many times 2^20 and more is past it.
const MEGABYTE: usize = 1 << 20;

fn answered(reply: &Response, status: u16, named: &str) {
    assert_eq!(reply.status, status, "{}", reply.text());
    assert!(reply.text().contains(named), "the limit is not named: {}", reply.text());
}

#[test]
fn a_visit_body_over_sixty_megabytes_is_answered() {
    let server = Server::start();
    let mut body = format!("[{},", plain("big")).into_bytes();
    body.resize(60 * MEGABYTE, b' ');
    body.extend_from_slice(b"{}]");
    let reply = server.send(&Request::post(VISITS, "application/json", body.clone()));
    answered(&reply, 413, "60");
    // Without a length the server must count for itself.
    let reply = send_chunked(&server, VISITS, &body);
    answered(&reply, 413, "60");
    assert_eq!(visit_count(&server, "big"), 0);
}

/// Sends a body in chunks of a megabyte, without saying how long it will be.
fn send_chunked(server: &Server, path: &str, body: &[u8]) -> Response {
    let mut chunked = Vec::with_capacity(body.len() + 1024);
    for chunk in body.chunks(MEGABYTE) {
        chunked.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        chunked.extend_from_slice(chunk);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    let head = Request::new("POST", path)
        .header("Content-Type", "application/json")
        .header("Transfer-Encoding", "chunked")
        .head();
    let mut connection = server.connect();
    let mut writer = connection.second_handle().expect("a second handle");
    std::thread::scope(|scope| {
        // The answer counts, wherever the sending stopped.
        let sent = scope.spawn(move || writer.write(head.as_bytes()).and_then(|()| writer.write(&chunked)));
        let reply = connection.read().expect("an answer");
        drop(connection);
        let _ = sent.join();
        reply
    })
}

#[test]
fn a_bulk_file_of_fifty_megabytes_or_five_hundred_thousand_and_one_rows_is_answered() {
    let server = Server::start();
    let mut file = b"batch=pcId,a\nbulk-over,1\n".to_vec();
    while file.len() <= 50 * MEGABYTE {
        file.extend_from_slice(b"bulk-over,");
        file.resize(file.len() + 4000, b'v');
        file.push(b'\n');
    }
    let reply = server.send(&Request::post(BULK_V2, "text/csv", file));
    answered(&reply, 413, "50");
    assert!(reply.text().contains("<success>false</success>"), "{}", reply.text());

    let mut rows = String::from("batch=pcId,a\n");
    for row in 0..500_001 {
        let _ = writeln!(rows, "bulk-over,{row}");
    }
    let reply = upload(&server, BULK_V2, &rows);
    assert!(matches!(reply.status, 400 | 413), "{} {}", reply.status, reply.text());
    let said = reply.text();
    assert!(said.contains("500000") || said.contains("500,000"), "the limit is not named: {said}");
    fetch(&server, "bulk-over").expect(404);
}

#[test]
fn compression_does_not_hide_a_body_that_is_too_long() {
    let server = Server::start();
    let mut file = b"batch=pcId,a\nbomb,1\n".to_vec();
    file.resize(200 * MEGABYTE, b'\n');
    let packed = zstd::encode_all(&file[..], 1).expect("memory");
    let reply = server.send(&Request::post(BULK_V2, "text/csv", packed).header("Content-Encoding", "zstd"));
    answered(&reply, 413, "50");
    fetch(&server, "bomb").expect(404);
}

#[test]
fn a_single_update_of_eight_or_sixty_kilobytes_and_not_one_more() {
    let server = Server::start();
    visit(&server, &plain("u"));
    let long = "v".repeat(9 * 1024);
    let reply = server.get(&format!("/m2/demo/profile/update?mboxPC=u&profile.a={long}"));
    assert!(matches!(reply.status, 413 | 414), "{} {}", reply.status, reply.text());
    assert!(reply.text().contains("<success>false</success>"), "{}", reply.text());

    let post = |length: usize| {
        let body = format!("mboxPC=u&profile.a={}", "v".repeat(length));
        server.send(&Request::post("/m2/demo/profile/update", "application/x-www-form-urlencoded", body))
    };
    post(50 * 1024).expect(200);
    assert_eq!(attribute(&server, "u", "a").map(|v| v.len()), Some(50 * 1024));
    let reply = post(61 * 1024).expect(413);
    assert!(reply.text().contains("<success>false</success>"), "{}", reply.text());
    assert_eq!(attribute(&server, "u", "a").map(|v| v.len()), Some(50 * 1024), "nothing was stored");
}

#[test]
fn a_profile_over_sixty_four_kilobytes_is_refused_and_stays_as_it_was() {
    let server = Server::start();
    visit(&server, &plain("fat"));
    let set = |name: &str| {
        let body = format!("mboxPC=fat&profile.{name}={}", "v".repeat(40_000));
        server.send(&Request::post("/m2/demo/profile/update", "application/x-www-form-urlencoded", body))
    };
    set("a").expect(200);
    let reply = set("b");
    assert!((400..500).contains(&reply.status), "{} {}", reply.status, reply.text());
    assert!(reply.text().contains("64") || reply.text().contains("65536"), "{}", reply.text());
    assert_eq!(attribute(&server, "fat", "b"), None);
    assert_eq!(attribute(&server, "fat", "a").map(|v| v.len()), Some(40_000));

    // In a bulk file the row fails, and the report says so.
    let file = format!("batch=pcId,b\nfat,{}\nthin,1\n", "v".repeat(40_000));
    let reply = upload(&server, BULK_V2, &file).expect(200);
    let status = complete(&server, &status_path(&server, &reply));
    assert_eq!((xml::number(&status, "successfulUpdates"), xml::number(&status, "failedUpdates")), (1, 1), "{status}");
    let path = status_path(&server, &reply).replace("batchStatus", "batchErrors");
    let report = server.get(&path).expect(200).text();
    assert!(report.contains('2') && report.contains("64"), "{report}");
}

#[test]
fn a_head_that_does_not_end_is_answered() {
    let server = Server::start();
    let long = format!("GET /healthz?{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(300_000));
    let mut connection = server.connect();
    // The server may answer before it has taken everything.
    let _ = connection.write(long.as_bytes());
    let status = connection.read().expect("an answer").status;
    assert!(matches!(status, 413 | 414 | 431), "{status}");
}
