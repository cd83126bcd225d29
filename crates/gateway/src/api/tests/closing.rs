//! A batch that is complete stays complete, whatever the partitions forget; one that is not is never doubled.

use cameo_profile::event::{BatchClosed, BatchOpened};
use cameo_profile::state::BatchHead;
use cameo_profile::{Event, Partition, limits};

use super::*;
use crate::ledger::Folded as _;

impl Site {
    fn head(&self, id: &str) -> BatchHead {
        self.ledger.head_now(id).unwrap()
    }

    /// Waits until the head has the counts.
    async fn closed(&self, id: &str) {
        let started = Instant::now();
        while self.head(id).closed.is_none() {
            assert!(started.elapsed() < Duration::from_secs(60));
            tokio::task::yield_now().await;
        }
    }

    /// So many other batches pass through a partition that it forgets what it can.
    async fn flood(&self, partition: Partition) {
        for n in 0..limits::BATCHES_REMEMBERED + 10 {
            let batch = format!("flood-{n}");
            let opened = BatchOpened { client: "other", batch: &batch, ..BatchOpened::default() };
            self.ledger.append(partition, &Event::BatchOpened(opened)).await.unwrap();
            let closed = BatchClosed { client: "other", batch: &batch, ..BatchClosed::default() };
            self.ledger.append(partition, &Event::BatchClosed(closed)).await.unwrap();
        }
    }

    /// Where the head of a batch is not.
    fn others(&self, id: &str) -> Vec<Partition> {
        let has = |p| self.ledger.read(p, |state, _| state.batch_head("demo", id).is_some()).unwrap();
        self.ledger.partitions().iter().filter(|partition| !has(*partition)).collect()
    }

    fn counted_by_partitions(&self, id: &str) -> u64 {
        crate::status::sum(&self.ledger.parts_now(id)).consumed()
    }
}

fn file(rows: usize) -> String {
    let rows: String = (0..rows).map(|n| format!("id-{n},{n},{}\n", "v".repeat(100))).collect();
    format!("batch=pcId,n,v\n{rows}bad,%,\n")
}

#[tokio::test]
async fn a_complete_batch_stays_complete_when_partitions_forget_it() {
    let site = Site::new();
    let key = [("Idempotency-Key", "k")];
    let id = site.post(V2, &key, file(200)).await.batch();
    let done = site.settled(&id).await;
    site.closed(&id).await;
    assert_eq!((&done["status"], counts(&done)), (&"complete".into(), [201, 200, 0, 1]));
    for partition in site.others(&id) {
        site.flood(partition).await;
    }
    assert!(site.counted_by_partitions(&id) < 200, "the partitions have forgotten");
    assert_eq!(site.batch(&id).await, done);
    assert_eq!(site.post(V2, &key, file(200)).await.batch(), id);
    assert_eq!(site.batch(&id).await, done, "neither stuck nor under way again");
    assert!(site.counted_by_partitions(&id) < 200, "no row was sent again");
}

#[tokio::test]
async fn the_same_file_again_never_turns_a_complete_batch_incomplete() {
    let files = [EXAMPLE, "batch=pcId,a\nx,%\n", "batch=pcId,a\nx,\n", "batch=pcId,a\n"];
    let site = Site::new();
    for (n, file) in files.into_iter().enumerate() {
        let key = format!("k{n}");
        let key = [("Idempotency-Key", &*key)];
        let id = site.post(V2, &key, file).await.batch();
        let done = site.settled(&id).await;
        assert_eq!(done["status"], "complete");
        site.closed(&id).await;
        for _ in 0..3 {
            assert_eq!(site.post(V2, &key, file).await.batch(), id);
            assert_eq!(site.batch(&id).await, done, "{file:?}");
        }
    }
}

#[tokio::test]
async fn a_batch_is_closed_in_spite_of_faults() {
    use Fate::{Applied, Refused, Unknown};
    for fates in [&[Applied, Refused, Refused][..], &[Applied, Unknown], &[Unknown, Refused, Unknown]] {
        let site = Site::over(Fake::new(1));
        site.ledger.fates(fates);
        let id = site.post(V2, &[], EXAMPLE).await.batch();
        site.closed(&id).await;
        assert_eq!(counts(&site.batch(&id).await), [2, 2, 0, 0], "{fates:?}");
    }
}

/// Uploads a file to a log that hangs half-way, and gives what is left of it after a restart.
fn half_way(key: &[(&str, &str)], rows: usize) -> (Arc<Fake>, String) {
    let ledger = Fake::new(4);
    ledger.fates(&[Fate::Applied, Fate::Applied, Fate::Applied, Fate::Applied, Fate::Hangs]);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (site, id) = runtime.block_on(async {
        let site = Site::over(ledger);
        let id = site.post(V2, key, file(rows)).await.batch();
        site.until(|_| site.ledger.hangs(), &id).await;
        (site, id)
    });
    let Site { gateway, ledger, _spool } = site;
    drop(gateway);
    drop(runtime);
    (ledger.revived(), id)
}

#[test]
fn what_is_known_of_an_open_batch_outlives_thousands_of_newer_ones() {
    const ROWS: usize = 12_000;
    let key = [("Idempotency-Key", "k")];
    let (ledger, id) = half_way(&key, ROWS);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let site = Site::over(ledger);
        let before = site.batch(&id).await;
        assert_eq!(before["status"], "stuck");
        for partition in site.ledger.partitions().iter() {
            site.flood(partition).await;
        }
        assert_eq!(site.batch(&id).await, before);
        assert_eq!(site.post(V2, &key, file(ROWS)).await.batch(), id);
        let done = site.settled(&id).await;
        assert_eq!((&done["status"], counts(&done)), (&"complete".into(), [ROWS as u64 + 1, ROWS as u64, 0, 1]));
        // A row that was applied twice would have found the profile that it made.
        assert_eq!((&done["createdProfiles"], site.ledger.profiles()), (&ROWS.into(), ROWS));
    });
}

#[test]
fn an_open_batch_whose_rows_may_be_forgotten_is_not_gone_on_with() {
    const ROWS: usize = 6_000;
    let key = [("Idempotency-Key", "k")];
    let (ledger, id) = half_way(&key, ROWS);
    ledger.pass(limits::BATCH_KEPT_MS);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let site = Site::over(ledger);
        let profiles = site.ledger.profiles();
        let reply = site.post(V2, &key, file(ROWS)).await;
        assert_eq!(reply.status, 409, "{}", reply.text);
        let says = format!("batch {id} of this Idempotency-Key was never completed");
        assert!(reply.text.contains(&says) && reply.text.contains("30 days"), "{}", reply.text);
        assert_eq!(site.ledger.profiles(), profiles);
        assert_eq!(site.batch(&id).await["status"], "stuck");
    });
}
