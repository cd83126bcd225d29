//! JetStream loses what it has acknowledged: edges stop and say so, take nothing more, and an operator gives the log back
//! what they have kept. Every acknowledged visit counts once, on every edge.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::Path;

use cameo_tests::cluster::Cluster;
use cameo_tests::{process, wait};
use serde_json::{Value, json};

use crate::common;

/// Streams of the log.
const STREAMS: Range<usize> = 0..4;

/// Copies streams of the log, and nothing else, as they are in a server's store.
fn copy_log(from: &Path, to: &Path, streams: Range<usize>) {
    for n in streams {
        let name = format!("CAMEO_LOG_{n}");
        let to = to.join(&name);
        if to.exists() {
            fs::remove_dir_all(&to).expect("a directory can be removed");
        }
        copy(&from.join(&name), &to);
    }
}

pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory can be made");
    for entry in fs::read_dir(from).expect("a directory can be read") {
        let entry = entry.expect("a directory can be read");
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).expect("a file can be copied");
        }
    }
}

fn is_ready(cluster: &Cluster, edge: usize) -> bool {
    cluster.edge(edge).try_get("/readyz").is_ok_and(|answer| answer.status == 200)
}

#[test]
fn what_nats_has_lost_comes_back_from_what_edges_have_kept() {
    let Some(mut cluster) = Cluster::start(1, 2) else { return };
    let ids: Vec<_> = (0..24).map(|n| format!("k{n}")).collect();
    let visits = |cluster: &Cluster, round: &str| {
        for (n, id) in ids.iter().enumerate() {
            cluster.visit(n % 2, id, &format!("{round}-{n}"));
        }
    };
    visits(&cluster, "kept");
    let streams = cluster.nats.store(0).join("jetstream/CAMEO/streams");
    let older = tempfile::tempdir().expect("a temporary directory");
    cluster.nats.kill(0);
    copy_log(&streams, older.path(), STREAMS);
    cluster.nats.restart(0);
    wait::until("edges that are ready", || (0..2).all(|n| is_ready(&cluster, n)).then_some(()));
    visits(&cluster, "lost");
    visits(&cluster, "lost-too");
    let before = cluster.digests();
    assert_eq!(before["edge-1"], before["edge-2"]);

    cluster.nats.kill(0);
    copy_log(older.path(), &streams, STREAMS);
    cluster.nats.restart(0);
    // Nothing goes into a stream before what it has lost.
    // Its outcome may be unknown, so it says all that it says when it is sent again.
    let late = json!({"eventId": "late", "sessionId": "late", "ids": {"tntId": ids[0]}, "profile": {"last": "late"}});
    for n in 0..2 {
        wait::until("an edge that says where its log ends", || {
            let answer = cluster.edge(n).try_get("/readyz").ok()?;
            let text = answer.text();
            assert_ne!(cluster.edge(n).post_json(common::VISITS, &late).status, 200);
            (answer.status == 503 && text.contains("has stopped") && text.contains("CAMEO_LOG_")).then_some(())
        });
        assert!(cluster.edge(n).log().contains("the partition has stopped"));
        let metrics = cluster.edge(n).get("/metrics").expect(200).text();
        let halted = metrics.lines().find_map(|line| line.strip_prefix("cameo_halted_partitions "));
        assert!(halted.is_some_and(|halted| halted != "0"), "{halted:?}");
    }
    // One has lost its process too.
    cluster.kill_edge(1);
    cluster.respawn_edge(1);

    let dir = cluster.edge_data(0).to_string_lossy().into_owned();
    let asked = cluster.operate(&["log", "reappend", "--from", &dir]);
    let said = process::said(&asked);
    assert_eq!(asked.status.code(), Some(1), "{said}");
    assert!(said.contains("partition"), "{said}");
    let positions = said.rsplit("--confirm ").next().expect("a confirmation").lines().next().expect("a line").trim();
    let wrong = cluster.operate(&["log", "reappend", "--from", &dir, "--confirm", "0:1-2"]);
    assert!(process::said(&wrong).contains("nothing was appended"), "{}", process::said(&wrong));
    // What is not noted is not done, unless it must be.
    let control = cluster.control.take().expect("the control plane runs").kill();
    let silent = cluster.operate(&["log", "reappend", "--from", &dir, "--confirm", positions]);
    let said = process::said(&silent);
    assert!(!silent.status.success() && said.contains("Nothing was appended; --unaudited"), "{said}");
    cluster.control = Some(control.start());
    let done = cluster.operate(&["log", "reappend", "--from", &dir, "--confirm", positions]);
    assert!(done.status.success(), "{}", process::said(&done));
    let audit = cluster.admin("GET", "/v1/audit?action=log.reappend", &Value::Null).expect(200).json();
    let details: Vec<_> = audit["entries"].as_array().expect("entries").iter().map(|entry| &entry["detail"]).collect();
    assert_eq!(details.len(), 2, "{audit}");
    assert!(details[0].as_str().is_some_and(|detail| detail.starts_with("appended: ")), "{audit}");
    assert!(details[1].as_str().is_some_and(|detail| detail.contains(" frames of partition ")), "{audit}");
    let newest = &audit["entries"][0];
    assert_eq!((&newest["who"], &newest["target"]), (&json!("nats:control-1"), &json!(positions)), "{audit}");
    let again = cluster.operate(&["log", "reappend", "--from", &dir]);
    assert!(process::said(&again).contains("nothing is missing"), "{}", process::said(&again));

    for n in 0..2 {
        cluster.kill_edge(n);
        cluster.restart_edge(n);
    }
    // The late visit was answered with an unknown outcome, and may be behind what came back; nothing else is.
    let back = cluster.digests();
    assert_eq!(back["edge-1"], back["edge-2"]);
    let of = |all: &BTreeMap<String, Value>| -> Vec<Value> {
        let partitions = all["edge-1"].as_array().expect("partitions");
        partitions.iter().map(|partition| partition["digest"].clone()).collect()
    };
    let moved = of(&back).into_iter().zip(of(&before)).filter(|(back, before)| back != before).count();
    assert!(moved <= 1, "{back:?} {before:?}");
    cluster.visit(0, &ids[0], "late");
    // One that has nothing but the log reads the same in it.
    cluster.join_edge(2);
    let after = cluster.digests();
    assert_eq!(after.len(), 3, "{after:?}");
    assert!(after.values().all(|one| *one == after["edge-1"]), "{after:?}");
    let profiles = cluster.agreed(&ids);
    assert_eq!(profiles[0]["profileAttributes"]["last"]["value"], Value::from("late"));
    for n in 0..3 {
        for (k, id) in ids.iter().enumerate() {
            assert_eq!(common::visit_count(cluster.edge(n), id), if k == 0 { 4 } else { 3 }, "{id} at edge {n}");
        }
    }
}

