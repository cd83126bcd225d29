//! Keys, and what is left of a batch when the log or the process fails half-way.

use super::*;

fn file(rows: usize) -> String {
    let rows: String = (0..rows).map(|n| format!("id-{n},{n},{}\n", "v".repeat(100))).collect();
    format!("batch=pcId,n,v\n{rows}bad,%,\n")
}

/// Rows of [`file`]: about forty events in four partitions.
const ROWS: usize = 12_000;

#[tokio::test]
async fn one_key_is_one_batch() {
    let site = Site::new();
    let key = [("Idempotency-Key", "k1")];
    let first = site.post(V2, &key, EXAMPLE).await.batch();
    let done = site.settled(&first).await;
    assert_eq!(site.post(V2, &key, EXAMPLE).await.batch(), first);
    assert_eq!(site.batch(&first).await, done, "nothing is counted twice, nor under way again");
    assert_ne!(site.post(V2, &[("Idempotency-Key", "k2")], EXAMPLE).await.batch(), first);
    let other = site.post(V2, &key, "batch=pcId,a\nx,1\n").await;
    let named = format!("this Idempotency-Key belongs to batch {first}, of another file; nothing was stored");
    assert_eq!((other.status.as_u16(), other.text.contains(&named)), (409, true), "{}", other.text);
    let other = site.post(V3, &key, EXAMPLE).await;
    assert_eq!((other.status.as_u16(), other.text.contains("of version 2 of the API")), (409, true), "{}", other.text);
    assert_eq!(site.ledger.value(Kind::Tnt, "x", "a"), None);
    // Another client's key is another key.
    let elsewhere = site.post("/m2/other/v2/profile/batchUpdate", &key, EXAMPLE).await;
    assert!(elsewhere.batch().starts_with("other-"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn uploads_with_one_key_meet() {
    let site = Arc::new(Site::new());
    let uploads: Vec<_> = (0..6)
        .map(|_| {
            let site = Arc::clone(&site);
            tokio::spawn(async move { site.post(V2, &[("Idempotency-Key", "k")], file(ROWS)).await.batch() })
        })
        .collect();
    let mut ids = std::collections::HashSet::new();
    for upload in uploads {
        ids.insert(upload.await.unwrap());
    }
    assert_eq!(ids.len(), 1);
    let batch = site.settled(ids.iter().next().unwrap()).await;
    assert_eq!((counts(&batch), &batch["status"]), ([ROWS as u64 + 1, ROWS as u64, 0, 1], &"complete".into()));
    assert_eq!(site.ledger.profiles(), ROWS);
}

#[tokio::test]
async fn faults_of_the_log_lose_and_double_nothing() {
    use Fate::{Applied, Refused, Unknown};
    let cases: [&[Fate]; 4] = [
        &[Refused, Refused, Refused],
        &[Applied, Applied, Refused, Applied, Applied, Applied, Applied, Unknown],
        &[Unknown, Unknown, Unknown, Applied, Refused, Applied],
        &[Applied, Refused, Unknown, Refused, Unknown, Refused, Unknown, Applied, Refused],
    ];
    for fates in cases {
        let site = Site::new();
        site.ledger.fates(fates);
        let batch = site.upload(V2, file(ROWS)).await;
        assert_eq!(batch["status"], "complete", "{fates:?}");
        assert_eq!(counts(&batch), [ROWS as u64 + 1, ROWS as u64, 0, 1], "{fates:?}");
        assert_eq!((&batch["createdProfiles"], site.ledger.profiles()), (&ROWS.into(), ROWS), "{fates:?}");
    }
}

#[test]
fn a_process_that_dies_half_way_leaves_a_batch_that_the_same_upload_completes() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let key = [("Idempotency-Key", "again")];
    let ledger = Fake::new(4);
    let mut fates = vec![Fate::Applied; 10];
    fates.push(Fate::Hangs);
    ledger.fates(&fates);

    let first = runtime();
    let (site, id, before) = first.block_on(async {
        let site = Site::over(ledger);
        let id = site.post(V2, &key, file(ROWS)).await.batch();
        let before = site.until(|_| site.ledger.hangs(), &id).await;
        (site, id, before)
    });
    assert_eq!(before["status"], "incomplete");
    let Site { gateway, ledger, _spool } = site;
    drop(gateway);
    // The process is gone with everything in it but the log.
    drop(first);

    runtime().block_on(async {
        let site = Site::over(ledger.revived());
        let stuck = site.batch(&id).await;
        assert_eq!(stuck["status"], "stuck");
        let says = stuck["message"].as_str().unwrap();
        assert!(says.contains("send the same file again") && says.contains("same Idempotency-Key"), "{says}");
        let xml = site.get(&format!("/m2/demo/profile/batchStatus?batchId={id}")).await.text;
        let size = ROWS + 1;
        let exact =
            format!("<response><batchId>{id}</batchId><status>stuck</status><batchSize>{size}</batchSize></response>");
        assert_eq!(xml, exact, "XML has no place for more");
        let [consumed, updated, not_found, failed] = counts(&stuck);
        assert_eq!((consumed, not_found, failed), (updated + 1, 0, 1), "{stuck}");
        assert_eq!(updated as usize, site.ledger.profiles());
        assert!(updated > 0 && (updated as usize) < ROWS, "{stuck}");
        let errors = site.get(&format!("/m2/demo/profile/batchErrors?batchId={id}")).await.text;
        assert!(errors.starts_with(&format!("line,column,reason\n{},n,", ROWS + 2)), "{errors}");

        site.ledger.pass(1000);
        assert_eq!(site.post(V2, &key, file(ROWS)).await.batch(), id);
        let done = site.settled(&id).await;
        assert_eq!((&done["status"], counts(&done)), (&"complete".into(), [ROWS as u64 + 1, ROWS as u64, 0, 1]));
        assert_eq!(done.get("message"), None);
        assert_eq!((&done["createdProfiles"], site.ledger.profiles()), (&ROWS.into(), ROWS));
        assert_eq!(done["openedAt"], stuck["openedAt"], "the rows keep their time");
        assert_eq!(site.ledger.value(Kind::Tnt, "id-11999", "n").as_deref(), Some("11999"));
        let errors_after = site.get(&format!("/m2/demo/profile/batchErrors?batchId={id}")).await.text;
        assert_eq!(errors_after, errors);
    });
}

#[tokio::test]
async fn another_gateway_may_be_at_it_for_a_minute() {
    let site = Site::new();
    let id = site.post(V2, &[], EXAMPLE).await.batch();
    site.settled(&id).await;
    let client = ClientCode::new("demo").unwrap();
    let mut head = site.ledger.head_now(&id).unwrap();
    // As if one more row were missing, and nobody had closed it.
    head.rows_to_apply += 1;
    head.closed = None;
    let running = crate::submit::Running::default();
    let text = async |alone| {
        let status = crate::status::of(&*site.ledger, &running, alone, &client, head.clone()).await;
        status.unwrap().stage.text()
    };
    assert_eq!((text(true).await, text(false).await), ("stuck", "incomplete"));
    site.ledger.pass(60_000);
    assert_eq!(text(false).await, "stuck");
}

#[tokio::test]
async fn closing_lets_submissions_finish() {
    let site = Site::new();
    let id = site.post(V2, &[], file(ROWS)).await.batch();
    site.gateway.close().await;
    assert_eq!(site.batch(&id).await["status"], "complete");
    let late = site.post(V2, &[], EXAMPLE).await;
    assert_eq!((late.status.as_u16(), &late.headers["retry-after"]), (503, &"5".parse().unwrap()));
}
