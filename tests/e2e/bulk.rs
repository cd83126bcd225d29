//! Bulk files: v1, v2 and v3, their exact XML, and what goes beyond (TARGET_API §3).

use std::io::Write as _;

use cameo_tests::http::{Request, Response};
use cameo_tests::server::Server;
use cameo_tests::xml;
use serde_json::{Value, json};

use crate::common::{BULK_V2, attribute, batch_id, complete, fetch, plain, status_path, upload, upload_all, visit};

const BULK_V1: &str = "/m2/demo/profile/batchUpdate";
const BULK_V3: &str = "/m2/demo/v3/profile/batchUpdate";
/// The file of the documentation.
const EXAMPLE: &str = "batch=pcId,param1,param2\n123,value1\n124,,value2\n";

/// Consumed, updated, not found, failed.
fn details(status: &str) -> [u64; 4] {
    ["consumedCount", "successfulUpdates", "profilesNotFound", "failedUpdates"].map(|tag| xml::number(status, tag))
}

#[test]
fn the_example_of_the_documentation_creates_and_is_answered_exactly() {
    let server = Server::start();
    let reply = upload(&server, BULK_V2, EXAMPLE).expect(200);
    let text = reply.text();
    let url = xml::text(&text, "batchStatus").expect("a status URL");
    let message = "Batch submitted for processing";
    assert_eq!(
        text,
        format!(
            "<response><success>true</success><batchStatus>{url}</batchStatus><message>{message}</message></response>"
        )
    );
    let id =
        url.strip_prefix("http://cameo.test/m2/demo/profile/batchStatus?batchId=").unwrap_or_else(|| panic!("{url}"));
    let parts: Vec<_> = id.splitn(3, '-').collect();
    assert!(parts.len() == 3 && parts[0] == "demo" && parts[1].parse::<u64>().is_ok(), "{id}");

    let path = status_path(&server, &reply);
    let full = complete(&server, &path);
    assert_eq!(
        server.get(&path).expect(200).text(),
        format!("<response><batchId>{id}</batchId><status>complete</status><batchSize>2</batchSize></response>")
    );
    assert_eq!(
        full,
        format!(
            "<response><batchId>{id}</batchId><status>complete</status><batchSize>2</batchSize><consumedCount>2</consumedCount>\
             <successfulUpdates>2</successfulUpdates><profilesNotFound>0</profilesNotFound><failedUpdates>0</failedUpdates></response>"
        )
    );
    assert_eq!(attribute(&server, "123", "param1").as_deref(), Some("value1"));
    assert_eq!(attribute(&server, "123", "param2"), None);
    assert_eq!(attribute(&server, "124", "param1"), None);
    assert_eq!(attribute(&server, "124", "param2").as_deref(), Some("value2"));
}

#[test]
fn v1_updates_what_exists_and_creates_nothing() {
    let server = Server::start();
    visit(&server, &plain("123"));
    let status = upload_all(&server, BULK_V1, EXAMPLE);
    assert_eq!(details(&status), [2, 1, 1, 0], "{status}");
    assert_eq!(attribute(&server, "123", "param1").as_deref(), Some("value1"));
    fetch(&server, "124").expect(404);
}

#[test]
fn v3_removes_with_a_mark_and_v2_stores_the_mark() {
    let server = Server::start();
    visit(&server, &json!({"ids": {"tntId": "r1"}, "profile": {"a": "1", "b": "2"}}));
    upload_all(&server, BULK_V2, "batch=pcId,a,b\nr2,%5CN,kept\n");
    assert_eq!(attribute(&server, "r2", "a").as_deref(), Some("\\N"));
    let status = upload_all(&server, BULK_V3, "batch=pcId,a,b\nr1,\\N,\n");
    assert_eq!(details(&status), [1, 1, 0, 0], "{status}");
    assert_eq!(attribute(&server, "r1", "a"), None);
    assert_eq!(attribute(&server, "r1", "b").as_deref(), Some("2"), "an empty value changes nothing");
}