/// A power cut takes the edges too, and one of four streams comes back without its end: one edge knows by what it has kept, the
/// other by its checkpoint. Both serve the other three, and the fourth as before once it has its end back.
#[test]
fn edges_that_start_with_one_damaged_stream_serve_the_others() {
    let Some(mut cluster) = Cluster::start(1, 2) else { return };
    let ids: Vec<_> = (0..24).map(|n| format!("k{n}")).collect();
    let streams = cluster.nats.store(0).join("jetstream/CAMEO/streams");
    let (older, damaged) = (tempfile::tempdir().expect("a temporary directory"), 0..1);
    for round in ["kept", "lost"] {
        for (n, id) in ids.iter().enumerate() {
            cluster.visit(n % 2, id, &format!("{round}-{n}"));
        }
        let digests = cluster.digests();
        assert_eq!(digests["edge-1"], digests["edge-2"]);
        (0..2).for_each(|n| cluster.kill_edge(n));
        cluster.nats.kill(0);
        let (checkpoint, kept) = (cluster.edge_data(0).join("checkpoint"), older.path().join("checkpoint"));
        if round == "kept" {
            copy_log(&streams, older.path(), damaged.clone());
            copy(&checkpoint, &kept);
            cluster.nats.restart(0);
            (0..2).for_each(|n| cluster.restart_edge(n));
        } else {
            copy_log(older.path(), &streams, damaged.clone());
            fs::remove_dir_all(&checkpoint).expect("a directory can be removed");
            copy(&kept, &checkpoint);
        }
    }
    cluster.nats.restart(0);
    (0..2).for_each(|n| cluster.respawn_edge(n));
    for n in 0..2 {
        let said = wait::until("an edge that says which stream has lost its end", || {
            let answer = cluster.edge(n).try_get("/readyz").ok()?;
            (answer.status == 503 && answer.text().contains("has stopped")).then(|| answer.text())
        });
        assert!(said.contains("CAMEO_LOG_0") && !said.contains("CAMEO_LOG_1"), "{said}");
        assert_eq!(said.matches("has stopped").count(), 4, "a quarter of sixteen partitions: {said}");
    }
    // What is taken by one edge is what the other shows: all of three streams, nothing of the fourth.
    let late = |id: &str| json!({"eventId": format!("late-{id}"), "sessionId": "late", "ids": {"tntId": id}});
    let taken: Vec<_> = ids
        .iter()
        .map(|id| {
            let answer = cluster.edge(0).post_json(common::VISITS, &late(id));
            assert!(answer.status == 200 || answer.text().contains("CAMEO_LOG_0"), "{}", answer.text());
            answer.status == 200
        })
        .collect();
    assert!(taken.contains(&true) && taken.contains(&false), "{taken:?}");
    for (id, taken) in ids.iter().zip(&taken) {
        if *taken {
            wait::until("a late visit", || (common::visit_count(cluster.edge(1), id) == 3).then_some(()));
        } else {
            assert_eq!(common::fetch(cluster.edge(1), id).status, 503, "{id}");
        }
    }

    let from: Vec<_> = (0..2).map(|n| cluster.edge_data(n).to_string_lossy().into_owned()).collect();
    let reappend = ["log", "reappend", "--from", &from[0], "--from", &from[1]];
    let said = process::said(&cluster.operate(&reappend));
    let positions = said.rsplit("--confirm ").next().and_then(|rest| rest.lines().next()).expect("a confirmation");
    let done = cluster.operate(&[&reappend[..], &["--confirm", positions.trim()]].concat());
    assert!(done.status.success(), "{}", process::said(&done));
    for n in 0..2 {
        cluster.kill_edge(n);
        cluster.restart_edge(n);
    }
    let back = cluster.digests();
    assert_eq!(back["edge-1"], back["edge-2"]);
    for n in 0..2 {
        for (id, taken) in ids.iter().zip(&taken) {
            assert_eq!(common::visit_count(cluster.edge(n), id), if *taken { 3 } else { 2 }, "{id} at edge {n}");
        }
    }
}
