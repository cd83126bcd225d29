//! The routes over a ledger in memory: exact replies, files in every form, faults of the log, limits.

use std::io::Write as _;
use std::time::{Duration, Instant};

use axum::response::Response;
use cameo_auth::{ClientRecord, Verifier};
use cameo_profile::Kind;
use http::{Method, StatusCode};
use serde_json::Value;
use tower::ServiceExt;

use super::*;
use crate::fake::{Fake, Fate};
use crate::gateway::{Gateway, GatewayConfig};

mod closing;
mod faults;
mod limits;
mod listing;

const V1: &str = "/m2/demo/profile/batchUpdate";
const V2: &str = "/m2/demo/v2/profile/batchUpdate";
const V3: &str = "/m2/demo/v3/profile/batchUpdate";
const EXAMPLE: &str = "batch=pcId,param1,param2\n123,value1\n124,,value2\n";

struct Site {
    gateway: Gateway<Fake>,
    ledger: Arc<Fake>,
    _spool: tempfile::TempDir,
}

struct Reply {
    status: StatusCode,
    headers: http::HeaderMap,
    text: String,
}

fn client(code: &str) -> ClientRecord {
    ClientRecord::new(&ClientCode::new(code).unwrap(), 0).unwrap()
}

impl Site {
    fn over(ledger: Arc<Fake>) -> Self {
        let spool = tempfile::tempdir().unwrap();
        let config = GatewayConfig {
            auth: Verifier::fixed(["demo", "other"].map(client).into()),
            spool_dir: spool.path().join("spool"),
            sole_gateway: true,
        };
        Self { gateway: Gateway::new(config, Arc::clone(&ledger)).unwrap(), ledger, _spool: spool }
    }

    fn new() -> Self {
        Self::over(Fake::new(4))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<axum::body::Body>,
    ) -> Reply {
        let request = http::Request::builder().method(method).uri(path).header("Host", "cameo.test");
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let response: Response = self.gateway.router().oneshot(request.body(body.into()).unwrap()).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        Reply { status, headers, text: String::from_utf8(body.to_vec()).unwrap() }
    }

    async fn post(&self, path: &str, headers: &[(&str, &str)], body: impl Into<axum::body::Body>) -> Reply {
        self.send(Method::POST, path, headers, body).await
    }

    async fn get(&self, path: &str) -> Reply {
        self.send(Method::GET, path, &[], "").await
    }

    async fn json(&self, path: &str) -> Value {
        let reply = self.send(Method::GET, path, &[("Accept", "application/json")], "").await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        serde_json::from_str(&reply.text).unwrap()
    }

    async fn batch(&self, id: &str) -> Value {
        self.json(&format!("/v1/demo/batches/{id}")).await
    }

    /// Waits until nothing is under way.
    async fn settled(&self, id: &str) -> Value {
        self.until(|batch| batch["status"] != "incomplete", id).await
    }

    async fn until(&self, wanted: impl Fn(&Value) -> bool, id: &str) -> Value {
        let started = Instant::now();
        loop {
            let batch = self.batch(id).await;
            if wanted(&batch) {
                return batch;
            }
            assert!(started.elapsed() < Duration::from_secs(60), "{batch}");
            tokio::task::yield_now().await;
        }
    }

    /// Uploads, waits, and gives the settled batch.
    async fn upload(&self, path: &str, body: impl Into<axum::body::Body>) -> Value {
        let reply = self.post(path, &[], body).await;
        self.settled(&reply.batch()).await
    }
}

impl Reply {
    #[track_caller]
    fn batch(&self) -> String {
        assert_eq!(self.status, 200, "{}", self.text);
        let (_, id) = self.text.split_once("batchId=").unwrap();
        id.split('<').next().unwrap().into()
    }
}

/// Consumed, updated, not found, failed.
fn counts(batch: &Value) -> [u64; 4] {
    ["consumedCount", "successfulUpdates", "profilesNotFound", "failedUpdates"]
        .map(|name| batch[name].as_u64().unwrap())
}

