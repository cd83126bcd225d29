//! Snapshots with the real binary: an edge with an empty disk joins a cluster whose log was shortened, and a server whose
//! checkpoint is lost starts from its folder.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use cameo_tests::admin::{ADMIN_PASSWORD, basic};
use cameo_tests::cluster::{Cluster, Flags, Plan};
use cameo_tests::http::Request;
use cameo_tests::proxy::Network;
use cameo_tests::server::{Server, Setup};
use cameo_tests::{process, wait};
use serde_json::{Value, json};

use crate::common;

/// Snapshots every second, and nothing kept in the log for longer than it is needed.
const SHORT: Flags = Flags { edge: &["--snapshot-seconds", "1"], control: &["--retention-days", "0"] };

#[test]
fn an_edge_with_an_empty_disk_joins_a_cluster_whose_log_was_shortened() {
    let Some(mut cluster) = Cluster::planned(Plan { flags: SHORT, ..Plan::of(1, 2) }) else { return };
    let ids: Vec<_> = (0..40).map(|n| format!("s{n}")).collect();
    for (n, id) in ids.iter().enumerate() {
        cluster.visit(n % 2, id, &format!("first-{n}"));
    }
    shorten(&cluster, 0, &ids, |stream| cluster.first_of(stream) > 1);
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

/// Who has an edge's rights at NATS may describe snapshots that nobody has taken, of places that the log has not reached.
#[test]
fn snapshots_that_nobody_has_taken_do_away_with_none() {
    const FAR: u64 = 1 << 40;
    const FORGED_BYTES: u64 = 77;
    let Some(mut cluster) = Cluster::planned(Plan { flags: SHORT, ..Plan::of(1, 1) }) else { return };
    let ids: Vec<_> = (0..40).map(|n| format!("f{n}")).collect();
    for (n, id) in ids.iter().enumerate() {
        cluster.visit(0, id, &format!("first-{n}"));
    }
    let listed = |cluster: &Cluster| {
        let listed = cluster.admin("GET", "/v1/cluster/snapshots", &Value::Null).expect(200).json();
        listed["snapshots"].as_array().expect("snapshots").clone()
    };
    let genuine = |cluster: &Cluster| -> BTreeMap<u64, Vec<u64>> {
        let mut of: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for one in listed(cluster) {
            let number = |name: &str| one[name].as_u64().expect("a number");
            if number("position") < FAR && number("bytes") != FORGED_BYTES {
                of.entry(number("partition")).or_default().push(number("position"));
            }
        }
        of
    };
    let log = wait::until("snapshots", || Some(listed(&cluster).first()?["log"].as_str()?.to_owned()));
    let forge = |cluster: &Cluster, partition: u16, position: u64| {
        let name = format!("{partition:04}-{position:020}-{log}.snap");
        let nuid = format!("forged{partition}x{position}");
        let described = json!({"name": name, "options": {"max_chunk_size": 1024}, "bucket": "CAMEO_SNAPSHOTS", "nuid": nuid,
            "size": FORGED_BYTES, "mtime": "0001-01-01T00:00:00Z", "chunks": 0, "digest": "SHA-256="});
        let at = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE, name);
        assert!(cluster.may("edge-1", &format!("$O.CAMEO_SNAPSHOTS.M.{at}"), &described));
    };
    for partition in 0..16 {
        (0..2).for_each(|n| forge(&cluster, partition, FAR + n));
        // And of places that it has reached: of these there is nothing behind the description.
        (0..2).for_each(|n| forge(&cluster, partition, 1 + n));
    }
    // The control plane goes on to remove what is outdated, and what remains is what edges have taken.
    shorten(&cluster, 0, &ids, |stream| cluster.first_of(stream) > 2);
    let left = genuine(&cluster);
    assert!(left.len() == 16 && left.values().all(|positions| positions.len() >= 2), "{left:?}");
    let before = cluster.agreed(&ids);
    cluster.join_edge(1);
    assert_eq!(cluster.agreed(&ids), before);
}

