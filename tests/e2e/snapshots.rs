//! Snapshots with the real binary: an edge with an empty disk joins a cluster whose log was shortened, and a server whose
//! checkpoint is lost starts from its folder.

use cameo_tests::cluster::{Cluster, Flags, Plan};
use cameo_tests::wait;
use serde_json::json;

/// Snapshots every second, and nothing kept in the log for longer than it is needed.
const SHORT: Flags = Flags { edge: &["--snapshot-seconds", "1"], control: &["--retention-days", "0"] };

#[test]
fn an_edge_with_an_empty_disk_joins_a_cluster_whose_log_was_shortened() {
    let Some(mut cluster) = Cluster::planned(Plan { flags: SHORT, ..Plan::of(1, 2) }) else { return };
    let ids: Vec<_> = (0..40).map(|n| format!("s{n}")).collect();
    for (n, id) in ids.iter().enumerate() {
        cluster.visit(n % 2, id, &format!("first-{n}"));
    }
    let mut round = 0;
    wait::until("streams that were shortened", || {
        // Positions must move on for a next generation.
        round += 1;
        cluster.visit(0, &ids[round % ids.len()], &format!("more-{round}"));
        (0..4).all(|stream| cluster.first_of(&format!("CAMEO_LOG_{stream}")) > 1).then_some(())
    });
    let before = cluster.agreed(&ids);
    cluster.join_edge(2);
    assert!(cluster.edge(2).log().contains("loaded from snapshots"), "{}", cluster.edge(2).log());
    let after = cluster.agreed(&ids);
    assert_eq!(before, after);
    // It is an edge like the others, and one of the others may lose its disk too.
    cluster.visit(2, &ids[0], "joined");
    cluster.join_edge(0);
    cluster.visit(0, &ids[1], "joined-again");
    let profiles = cluster.agreed(&ids);
    assert_eq!(profiles[0]["profileAttributes"]["last"]["value"], json!("joined"));
}