#[tokio::test]
async fn the_example_is_answered_exactly() {
    let site = Site::new();
    let reply = site.post(V2, &[("Content-Type", "application/x-www-form-urlencoded")], EXAMPLE).await;
    let id = reply.batch();
    assert!(id.starts_with("demo-18000000000"), "{id}");
    assert_eq!(
        reply.text,
        format!(
            "<response><success>true</success><batchStatus>http://cameo.test/m2/demo/profile/batchStatus?batchId={id}</batchStatus><message>Batch submitted for processing</message></response>"
        )
    );
    assert_eq!(reply.headers["content-type"], "application/xml; charset=UTF-8");
    site.settled(&id).await;
    for version in ["", "v2/", "v3/"] {
        let path = format!("/m2/demo/{version}profile/batchStatus?batchId={id}");
        let short = format!("<response><batchId>{id}</batchId><status>complete</status><batchSize>2</batchSize>");
        assert_eq!(site.get(&path).await.text, format!("{short}</response>"));
        assert_eq!(
            site.get(&format!("{path}&showDetails=true")).await.text,
            format!(
                "{short}<consumedCount>2</consumedCount><successfulUpdates>2</successfulUpdates><profilesNotFound>0</profilesNotFound><failedUpdates>0</failedUpdates></response>"
            )
        );
    }
    let value = |id, name| site.ledger.value(Kind::Tnt, id, name);
    assert_eq!((value("123", "param1").as_deref(), value("123", "param2")), (Some("value1"), None));
    assert_eq!((value("124", "param1"), value("124", "param2").as_deref()), (None, Some("value2")));
}

#[tokio::test]
async fn json_in_and_out() {
    let site = Site::new();
    let rows = "[{\"thirdPartyId\":\"a\",\"x\":1},\n{\"thirdPartyId\":\"b/c\",\"x\":2},{\"pcId\":\"d\",\"y\":true}]";
    let headers = [("Accept", "application/json"), ("Content-Type", "application/json; charset=utf-8")];
    let reply = site.post(V2, &headers, rows).await;
    let body: Value = serde_json::from_str(&reply.text).unwrap();
    assert_eq!((&body["success"], &body["message"]), (&Value::Bool(true), &"Batch submitted for processing".into()));
    let id = body["batchId"].as_str().unwrap();
    let batch = site.settled(id).await;
    assert_eq!((counts(&batch), &batch["apiVersion"]), ([3, 2, 0, 1], &2.into()), "{batch}");
    assert_eq!(site.ledger.value(Kind::ThirdParty, "a", "x").as_deref(), Some("1"));
    assert_eq!(site.ledger.value(Kind::Tnt, "d", "y").as_deref(), Some("true"));
    let status = site.json(&format!("/m2/demo/profile/batchStatus?batchId={id}")).await;
    assert_eq!(status, serde_json::json!({"batchId": id, "status": "complete", "batchSize": 3}));
    let errors = site.json(&format!("/m2/demo/profile/batchErrors?batchId={id}")).await;
    let reason = "thirdPartyId has a forbidden character '/' at character 2";
    let row = serde_json::json!({"line": 2, "column": "thirdPartyId", "reason": reason});
    assert_eq!((&errors["errors"], &errors["truncated"]), (&Value::from(vec![row]), &Value::Bool(false)));
    let list = site.json("/v1/demo/batches").await;
    assert_eq!(list["batches"], Value::from(vec![batch]));
    assert_eq!(site.json("/v1/other/batches").await["batches"], Value::from(Vec::<Value>::new()));

    let refused = site.post(V2, &headers, "[{}").await;
    let body: Value = serde_json::from_str(&refused.text).unwrap();
    assert_eq!(
        (refused.status.as_u16(), &body["success"], &body["line"]),
        (400, &Value::Bool(false), &1.into()),
        "{body}"
    );
}

#[tokio::test]
async fn the_first_byte_says_what_a_file_is_and_no_content_type_does() {
    let site = Site::new();
    let files = [
        EXAMPLE,
        "[{\"pcId\":\"a\",\"x\":1},{\"pcId\":\"b\",\"x\":2}]",
        "\n{\"pcId\":\"a\",\"x\":1}\n{\"pcId\":\"b\",\"x\":2}",
    ];
    for kind in ["text/csv", "application/json", "application/x-ndjson", "application/x-www-form-urlencoded", "é"] {
        for file in files {
            let reply = site.post(V2, &[("Content-Type", kind)], file).await;
            assert_eq!(counts(&site.settled(&reply.batch()).await), [2, 2, 0, 0], "{kind}: {file:?}");
        }
    }
    // A first line that is wrong is a row that is wrong, as long as it looks like a row.
    let reply = site.post(V2, &[], "{\"pcId\":\"a\",\"x\":}\n{\"pcId\":\"b\",\"x\":2}\n").await;
    let batch = site.settled(&reply.batch()).await;
    assert_eq!(counts(&batch), [2, 1, 0, 1], "{batch}");
    let errors = site.json(&format!("/m2/demo/profile/batchErrors?batchId={}", reply.batch())).await;
    assert_eq!(errors["errors"][0]["line"], 1, "{errors}");
}

