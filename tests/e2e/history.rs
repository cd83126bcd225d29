//! History with the real binary: what happened is told, and a profile reads as it did, over stops and kills, on one
//! machine and in a cluster, through HTTP and the command line.

use std::collections::BTreeMap;

use cameo_tests::cluster::Cluster;
use cameo_tests::http::Request;
use cameo_tests::process::{self, said};
use cameo_tests::server::Server;
use cameo_tests::wait;
use serde_json::{Value, json};

use crate::common::{BULK_V2, upload_all};

const PATH: &str = "/v1/demo/profiles/tnt/h1";

/// Profiles by the log time of their last change: what `asOf` that time must give.
type Seen = BTreeMap<String, Value>;

/// Some visits and updates; the profile after each.
fn live(server: &Server, round: usize, seen: &mut Seen) {
    let mut see = |profile: Value| {
        seen.insert(profile["modifiedAt"].as_str().expect("a time").to_owned(), profile);
    };
    for n in 0..6 {
        let visit = json!({"ids": {"tntId": "h1"}, "sessionId": format!("s{round}"), "profile": {"n": format!("{round}-{n}")},
            "categories": [format!("c{}", n % 4)]});
        see(server.post_json("/v1/demo/visits?return=profile", &visit).expect(200).json()["profile"].clone());
        let patch = json!({"set": {"tier": format!("t{n}")}, "unset": ["n"]});
        let request = Request::new("PATCH", PATH).header("content-type", "application/json").body(patch.to_string());
        see(server.send(&request).expect(200).json());
    }
    upload_all(server, BULK_V2, &format!("batch=pcId,city\nh2,x\nh1,city-{round}\n"));
    see(server.get(PATH).expect(200).json());
}

fn check(server: &Server, seen: &Seen) {
    for (at, profile) in seen {
        assert_eq!(&server.get(&format!("{PATH}?asOf={at}")).expect(200).json(), profile, "as of {at}");
    }
}

/// All entries, page by page.
fn entries(server: &Server) -> Vec<Value> {
    let (mut all, mut after) = (Vec::new(), String::new());
    loop {
        let page = server.get(&format!("{PATH}/history?limit=7{after}")).expect(200).json();
        assert_eq!(page.get("completeSince"), None, "{page}");
        all.extend(page["entries"].as_array().expect("entries").iter().cloned());
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return all,
        }
    }
}

#[test]
fn every_moment_is_told_after_a_stop_and_a_kill() {
    let mut server = Server::start();
    let mut seen = Seen::new();
    for round in 0..3 {
        live(&server, round, &mut seen);
        check(&server, &seen);
        server = if round % 2 == 0 { server.kill().start() } else { server.terminate().start() };
        check(&server, &seen);
        assert_eq!(entries(&server).len(), (round + 1) * 13);
    }
    let all = entries(&server);
    let of = |kind: &str| all.iter().filter(|entry| entry["type"] == kind).count();
    assert_eq!((of("visit"), of("update"), of("batch")), (18, 18, 3));
    assert!(all.is_sorted_by(|a, b| a["at"].as_str() >= b["at"].as_str()));
    let batch = all.iter().find(|entry| entry["type"] == "batch").expect("a row");
    assert_eq!((&batch["line"], &batch["set"]), (&json!(3), &json!({"city": "city-2"})));
    let export = server.get(&format!("{PATH}/export")).expect(200);
    assert!(export.header("content-disposition").starts_with("attachment; filename="));
    assert_eq!(export.json()["history"]["entries"], json!(all));

    let cli = |args: &[&str]| process::run(&[args, &["tnt", "h1", "--url", &server.url()]].concat());
    let history = cli(&["profile", "history", "--all"]);
    assert!(history.status.success(), "{}", said(&history));
    assert_eq!(String::from_utf8_lossy(&history.stdout).lines().count(), 39);
    let (at, then) = seen.iter().nth(2).expect("a third moment");
    let shown = cli(&["profile", "get", "--json", "--as-of", at]);
    assert_eq!(serde_json::from_slice::<Value>(&shown.stdout).expect("JSON"), *then);
    let exported = cli(&["profile", "export"]);
    assert_eq!(serde_json::from_slice::<Value>(&exported.stdout).expect("JSON")["id"], "h1");

    server.send(&Request::new("DELETE", PATH)).expect(204);
    server = server.kill().start();
    for path in [format!("{PATH}/history"), format!("{PATH}/export"), format!("{PATH}?asOf={at}")] {
        server.get(&path).expect(404);
    }
}

#[test]
fn every_edge_of_a_cluster_tells_the_same() {
    let Some(mut cluster) = Cluster::start(1, 2) else { return };
    let mut seen = Seen::new();
    for n in 0..30 {
        cluster.visit(n % 2, "h1", &format!("e{n}"));
        // The other edge may be a moment behind.
        let profile = cluster.agreed(&["h1".to_owned()]).remove(0);
        seen.insert(profile["modifiedAt"].as_str().expect("a time").to_owned(), profile);
    }
    let told = entries(cluster.edge(0));
    assert_eq!(told.len(), 30);
    for n in 0..2 {
        check(cluster.edge(n), &seen);
        assert_eq!(entries(cluster.edge(n)), told);
    }
    cluster.kill_edge(1);
    cluster.respawn_edge(1);
    cluster.edge_is_ready(1);
    wait::until("an edge that holds its lease", || (cluster.edge(1).get(PATH).status == 200).then_some(()));
    check(cluster.edge(1), &seen);
    assert_eq!(entries(cluster.edge(1)), told);
}