/// Visits until there was another generation of snapshots and the streams have lost what came before it.
fn shorten(cluster: &Cluster, edge: usize, ids: &[String], is_short: impl Fn(&str) -> bool) {
    let mut round = 0;
    wait::until("streams that were shortened", || {
        // Positions must move on for a next generation.
        round += 1;
        cluster.visit(edge, &ids[round % ids.len()], &format!("more-{round}"));
        (0..4).all(|stream| is_short(&format!("CAMEO_LOG_{stream}"))).then_some(())
    });
}

#[test]
fn an_edge_with_an_empty_disk_serves_half_a_million_profiles_within_ten_seconds() {
    const ROWS: usize = 500_000;
    const WITHIN: Duration = Duration::from_secs(10);
    let flags = Flags { edge: &["--snapshot-seconds", "5"], ..SHORT };
    let Some(mut cluster) = Cluster::planned(Plan { flags, ..Plan::of(1, 1) }) else { return };
    let gateway = cluster.gateway.as_ref().expect("the gateway runs");
    let mut file = String::from("batch=thirdPartyId,tier,country,lastPurchase,score,segment\n");
    (0..ROWS).for_each(|n| {
        let (tier, country) = (["gold", "silver", "bronze"][n % 3], ["fr", "de", "us", "jp", "br"][n % 5]);
        let row = format!("crm-{n:08},{tier},{country},2026-11-26T10%3A00%3A00Z,{},seg%2F{}\n", n % 99_991, n % 500);
        file.push_str(&row);
    });
    let upload = Request::post(common::BULK_V2, "text/csv", file).header("Accept", "application/json");
    let sent = wait::until("an upload that is taken", || {
        let answer = gateway.send(&upload);
        (answer.status != 503).then_some(answer)
    });
    let batch = sent.expect(200).json()["batchId"].as_str().expect("a batch").to_owned();
    let complete = wait::within(Duration::from_secs(300), || {
        let status = gateway.get(&format!("/v1/demo/batches/{batch}"));
        let status = (status.status == 200).then(|| status.json())?;
        (status["status"] == "complete").then_some(status)
    });
    assert_eq!(complete.expect("a complete batch")["createdProfiles"], ROWS);
    let ids: Vec<_> = (0..40).map(|n| format!("s{n}")).collect();
    let uploaded: BTreeMap<_, _> =
        (0..4).map(|n| format!("CAMEO_LOG_{n}")).map(|s| (s.clone(), cluster.last_of(&s))).collect();
    shorten(&cluster, 0, &ids, |stream| cluster.first_of(stream) > uploaded[stream]);

    let began = Instant::now();
    cluster.join_edge(1);
    let took = began.elapsed();
    eprintln!("joined with {ROWS} profiles after {took:?}");
    assert!(took <= WITHIN, "it took {took:?}");
    assert!(cluster.edge(1).log().contains("loaded from snapshots"), "{}", cluster.edge(1).log());
    common::profiles_become(cluster.edge(1), (ROWS + ids.len()) as u64);
    let digests = cluster.digests();
    assert_eq!(digests["edge-1"], digests["edge-2"]);
}

/// As one that was cut off for longer than the log is kept; what starts it again is compose, or the system.
#[test]
fn an_edge_that_trimming_overtook_ends_and_loads_a_newer_snapshot_when_it_is_started_again() {
    let Some(mut cluster) = Cluster::planned(Plan { flags: SHORT, networks: true, ..Plan::of(1, 2) }) else { return };
    let ids: Vec<_> = (0..40).map(|n| format!("o{n}")).collect();
    for (n, id) in ids.iter().enumerate() {
        cluster.visit(n % 2, id, &format!("first-{n}"));
    }
    assert_eq!(cluster.agreed(&ids).len(), ids.len());
    let read: BTreeMap<_, _> =
        (0..4).map(|n| format!("CAMEO_LOG_{n}")).map(|s| (s.clone(), cluster.last_of(&s))).collect();
    cluster.set_network(0, Network::Cut);
    shorten(&cluster, 1, &ids, |stream| cluster.first_of(stream) > read[stream] + 1);
    cluster.set_network(0, Network::Well);
    let (code, log) = cluster.edges[0].take().expect("the edge runs").ended();
    assert_eq!(code, 6, "{log}");
    assert!(log.contains("trimmed past what this edge has read"), "{log}");
    cluster.restart_edge(0);
    assert!(cluster.edge(0).log().contains("loaded from snapshots"), "{}", cluster.edge(0).log());
    cluster.visit(0, &ids[0], "back");
    let after = cluster.agreed(&ids);
    assert_eq!(after[0]["profileAttributes"]["last"]["value"], "back");
    let of = cluster.digests();
    assert_eq!(of["edge-1"], of["edge-2"]);
}

