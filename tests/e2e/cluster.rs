//! A cluster over real NATS servers: what one edge takes all edges have, tokens die on all of them, and the death of a
//! server loses and doubles nothing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cameo_tests::cluster::{Cluster, LEASE_SECONDS};
use cameo_tests::http::Request;
use cameo_tests::wait;
use serde_json::{Value, json};

use crate::common::{sign_in, visits};

fn fetch(token: &str) -> Request {
    Request::get("/rest/v1/profiles/a0?client=demo").header("Authorization", &format!("Bearer {token}"))
}

#[test]
fn what_one_edge_takes_all_edges_have_and_a_rotated_token_is_dead_on_all() {
    let Some(cluster) = Cluster::start(1, 3) else { return };
    for n in 0..30 {
        let took = cluster.edge(n % 3).post_json(
            "/v1/demo/visits?return=profile",
            &json!({"ids": {"tntId": format!("a{n}")}, "profile": {"n": n.to_string()}}),
        );
        assert_eq!(took.expect(200).json()["profile"]["profileAttributes"]["n"]["value"], n.to_string());
        // Read your writes: at the edge that took it, at once.
        cluster.ask(n % 3, &Request::get(&format!("/v1/demo/profiles/tnt/a{n}"))).expect(200);
    }
    let ids: Vec<_> = (0..30).map(|n| format!("a{n}")).collect();
    assert_eq!(cluster.agreed(&ids).len(), 30);

    let made = cluster.admin("POST", "/v1/demo/tokens", &json!({"name": "pos", "scopes": ["profile:read"]}));
    let made = made.expect(201).json();
    let (id, mut token) = (made["token"]["id"].as_str().unwrap(), made["accessToken"].as_str().unwrap().to_owned());
    cluster.admin("PATCH", "/v1/demo/settings", &json!({"enableProfileApiAuthentication": true})).expect(200);
    for _ in 0..20 {
        let rotated = cluster.admin("POST", &format!("/v1/demo/tokens/{id}/rotate"), &json!({})).expect(200).json();
        let nodes = rotated["confirmation"]["nodes"].as_array().unwrap();
        assert_eq!(nodes.len(), 5, "three edges, gateway and control plane: {rotated}");
        let new = rotated["accessToken"].as_str().unwrap().to_owned();
        for n in 0..3 {
            // Not even once, also by an edge that has lost its lease.
            assert_ne!(cluster.edge(n).send(&fetch(&token)).status, 200);
            assert_eq!((cluster.ask(n, &fetch(&token)).status, cluster.ask(n, &fetch(&new)).status), (401, 200));
        }
        token = new;
    }
    // An edge that stands still delays a rotation by its lease, and refuses the old token from its first breath.
    cluster.edge(2).pause();
    let rotated = cluster.admin("POST", &format!("/v1/demo/tokens/{id}/rotate"), &json!({})).expect(200).json();
    let nodes = rotated["confirmation"]["nodes"].as_array().unwrap();
    assert!(nodes.iter().any(|node| node["node"] == "edge-3" && node["how"] == "lapsed"), "{rotated}");
    assert_eq!((cluster.ask(0, &fetch(&token)).status, cluster.ask(1, &fetch(&token)).status), (401, 401));
    cluster.edge(2).resume();
    let end = std::time::Instant::now() + Duration::from_secs(LEASE_SECONDS * 2);
    while std::time::Instant::now() < end {
        let status = cluster.edge(2).send(&fetch(&token)).status;
        assert!(matches!(status, 401 | 503), "the old token was let in with {status}");
    }
    let page = cluster.admin("GET", "/v1/cluster", &Value::Null).expect(200).json();
    assert_eq!(page["nodes"].as_array().map(Vec::len), Some(5), "{page}");
}

