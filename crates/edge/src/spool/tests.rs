//! Two calls with one event: who is told that it is spooled can rely on it, also when the other call fails.

use cameo_profile::event::Visit;

use super::*;

fn open(dir: &std::path::Path) -> Arc<Spool> {
    let config = SpoolConfig { dir: dir.join("spool"), max_bytes: MAX_BYTES_DEFAULT };
    Spool::open(&config, PartitionCount::new(4).unwrap()).unwrap()
}

/// A call that has placed its visits, and has heard nothing from the disk.
fn place(spool: &Spool, new: &New<'_>) -> Placed {
    let mut index = spool.index.lock();
    let mut placed = Placed { own_from: index.next, ..Placed::default() };
    let result = spool.place(&mut index, new, &mut placed);
    placed.results.push(result);
    placed
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_what_another_call_could_not_write_is_written_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let visit = Visit { client: "demo", home: "tnt:a", event_id: Some("e1"), ..Visit::default() };
    let new = New { partition: Partition(1), visit: &visit, in_doubt: false };
    let unseen = |_: &New<'_>| false;

    // The copy is written before the first call fails: it stays.
    let first = place(&spool, &new);
    assert_eq!(spool.put(std::slice::from_ref(&new), unseen).await, [Ok(Spooled { first_tnt_id: None })]);
    spool.take_back(&first);
    assert_eq!(spool.level().visits, 1);
    spool.flush().unwrap();
    drop(spool);
    let spool = open(dir.path());
    assert_eq!(spool.level().visits, 1, "it was acknowledged");
    spool.applied(new.partition, &visit);

    // The first call fails before the copy is settled: the copy is refused too, unless the log has it.
    for (applied, expected) in [(false, Err(Refused::Disk)), (true, Ok(Spooled { first_tnt_id: None }))] {
        let (first, mut copy) = (place(&spool, &new), place(&spool, &new));
        let records = std::mem::take(&mut copy.records);
        assert_eq!(records.len(), 1);
        spool.take_back(&first);
        assert!(spool.store.add(records).await);
        assert_eq!(spool.settle(std::slice::from_ref(&new), copy, |_| applied), [expected]);
        spool.flush().unwrap();
        assert_eq!(spool.level().visits, 0);
    }
    drop(spool);
    assert_eq!(open(dir.path()).level().visits, 0, "nothing is left on disk of what was refused");
}
