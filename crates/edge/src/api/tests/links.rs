//! Links while others look: a profile that moves between partitions is never missing, and neither is a visit of a NATS
//! producer that the log would not take.

use cameo_eventlog::memory::Failure;
use http::Method;
use serde_json::json;

use super::{NOW, Rig};
use crate::NotTaken;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_profile_that_moves_is_never_missing() {
    const ROUNDS: usize = 40;
    let rig = Rig::new().await;
    rig.visit(&json!({"ids": {"tntId": "d"}, "profile": {"a": "1"}})).await.expect(200);
    let over = std::sync::atomic::AtomicBool::new(false);
    let reads = async {
        let mut reads = 0;
        while !over.load(std::sync::atomic::Ordering::Relaxed) {
            // Wherever it lives at the moment, and also on its way.
            let profile = rig.get("/v1/demo/profiles/tnt/d").await.expect(200).json();
            assert_eq!(profile["profileAttributes"]["a"]["value"], "1", "{profile}");
            reads += 1;
            tokio::task::yield_now().await;
        }
        reads
    };
    let moves = async {
        for round in 0..ROUNDS {
            let ids = json!({"tntId": "d", "ecid": format!("e{}", round % 3), "thirdPartyId": "p"});
            rig.visit(&json!({"ids": ids})).await.expect(200);
            let unlink = json!({"kind": "tnt", "id": "d"}).to_string();
            rig.call(Method::POST, "/v1/demo/profiles/tp/p/unlink", "application/json", unlink).await.expect(200);
        }
        over.store(true, std::sync::atomic::Ordering::Relaxed);
    };
    let (reads, ()) = tokio::join!(reads, moves);
    assert!(reads >= ROUNDS, "{reads} reads");
    let count = rig.attribute("d", "visitCount").await;
    assert_eq!(count, Some((ROUNDS + 1).to_string()));
}

#[tokio::test]
async fn a_visit_of_a_producer_is_refused_for_its_own_faults_alone() {
    let rig = Rig::new().await;
    let visit = json!({"ids": {"tntId": "n", "thirdPartyId": "N"}}).to_string();
    for failure in [Failure::Unavailable, Failure::UnknownAndLost, Failure::UnknownButWritten] {
        rig.log.cut_off(Some(failure));
        let taken = rig.edge.take_visit("demo", "event-1", visit.as_bytes()).await;
        assert!(matches!(taken, Err(NotTaken::Later(_))), "{failure:?}: {taken:?}");
        rig.log.cut_off(None);
    }
    // Given again under its id, as NATS does; it had been written by the last try.
    for _ in 0..2 {
        assert_eq!(rig.edge.take_visit("demo", "event-1", visit.as_bytes()).await, Ok(()));
    }
    assert_eq!(rig.attribute("n", "visitCount").await.as_deref(), Some("1"));
    rig.clock.set(NOW + 1);
    for (client, bytes) in
        [("demo", &b"{"[..]), ("demo", b"[]"), ("demo", b"{\"ids\":{\"tntId\":\"\"}}"), ("nobody", b"{}")]
    {
        let taken = rig.edge.take_visit(client, "event-2", bytes).await;
        assert!(matches!(taken, Err(NotTaken::Refused(_))), "{taken:?}");
    }
    rig.log.fail_next(Failure::StorageFull);
    let taken = rig.edge.take_visit("demo", "event-3", visit.as_bytes()).await;
    assert!(matches!(taken, Err(NotTaken::Later(_))), "{taken:?}");
}
