//! The conformance suite of the control bucket, run by the backends of this crate through their public interface.

use std::path::PathBuf;
use std::sync::Arc;

use cameo_auth::bucket::conformance::{Backend, run_all};
use cameo_auth::bucket::{Bucket, LocalBucket};

struct Memory;

impl Backend for Memory {
    async fn create(&self, _: &str) -> Arc<dyn Bucket> {
        Arc::new(LocalBucket::in_memory())
    }

    async fn reopen(&self, _: &str, _: Arc<dyn Bucket>) -> Option<Arc<dyn Bucket>> {
        None
    }
}

struct Disk(tempfile::TempDir);

impl Disk {
    fn dir(&self, case: &str) -> PathBuf {
        self.0.path().join(case)
    }
}

impl Backend for Disk {
    async fn create(&self, case: &str) -> Arc<dyn Bucket> {
        Arc::new(LocalBucket::open(&self.dir(case)).expect("a directory of its own"))
    }

    async fn reopen(&self, case: &str, bucket: Arc<dyn Bucket>) -> Option<Arc<dyn Bucket>> {
        drop(bucket);
        Some(self.create(case).await)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bucket_in_memory_keeps_its_promises() {
    run_all(&Memory).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bucket_on_disk_keeps_its_promises() {
    run_all(&Disk(tempfile::tempdir().expect("a place for temporary files"))).await;
}
