//! The outage spool of an edge: NATS goes, the edge is killed and killed again, and every acknowledged visit counts once.

use std::time::Duration;

use cameo_tests::cluster::{Cluster, Plan};
use cameo_tests::random::Random;
use cameo_tests::wait;
use serde_json::{Value, json};

use crate::common::{VISITS, visits};

const VISITORS: u64 = 7;

fn visit(n: u64) -> Value {
    let visitor = format!("v{}", n % VISITORS);
    json!({"eventId": format!("e{n}"), "sessionId": "s", "ids": {"tntId": visitor}, "profile": {"last": n.to_string()}})
}

/// Visits in the spool of an edge, as it says.
fn spooled(cluster: &Cluster, n: usize) -> Option<u64> {
    let ready = cluster.edge(n).try_get("/readyz?for=visits").ok()?;
    ready.json()["spool"]["visits"].as_u64()
}

#[test]
fn visits_of_an_outage_survive_kills_and_count_once_on_every_edge() {
    let plan = Plan { spool: true, ..Plan::of(1, 2) };
    let Some(mut cluster) = Cluster::planned(plan) else { return };
    let mut random = Random::from_env("CAMEO_SPOOL_SEED");
    for n in 0..20 {
        cluster.edge(0).post_json(VISITS, &visit(n)).expect(200);
    }
    cluster.nats.kill(0);
    // Every one is acknowledged: as spooled, from the first that met the outage on.
    for n in 20..200 {
        let answer = cluster.edge(0).post_json(VISITS, &visit(n)).expect(202);
        assert_eq!(answer.json()["status"], "spooled");
    }
    assert_eq!(spooled(&cluster, 0), Some(180));
    let list: Vec<_> = (200..1000).map(visit).collect();
    assert_eq!(cluster.edge(0).post_json(VISITS, &json!(list)).expect(202).json()["spooled"], 800);
    // Killed in the outage, and at whatever moment of the draining.
    cluster.kill_edge(0);
    cluster.respawn_edge(0);
    cluster.nats.restart(0);
    for _ in 0..4 {
        cluster.edge_is_ready(0);
        wait::pass(Duration::from_millis(random.below(120)));
        cluster.kill_edge(0);
        cluster.respawn_edge(0);
    }
    cluster.edge_is_ready(0);
    wait::until("an empty spool", || (spooled(&cluster, 0) == Some(0)).then_some(()));
    let ids: Vec<_> = (0..VISITORS).map(|n| format!("v{n}")).collect();
    let profiles = cluster.agreed(&ids);
    for (n, profile) in (0..VISITORS).zip(&profiles) {
        let sent: Vec<_> = (0..1000).filter(|visit| visit % VISITORS == n).collect();
        assert_eq!(visits(profile), Some(sent.len() as u64), "v{n}: {profile}");
        let last = sent.last().map(ToString::to_string);
        assert_eq!(profile["profileAttributes"]["last"]["value"].as_str(), last.as_deref(), "v{n} in order");
    }
    // Sent once more, each is known.
    for n in [0, 20, 999] {
        cluster.visit(0, &format!("v{}", n % VISITORS), &format!("e{n}"));
    }
    assert_eq!(cluster.agreed(&ids), profiles);
}
