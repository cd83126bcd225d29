//! What another edge brings, and what it costs. A read is answered from the edge's own memory, so each edge adds as much as
//! the first one has; a visit is folded by every edge, wherever it came in. Measured in processor time, which a busy
//! machine changes little.

use std::time::Duration;

use cameo_tests::cluster::Cluster;
use cameo_tests::process::{self, said};
use cameo_tests::server::Server;
use cameo_tests::wait;
use serde_json::Value;

const EDGES: usize = 3;

/// Runs load against one edge; how many requests were answered.
fn load(edge: &Server, kind: &str) -> f64 {
    let arguments = ["bench", "--json", "--seconds", "3", "--connections", "16", "--profiles", "20000", "--kind", kind];
    let output = process::run(&[&arguments[..], &["--url", &edge.url()]].concat());
    assert!(output.status.success(), "{}", said(&output));
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    report["requests"].as_f64().expect("a number")
}

fn used(cluster: &Cluster) -> [Duration; EDGES] {
    std::array::from_fn(|n| cluster.edge(n).processor_time())
}

/// Microseconds that each edge used while something was done `times`, for each time.
fn each(before: &[Duration; EDGES], after: &[Duration; EDGES], times: f64) -> [f64; EDGES] {
    std::array::from_fn(|n| (after[n] - before[n]).as_secs_f64() * 1e6 / times)
}

#[test]
fn an_edge_adds_its_reads_whole_and_folds_the_visits_of_all() {
    let Some(cluster) = Cluster::start(1, EDGES) else { return };
    let before = used(&cluster);
    let visits = load(cluster.edge(0), "visits");
    // All of them everywhere, before it is counted what that took.
    wait::until("edges that agree", || {
        let digests = cluster.digests();
        (digests.len() == EDGES && digests.values().all(|of| *of == digests["edge-1"])).then_some(())
    });
    let visit = each(&before, &used(&cluster), visits);

    let before = used(&cluster);
    let reads = load(cluster.edge(0), "reads");
    let alone = each(&before, &used(&cluster), reads);

    let before = used(&cluster);
    let reads: [f64; EDGES] = std::thread::scope(|scope| {
        let loads: [_; EDGES] = std::array::from_fn(|n| {
            let edge = cluster.edge(n);
            scope.spawn(move || load(edge, "reads"))
        });
        loads.map(|load| load.join().expect("a load"))
    });
    let after = used(&cluster);
    let together: [f64; EDGES] = std::array::from_fn(|n| each(&before, &after, reads[n])[n]);

    eprintln!("processor time, in microseconds, of each edge");
    eprintln!("  a visit, taken by the first: {visit:.1?}");
    eprintln!("  a read, of the first alone: {alone:.1?}; of all at once: {together:.1?}");
    let followers = &visit[1..];
    assert!(followers.iter().all(|follower| *follower < visit[0]), "{visit:?}");
    // Nobody else has anything to do with a read.
    assert!(alone[1..].iter().all(|other| *other < alone[0] / 10.0), "{alone:?}");
    assert!(together.iter().all(|read| *read < alone[0] * 1.5), "{alone:?} {together:?}");
}