#[test]
fn a_cluster_that_was_lost_begins_again_from_exported_snapshots() {
    let Some(cluster) = Cluster::start(1, 2) else { return };
    let ids: Vec<_> = (0..60).map(|n| format!("l{n}")).collect();
    for (n, id) in ids.iter().enumerate() {
        cluster.visit(n % 2, id, &format!("before-{n}"));
    }
    let before = cluster.agreed(&ids);
    let of = cluster.digests();
    assert_eq!(of.len(), 2, "{of:?}");
    assert_eq!(of["edge-1"], of["edge-2"], "byte-identical partitions");
    assert_eq!(of["edge-1"].as_array().map(Vec::len), Some(16));
    cluster.admin("GET", "/v1/cluster?digests=maybe", &Value::Null).expect(400);

    let taken = cluster.admin("POST", "/v1/cluster/snapshots", &json!({})).expect(200).json();
    let outcomes: Vec<_> = taken["partitions"].as_array().unwrap().iter().map(|one| &one["outcome"]).collect();
    assert!(outcomes.iter().all(|outcome| *outcome == "taken"), "{taken}");
    let listed = cluster.admin("GET", "/v1/cluster/snapshots", &Value::Null).expect(200).json();
    assert_eq!(listed["snapshots"].as_array().map(Vec::len), Some(16), "{listed}");
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("exported");
    let token = json!({"name": "pos", "scopes": ["profile:read"]});
    let token = cluster.admin("POST", "/v1/demo/tokens", &token).expect(201).json();
    let token = token["accessToken"].as_str().expect("a token").to_owned();
    cluster.admin("PATCH", "/v1/demo/settings", &json!({"imsOrgId": "33@AdobeOrg"})).expect(200);
    let exported = cluster.operate(&["snapshot", "export", "--to", &to.to_string_lossy()]);
    let said = process::said(&exported);
    assert!(exported.status.success() && said.contains("1 client with tokens, 1 user and 0 admin keys"), "{said}");
    let control = to.join("control.json");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&control).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600, "{mode:o}");
    assert!(!std::fs::read_to_string(&control).unwrap().contains(&token), "a secret is nowhere");
    let key = folder.path().join("signing.key");
    std::fs::copy(cluster.signing_key(), &key).unwrap();
    // Not into a cluster that has something.
    let refused = cluster.operate(&["restore", "--from", &to.to_string_lossy()]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("restored into a new one"), "{said}");
    drop(cluster);

    let again = Cluster::planned(Plan { restored_from: Some(to.clone()), ..Plan::of(1, 2) }).expect("NATS was there");
    assert_eq!(again.agreed(&ids), before);
    again.visit(1, &ids[0], "after");
    // An event of before is known, and counts no second time.
    again.visit(0, &ids[1], "before-1");
    let after = again.agreed(&ids);
    assert_eq!(after[0]["profileAttributes"]["last"]["value"], "after");
    assert_eq!(after[1]["profileAttributes"]["visitCount"], before[1]["profileAttributes"]["visitCount"]);
    let of = again.digests();
    assert_eq!(of["edge-1"], of["edge-2"]);
    // Its client, token and user are those of the lost one.
    let settings = again.admin("GET", "/v1/demo/settings", &Value::Null).expect(200).json();
    assert_eq!(settings["imsOrgId"], "33@AdobeOrg", "{settings}");
    again.admin("PATCH", "/v1/demo/settings", &json!({"enableProfileApiAuthentication": true})).expect(200);
    let read = Request::get("/v1/demo/profiles/tnt/l7");
    again.ask(0, &read).expect(401);
    again.ask(0, &read.header("Authorization", &format!("Bearer {token}"))).expect(200);
    drop(again);

    // And into a single process, with them and without.
    let data = folder.path().join("single");
    let (server, said) = restored(&to, &data, None);
    assert!(said.contains("profiles and batches alone") && said.contains("--signing-key-file"), "{said}");
    let profile = server.get("/v1/demo/profiles/tnt/l7").expect(200).json();
    assert_eq!(profile, before[7]);
    drop(server);
    let (server, said) = restored(&to, &folder.path().join("whole"), Some(&key));
    assert!(said.contains("rotated, revoked or removed after that is good again"), "{said}");
    let settings = Request::get("/v1/demo/settings").header("Authorization", &basic("admin", ADMIN_PASSWORD));
    assert_eq!(server.send(&settings).expect(200).json()["imsOrgId"], "33@AdobeOrg");
    // Nothing is written for a key that has signed none of it.
    let stranger = folder.path().join("stranger.key");
    std::fs::write(&stranger, "5c".repeat(32)).unwrap();
    std::fs::set_permissions(&stranger, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let none = folder.path().join("none");
    let refused = process::run(&restore(&to, &none, Some(&stranger)).iter().map(String::as_str).collect::<Vec<_>>());
    let said = process::said(&refused);
    assert!(!refused.status.success() && said.contains("signing key") && !none.exists(), "{said}");
    assert!(!said.contains("good again"), "{said}");
}

