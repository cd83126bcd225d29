//! A log that nodes share, and that has lost a part: what is concerned stops by itself, at the start too, and keeps its state
//! until the log has everything again.

use cameo_eventlog::memory::MemoryReader;

use super::*;

const P1: Partition = Partition(1);

/// A log whose partition 0 ends before its last frame, as long as a test wants it so.
struct Shared {
    log: MemoryLog,
    lost: Arc<AtomicBool>,
}

struct SharedReader {
    reader: MemoryReader,
    /// What was read, and where the log ends, if that is before.
    ahead: Option<(Position, Position)>,
}

impl LogReader for SharedReader {
    async fn next_batch(&mut self) -> Result<Vec<StoredFrame>, ReadError> {
        match self.ahead {
            Some((asked, last)) => Err(ReadError::Ahead { partition: P0, asked, last, place: "STREAM_0".into() }),
            None => self.reader.next_batch().await,
        }
    }
}

impl EventLog for Shared {
    type Reader = SharedReader;

    fn id(&self) -> LogId {
        self.log.id()
    }

    fn partitions(&self) -> PartitionCount {
        self.log.partitions()
    }

    fn now(&self) -> LogTime {
        self.log.now()
    }

    fn last(&self, partition: Partition) -> Position {
        let last = self.log.last(partition);
        if partition == P0 && self.lost.load(Ordering::SeqCst) { Position(last.0 - 1) } else { last }
    }

    fn first(&self, partition: Partition) -> Position {
        self.log.first(partition)
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn lanes(&self) -> usize {
        2
    }

    fn lane(&self, partition: Partition) -> usize {
        partition.index()
    }

    async fn append(&self, frames: Vec<(Partition, Bytes)>) -> Vec<Result<Position, AppendError>> {
        self.log.append(frames).await
    }

    fn reader(&self, from: Vec<(Partition, Position)>) -> SharedReader {
        let ahead = from.iter().find(|(partition, after)| *after > self.last(*partition));
        let ahead = ahead.map(|(partition, after)| (*after, self.last(*partition)));
        SharedReader { reader: self.log.reader(from), ahead }
    }

    async fn frame(&self, partition: Partition, position: Position, hint: Hint) -> Result<StoredFrame, ReadError> {
        self.log.frame(partition, position, hint).await
    }

    async fn trim(&self, upto: &[(Partition, Position)], older_than: LogTime) -> Result<Trimmed, TrimError> {
        self.log.trim(upto, older_than).await
    }
}

#[test]
fn a_checkpoint_ahead_of_a_part_of_a_shared_log_stops_that_part_alone_and_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let lost = Arc::new(AtomicBool::new(false));
    let log = Arc::new(Shared { log: memory_log(2).0, lost: Arc::clone(&lost) });
    let open = || Replica::open(&config(&dir), Arc::clone(&log)).unwrap();
    let replica = open();
    for partition in [P0, P0, P1] {
        block_on(replica.submit(partition, &visit("tnt:a"))).unwrap();
    }
    let before = replica.digests();
    drop(replica);

    lost.store(true, Ordering::SeqCst);
    for _ in 0..2 {
        let replica = open();
        wait_until("a stopped partition", || !replica.health().halted.is_empty());
        let halted = replica.health().halted;
        assert_eq!(halted.iter().map(|(partition, _)| *partition).collect::<Vec<_>>(), [P0]);
        assert!(halted[0].1.reason.contains("STREAM_0"), "{}", halted[0].1);
        assert!(!replica.health().is_ready());
        assert!(replica.read(P0, |_, _| ()).is_err(), "what has stopped is served no more");
        assert!(matches!(block_on(replica.submit(P0, &visit("tnt:a"))), Err(SubmitError::Elsewhere(_))));
        block_on(replica.submit(P1, &visit("tnt:a"))).unwrap();
        // Ends with a checkpoint.
        replica.close();
    }

    lost.store(false, Ordering::SeqCst);
    let replica = open();
    assert_eq!(replica.health().halted, []);
    let after = replica.digests();
    assert_eq!((after[0], after[1].0), (before[0], Position(3)));
    block_on(replica.submit(P0, &visit("tnt:a"))).unwrap();
    assert_eq!(visits(&replica, "tnt:a"), 3);
}

#[test]
fn a_frame_that_does_not_follow_stops_its_partition_of_a_shared_log_at_the_start() {
    for (said, bytes) in misfits() {
        let (dir, (log, _)) = (tempfile::tempdir().unwrap(), memory_log(2));
        append(&log, P0, frame(P0, 1, 0, &[visit("tnt:a")]).0);
        append(&log, P0, bytes);
        append(&log, P1, frame(P1, 1, 0, &[visit("tnt:a")]).0);
        let replica = Replica::open(&config(&dir), Arc::new(Shared { log, lost: Arc::default() })).unwrap();
        let (partition, halt) = replica.health().halted.remove(0);
        assert_eq!((partition, halt.position), (P0, Some(Position(2))), "{halt}");
        assert!(halt.reason.contains(said), "{said}: {halt}");
        assert_eq!(replica.digests()[1].0, Position(1), "the other one has caught up");
        block_on(replica.submit(P1, &visit("tnt:a"))).unwrap();
    }
}
