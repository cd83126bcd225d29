//! The producers that README shows, as it prints them: each visit is taken, and counts once however often it is sent.

use std::path::Path;
use std::process::{Command, Output};

use cameo_tests::cluster::Cluster;
use cameo_tests::{needs, process, readme, wait};
use serde_json::json;

use crate::common;

/// The programs of `crates/client/examples`, built with these tests.
const OVER_HTTP: &str = env!("CARGO_BIN_EXE_visit_http");
const OVER_NATS: &str = env!("CARGO_BIN_EXE_visit_nats");

fn run(command: &mut Command, cluster: &Cluster) -> String {
    let (url, password) = cluster.producer();
    let output: Output = command
        .env("CAMEO_URL", cluster.edge(0).url())
        .env("NATS_URL", url)
        .env("NATS_PASSWORD", password)
        .output()
        .expect("a producer starts");
    assert!(output.status.success(), "{command:?}: {}", process::said(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A program of README in a file of its own.
fn python(dir: &Path, marker: &str, cluster: &Cluster) -> String {
    let program = dir.join("producer.py");
    std::fs::write(&program, readme::block("python", marker)).expect("a file can be written");
    run(Command::new("python3").arg("-B").arg(&program).env("PYTHONPATH", needs::nats_py()), cluster)
}

/// What the `nats` of README's line would be given: a function of the shell in its place says it.
fn nats_arguments(line: &str) -> Vec<String> {
    let script = format!("nats() {{ for word in \"$@\"; do printf '%s\\n' \"$word\"; done; }}\n{line}");
    let output = Command::new("sh").arg("-c").arg(script).output().expect("a shell");
    assert!(output.status.success(), "{}", process::said(&output));
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

#[test]
fn the_programs_of_readme_are_those_that_are_built() {
    for (name, marker) in [("visit_http", "client.visit(&visit)"), ("visit_nats", "Producer::new")] {
        let file = process::workspace().join(format!("crates/client/examples/{name}.rs"));
        let file = std::fs::read_to_string(file).expect("an example");
        let (_, program) = file.split_once("\n\n").expect("a header, and a program");
        assert_eq!(readme::block("rust", marker), program, "README and {name}.rs differ");
    }
}

#[test]
fn visits_of_the_producers_of_readme_count_once() {
    if !needs::have(needs::NATS_PY) {
        return;
    }
    let Some(cluster) = Cluster::start(1, 1) else { return };
    let dir = tempfile::tempdir().expect("a temporary directory");
    let arguments = nats_arguments(&readme::command("nats pub"));
    let [command, jetstream, inbox, subject, body, flag, header] = arguments.as_slice() else {
        panic!("{arguments:?}");
    };
    assert_eq!([command, jetstream, flag].map(String::as_str), ["pub", "--jetstream", "-H"], "{arguments:?}");
    assert_eq!(inbox, "--inbox-prefix=_INBOX_producer");
    let id = header.strip_prefix("Nats-Msg-Id:").expect("an id of the message").to_owned();
    let body: serde_json::Value = serde_json::from_str(body).expect("a visit is JSON");

    // Five visits of one visitor, and each of them once more.
    for (round, known) in [(1, false), (2, true)] {
        cluster.publish(&[(id.clone(), subject.clone(), body.clone())]);
        for said in [python(dir.path(), "import asyncio", &cluster), run(&mut Command::new(OVER_NATS), &cluster)] {
            assert_eq!((said.starts_with("number "), said.contains("known already")), (true, known), "{round}: {said}");
        }
        for said in [python(dir.path(), "urllib.request", &cluster), run(&mut Command::new(OVER_HTTP), &cluster)] {
            assert!(said.contains("a1"), "{round}: {said}");
        }
        wait::until("visits that have been taken", || cluster.is_drained("CAMEO_VISITS").then_some(()));
        assert_eq!(common::visit_count(cluster.edge(0), "a1"), 5, "in round {round}");
    }
    // The same visits, past what NATS remembers: by their event ids.
    for event in ["order-16", "order-17", "order-18"] {
        let visit =
            json!({"eventId": event, "sessionId": "s1", "ids": {"tntId": "a1"}, "profile": {"country": "france"}});
        common::visit(cluster.edge(0), &visit);
    }
    assert_eq!(common::visit_count(cluster.edge(0), "a1"), 5);
}

#[test]
fn messages_in_messagepack_are_taken_as_those_in_json_are() {
    let Some(cluster) = Cluster::start(1, 1) else { return };
    let visit = |n: u32| {
        json!({"ids": {"tntId": "m1"}, "sessionId": "s1", "profile": {"last": n, "town": "K\u{f6}ln"},
            "order": {"id": format!("o{n}"), "total": 1.5, "productIds": ["p1"]}})
    };
    let message = |id: &str, bytes: Vec<u8>| (id.to_owned(), "cameo.visits.demo".to_owned(), bytes);
    let packed = |n| rmp_serde::to_vec_named(&visit(n)).expect("plain data always encodes");
    let list = rmp_serde::to_vec_named(&[visit(9)]).expect("plain data always encodes");
    cluster.publish_bytes(&[
        message("one", packed(1)),
        // Neither is a visit, and neither holds up what comes after it.
        message("a list", list),
        message("cut off", packed(8)[..20].to_vec()),
        message("two", visit(2).to_string().into_bytes()),
        message("three", packed(3)),
    ]);
    wait::until("messages that have been handled", || cluster.is_drained("CAMEO_VISITS").then_some(()));
    assert_eq!(common::visit_count(cluster.edge(0), "m1"), 3);
    let profile = cluster.edge(0).get("/v1/demo/profiles/tnt/m1").expect(200).json();
    assert_eq!(profile["profileAttributes"]["town"]["value"], "K\u{f6}ln", "{profile}");
    let metrics = cluster.edge(0).get("/metrics").expect(200).text();
    let refused = metrics.lines().find(|line| line.starts_with("cameo_visits_total{outcome=\"refused\"}"));
    assert_eq!(refused.and_then(|line| line.rsplit(' ').next()), Some("2"), "{refused:?}");
}