#[test]
fn servers_and_edges_die_and_every_visit_counts_once_everywhere() {
    let Some(mut cluster) = Cluster::start(3, 3) else { return };
    let mut slowest = Duration::ZERO;
    let ids: Vec<_> = (0..8).map(|n| format!("c{n}")).collect();
    let mut sent = vec![0; ids.len()];
    for round in 0..3 {
        for burst in 0..40_usize {
            let n = (round * 40 + burst) % ids.len();
            if burst == 15 {
                let leader = cluster.leader("CAMEO_LOG_0");
                cluster.nats.kill(leader);
                // Whoever is asked next has to wait for the new leader, if it is of this stream.
                slowest = slowest.max(cluster.visit(0, &ids[n], &format!("{round}-{burst}")));
                cluster.nats.restart(leader);
            } else {
                slowest = slowest.max(cluster.visit(burst % 2, &ids[n], &format!("{round}-{burst}")));
            }
            sent[n] += 1;
        }
        cluster.kill_edge(2);
        cluster.visit(0, &ids[0], &format!("{round}-while-down"));
        sent[0] += 1;
        cluster.restart_edge(2);
        let profiles = cluster.agreed(&ids);
        let counted: Vec<_> = profiles.iter().map(visits).collect();
        assert_eq!(counted, sent.iter().map(|count| Some(*count)).collect::<Vec<_>>(), "round {round}");
    }
    eprintln!("slowest visit over the death of a NATS server: {slowest:?}");
}

#[test]
fn without_nats_reads_go_on_with_their_age_and_everything_recovers() {
    let Some(mut cluster) = Cluster::start_with_lease(1, 1, 20) else { return };
    cluster.visit(0, "o1", "first");
    let path = "/v1/demo/profiles/tnt/o1";
    assert_eq!(cluster.ask(0, &Request::get(path)).expect(200).header("cameo-data-age"), "");
    cluster.nats.kill(0);
    let answer = wait::until("a read that says how old it is", || {
        let answer = cluster.edge(0).get(path).expect(200);
        (!answer.header("cameo-data-age").is_empty()).then_some(answer)
    });
    assert_eq!(answer.json()["profileAttributes"]["last"]["value"], "first");
    let refused = cluster.edge(0).post_json("/v1/demo/visits", &json!({"ids": {"tntId": "o1"}}));
    assert_eq!((refused.status, refused.header("retry-after").is_empty()), (503, false), "{}", refused.text());
    // When nobody can tell any more which tokens are good, protected calls are refused, reads among them.
    wait::until("a read that is refused", || (cluster.edge(0).get(path).status == 503).then_some(()));
    assert_eq!(cluster.edge(0).get("/readyz").status, 503);
    cluster.nats.restart(0);
    cluster.visit(0, "o1", "second");
    wait::until("a node that is ready again", || (cluster.edge(0).get("/readyz").status == 200).then_some(()));
    let profile = cluster.ask(0, &Request::get(path)).expect(200).json();
    assert_eq!(profile["profileAttributes"]["last"]["value"], "second");
}

