//! The cluster of `docker-compose.yml`, started as README says, under load while its containers are restarted, killed,
//! paused and cut off. One cluster for all of it, as it takes a while to start; each step is a function.
//!
//! `CAMEO_COMPOSE_ROUNDS` makes a long run of it, `CAMEO_COMPOSE_SEED` repeats the order of blows that a run has printed.

mod dashboard;
mod load;

use std::time::{Duration, Instant};

use cameo_tests::compose::{Compose, EDGES, ask};
use cameo_tests::http::Request;
use cameo_tests::random::Random;
use cameo_tests::wait;
use load::Load;
use serde_json::{Value, json};

/// Longest time for which a caller that tries again is not served, whatever one thing dies: an edge that was cut off asks
/// NATS for ten seconds before it says that it does not know; an election of JetStream takes five. Twice the longer one, as
/// the machine may have two cores for all of it.
const LONGEST_STALL: Duration = Duration::from_secs(20);
/// Visits that are waited for after each blow: a second or two.
const A_WHILE: u64 = 150;
/// Rows of the bulk file.
const ROWS: usize = 5_000;

#[test]
fn the_cluster_of_docker_compose_keeps_its_promises() {
    let began = Instant::now();
    let Some(mut cluster) = Compose::start() else { return };
    let said = |step: &str| eprintln!("{:6.1} s  {step}", began.elapsed().as_secs_f64());
    said("the cluster is up");
    // The C library, libm and libgcc, and who is who.
    assert!(cluster.base_bytes() < 8_000_000, "{} bytes are around the binary", cluster.base_bytes());
    what_one_door_takes_every_edge_has(&cluster);
    the_door_leads_to_the_right_rooms(&cluster);
    said("visits, profiles and a bulk file went through the proxy");
    a_rotated_token_is_dead_at_every_door(&cluster);
    said("rotated tokens were dead");

    let load = Load::start(cluster.proxy());
    load.goes_on(A_WHILE);
    let slowest = load.trouble().slowest;
    said(&format!("a load runs; the slowest visit took {} ms", slowest.as_millis()));
    edges_are_restarted_one_by_one_and_no_visit_is_refused(&cluster, &load);
    said("edges were restarted one by one");
    let rounds = std::env::var("CAMEO_COMPOSE_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(1);
    let mut random = Random::from_env("CAMEO_COMPOSE_SEED");
    for (blow, what) in (0..rounds).flat_map(|_| shuffled(&mut random)) {
        blow(&cluster, &load);
        load.goes_on(A_WHILE);
        let trouble = load.trouble();
        let (failures, slowest) = (trouble.failures.len(), trouble.slowest);
        said(&format!("{what}: {failures} tries failed, the slowest visit took {} ms", slowest.as_millis()));
        assert!(slowest < LONGEST_STALL, "{what}: {slowest:?}: {:?}", trouble.failures);
    }
    dashboard::shows_what_there_is(&cluster);
    said("every question of the dashboard and the alerts was answered");
    let acknowledged = load.stop();
    every_visit_counts_once_everywhere(&cluster, &acknowledged);
    every_edge_has_the_same_partitions(&cluster);
    said("every acknowledged visit counted once on every edge, and all have the same partitions");

    cluster.compose(&["stop", "--timeout", "30"]);
    cluster.compose(&["start"]);
    cluster.look_up_proxy();
    EDGES.iter().for_each(|edge| cluster.wait_ready(edge));
    every_visit_counts_once_everywhere(&cluster, &acknowledged);
    said("and still after a restart of everything");
}

type Blow = fn(&Compose, &Load);

/// One after the other, in an order of chance; after each the cluster is whole again.
const BLOWS: [(Blow, &str); 10] = [
    (an_edge_is_killed, "an edge was killed"),
    (an_edge_loses_its_disk, "an edge lost its disk"),
    (an_edge_stands_still, "an edge stood still"),
    // All of them, as each leads something.
    (|cluster, load| a_nats_server_is_killed(cluster, load, "nats-1"), "a NATS server was killed"),
    (|cluster, load| a_nats_server_is_killed(cluster, load, "nats-2"), "the second one was killed"),
    (|cluster, load| a_nats_server_is_killed(cluster, load, "nats-3"), "the third one was killed"),
    (
        |cluster, load| a_nats_server_is_restarted(cluster, load, "nats-1"),
        "a NATS server was restarted, and handed over",
    ),
    (an_edge_is_cut_off_and_fails_closed, "an edge was cut off from NATS"),
    (the_gateway_is_killed_amid_an_upload, "the gateway was killed amid an upload"),
    (the_control_plane_is_killed, "the control plane was killed"),
];

/// The blows of one round (Fisher and Yates).
fn shuffled(random: &mut Random) -> [(Blow, &'static str); BLOWS.len()] {
    let mut blows = BLOWS;
    for last in (1..blows.len()).rev() {
        blows.swap(last, usize::try_from(random.below(last as u64 + 1)).expect("an index"));
    }
    blows
}

fn visit(id: &str, name: &str) -> Request {
    let body = json!({"eventId": name, "sessionId": name, "ids": {"tntId": id}, "profile": {"last": name}});
    Request::post("/v1/demo/visits?return=profile", "application/json", body.to_string())
}

fn what_one_door_takes_every_edge_has(cluster: &Compose) {
    let ids: Vec<_> = (0..20).map(|n| format!("a{n}")).collect();
    for id in &ids {
        let took = cluster.ask("proxy", &visit(id, &format!("first-{id}"))).expect(200).json();
        assert_eq!(took["profile"]["profileAttributes"]["last"]["value"], format!("first-{id}"), "{took}");
    }
    let updated = cluster.ask("proxy", &Request::get("/m2/demo/profile/update?mboxPC=a0&profile.tier=gold"));
    updated.expect(200);
    let profiles = cluster.agreed(&ids);
    assert_eq!(profiles[0]["profileAttributes"]["tier"]["value"], "gold", "{}", profiles[0]);
    cluster.ask("proxy", &Request::get("/rest/v1/profiles/a0?client=demo")).expect(200);

    let mut file = String::from("batch=pcId,tier,n\n");
    (0..ROWS).for_each(|n| file.push_str(&format!("b{n},silver,{n}\n")));
    let upload =
        Request::post("/m2/demo/v2/profile/batchUpdate", "text/csv", file).header("Accept", "application/json");
    let batch = cluster.ask("proxy", &upload).expect(200).json()["batchId"].as_str().expect("a batch").to_owned();
    let status = wait::until("a batch that is complete", || {
        let status = cluster.ask("proxy", &Request::get(&format!("/v1/demo/batches/{batch}"))).expect(200).json();
        (status["status"] == "complete").then_some(status)
    });
    assert_eq!(status["createdProfiles"], ROWS, "{status}");
    let profiles = cluster.agreed(&["b0".to_owned(), format!("b{}", ROWS - 1)]);
    assert_eq!(profiles[1]["profileAttributes"]["n"]["value"], (ROWS - 1).to_string());
}

/// The public port knows neither the admin API nor metrics; the admin port has both, and its pages reach the edges.
fn the_door_leads_to_the_right_rooms(cluster: &Compose) {
    for path in ["/metrics", "/admin", "/v1/users", "/v1/cluster", "/v1/demo/tokens"] {
        assert_eq!(cluster.ask("proxy", &Request::get(path)).status, 404, "{path}");
    }
    for path in ["/healthz", "/readyz", "/openapi.json"] {
        cluster.ask("proxy", &Request::get(path)).expect(200);
    }
    let nodes = cluster.admin("GET", "/v1/cluster", &Value::Null).expect(200).json();
    assert_eq!(nodes["nodes"].as_array().map(Vec::len), Some(5), "{nodes}");
    // Docker has found so by the health check of the image.
    for service in ["nats-1", "nats-2", "nats-3", "control-1", "gateway-1", "proxy", "prometheus"].iter().chain(&EDGES)
    {
        cluster.wait_healthy(service);
    }
}

fn fetch(token: &str) -> Request {
    Request::get("/rest/v1/profiles/a0?client=demo").header("Authorization", &format!("Bearer {token}"))
}

/// Asks until it is not for a lost lease that somebody is refused.
fn status(cluster: &Compose, service: &str, request: &Request) -> u16 {
    wait::until("a node that holds its lease", || Some(cluster.ask(service, request).status).filter(|s| *s != 503))
}

fn a_rotated_token_is_dead_at_every_door(cluster: &Compose) {
    let made = cluster.admin("POST", "/v1/demo/tokens", &json!({"name": "pos", "scopes": ["profile:read"]}));
    let made = made.expect(201).json();
    let (id, mut token) =
        (made["token"]["id"].as_str().expect("a text"), made["accessToken"].as_str().expect("a text").to_owned());
    cluster.admin("PATCH", "/v1/demo/settings", &json!({"enableProfileApiAuthentication": true})).expect(200);
    for _ in 0..5 {
        let rotated = cluster.admin("POST", &format!("/v1/demo/tokens/{id}/rotate"), &json!({})).expect(200).json();
        let new = rotated["accessToken"].as_str().expect("a text").to_owned();
        for door in EDGES.iter().chain(&["proxy"]) {
            // Not even once, also by an edge that has lost its lease.
            assert_ne!(cluster.ask(door, &fetch(&token)).status, 200, "{door}");
            assert_eq!(
                (status(cluster, door, &fetch(&token)), status(cluster, door, &fetch(&new))),
                (401, 200),
                "{door}"
            );
        }
        token = new;
    }
    cluster.admin("PATCH", "/v1/demo/settings", &json!({"enableProfileApiAuthentication": false})).expect(200);
}

fn edges_are_restarted_one_by_one_and_no_visit_is_refused(cluster: &Compose, load: &Load) {
    for edge in EDGES {
        cluster.docker("restart", edge);
        cluster.wait_ready(edge);
        // The proxy looks twice before it believes.
        wait_for_proxy(cluster, edge);
    }
    let failures = load.trouble().failures;
    assert!(failures.is_empty(), "{failures:?}");
}

/// Waits until the proxy sends requests to a service again.
fn wait_for_proxy(cluster: &Compose, edge: &str) {
    let prometheus = cluster.address("prometheus", dashboard::PORT);
    let query = format!("haproxy_server_status{{proxy=\"edges\",server=\"{edge}\",state=\"UP\"}} == 1");
    wait::until(&format!("a proxy that sends requests to {edge}"), || {
        let found = dashboard::query(prometheus, &query);
        (!found.as_array()?.is_empty()).then_some(())
    });
}

fn an_edge_is_killed(cluster: &Compose, load: &Load) {
    cluster.docker("kill", "edge-1");
    load.goes_on(A_WHILE);
    cluster.docker("start", "edge-1");
    cluster.wait_ready("edge-1");
}

/// It joins again with nothing, from snapshots and the log.
fn an_edge_loses_its_disk(cluster: &Compose, load: &Load) {
    cluster.lose_disk("edge-2");
    load.goes_on(A_WHILE);
    cluster.wait_ready("edge-2");
}

fn an_edge_stands_still(cluster: &Compose, load: &Load) {
    cluster.docker("pause", "edge-2");
    load.goes_on(A_WHILE);
    cluster.docker("unpause", "edge-2");
    cluster.wait_ready("edge-2");
}

fn a_nats_server_is_killed(cluster: &Compose, load: &Load, server: &str) {
    cluster.docker("kill", server);
    load.goes_on(A_WHILE);
    cluster.docker("start", server);
    wait_whole(cluster, server);
}

/// As an operator does it, one server after the other: it says that it is about to leave.
fn a_nats_server_is_restarted(cluster: &Compose, load: &Load, server: &str) {
    cluster.docker("restart", server);
    load.goes_on(A_WHILE);
    wait_whole(cluster, server);
    let failures = load.failures();
    assert!(failures.is_empty(), "{failures:?}");
}

/// The next server may not go before this one has everything again.
fn wait_whole(cluster: &Compose, server: &str) {
    let whole = ["wget", "-q", "-O", "/dev/null", "http://127.0.0.1:8222/healthz"];
    wait::until("a server that has all of its streams", || cluster.succeeds_in(server, &whole).then_some(()));
}

/// Callers still reach it; NATS does not. It must not accept a token when it cannot know that it is still good.
fn an_edge_is_cut_off_and_fails_closed(cluster: &Compose, load: &Load) {
    let edge = cluster.address("edge-3", 8080);
    let profile = Request::get("/v1/demo/profiles/tnt/a0");
    cluster.nats_network("disconnect", "edge-3");
    wait::until("an edge that refuses protected calls", || {
        ask(edge, &profile).is_ok_and(|answer| answer.status == 503).then_some(())
    });
    assert_eq!(ask(edge, &Request::get("/readyz")).expect("an answer").status, 503);
    let made = cluster.admin("POST", "/v1/demo/tokens", &json!({"name": "till", "scopes": ["profile:read"]}));
    let made = made.expect(201).json();
    let nodes = made["confirmation"]["nodes"].as_array().expect("nodes");
    assert!(nodes.iter().any(|node| node["node"] == "edge-3" && node["how"] == "lapsed"), "{made}");
    load.goes_on(A_WHILE);
    cluster.nats_network("connect", "edge-3");
    cluster.wait_ready("edge-3");
}

/// Whatever the caller was told, the same upload sent again completes the file, and every row counts once.
fn the_gateway_is_killed_amid_an_upload(cluster: &Compose, load: &Load) {
    // Another round has another file.
    let round = format!("{:x}", load.acknowledged());
    let mut file = String::from("batch=pcId,round\n");
    (0..ROWS).for_each(|n| file.push_str(&format!("g{n},{round}\n")));
    let upload = Request::post("/m2/demo/v2/profile/batchUpdate", "text/csv", file);
    let upload = upload.header("Accept", "application/json").header("Idempotency-Key", &round);
    let proxy = cluster.proxy();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| ask(proxy, &upload));
        cluster.docker("kill", "gateway-1");
        drop(first.join().expect("a try"));
    });
    load.goes_on(A_WHILE);
    cluster.docker("start", "gateway-1");
    cluster.wait_healthy("gateway-1");
    let batch = wait::until("an upload that is taken", || {
        let answer = ask(proxy, &upload).ok().filter(|answer| answer.status == 200)?;
        answer.json()["batchId"].as_str().map(str::to_owned)
    });
    let status = wait::until("a batch that is complete", || {
        let status = cluster.ask("proxy", &Request::get(&format!("/v1/demo/batches/{batch}")));
        let status = (status.status == 200).then(|| status.json())?;
        (status["status"] == "complete").then_some(status)
    });
    assert_eq!((&status["batchSize"], &status["failedUpdates"]), (&json!(ROWS), &json!(0)), "{status}");
    let ids: Vec<_> = [0, ROWS / 2, ROWS - 1].iter().map(|n| format!("g{n}")).collect();
    for profile in cluster.agreed(&ids) {
        assert_eq!(profile["profileAttributes"]["round"]["value"], round.as_str(), "{profile}");
    }
}