#[test]
fn a_bad_row_fails_alone_and_the_report_names_line_column_and_reason() {
    let server = Server::start();
    let long = "i".repeat(257);
    let file = format!(
        "batch=thirdPartyId,name,town\ngood-1,Ann%20B,K%C3%B6ln\nbad,%zz,x\na/b,x,y\n{long},x,y\nbad-4,1,2,3\ngood-2,,\ngood-3,C\n"
    );
    let reply = upload(&server, BULK_V2, &file).expect(200);
    let path = status_path(&server, &reply);
    let status = complete(&server, &path);
    assert_eq!(xml::number(&status, "batchSize"), 7, "{status}");
    assert_eq!(xml::number(&status, "successfulUpdates"), 2, "{status}");
    assert_eq!(xml::number(&status, "failedUpdates"), 4, "{status}");
    let by = |id: &str| server.get(&format!("/rest/v1/profiles/thirdPartyId/{id}?client=demo"));
    assert_eq!(by("good-1").expect(200).json()["profileAttributes"]["town"]["value"], "Köln");
    by("good-2").expect(404);
    by("bad").expect(404);

    let errors = format!("/m2/demo/profile/batchErrors?batchId={}", batch_id(&path));
    let csv = server.send(&Request::get(&errors).header("Accept", "text/csv")).expect(200);
    assert!(csv.header("content-type").starts_with("text/csv"), "{:?}", csv.headers);
    let csv = csv.text();
    let lines: Vec<_> = csv.lines().collect();
    assert_eq!(lines[0], "line,column,reason", "{csv}");
    let numbers: Vec<_> = lines[1..].iter().map(|l| l.split(',').next().unwrap_or_default()).collect();
    assert_eq!(numbers, ["3", "4", "5", "6"], "{csv}");
    assert!(lines[1].starts_with("3,name,"), "{csv}");

    let json = server.send(&Request::get(&errors).header("Accept", "application/json")).expect(200).json();
    let rows = json["errors"].as_array().or_else(|| json.as_array()).unwrap_or_else(|| panic!("{json}"));
    let read: Vec<_> = rows.iter().map(|r| r["line"].as_u64().unwrap_or_default()).collect();
    assert_eq!(read, [3, 4, 5, 6], "{json}");
    assert_eq!(rows[0]["column"], "name", "{json}");
    assert!(rows.iter().all(|r| r["reason"].as_str().is_some_and(|t| !t.is_empty())), "{json}");
}

#[test]
fn a_file_that_is_none_is_refused_with_line_and_reason() {
    let server = Server::start();
    let cases = [
        ("", "batch="),
        ("pcId,a\n1,2\n", "batch="),
        ("batch=shoeSize,a\n1,2\n", "shoeSize"),
        ("batch=pcId,a,a\n1,2\n", "a"),
        ("batch=pcId,visitCount\n1,2\n", "visitCount"),
        ("batch=pcId,%zz\n1,2\n", "1"),
    ];
    for (file, named) in cases {
        let reply = upload(&server, BULK_V2, file).expect(400).text();
        assert!(reply.starts_with("<response><success>false</success>"), "{file:?}: {reply}");
        assert!(xml::text(&reply, "message").is_some_and(|m| m.contains(named)), "{file:?}: {reply}");
    }
    fetch(&server, "1").expect(404);
}

#[test]
fn line_ends_and_content_types_do_not_matter() {
    let server = Server::start();
    let windows = EXAMPLE.replace('\n', "\r\n");
    let cases = [
        ("text/csv", windows.as_str()),
        ("application/octet-stream", EXAMPLE.trim_end()),
        ("text/plain; charset=utf-8", EXAMPLE),
    ];
    for (content_type, file) in cases {
        let reply = server.send(&Request::post(BULK_V2, content_type, file)).expect(200);
        let status = complete(&server, &status_path(&server, &reply));
        assert_eq!(details(&status), [2, 2, 0, 0], "{content_type}: {status}");
    }
    assert_eq!(attribute(&server, "124", "param2").as_deref(), Some("value2"), "no carriage return in a value");
}

fn ask_json(server: &Server, path: &str) -> Value {
    server.send(&Request::get(path).header("Accept", "application/json")).expect(200).json()
}

/// The status path in a JSON submit reply.
fn json_status_path(reply: &Response) -> String {
    let body = reply.json();
    let id = body["batchId"].as_str().unwrap_or_else(|| panic!("no batchId in {body}"));
    format!("/m2/demo/profile/batchStatus?batchId={id}")
}

