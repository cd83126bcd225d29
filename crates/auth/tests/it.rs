//! What this crate promises through its public interface: the conformance suite of the control bucket, run by its embedded
//! backends, and that the verifier costs a good call no allocation.

use std::path::PathBuf;
use std::sync::Arc;

use cameo_auth::bucket::conformance::{Backend, run_all};
use cameo_auth::bucket::{Bucket, LocalBucket};
use cameo_auth::record::{NewToken, TokenId};
use cameo_auth::token::{Secret, SecretKind};
use cameo_auth::{ClientRecord, Scope, Verifier};
use cameo_profile::ClientCode;
use http::HeaderMap;
use http::header::AUTHORIZATION;

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

#[test]
fn a_good_token_is_let_through_without_an_allocation() {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    let mut record = ClientRecord::new(&ClientCode::new("demo").unwrap(), now).unwrap();
    record.require_authentication = true;
    let secret = Secret::generate(SecretKind::ProfileToken).unwrap();
    let new =
        NewToken { name: "a".into(), scopes: vec![Scope::ProfileRead], expires_in_seconds: 3600, by: "ann".into() };
    record.create_token(TokenId("t-1".into()), &secret, new, now).unwrap();
    let verifier = Verifier::fixed(vec![record]);
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, format!("Bearer {}", secret.reveal()).parse().unwrap());
    let check = || assert_eq!(verifier.check("demo", Scope::ProfileRead, &headers), Ok(()));
    // What a thread needs once it may take once.
    check();
    let counted = allocation_counter::measure(|| (0..1000).for_each(|_| check()));
    assert_eq!(counted.count_total, 0);
    // The count counts: a refusal may allocate, and a copy does.
    assert!(allocation_counter::measure(|| drop(std::hint::black_box(headers.clone()))).count_total > 0);
}
