//! Every limit of an upload: its error, and that nothing was stored.

use cameo_profile::event::BatchOpened;
use cameo_profile::{Event, Partition, limits};

use super::*;
use crate::bounds;
use crate::ledger::Ledger as _;

struct Case {
    path: &'static str,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    status: u16,
    says: &'static str,
}

fn case(path: &'static str, body: impl Into<Vec<u8>>, status: u16, says: &'static str) -> Case {
    Case { path, headers: Vec::new(), body: body.into(), status, says }
}

fn with(name: &'static str, value: impl Into<String>, case: Case) -> Case {
    Case { headers: vec![(name, value.into())], ..case }
}

#[tokio::test]
async fn what_is_refused_says_why_and_stores_nothing() {
    let long = |bytes: usize| {
        let row = format!("x,{}\n", "v".repeat(60_000));
        let rows = row.as_bytes().iter().copied().cycle();
        b"batch=pcId,a\n".iter().copied().chain(rows).take(bytes).collect::<Vec<_>>()
    };
    let packed = zstd::encode_all(&long(bounds::BODY_BYTES)[..], 1).unwrap();
    let window = {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.set_parameter(zstd::stream::raw::CParameter::WindowLog(24)).unwrap();
        encoder.write_all(&long(17 << 20)).unwrap();
        encoder.finish().unwrap()
    };
    let too_large = "a bulk file must be under 50 MB (52428800 bytes), unpacked";
    let cases = [
        case(V2, long(bounds::BODY_BYTES), 413, too_large),
        with("Content-Encoding", "zstd", case(V2, packed, 413, too_large)),
        with("Content-Encoding", "zstd", case(V2, window, 400, "the body is not valid zstd")),
        case(
            V2,
            [b"batch=pcId,a\n", "x,1\n".repeat(500_001).as_bytes()].concat(),
            413,
            "line 500002, column 1: the file has more than 500000 rows",
        ),
        case(V2, "batch=pcId,a,a\nx,1,2\n", 400, "line 1, column 3: attribute \"a\" is named twice, first in column 2"),
        case(V2, "", 400, "line 1, column 1: the file is empty"),
        with(
            "Idempotency-Key",
            "k".repeat(256),
            case(V2, EXAMPLE, 400, "Idempotency-Key has 256 characters; it takes 1 to 255"),
        ),
        with("Idempotency-Key", "", case(V2, EXAMPLE, 400, "Idempotency-Key has 0 characters; it takes 1 to 255")),
        with("Idempotency-Key", "é", case(V2, EXAMPLE, 400, "Idempotency-Key must be printable ASCII")),
        case("/m2/demo/v2/profile/batchUpdate?dryRun=yes", EXAMPLE, 400, "dryRun must be true or false"),
        case("/m2/demo/v2/profile/batchUpdate?dryRun=%zz", EXAMPLE, 400, "dryRun has a bad escape"),
        case("/m2/nobody/v2/profile/batchUpdate", EXAMPLE, 404, "there is no client \"nobody\" here"),
    ];
    let site = Site::new();
    for Case { path, headers, body, status, says } in cases {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, &**value)).collect();
        let reply = site.post(path, &headers, body).await;
        let start = "<response><success>false</success><message>";
        assert!(reply.text.starts_with(start) && reply.text.contains(says), "{says}: {}", reply.text);
        assert_eq!(reply.status, status, "{}", reply.text);
    }
    assert_eq!(site.ledger.profiles(), 0);
    assert_eq!(site.json("/v1/demo/batches").await["batches"], Value::from(Vec::<Value>::new()));
    let longest = "k".repeat(255);
    site.post(V2, &[("Idempotency-Key", &longest)], long(bounds::BODY_BYTES - 1)).await.batch();
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let site = Site::new();
    site.post("/m2/other/v2/profile/batchUpdate", &[], EXAMPLE).await.batch();
    for name in ["batchStatus", "batchErrors"] {
        for (query, status, says) in [
            ("batchId=demo-1-x", 404, "client demo has no batch \"demo-1-x\""),
            ("", 400, "batchId is missing"),
            ("batchId=a&batchId=b", 400, "batchId is given more than once"),
        ] {
            let reply = site.get(&format!("/m2/demo/profile/{name}?{query}")).await;
            assert_eq!(reply.status, status, "{}", reply.text);
            let text = format!("<response><success>false</success><message>{says}</message></response>");
            assert_eq!(reply.text, text);
        }
        assert_eq!(site.get(&format!("/m2/nobody/profile/{name}?batchId=x")).await.status, 404);
    }
    for path in ["/v1/demo/batches/demo-1-x", "/v1/nobody/batches", "/v1/nobody/batches/x"] {
        let reply = site.get(path).await;
        assert_eq!(
            (reply.status.as_u16(), &reply.headers["content-type"]),
            (404, &"application/problem+json".parse().unwrap())
        );
    }
}

#[tokio::test]
async fn uploads_at_once_are_bounded() {
    let site = Site::new();
    site.ledger.fates(&[Fate::Hangs]);
    for _ in 0..bounds::UPLOADS {
        site.post(V2, &[], EXAMPLE).await.batch();
    }
    let reply = site.post(V2, &[], EXAMPLE).await;
    assert_eq!((reply.status.as_u16(), &reply.headers["retry-after"]), (429, &"1".parse().unwrap()), "{}", reply.text);
    assert!(reply.text.contains("8 uploads are under way"), "{}", reply.text);
}

