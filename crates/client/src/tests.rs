//! The SDK against a server that says what it is told to say: retries only where they are safe, and no panic whatever
//! comes back.

mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Client, Error, UploadOptions, Visit};
use serde_json::json;
use server::{Server, reply};

const BUSY: &str = "HTTP/1.1 503 x\r\nconnection: close\r\nretry-after: 0\r\ncontent-length: 0\r\n\r\n";

fn counted() -> Arc<AtomicU64> {
    Arc::new(AtomicU64::new(0))
}

#[tokio::test]
async fn a_visit_goes_out_whole_and_its_reply_comes_back() {
    let server = Server::start([reply(200, "{\"status\":\"accepted\",\"tntId\":\"a1\"}")]).await;
    let client = server.client().with_token("secret").unwrap();
    let visit = Visit::of_tnt_id("a1").profile("country", "france").category("shoes");
    assert_eq!(client.visit(&visit).await.unwrap()["tntId"], "a1");
    let request = &server.requests()[0];
    assert!(request.head.starts_with("POST /v1/demo/visits?return=profile HTTP/1.1\r\n"), "{}", request.head);
    assert!(request.head.contains("authorization: Bearer secret"), "{}", request.head);
    let sent: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
    assert_eq!(sent, json!({"ids": {"tntId": "a1"}, "profile": {"country": "france"}, "categories": ["shoes"]}));
}

#[tokio::test]
async fn only_what_cannot_count_twice_is_sent_again() {
    let with_key = Visit::of_tnt_id("a").event_id("e1");
    let null_key = Visit::from_json(json!({"eventId": null})).unwrap();
    for (visits, requests) in [
        (vec![with_key.clone()], 2),
        (vec![with_key.clone(), Visit::of_tnt_id("a")], 1),
        (vec![null_key], 1),
        (vec![Visit::new()], 1),
    ] {
        let server = Server::start([BUSY.into(), reply(200, "{}")]).await;
        let sent = server.client().visits(&visits).await;
        assert_eq!((sent.is_ok(), server.requests().len()), (requests == 2, requests), "{visits:?}");
    }
    let server = Server::start([BUSY.into(), reply(204, "")]).await;
    assert_eq!(server.client().erase("tnt", "a").await.unwrap_err().status(), Some(503));

    let server = Server::start([BUSY.into(), reply(200, "{}")]).await;
    assert_eq!(server.client().unlink("tp", "p", ("cust:crm", "c/1")).await.unwrap_err().status(), Some(503));
    let requests = server.requests();
    assert!(requests[0].head.starts_with("POST /v1/demo/profiles/tp/p/unlink HTTP"), "{}", requests[0].head);
    let sent: serde_json::Value = serde_json::from_slice(&requests[0].body).unwrap();
    assert_eq!((sent, requests.len()), (json!({"kind": "cust:crm", "id": "c/1"}), 1));

    let server = Server::start([BUSY.into(), reply(200, "{}")]).await;
    server.client().change("tnt", "a", &[("n".into(), "v".into())], &["m".into()]).await.unwrap();
    let requests = server.requests();
    assert_eq!(requests[0].body, requests[1].body, "a retry is the same event");
    assert!(String::from_utf8_lossy(&requests[0].body).contains("eventId"));
}