#[test]
fn an_export_lacks_nothing_when_partitions_never_had_anything() {
    let Some(cluster) = Cluster::start(1, 1) else { return };
    cluster.visit(0, "only", "one");
    let folder = tempfile::tempdir().unwrap();
    let export = || cluster.operate(&["snapshot", "export", "--to", &folder.path().to_string_lossy()]);
    let early = export();
    let said = process::said(&early);
    assert_eq!(early.status.code(), Some(5), "{said}");
    assert!(said.contains("has no snapshot yet"), "{said}");
    cluster.admin("POST", "/v1/cluster/snapshots", &json!({})).expect(200);
    let exported = export();
    let said = process::said(&exported);
    assert!(exported.status.success() && said.contains("12 have never had anything"), "{said}");
}

/// The command that restores a standalone server.
fn restore(from: &Path, data: &Path, key: Option<&Path>) -> Vec<String> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let mut command = vec!["restore".into(), "--from".into(), text(from), "--data-dir".into(), text(data)];
    if let Some(key) = key {
        command.extend(["--signing-key-file".into(), text(key)]);
    }
    command
}

/// A standalone server from a folder of snapshots, and what was said.
fn restored(from: &Path, data: &Path, key: Option<&Path>) -> (Server, String) {
    let restored = process::run(&restore(from, data, key).iter().map(String::as_str).collect::<Vec<_>>());
    let said = process::said(&restored);
    assert!(restored.status.success(), "{said}");
    (Setup::at(data).start(), said)
}

#[test]
fn a_server_is_restored_from_its_folder_into_a_new_directory() {
    let dir = tempfile::tempdir().unwrap();
    let (snapshots, lost) = (dir.path().join("snapshots"), dir.path().join("lost"));
    let folder = snapshots.to_string_lossy().into_owned();
    let setup = Setup::at(&lost).with(&["--snapshot-dir", &folder, "--admin-password", ADMIN_PASSWORD]);
    let server = setup.start();
    for n in 0..100 {
        common::visit(&server, &common::plain(&format!("r{}", n % 10)));
    }
    let admin = |method, path: &str| {
        server.send(&Request::new(method, path).header("Authorization", &basic("admin", ADMIN_PASSWORD)))
    };
    server.send(&Request::new("POST", "/v1/cluster/snapshots")).expect(401);
    let taken = admin("POST", "/v1/cluster/snapshots").expect(200).json();
    let bytes: u64 = taken["partitions"].as_array().unwrap().iter().filter_map(|one| one["bytes"].as_u64()).sum();
    assert!(bytes > 0, "{taken}");
    let node = admin("GET", "/v1/cluster?digests=true").expect(200).json();
    assert_eq!(node["nodes"][0]["partitions"].as_array().map(Vec::len), Some(16), "{node}");
    let before = server.get("/v1/demo/profiles/tnt/r3").expect(200).json();
    common::visit(&server, &common::plain("after-the-snapshot"));
    server.kill();

    let data = dir.path().join("new");
    let (server, said) = restored(&snapshots, &data, None);
    assert!(said.contains("Clients, tokens and users are made anew"), "{said}");
    assert_eq!(server.get("/v1/demo/profiles/tnt/r3").expect(200).json(), before);
    server.get("/v1/demo/profiles/tnt/after-the-snapshot").expect(404);
    // How it came to be is in the log that is lost.
    server.get("/v1/demo/profiles/tnt/r3?asOf=2026-01-01T00:00:00Z").expect(410);
    assert!(server.get("/v1/demo/profiles/tnt/r3/history").expect(200).json()["completeSince"].is_string());
    common::visit(&server, &common::plain("r3"));
    // It is a server like any other: what it took is there after a kill.
    let server = server.kill().start();
    assert_eq!(common::visit_count(&server, "r3"), 11);
    drop(server);
    // Not over a server that is there.
    let refused = process::run(&["restore", "--from", &folder, "--data-dir", &data.to_string_lossy()]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("is there already"), "{said}");
}

