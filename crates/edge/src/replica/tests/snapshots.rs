//! Snapshots: what is loaded from one is what was there, the newest intact one is used, and none that does not fit.

use std::path::PathBuf;

use cameo_snapshot::{Folder, Listed, Plan, Store};

use super::*;
use crate::config::SnapshotConfig;
use crate::{SnapshotOutcome, SnapshotTaken};

/// A replica in a directory of its own, with the snapshots of the test.
fn with_snapshots(dir: &TempDir, node: &str, every: Duration) -> EdgeConfig {
    let own = dir.path().join(node);
    EdgeConfig {
        checkpoint_dir: own.join("checkpoint"),
        snapshots: Some(SnapshotConfig {
            store: Store::Folder(Folder::new(dir.path().join("snapshots"))),
            every,
            node: node.into(),
            work_dir: own.join("tmp"),
            removes: true,
        }),
        ..config(dir)
    }
}

fn unasked(dir: &TempDir, node: &str) -> EdgeConfig {
    with_snapshots(dir, node, Duration::ZERO)
}

fn listed(dir: &TempDir) -> Vec<Listed> {
    let store = Store::Folder(Folder::new(dir.path().join("snapshots")));
    block_on(store.list()).unwrap()
}

fn file(dir: &TempDir, partition: u16, generation: usize, log: &MemoryLog) -> PathBuf {
    let plan = Plan::new(log.id(), log.partitions(), listed(dir));
    dir.path().join("snapshots").join(plan.of[usize::from(partition)][generation].name.to_string())
}

fn visit_all<L: EventLog>(replica: &Replica<L>, ids: std::ops::Range<u32>) {
    let ids: Vec<_> = ids.map(|n| format!("tnt:v{n}")).collect();
    let mut call = replica.start_call(ids.len());
    for (n, id) in ids.iter().enumerate() {
        call.add(Partition((n % 4) as u16), &visit(id), None);
    }
    assert!(block_on(call.wait()).into_iter().all(|answer| answer.is_ok()));
}

/// All but the position that a snapshot has is trimmed away.
fn trim(log: &MemoryLog, upto: &[SnapshotTaken]) {
    let upto: Vec<_> = upto.iter().map(|taken| (taken.partition, taken.position)).collect();
    block_on(log.trim(&upto, LogTime(NOW + 1_000_000))).unwrap();
}

fn refusal(config: &EdgeConfig, log: &Arc<MemoryLog>) -> String {
    match Replica::open(config, Arc::clone(log)) {
        Ok(_) => panic!("it started"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn an_empty_disk_joins_from_snapshots_and_the_tail() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Arc::new(memory_log(4).0));
    let replica = Replica::open(&unasked(&dir, "one"), Arc::clone(&log)).unwrap();
    visit_all(&replica, 0..2000);
    let taken = block_on(replica.take_snapshots()).unwrap();
    assert!(taken.iter().all(|taken| matches!(taken.outcome, SnapshotOutcome::Taken(_))), "{taken:?}");
    let again = block_on(replica.take_snapshots()).unwrap();
    assert!(again.iter().all(|taken| taken.outcome == SnapshotOutcome::Current), "{again:?}");
    trim(&log, &taken);
    visit_all(&replica, 1000..2500);
    assert!(log.first(P0) > Position(1));
    let joined = Replica::open(&unasked(&dir, "two"), Arc::clone(&log)).unwrap();
    assert_eq!(joined.digests(), replica.digests());
    visit_all(&joined, 0..10);
    let before = joined.digests();
    drop(joined);
    // What was loaded is in its checkpoint now: it starts without snapshots, and goes on from there.
    std::fs::remove_dir_all(dir.path().join("snapshots")).unwrap();
    let joined = Replica::open(&unasked(&dir, "two"), Arc::clone(&log)).unwrap();
    assert_eq!(joined.digests(), before);
    wait_until("the same everywhere", || joined.digests() == replica.digests());
}

#[test]
fn a_checkpoint_that_the_log_has_left_behind_is_replaced_whole() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Arc::new(memory_log(4).0));
    let late = Replica::open(&unasked(&dir, "late"), Arc::clone(&log)).unwrap();
    visit_all(&late, 0..100);
    drop(late);
    let replica = Replica::open(&unasked(&dir, "one"), Arc::clone(&log)).unwrap();
    for n in 0..50 {
        let id = format!("tnt:v{n}");
        let partition = Partition((n % 4) as u16);
        block_on(replica.submit(partition, &Event::Erase(Erase { client: "demo", address: &id, ..Erase::default() })))
            .unwrap();
    }
    visit_all(&replica, 100..200);
    trim(&log, &block_on(replica.take_snapshots()).unwrap());
    let late = Replica::open(&unasked(&dir, "late"), Arc::clone(&log)).unwrap();
    assert_eq!(late.digests(), replica.digests());
    drop(late);
    // What was erased meanwhile does not come back from the old checkpoint.
    let late = Replica::open(&unasked(&dir, "late"), Arc::clone(&log)).unwrap();
    assert_eq!(late.digests(), replica.digests());
    assert_eq!(visits(&late, "tnt:v0"), 0);
}