#[tokio::test]
async fn versions_differ_in_what_they_create_and_remove() {
    let site = Site::new();
    let batch = site.upload(V1, "batch=thirdPartyId,a\nx,1\n").await;
    assert_eq!((counts(&batch), site.ledger.profiles()), ([1, 0, 1, 0], 0));
    let batch = site.upload(V2, "batch=thirdPartyId,a,b\nx,1,\\N\ny,,\n").await;
    assert_eq!(
        (counts(&batch), &batch["createdProfiles"], &batch["skippedRows"]),
        ([2, 1, 0, 0], &1.into(), &1.into())
    );
    let value = |name| site.ledger.value(Kind::ThirdParty, "x", name);
    assert_eq!(value("b").as_deref(), Some("\\N"));
    site.upload(V1, "batch=thirdPartyId,a\nx,2\nx,3\n").await;
    assert_eq!(value("a").as_deref(), Some("3"), "the later row wins");
    let batch = site.upload(V3, "{\"thirdPartyId\":\"x\",\"b\":null}\n{\"thirdPartyId\":\"x\",\"a\":\"\"}").await;
    assert_eq!((counts(&batch), value("b"), value("a").as_deref()), ([2, 1, 0, 0], None, Some("3")));
    let batch = site.upload(V2, "batch=pcId,a\n").await;
    assert_eq!((counts(&batch), &batch["status"], &batch["batchSize"]), ([0; 4], &"complete".into(), &0.into()));
}

