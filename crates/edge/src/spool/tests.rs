//! Two calls with one event: who is told that it is spooled can rely on it, also when the other call fails. A call whose
//! caller hangs up while the disk writes: nothing of it is left half done.

use std::fs;
use std::time::Duration;

use cameo_profile::event::Visit;
use futures_util::FutureExt;

use super::*;

fn open(dir: &std::path::Path) -> Arc<Spool> {
    let config = SpoolConfig { dir: dir.join("spool"), max_bytes: MAX_BYTES_DEFAULT };
    Spool::open(&config, PartitionCount::new(4).unwrap()).unwrap()
}

/// A call that has placed its visits, and has heard nothing from the disk.
fn place(spool: &Spool, new: &Read<'_>) -> Placed {
    let mut index = spool.index.lock();
    let mut placed = Placed { own_from: index.next, ..Placed::default() };
    let result = spool.place(&mut index, new, &mut placed);
    placed.results.push(result);
    placed
}

fn visit(event_id: &str) -> Visit<'_> {
    Visit { client: "demo", home: "tnt:a", event_id: Some(event_id), ..Visit::default() }
}

fn new(event_id: &str) -> New {
    let mut encoded = Vec::new();
    Event::Visit(visit(event_id)).encode(&mut encoded);
    New { partition: Partition(1), encoded, in_doubt: false }
}

fn unseen(_: Partition, _: &Visit<'_>) -> bool {
    false
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_what_another_call_could_not_write_is_written_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let given = new("e1");
    let read = given.read().unwrap();

    // The copy is written before the first call fails: it stays.
    let first = place(&spool, &read);
    assert_eq!(spool.put(vec![new("e1")], unseen).await, [Ok(Spooled { first_tnt_id: None })]);
    spool.take_back(&first);
    assert_eq!(spool.level().visits, 1);
    spool.flush().unwrap();
    drop(spool);
    let spool = open(dir.path());
    assert_eq!(spool.level().visits, 1, "it was acknowledged");
    spool.applied(read.partition, &read.visit);

    // The first call fails before the copy is settled: the copy is refused too, unless the log has it.
    for (applied, expected) in [(false, Err(Refused::Disk)), (true, Ok(Spooled { first_tnt_id: None }))] {
        let (first, mut copy) = (place(&spool, &read), place(&spool, &read));
        let records = std::mem::take(&mut copy.records);
        assert_eq!(records.len(), 1);
        spool.take_back(&first);
        assert!(spool.store.add(records).await);
        assert_eq!(spool.settle(std::slice::from_ref(&read), copy, |_, _| applied), [expected]);
        spool.flush().unwrap();
        assert_eq!(spool.level().visits, 0);
    }
    drop(spool);
    assert_eq!(open(dir.path()).level().visits, 0, "nothing is left on disk of what was refused");
}

/// Gives a visit to the spool and hangs up while the disk does not answer; `meanwhile` is what happens until it does.
fn hang_up(
    spool: &Arc<Spool>,
    event_id: &str,
    meanwhile: impl FnOnce(&mut Option<(fjall::Database, fjall::Keyspace)>),
) {
    let mut disk = spool.store.hold_up();
    let before = spool.level().visits;
    assert!(spool.put(vec![new(event_id)], unseen).now_or_never().is_none(), "the caller hangs up");
    while spool.level().visits == before {
        std::thread::yield_now();
    }
    meanwhile(&mut disk);
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let looks = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(20), looks).await.is_ok(), "never came: {what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_hangs_up_leaves_nothing_half_done() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let (place, away) = (dir.path().join("spool"), dir.path().join("away"));

    // The disk fails: what was placed is taken back, and holds up nothing.
    hang_up(&spool, "failed", |disk| {
        *disk = None;
        fs::rename(&place, &away).unwrap();
        fs::write(&place, "").unwrap();
    });
    until("it is taken back", || spool.level().visits == 0).await;
    assert!(!spool.holds(Partition(1)));
    until("nothing of it is under way", || Arc::strong_count(&spool) == 1).await;
    assert!(spool.flush().is_err(), "what was taken back is not known to be gone");
    fs::remove_file(&place).unwrap();
    fs::rename(&away, &place).unwrap();

    // The disk takes it: it is as good as if somebody had been told.
    hang_up(&spool, "written", |_| {});
    until("it is settled", || spool.index.lock().held.values().all(|held| held.unwritten.is_none())).await;
    assert_eq!(spool.put(vec![new("later")], unseen).await, [Ok(Spooled { first_tnt_id: None })]);
    assert_eq!(spool.next(Partition(1)).unwrap(), [new("written").encoded, new("later").encoded]);

    // The log has it, from another node, before the disk does: it does not stay there.
    hang_up(&spool, "applied", |_| spool.applied(Partition(1), &visit("applied")));
    assert_eq!(spool.put(vec![new("last")], unseen).await, [Ok(Spooled { first_tnt_id: None })]);
    until("nothing of it is under way", || Arc::strong_count(&spool) == 1).await;
    spool.flush().unwrap();
    drop(spool);
    assert_eq!(open(dir.path()).level().visits, 3);
}