#[test]
fn a_bulk_file_reaches_every_edge_also_when_its_edge_dies() {
    const ROWS: usize = 20_000;
    let Some(mut cluster) = Cluster::start(1, 2) else { return };
    let gateway = cluster.gateway.as_ref().expect("the gateway runs");
    let mut file = String::from("batch=pcId,tier,n\n");
    (0..ROWS).for_each(|n| file.push_str(&format!("b{n},gold,{n}\n")));
    let upload = Request::post("/m2/demo/v2/profile/batchUpdate", "text/csv", file.as_str());
    let upload = upload.header("Accept", "application/json").header("Idempotency-Key", "one");
    let sent = wait::until("an upload that is taken", || {
        let answer = gateway.send(&upload);
        (answer.status != 503).then_some(answer)
    });
    let batch = sent.expect(200).json()["batchId"].as_str().expect("a batch").to_owned();
    // Whichever edge the gateway is at: the rows that it had not answered for go to the other one, and count once.
    cluster.kill_edge(0);
    cluster.restart_edge(0);
    cluster.kill_edge(1);
    cluster.restart_edge(1);
    let gateway = cluster.gateway.as_ref().expect("the gateway runs");
    let status = wait::until("a batch that is complete", || {
        let status = gateway.get(&format!("/v1/demo/batches/{batch}"));
        let status = (status.status == 200).then(|| status.json())?;
        (status["status"] == "complete").then_some(status)
    });
    assert_eq!(status["createdProfiles"], ROWS, "{status}");
    // Sent again with its key: the same batch, and nothing is applied twice.
    let again = wait::until("an answer", || Some(gateway.send(&upload)).filter(|answer| answer.status != 503));
    let again = again.expect(200).json();
    assert_eq!(again["batchId"].as_str(), Some(batch.as_str()));
    let ids: Vec<_> = [0, 1, ROWS / 2, ROWS - 1].iter().map(|n| format!("b{n}")).collect();
    for (profile, n) in cluster.agreed(&ids).iter().zip([0, 1, ROWS / 2, ROWS - 1]) {
        assert_eq!(profile["profileAttributes"]["n"]["value"], n.to_string(), "{profile}");
    }
    let listed = wait::until("a list", || Some(gateway.get("/v1/demo/batches")).filter(|answer| answer.status != 503));
    let listed = listed.expect(200).json();
    assert_eq!(listed["batches"].as_array().map(Vec::len), Some(1), "{listed}");
}

#[test]
fn no_upload_is_turned_away_while_the_edges_are_started_anew_one_after_the_other() {
    let Some(mut cluster) = Cluster::start(1, 2) else { return };
    let mut edges = std::mem::take(&mut cluster.edges);
    let gateway = cluster.gateway.as_ref().expect("the gateway runs");
    let upload = || {
        let upload = Request::post("/m2/demo/v2/profile/batchUpdate", "text/csv", "batch=pcId,tier\nr1,gold\n");
        gateway.send(&upload.header("Accept", "application/json"))
    };
    wait::until("a gateway that takes files", || (upload().status == 200).then_some(()));
    let over = AtomicBool::new(false);
    let taken = std::thread::scope(|scope| {
        let uploads = scope.spawn(|| {
            let mut taken = 0;
            while !over.load(Ordering::Relaxed) {
                let answer = upload();
                // Several are under way at most.
                assert!(matches!(answer.status, 200 | 429), "after {taken}: {}: {}", answer.status, answer.text());
                taken += usize::from(answer.status == 200);
            }
            taken
        });
        for edge in &mut edges {
            let setup = edge.take().expect("the edge runs").terminate();
            *edge = Some(setup.start());
        }
        over.store(true, Ordering::Relaxed);
        uploads.join().expect("every upload is taken")
    });
    assert!(taken > 10, "{taken} uploads");
}

#[test]
fn the_admin_pages_reach_profiles_and_batches_over_the_network() {
    let Some(cluster) = Cluster::start(1, 1) else { return };
    cluster.visit(0, "p1", "seen");
    // Nobody without a token gets in, and the pages need none: the control plane vouches for them.
    cluster.admin("PATCH", "/v1/demo/settings", &json!({"enableProfileApiAuthentication": true})).expect(200);
    cluster.ask(0, &Request::get("/v1/demo/profiles/tnt/p1")).expect(401);
    let forged = Request::get("/v1/demo/profiles/tnt/p1").header("cameo-pass", "1.00");
    cluster.ask(0, &forged).expect(401);
    let control = cluster.control.as_ref().expect("the control plane runs");
    let cookie = sign_in(control);
    let page = |path: &str| control.send(&Request::get(path).header("Cookie", &cookie)).expect(200).text();
    let profile = page("/admin/c/demo/profiles?kind=tnt&id=p1");
    assert!(profile.contains("seen"), "{profile}");
    assert!(page("/admin/c/demo/batches").contains("Batches"));
}

