//! The outage spool of an edge: NATS goes, the edge is killed and killed again, and every acknowledged visit counts once.

use std::time::{Duration, Instant};

use cameo_tests::cluster::{Cluster, Plan};
use cameo_tests::http::Response;
use cameo_tests::random::Random;
use cameo_tests::tmpfs::Tmpfs;
use cameo_tests::{needs, wait};
use serde_json::{Value, json};

use crate::common::{VISITS, visits};
use crate::full_disk::fill_to_the_last_byte;

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

/// One server of three is there and none has a quorum: who leads a stream goes on telling of it for a while.
#[test]
fn visits_are_spooled_at_once_while_nats_has_no_quorum() {
    const ROUNDS: u64 = 3;
    const AT_ONCE: Duration = Duration::from_secs(2);
    let Some(mut cluster) = Cluster::planned(Plan { spool: true, ..Plan::of(3, 1) }) else { return };
    let mut sent = 0;
    let mut round = |cluster: &Cluster| {
        let visits: Vec<_> = (sent..sent + VISITORS).map(visit).collect();
        sent += VISITORS;
        let began = Instant::now();
        // Each by itself, as they lie in different streams; sent again until it is acknowledged, as callers do.
        std::thread::scope(|scope| {
            for visit in &visits {
                scope.spawn(|| {
                    wait::until("a visit that is taken", || {
                        let answer = cluster.edge(0).post_json(VISITS, visit);
                        matches!(answer.status, 200 | 202).then_some(())
                    })
                });
            }
        });
        began.elapsed()
    };
    round(&cluster);
    cluster.nats.kill(1);
    cluster.nats.kill(2);
    // Those that are under way when it happens wait for as long as an election may take.
    let mut quick = 0;
    wait::until("visits that are spooled at once", || {
        quick = if round(&cluster) < AT_ONCE { quick + 1 } else { 0 };
        (quick == ROUNDS).then_some(())
    });
    // And it stays so: a load of nine seconds, in which appends are tried and given up meanwhile.
    for _ in 0..ROUNDS {
        let took = round(&cluster);
        assert!(took < AT_ONCE, "{took:?}");
        wait::pass(Duration::from_secs(3));
    }
    cluster.nats.restart(1);
    cluster.nats.restart(2);
    wait::until("an empty spool", || (spooled(&cluster, 0) == Some(0)).then_some(()));
    let ids: Vec<_> = (0..VISITORS).map(|n| format!("v{n}")).collect();
    for (n, profile) in (0..VISITORS).zip(&cluster.agreed(&ids)) {
        let count = (0..sent).filter(|visit| visit % VISITORS == n).count();
        assert_eq!(visits(profile), Some(count as u64), "v{n}: {profile}");
    }
}

/// The disk of a spool: room for a new database, and quickly filled.
const DISK_MEGABYTES: u32 = 96;
/// One visit of these takes a good part of a page or more, so that few of them fill what is left.
const PADDING: usize = 4000;

fn padded(n: u64) -> Value {
    let mut visit = visit(n);
    visit["parameters"] = json!({"padding": "v".repeat(PADDING)});
    visit
}

/// Sends visits until one is refused; the first that is, and what was said.
fn until_refused(cluster: &Cluster, from: u64) -> (u64, Response) {
    let refused = (from..from + 5000).find_map(|n| {
        let answer = cluster.edge(0).post_json(VISITS, &padded(n));
        (answer.status != 202).then_some((n, answer))
    });
    refused.expect("the disk is full at some point")
}

fn is_refused_for_now(answer: &Response) {
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.header("retry-after").parse::<u64>().is_ok_and(|seconds| seconds > 0), "{:?}", answer.headers);
    assert_eq!(answer.header("content-type"), "application/problem+json");
}

#[test]
fn a_spool_on_a_full_disk_refuses_for_now_and_takes_visits_again_when_there_is_room() {
    if !needs::have(needs::TMPFS) {
        return;
    }
    let disk = Tmpfs::mount(DISK_MEGABYTES);
    // Reads shall not end with the lease: it outlasts this outage.
    let plan = Plan { spool: true, spools_in: Some(disk.path().to_owned()), lease_seconds: 60, ..Plan::of(1, 1) };
    let Some(mut cluster) = Cluster::planned(plan) else { return };
    for n in 0..20 {
        cluster.edge(0).post_json(VISITS, &padded(n)).expect(200);
    }
    cluster.nats.kill(0);
    for n in 20..40 {
        cluster.edge(0).post_json(VISITS, &padded(n)).expect(202);
    }
    let filler = disk.path().join("filler");
    fill_to_the_last_byte(&disk, &filler);
    let (first, answer) = until_refused(&cluster, 40);
    is_refused_for_now(&answer);
    // However often it is asked; and what needs no disk goes on.
    for _ in 0..3 {
        is_refused_for_now(&cluster.edge(0).post_json(VISITS, &padded(first)));
        is_refused_for_now(&cluster.edge(0).post_json(VISITS, &json!([padded(first), padded(first + 1)])));
        cluster.edge(0).get("/healthz").expect(200);
        cluster.edge(0).get("/v1/demo/profiles/tnt/v1").expect(200);
    }
    assert_eq!(spooled(&cluster, 0), Some(first - 20), "what was refused does not wait");

    std::fs::remove_file(&filler).expect("the filler goes");
    wait::until("a visit that is taken again", || {
        let answer = cluster.edge(0).post_json(VISITS, &padded(first));
        assert!(matches!(answer.status, 202 | 503), "{}", answer.text());
        (answer.status == 202).then_some(())
    });
    // Full once more, killed like that, and started while it is full: it drains what it has acknowledged.
    fill_to_the_last_byte(&disk, &filler);
    let (last, answer) = until_refused(&cluster, first + 1);
    is_refused_for_now(&answer);
    cluster.kill_edge(0);
    cluster.nats.restart(0);
    cluster.restart_edge(0);
    let ids: Vec<_> = (0..VISITORS).map(|n| format!("v{n}")).collect();
    let count = |cluster: &Cluster| -> u64 { cluster.agreed(&ids).iter().filter_map(visits).sum() };
    wait::until("all that was acknowledged", || (count(&cluster) >= last).then_some(()));
    // The one that was refused may have been found on the disk all the same: it is known by its id then.
    cluster.edge(0).post_json(VISITS, &padded(last)).expect(200);
    assert_eq!(count(&cluster), last + 1);

    std::fs::remove_file(&filler).expect("the filler goes");
    wait::until("an empty spool", || (spooled(&cluster, 0) == Some(0)).then_some(()));
    cluster.kill_edge(0);
    cluster.restart_edge(0);
    for n in [0, 20, first, last] {
        cluster.edge(0).post_json(VISITS, &padded(n)).expect(200);
    }
    assert_eq!(count(&cluster), last + 1, "each counts once");
}