/// Tokens are judged without it, and what it had confirmed before is as it was.
fn the_control_plane_is_killed(cluster: &Compose, load: &Load) {
    let made = cluster.admin("POST", "/v1/demo/tokens", &json!({"name": "kiosk", "scopes": ["profile:read"]}));
    let made = made.expect(201).json();
    let (id, old) = (made["token"]["id"].clone(), made["accessToken"].as_str().expect("a text").to_owned());
    let id = id.as_str().expect("a text");
    let rotated = cluster.admin("POST", &format!("/v1/demo/tokens/{id}/rotate"), &json!({})).expect(200).json();
    let new = rotated["accessToken"].as_str().expect("a text").to_owned();
    cluster.admin("PATCH", "/v1/demo/settings", &json!({"enableProfileApiAuthentication": true})).expect(200);
    let judged = || {
        for edge in EDGES {
            let statuses = (status(cluster, edge, &fetch(&old)), status(cluster, edge, &fetch(&new)));
            assert_eq!(statuses, (401, 200), "{edge}");
        }
    };
    cluster.docker("kill", "control-1");
    load.goes_on(A_WHILE);
    judged();
    cluster.docker("start", "control-1");
    cluster.wait_ready("control-1");
    judged();
    cluster.admin("PATCH", "/v1/demo/settings", &json!({"enableProfileApiAuthentication": false})).expect(200);
    cluster.admin("DELETE", &format!("/v1/demo/tokens/{id}"), &Value::Null).expect(200);
    wait::until("edges that ask for no token", || {
        EDGES
            .iter()
            .all(|edge| cluster.ask(edge, &Request::get("/v1/demo/profiles/tnt/a0")).status == 200)
            .then_some(())
    });
}

