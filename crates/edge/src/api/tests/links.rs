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

#[tokio::test]
async fn whoever_is_told_of_an_erasure_finds_the_other_ids_on_their_own() {
    let rig = Rig::new().await;
    for n in 0..20 {
        let (device, person, ecid) = (format!("e{n}"), format!("E{n}"), format!("x{n}"));
        rig.visit(&json!({"ids": {"tntId": device, "thirdPartyId": person}, "profile": {"old": "1"}}))
            .await
            .expect(200);
        rig.call(Method::DELETE, &format!("/v1/demo/profiles/tp/{person}"), "", "").await.expect(204);
        rig.visit(&json!({"ids": {"tntId": device, "ecid": ecid}, "profile": {"new": "1"}})).await.expect(200);
        let profile = rig.get(&format!("/v1/demo/profiles/tnt/{device}")).await.expect(200).json();
        assert_eq!(profile["ids"], json!({"tntId": [device], "ecid": ecid}), "{profile}");
        assert!(profile["profileAttributes"]["old"].is_null(), "{profile}");
        rig.get(&format!("/v1/demo/profiles/tp/{person}")).await.expect(404);
    }
}

/// A device that logs in with the thirdPartyId alone is the person's from then on, not the customer id's by which it came.
#[tokio::test]
async fn an_event_id_does_not_change_what_a_login_means() {
    let rig = Rig::new().await;
    for (n, event_id) in [None, Some("login")].into_iter().enumerate() {
        let (device, first, second) = (format!("l{n}"), format!("L{n}"), format!("M{n}"));
        let customer =
            json!([{"id": format!("c{n}"), "integrationCode": "crm", "authenticatedState": "authenticated"}]);
        let login = json!({"tntId": device, "customerIds": customer, "thirdPartyId": first});
        rig.visit(&json!({"ids": login})).await.expect(200);
        let mut again = json!({"ids": {"tntId": device, "thirdPartyId": first}});
        if let Some(event_id) = event_id {
            again["eventId"] = json!(event_id);
        }
        rig.visit(&again).await.expect(200);
        rig.visit(&json!({"ids": {"customerIds": customer, "thirdPartyId": second}})).await.expect(200);
        let profile = rig.get(&format!("/v1/demo/profiles/tnt/{device}")).await.expect(200).json();
        assert_eq!(profile["ids"]["thirdPartyId"], json!(first), "{event_id:?}: {profile}");
    }
}

#[tokio::test]
async fn a_contribution_has_each_name_once() {
    let rig = Rig::new().await;
    rig.visit(&json!({"ids": {"thirdPartyId": "p"}, "profile": {"x": "p"}})).await.expect(200);
    rig.visit(&json!({"ids": {"tntId": "b"}, "profile": {"x": "1"}})).await.expect(200);
    rig.visit(&json!({"ids": {"tntId": "b", "thirdPartyId": "p"}})).await.expect(200);
    rig.clock.set(NOW + 1);
    rig.visit(&json!({"ids": {"tntId": "b"}, "profile": {"x": "2"}})).await.expect(200);
    let reply = rig.get("/v1/demo/profiles/tp/p?contributions=true").await.expect(200);
    assert_eq!(reply.text.matches("\"x\":{").count(), 3, "the profile's, the person's, the device's: {}", reply.text);
    let device = &reply.json()["contributions"][1];
    assert_eq!(device["attributes"]["x"]["value"], "2", "{device}");
}