#[tokio::test]
async fn uploads_that_wait_for_the_disk_are_why_no_other_is_taken() {
    let site = Site::new();
    site.ledger.fates(&vec![Fate::NoRoom; 10_000]);
    let mut waiting = Vec::new();
    for _ in 0..bounds::UPLOADS {
        waiting.push(site.post(V2, &[], EXAMPLE).await.batch());
    }
    let started = Instant::now();
    let reply = loop {
        let reply = site.post(V2, &[], EXAMPLE).await;
        if reply.text.contains("the log's disk is full: 8 uploads wait for room") {
            break reply;
        }
        assert!(matches!(reply.status.as_u16(), 429 | 507), "{}", reply.text);
        assert!(started.elapsed() < Duration::from_secs(60), "{}", reply.text);
        tokio::task::yield_now().await;
    };
    assert_eq!((reply.status.as_u16(), &reply.headers["retry-after"]), (507, &"5".parse().unwrap()));
    // There is room again: all go on by themselves, and others are taken.
    site.ledger.fates(&[]);
    for id in waiting {
        assert_eq!(site.settled(&id).await["status"], "complete");
    }
    let started = Instant::now();
    while site.post(V2, &[], EXAMPLE).await.status != 200 {
        assert!(started.elapsed() < Duration::from_secs(60));
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_report_is_bounded_and_says_so() {
    let site = Site::new();
    let rows = "x,%\n".repeat(10_001);
    let batch = site.upload(V2, format!("batch=pcId,a\n{rows}")).await;
    assert_eq!((counts(&batch), &batch["status"]), ([10_001, 0, 0, 10_001], &"complete".into()));
    let id = batch["batchId"].as_str().unwrap();
    let csv = site.get(&format!("/m2/demo/profile/batchErrors?batchId={id}")).await;
    assert_eq!(csv.text.lines().count(), 10_001);
    assert_eq!(csv.headers["cameo-report-truncated"], "true");
    let json = site.json(&format!("/m2/demo/profile/batchErrors?batchId={id}")).await;
    assert_eq!(json["truncated"], true);
}

#[tokio::test]
async fn a_row_that_its_profile_cannot_take_fails_with_its_line() {
    let site = Site::new();
    let value = "v".repeat(40_000);
    let batch = site.upload(V2, format!("batch=pcId,a,b\nx,{value}\nx,,{value}\ny,1\nz,%\n")).await;
    assert_eq!(counts(&batch), [4, 2, 0, 2], "{batch}");
    let id = batch["batchId"].as_str().unwrap();
    let errors = site.json(&format!("/m2/demo/profile/batchErrors?batchId={id}")).await;
    let lines: Vec<_> = errors["errors"].as_array().unwrap().iter().map(|e| e["line"].as_u64().unwrap()).collect();
    assert_eq!(lines, [3, 5]);
}

/// What a partition has of a batch may be larger than a message between nodes: the ledger of these tests holds to that.
#[tokio::test]
async fn a_report_of_the_most_failed_rows_comes_whole() {
    const ROWS: usize = limits::BATCH_ERRORS_KEPT;
    let site = Site::new();
    let column = "c".repeat(limits::ATTRIBUTE_NAME_CHARS);
    let rows: String = (0..ROWS).map(|n| format!("id-{n},%\n")).collect();
    let key = [("Idempotency-Key", "long")];
    let file = format!("batch=pcId,{column}\n{rows}good,1\n");
    let id = site.post(V2, &key, file.clone()).await.batch();
    let batch = site.settled(&id).await;
    assert_eq!(counts(&batch), [ROWS as u64 + 1, 1, 0, ROWS as u64]);
    let report = site.json(&format!("/m2/demo/profile/batchErrors?batchId={id}")).await;
    assert_eq!(report["truncated"], false);
    let lines: Vec<_> = report["errors"].as_array().unwrap().iter().map(|row| row["line"].as_u64().unwrap()).collect();
    assert_eq!(lines, (2..ROWS as u64 + 2).collect::<Vec<_>>(), "each once, in order");
    assert_eq!(report["errors"][0]["column"], column);
    assert!(report.to_string().len() > 2 * bounds::ANSWER_BYTES, "more than one answer holds");
    assert_eq!(site.ledger.last_error("demo", &id).await, Ok(ROWS as u32 + 1));
}

#[tokio::test]
async fn a_client_with_very_many_batches_has_them_listed() {
    const BATCHES: u32 = 3000;
    let site = Site::new();
    let opened_by = "b".repeat(100);
    for n in 0..BATCHES {
        let (batch, key) = (format!("demo-{n}-{}", "i".repeat(100)), format!("{n:0255}"));
        let opened = BatchOpened {
            client: "demo",
            batch: &batch,
            idempotency_key: Some(&key),
            opened_by: &opened_by,
            opened_at: u64::from(n),
            ..BatchOpened::default()
        };
        site.ledger.append(Partition(1), &Event::BatchOpened(opened)).await.unwrap();
    }
    let heads = site.ledger.heads("demo").await.unwrap();
    let ids: std::collections::HashSet<_> = heads.iter().map(|head| &head.batch).collect();
    assert_eq!((heads.len(), ids.len()), (BATCHES as usize, BATCHES as usize));
}