#[test]
fn a_damaged_snapshot_is_passed_over_and_without_another_the_start_names_the_positions() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Arc::new(memory_log(4).0));
    let replica = Replica::open(&unasked(&dir, "one"), Arc::clone(&log)).unwrap();
    visit_all(&replica, 0..400);
    let older = block_on(replica.take_snapshots()).unwrap();
    visit_all(&replica, 400..800);
    block_on(replica.take_snapshots()).unwrap();
    visit_all(&replica, 800..1200);
    trim(&log, &older);
    let newest = file(&dir, 0, 0, &log);
    let mut bytes = std::fs::read(&newest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(newest, bytes).unwrap();
    let joined = Replica::open(&unasked(&dir, "two"), Arc::clone(&log)).unwrap();
    assert_eq!(joined.digests(), replica.digests());
    drop(joined);

    std::fs::write(file(&dir, 0, 1, &log), b"nothing").unwrap();
    let text = refusal(&unasked(&dir, "three"), &log);
    for said in ["partition 0", "position 0", "the log starts at", "does not begin like a snapshot"] {
        assert!(text.contains(said), "{said}: {text}");
    }
    let text = refusal(&EdgeConfig { snapshots: None, ..unasked(&dir, "three") }, &log);
    assert!(text.contains("there are no snapshots"), "{text}");
    // Of the other partitions half may have been loaded by then: the next start begins again.
    for generation in 0..2 {
        std::fs::copy(file(&dir, 1, 0, &log), file(&dir, 0, generation, &log)).unwrap();
    }
    let text = refusal(&unasked(&dir, "three"), &log);
    assert!(text.contains("it is of another partition, position or log"), "{text}");
}

#[test]
fn snapshots_are_taken_unasked_kept_in_two_generations_and_the_log_is_kept_for_them() {
    // By the clock of the machine, as the files of the folder are.
    let (dir, log) = (tempfile::tempdir().unwrap(), Arc::new(MemoryLog::new(PartitionCount::new(1).unwrap())));
    let config = EdgeConfig {
        checkpoint_every: Duration::from_millis(50),
        ..with_snapshots(&dir, "one", Duration::from_millis(100))
    };
    let replica = Replica::open(&config, Arc::clone(&log)).unwrap();
    let mut seen = Vec::new();
    wait_until("five generations", || {
        block_on(replica.submit(P0, &visit("tnt:a"))).unwrap();
        let mut now: Vec<_> = listed(&dir).into_iter().map(|one| one.name.position).collect();
        now.sort_unstable();
        seen.extend(now.last().copied().filter(|newest| !seen.contains(newest)));
        seen.len() >= 5
    });
    wait_until("two that are left", || listed(&dir).len() == 2);
    drop(replica);
    let plan = Plan::new(log.id(), log.partitions(), listed(&dir));
    assert_eq!(plan.of[0].len(), 2, "{plan:?}");
    // A start alone takes none of what is there away.
    let joined = Replica::open(&unasked(&dir, "two"), Arc::clone(&log)).unwrap();
    assert_eq!(joined.digests()[0].0, log.last(P0));
}