#[test]
fn ndjson_in_and_json_out() {
    let server = Server::start();
    let body = "{\"pcId\":\"j1\",\"a\":\"1\"}\n{\"pcId\":\"j2\",\"a\":\"ü\",\"b\":\"\"}\n";
    let request = Request::post(BULK_V2, "application/x-ndjson", body).header("Accept", "application/json");
    let reply = server.send(&request).expect(200);
    let path = json_status_path(&reply);
    complete(&server, &path);
    let status = ask_json(&server, &format!("{path}&showDetails=true"));
    assert_eq!((&status["status"], &status["batchSize"]), (&json!("complete"), &json!(2)), "{status}");
    assert_eq!(status["successfulUpdates"], 2, "{status}");
    assert_eq!(attribute(&server, "j2", "a").as_deref(), Some("ü"));
    let native =
        server.get(&path.replace("/m2/demo/profile/batchStatus?batchId=", "/v1/demo/batches/")).expect(200).json();
    assert_eq!(native["status"], "complete", "{native}");
}

#[test]
fn compressed_bodies_are_unpacked() {
    let server = Server::start();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(EXAMPLE.as_bytes()).expect("memory");
    let gzip = gzip.finish().expect("memory");
    let zstd = zstd::encode_all(EXAMPLE.as_bytes(), 1).expect("memory");
    for (encoding, body) in [("gzip", gzip), ("zstd", zstd)] {
        let request = Request::post(BULK_V2, "text/csv", body.clone()).header("Content-Encoding", encoding);
        let reply = server.send(&request).expect(200);
        let status = complete(&server, &status_path(&server, &reply));
        assert_eq!(details(&status), [2, 2, 0, 0], "{encoding}: {status}");

        let cut = Request::post(BULK_V2, "text/csv", &body[..body.len() - 5]).header("Content-Encoding", encoding);
        let reply = server.send(&cut).expect(400).text();
        assert!(reply.contains("<success>false</success>"), "{encoding}, cut: {reply}");
    }
    let unknown = Request::post(BULK_V2, "text/csv", EXAMPLE).header("Content-Encoding", "br");
    let reply = server.send(&unknown).expect(415).text();
    assert!(reply.contains("br"), "{reply}");
}

#[test]
fn a_dry_run_reports_and_stores_nothing() {
    let server = Server::start();
    let file = "batch=pcId,a\ndry-1,1\ndry-2,%zz\n";
    let request =
        Request::post(&format!("{BULK_V2}?dryRun=true"), "text/csv", file).header("Accept", "application/json");
    let report = server.send(&request).expect(200).json();
    let text = report.to_string();
    assert!(text.contains("\"line\":3"), "{text}");
    fetch(&server, "dry-1").expect(404);
}

#[test]
fn the_same_key_is_the_same_batch() {
    let server = Server::start();
    let send = |file: &str| server.send(&Request::post(BULK_V2, "text/csv", file).header("Idempotency-Key", "k-1"));
    let first = send(EXAMPLE).expect(200);
    let path = status_path(&server, &first);
    complete(&server, &path);
    let second = send(EXAMPLE).expect(200);
    assert_eq!(status_path(&server, &second), path);
    let status = complete(&server, &path);
    assert_eq!(details(&status), [2, 2, 0, 0], "nothing is counted twice: {status}");

    // Another file under a used key is a mistake, not a retry.
    let other = send("batch=pcId,a\nother,1\n");
    assert!(matches!(other.status, 409 | 422), "{} {}", other.status, other.text());
    assert!(other.text().contains("<success>false</success>"), "{}", other.text());
    fetch(&server, "other").expect(404);
}

#[test]
fn an_unknown_batch_is_named() {
    let server = Server::start();
    for path in ["profile/batchStatus", "profile/batchErrors"] {
        let reply = server.get(&format!("/m2/demo/{path}?batchId=demo-1-x"));
        assert_eq!(reply.status, 404, "{path}");
        assert!(reply.text().contains("demo-1-x"), "{path}: {}", reply.text());
    }
    let problem = server.get("/v1/demo/batches/demo-1-x").expect(404);
    assert_eq!(problem.header("content-type"), "application/problem+json");
}

#[test]
fn later_rows_and_later_batches_win() {
    let server = Server::start();
    upload_all(&server, BULK_V2, "batch=pcId,a,b\nw,1,1\nw,2,\n");
    assert_eq!(attribute(&server, "w", "a").as_deref(), Some("2"));
    assert_eq!(attribute(&server, "w", "b").as_deref(), Some("1"));
    upload_all(&server, BULK_V2, "batch=pcId,b\nw,3\n");
    assert_eq!(attribute(&server, "w", "b").as_deref(), Some("3"));
}