#[tokio::test]
async fn retries_end_and_a_long_wait_is_left_to_the_caller() {
    let server = Server::start(vec![BUSY.to_owned(); 9]).await;
    assert_eq!(server.client().profile("tnt", "a").await.unwrap_err().status(), Some(503));
    assert_eq!(server.requests().len(), 5);

    let long = "HTTP/1.1 429 x\r\nconnection: close\r\nretry-after: 3600\r\ncontent-length: 0\r\n\r\n";
    let server = Server::start([long.into(), reply(200, "{}")]).await;
    let error = server.client().profile("tnt", "a").await.unwrap_err();
    assert!(matches!(error, Error::Refused { status: 429, retry_after: Some(3600), .. }), "{error}");
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn a_refusal_is_told_in_the_servers_words() {
    for (status, body, words) in [
        (400, "{\"detail\":\"sessionId is too long\",\"status\":400}", "sessionId is too long (HTTP 400)"),
        (404, "{\"status\":404,\"message\":\"No profile found\"}", "No profile found (HTTP 404)"),
        (400, "<response><message>line 3</message></response>", "line 3 (HTTP 400)"),
        (302, "", "Found (HTTP 302)"),
        // Nothing of it reaches a terminal as a command.
        (500, "a\u{1b}[2Jb\nc", "a [2Jb c (HTTP 500)"),
    ] {
        let server = Server::start([reply(status, body)]).await;
        assert_eq!(server.client().visit(&Visit::new()).await.unwrap_err().to_string(), words);
    }
}

#[tokio::test]
async fn odd_replies_are_errors() {
    let deep = "[".repeat(100_000);
    for odd in ["", "<html>", "{\"half\":", "\u{0}", &deep] {
        let server = Server::start([reply(200, odd)]).await;
        let error = server.client().visit(&Visit::new()).await.unwrap_err();
        assert!(matches!(error, Error::BadReply(_)), "{error:?}");
    }
    for broken in ["", "rubbish\r\n\r\n", "HTTP/1.1 200 x\r\n", "HTTP/1.1 200 x\r\ncontent-length: 99\r\n\r\n{\"a\""] {
        let server = Server::start([broken.into()]).await;
        let error = server.client().visit(&Visit::new()).await.unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{broken:?}: {error:?}");
    }
}

#[tokio::test]
async fn a_reply_that_breaks_off_is_asked_for_again() {
    let half = "HTTP/1.1 200 x\r\ncontent-length: 99\r\n\r\n{\"a\"";
    let server = Server::start([half.into(), reply(200, "{\"a\":1}")]).await;
    assert_eq!(server.client().profile("tnt", "a").await.unwrap()["a"], 1);
}

#[tokio::test]
async fn ids_cannot_break_out_of_their_place_in_the_path() {
    let server = Server::start([reply(200, "{}")]).await;
    server.client().profile("cust:a/b", "../x y?z#ü%").await.unwrap();
    let head = server.requests()[0].head.clone();
    assert!(head.starts_with("GET /v1/demo/profiles/cust%3Aa%2Fb/..%2Fx%20y%3Fz%23%C3%BC%25 HTTP"), "{head}");
}

#[tokio::test]
async fn an_upload_that_breaks_is_sent_again_under_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("crm.csv");
    let text = format!("batch=pcId,a\n{}", "x,1\n".repeat(200_000));
    std::fs::write(&path, &text).unwrap();
    let server = Server::start([String::new(), BUSY.into(), reply(200, "{\"batchId\":\"b\"}")]).await;
    let sent = counted();
    let upload = server.client().upload(&path, &UploadOptions::default(), Arc::clone(&sent)).await.unwrap();
    assert_eq!((upload.reply["batchId"].as_str(), sent.load(Ordering::Relaxed)), (Some("b"), text.len() as u64));
    let requests = server.requests();
    assert_eq!(requests.len(), 3);
    for request in requests {
        assert!(request.head.starts_with("POST /m2/demo/v2/profile/batchUpdate HTTP"), "{}", request.head);
        assert!(request.head.contains(&format!("idempotency-key: {}\r\n", upload.idempotency_key)));
        assert!(request.body == text.as_bytes(), "{} bytes arrived", request.body.len());
    }
}

#[tokio::test]
async fn a_reader_is_uploaded_in_chunks_and_only_once() {
    let options = UploadOptions { api_version: 1, dry_run: true, idempotency_key: Some("k1".into()) };
    let server = Server::start([BUSY.into(), reply(200, "{}")]).await;
    let refused = server.client().upload_from(&b"batch=pcId\n"[..], "x.gz", &options, counted()).await;
    assert_eq!(refused.unwrap_err().status(), Some(503));
    let requests = server.requests();
    let [request] = &requests[..] else { panic!("{} requests", requests.len()) };
    for part in ["POST /m2/demo/profile/batchUpdate?dryRun=true", "content-encoding: gzip", "idempotency-key: k1"] {
        assert!(request.head.contains(part), "{part} is not in {}", request.head);
    }
    assert_eq!(request.body, b"B\r\nbatch=pcId\n\r\n0\r\n\r\n");
}

#[tokio::test]
async fn what_cannot_be_sent_is_said_before_it_is_sent() {
    let server = Server::start([]).await;
    let client = server.client();
    assert!(matches!(client.clone().with_token("a\nb"), Err(Error::BadToken)));
    let options = UploadOptions { idempotency_key: Some("a\nb".into()), ..UploadOptions::default() };
    let upload = client.upload_from(&b""[..], "", &options, counted()).await;
    assert!(matches!(upload, Err(Error::BadKey)));
    let none = client.upload("no-such-file".as_ref(), &UploadOptions::default(), counted()).await;
    assert!(matches!(none, Err(Error::File { .. })));
    assert!(server.requests().is_empty());
}

#[tokio::test]
async fn nobody_there_is_said_so() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = Client::new(&url, "demo").unwrap().visit(&Visit::new()).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }) && error.to_string().contains(&url), "{error}");
}