#[test]
fn partitions_whose_snapshots_are_of_different_moments_link_again() {
    let dir = tempfile::tempdir().unwrap();
    let (snapshots, early) = (dir.path().join("snapshots"), dir.path().join("early"));
    let folder = snapshots.to_string_lossy().into_owned();
    let flags = ["--snapshot-dir", &folder, "--snapshot-seconds", "0", "--admin-password", ADMIN_PASSWORD];
    let server = Setup::at(&dir.path().join("lost")).with(&flags).start();
    let take = || {
        let take = Request::new("POST", "/v1/cluster/snapshots");
        server.send(&take.header("Authorization", &basic("admin", ADMIN_PASSWORD))).expect(200);
    };
    let copy = |to: &Path, wanted: &dyn Fn(&str) -> bool| {
        std::fs::create_dir_all(to).unwrap();
        for file in std::fs::read_dir(&snapshots).unwrap().map(Result::unwrap) {
            let name = file.file_name().into_string().unwrap();
            if wanted(&name) {
                std::fs::copy(file.path(), to.join(name)).unwrap();
            }
        }
    };
    let people: Vec<_> = (0..32).map(|n| (format!("d{n}"), format!("p{n}"))).collect();
    let say = |server: &Server, ids: Value, name: &str, value: &str| {
        common::visit(server, &json!({"sessionId": "s", "ids": ids, "profile": {name: value}}));
    };
    for (device, person) in &people {
        say(&server, json!({"tntId": device}), "own", device);
        say(&server, json!({"thirdPartyId": person}), "name", person);
    }
    take();
    copy(&early, &|_| true);
    for (device, person) in &people {
        say(&server, json!({"tntId": device, "thirdPartyId": person}), "login", "first");
    }
    take();
    server.kill();

    for later in [0, 1] {
        let mixed = dir.path().join(format!("mixed-{later}"));
        copy(&mixed, &|name| name[..4].parse::<u16>().unwrap() % 2 == later);
        for file in std::fs::read_dir(&early).unwrap().map(Result::unwrap) {
            std::fs::copy(file.path(), mixed.join(file.file_name())).unwrap();
        }
        let (server, said) = restored(&mixed, &dir.path().join(format!("again-{later}")), None);
        assert!(said.contains("are of different moments"), "{said}");
        for (device, person) in &people {
            let read = |kind: &str, id: &str| server.get(&format!("/v1/demo/profiles/{kind}/{id}")).expect(200).json();
            say(&server, json!({"tntId": device, "thirdPartyId": person}), "login", "second");
            let profile = read("tp", person);
            assert_eq!(read("tnt", device), profile, "{device} and {person}");
            for (name, own) in [("login", "second"), ("name", person), ("own", device)] {
                let value = &profile["profileAttributes"][name]["value"];
                // What was on its way between the moments is lost, but nothing is somebody else's.
                assert!(value == own || value.is_null() && name != "login", "{device}: {name} is {value}");
            }
            say(&server, json!({"tntId": device}), "login", "third");
            assert_eq!(read("tp", person)["profileAttributes"]["login"]["value"], "third", "{device}");
        }
    }
}