#[tokio::test]
async fn compressed_files() {
    let gzip = |text: &str| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    let zstd = |text: &str| {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.include_checksum(true).unwrap();
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    let site = Site::new();
    let halves = EXAMPLE.split_at(31);
    let good = [
        ("gzip", gzip(EXAMPLE)),
        ("GZIP", [gzip(halves.0), gzip(halves.1)].concat()),
        ("zstd", zstd(EXAMPLE)),
        ("zstd", [zstd(halves.0), zstd(halves.1)].concat()),
        ("identity", EXAMPLE.into()),
    ];
    for (encoding, body) in good {
        let reply = site.post(V2, &[("Content-Encoding", encoding)], body.clone()).await;
        assert_eq!(counts(&site.settled(&reply.batch()).await), [2, 2, 0, 0], "{encoding}");
        if encoding == "identity" {
            continue;
        }
        let mut damaged = body.clone();
        damaged[body.len() - 6] ^= 0x55;
        for wrong in [body[..body.len() - 3].to_vec(), damaged, b"no such thing".to_vec(), [&body[..], b"xx"].concat()]
        {
            let reply = site.post(V2, &[("Content-Encoding", encoding)], wrong).await;
            assert_eq!(reply.status, 400, "{encoding}: {}", reply.text);
            assert!(reply.text.contains("the body is not valid"), "{}", reply.text);
        }
    }
    for junk in ["x", "xx", "batch=pcId,a\n", "\u{1f}x and so on, at some length", "\0\0"] {
        let body = [&gzip(EXAMPLE)[..], junk.as_bytes()].concat();
        // Also when the two come apart.
        let pieces = body.chunks(7).map(|piece| Ok::<_, std::io::Error>(bytes::Bytes::copy_from_slice(piece)));
        let pieces = axum::body::Body::from_stream(futures_util::stream::iter(pieces.collect::<Vec<_>>()));
        for body in [axum::body::Body::from(body), pieces] {
            let reply = site.post(V2, &[("Content-Encoding", "gzip")], body).await;
            assert_eq!(reply.status, 400, "{}", reply.text);
            let says = "the body is not valid gzip: bytes follow the end of the gzip stream";
            assert!(reply.text.contains(says), "{junk:?}: {}", reply.text);
        }
    }
    let reply = site.post(V2, &[("Content-Encoding", "br")], EXAMPLE).await;
    assert_eq!(reply.status, 415);
    assert!(reply.text.contains("&quot;br&quot;") || reply.text.contains("\"br\""), "{}", reply.text);
}

#[tokio::test]
async fn a_dry_run_reports_and_stores_nothing() {
    let site = Site::new();
    let file = "batch=pcId,a\nx,1\ny,%zz\nz,\n";
    let path = format!("{V2}?dryRun=true");
    let reply = site.post(&path, &[("Accept", "application/json"), ("Idempotency-Key", "k")], file).await;
    let reason = "a has a bad escape: % must be followed by two hexadecimal digits";
    let expected = serde_json::json!({
        "success": true, "dryRun": true, "message": "Dry run: nothing was stored", "truncated": false, "batchSize": 3,
        "rowsToApply": 1, "skippedRows": 1, "failedRows": 1, "errors": [{"line": 3, "column": "a", "reason": reason}],
    });
    assert_eq!(serde_json::from_str::<Value>(&reply.text).unwrap(), expected);
    let reply = site.post(&path, &[], file).await;
    assert!(reply.text.contains(&format!("<error><line>3</line><column>a</column><reason>{reason}</reason></error>")));
    assert_eq!(site.post(&path, &[], "batch=x").await.status, 400);
    assert_eq!(site.json("/v1/demo/batches").await["batches"], Value::from(Vec::<Value>::new()));
    assert_eq!(site.ledger.profiles(), 0);
}

#[tokio::test]
async fn every_route_is_described() {
    let described = openapi::openapi();
    let mut ids = std::collections::HashSet::new();
    let mut count = 0;
    for item in described.paths.paths.values() {
        let operation = item.get.as_ref().or(item.post.as_ref()).unwrap();
        assert!(ids.insert(operation.operation_id.clone()), "{:?} stands twice", operation.operation_id);
        count += 1;
    }
    assert_eq!(count, 11);
    let site = Site::new();
    for (path, item) in &described.paths.paths {
        let method = if item.get.is_some() { Method::GET } else { Method::POST };
        let reply = site.send(method, &path.replace("{client}", "demo").replace("{batchId}", "x"), &[], "").await;
        assert_ne!(reply.status, 405, "{path}");
        assert!(!reply.text.is_empty(), "{path} is not routed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_of_a_batch_is_written_into_its_head() {
    let site = Site::new();
    let batch = site.upload(V2, "batch=pcId,a\n1,x\n2,y\n3,z,zz\n").await;
    let id = batch["batchId"].as_str().unwrap().to_owned();
    let closed = loop {
        if let Some(closed) = site.ledger.head_now(&id).and_then(|head| head.closed) {
            break closed;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!((closed.updated, closed.created, closed.failed), (2, 2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_url_is_one_that_the_caller_can_reach() {
    let site = Site::new();
    let url = |reply: Reply| reply.text.split("<batchStatus>").nth(1).unwrap().split("/m2/").next().unwrap().to_owned();
    assert_eq!(url(site.post(V2, &[], EXAMPLE).await), "http://cameo.test");
    assert_eq!(url(site.post(V2, &[("X-Forwarded-Proto", "https")], EXAMPLE).await), "https://cameo.test");
    assert_eq!(url(site.post(V2, &[("X-Forwarded-Proto", "HTTPS, http")], EXAMPLE).await), "https://cameo.test");
    assert_eq!(url(site.post(V2, &[("X-Forwarded-Proto", "http, https")], EXAMPLE).await), "http://cameo.test");
    assert_eq!(url(site.post(V2, &[("X-Forwarded-Proto", "rubbish")], EXAMPLE).await), "http://cameo.test");
    // HTTP/2 has no Host header.
    let request =
        http::Request::post(format!("http://by.authority:8080{V2}")).body(axum::body::Body::from(EXAMPLE)).unwrap();
    let response: Response = site.gateway.router().oneshot(request).await.unwrap();
    let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    let text = String::from_utf8(body.to_vec()).unwrap();
    assert!(text.contains("<batchStatus>http://by.authority:8080/m2/demo/"), "{text}");
}