/// Visits of NATS producers count once, whatever dies while they are drained.
#[test]
fn visits_from_nats_producers_count_once() {
    const VISITORS: u64 = 5;
    const EACH: u64 = 60;
    let Some(mut cluster) = Cluster::start(1, 2) else { return };
    let sent = |n: u64, body: Value| (format!("event-{n}"), "cameo.visits.demo".to_owned(), body);
    let all = (0..VISITORS * EACH).map(|n| {
        let visitor = format!("n{}", n % VISITORS);
        sent(n, json!({"sessionId": format!("s{n}"), "ids": {"tntId": visitor}, "profile": {"last": n.to_string()}}))
    });
    let (first, second): (Vec<_>, Vec<_>) = all.partition(|(id, ..)| id.len() % 2 == 0);
    cluster.publish(&first);
    cluster.kill_edge(0);
    cluster.publish(&second);
    // Sent once more by a producer that was not sure, and some that nobody can ever take.
    cluster.publish(&second[..10]);
    cluster.publish(&[
        ("bad-1".into(), "cameo.visits.demo".into(), json!({"unheard": 1})),
        ("bad-2".into(), "cameo.visits.demo".into(), json!([{}])),
        ("bad-3".into(), "cameo.visits.nobody".into(), json!({"ids": {"tntId": "x"}})),
    ]);
    cluster.restart_edge(0);
    let ids: Vec<_> = (0..VISITORS).map(|n| format!("n{n}")).collect();
    wait::until("all visits of the queue", || {
        let profiles = cluster.agreed(&ids);
        profiles.iter().all(|profile| visits(profile) == Some(EACH)).then_some(())
    });
    wait::until("an empty queue", || cluster.is_drained("CAMEO_VISITS").then_some(()));
    let profiles = cluster.agreed(&ids);
    assert_eq!(profiles.iter().map(visits).collect::<Vec<_>>(), vec![Some(EACH); ids.len()]);
}

/// What every test here runs with: the accounts of `deploy/nats`. What nodes need they may; here is what they may not.
#[test]
fn nobody_may_do_more_in_nats_than_is_needed() {
    let Some(cluster) = Cluster::start(1, 1) else { return };
    let consumer = json!({"stream_name": "KV_CAMEO_CONTROL", "config": {"deliver_subject": "cameo.tail.0.0", "ack_policy": "none"}});
    let allowed = ["$JS.API.STREAM.INFO.CAMEO_LOG_0", "$KV.CAMEO_CONTROL.node.edge-1.x"];
    let denied = [
        "$KV.CAMEO_CONTROL.client.demo",
        "$KV.CAMEO_CONTROL.node.edge-2.x",
        "$JS.API.CONSUMER.CREATE.KV_CAMEO_CONTROL",
        "$JS.API.CONSUMER.CREATE.CAMEO_LOG_0.x",
        "$JS.API.STREAM.CREATE.X",
        "$JS.API.STREAM.PURGE.CAMEO_LOG_0",
        "$JS.API.STREAM.PURGE.OBJ_CAMEO_SNAPSHOTS",
        "$JS.API.STREAM.DELETE.CAMEO_LOG_0",
        "cameo.visits.demo",
        "cameo.audit",
    ];
    for subject in allowed {
        assert!(cluster.may("edge-1", subject, &json!({})), "{subject}");
    }
    std::thread::scope(|scope| {
        for subject in denied {
            let (cluster, consumer) = (&cluster, &consumer);
            scope.spawn(move || assert!(!cluster.may("edge-1", subject, consumer), "{subject}"));
        }
        for (user, subject) in [
            ("gateway-1", "cameo.log.0.0"),
            ("gateway-1", "$KV.CAMEO_CONTROL.client.demo"),
            ("gateway-1", "$JS.API.STREAM.INFO.CAMEO_LOG_0"),
            ("gateway-1", "cameo.audit"),
            ("producer", "cameo.log.0.0"),
            ("producer", "cameo.audit"),
            ("producer", "$JS.API.STREAM.INFO.CAMEO_VISITS"),
        ] {
            let cluster = &cluster;
            scope.spawn(move || assert!(!cluster.may(user, subject, &json!({})), "{user} {subject}"));
        }
    });
}