/// Byte for byte: `/v1/cluster?digests=true` has the same for every edge, once all have read as far.
fn every_edge_has_the_same_partitions(cluster: &Compose) {
    wait::until("edges whose partitions have the same digests", || {
        let nodes = cluster.admin("GET", "/v1/cluster?digests=true", &Value::Null).expect(200).json();
        // A run that was killed is listed for a while beside the one that follows it.
        let of_edges = nodes["nodes"].as_array()?.iter().filter(|node| node["silent"] != true);
        let of_edges: Vec<_> = of_edges.filter(|node| node["partitions"].is_array()).collect();
        let same = of_edges.iter().all(|node| node["partitions"] == of_edges[0]["partitions"]);
        (of_edges.len() == EDGES.len() && same).then_some(())
    });
}

fn every_visit_counts_once_everywhere(cluster: &Compose, acknowledged: &[(String, u64)]) {
    let ids: Vec<_> = acknowledged.iter().map(|(id, _)| id.clone()).collect();
    let counted = |profile: &Value| {
        profile["profileAttributes"]["visitCount"]["value"].as_str().and_then(|count| count.parse::<u64>().ok())
    };
    let profiles = cluster.agreed(&ids);
    let counts: Vec<_> = profiles.iter().map(counted).collect();
    let expected: Vec<_> = acknowledged.iter().map(|(_, count)| Some(*count)).collect();
    assert_eq!(counts, expected, "visits counted, and visits acknowledged");
    assert!(acknowledged.iter().map(|(_, count)| count).sum::<u64>() > A_WHILE, "there was a load");
}
