//! The conformance suite, run by the backends of this crate through their public interface.

use std::sync::atomic::{AtomicU32, Ordering};

use cameo_eventlog::conformance::{Backend, run_all};
use cameo_eventlog::{Durability, EmbeddedLog, EmbeddedOptions, MemoryLog, PartitionCount};

struct Memory;

impl Backend for Memory {
    type Log = MemoryLog;
    const CONTIGUOUS: bool = true;

    async fn create(&self, _case: &str, partitions: PartitionCount) -> MemoryLog {
        MemoryLog::new(partitions)
    }

    async fn reopen(&self, _log: MemoryLog) -> Option<MemoryLog> {
        None
    }
}

/// The embedded log with settings that send readers through every path.
struct Embedded {
    dir: tempfile::TempDir,
    cases: AtomicU32,
    segment_bytes: u64,
    tail_bytes: usize,
    durability: Durability,
}

impl Embedded {
    fn new(segment_bytes: u64, tail_bytes: usize, durability: Durability) -> Self {
        Self {
            dir: tempfile::tempdir().expect("a place for temporary files"),
            cases: AtomicU32::new(0),
            segment_bytes,
            tail_bytes,
            durability,
        }
    }

    fn open(&self, partitions: Option<PartitionCount>) -> EmbeddedLog {
        let case = self.cases.load(Ordering::SeqCst).to_string();
        EmbeddedLog::open(EmbeddedOptions {
            partitions,
            segment_bytes: self.segment_bytes,
            tail_bytes: self.tail_bytes,
            durability: self.durability,
            ..EmbeddedOptions::new(self.dir.path().join(case))
        })
        .expect("a healthy log opens")
    }
}

impl Backend for Embedded {
    type Log = EmbeddedLog;
    const CONTIGUOUS: bool = true;

    async fn create(&self, _case: &str, partitions: PartitionCount) -> EmbeddedLog {
        self.cases.fetch_add(1, Ordering::SeqCst);
        self.open(Some(partitions))
    }

    async fn reopen(&self, log: EmbeddedLog) -> Option<EmbeddedLog> {
        drop(log);
        Some(self.open(None))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory() {
    run_all(&Memory).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded() {
    run_all(&Embedded::new(128 << 20, 32 << 20, Durability::Fsync)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded_read_from_disk_in_tiny_segments() {
    run_all(&Embedded::new(1500, 0, Durability::Buffered)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded_with_a_short_tail_and_small_segments() {
    run_all(&Embedded::new(50_000, 3000, Durability::Fsync)).await;
}
