//! What an operator looks at: health, readiness, metrics, the API description.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cameo_tests::cluster::{Cluster, Plan};
use cameo_tests::server::{Server, Setup};
use cameo_tests::{process, readme, wait};
use serde_json::json;

use crate::common::{BULK_V2, plain, upload_all, visit};

/// Every route of a standalone server, as the description must list it.
const ROUTES: [(&str, &str); 19] = [
    ("post", "/v1/{client}/visits"),
    ("get", "/v1/{client}/profiles/{kind}/{id}"),
    ("patch", "/v1/{client}/profiles/{kind}/{id}"),
    ("delete", "/v1/{client}/profiles/{kind}/{id}"),
    ("get", "/v1/{client}/batches/{batchId}"),
    ("get", "/rest/v1/profiles/{tntId}"),
    ("get", "/rest/v1/profiles/thirdPartyId/{id}"),
    ("get", "/rest/v1/profiles/marketingCloudVisitorId/{ecid}"),
    ("get", "/m2/{client}/profile/update"),
    ("post", "/m2/{client}/profile/update"),
    ("post", "/m2/{client}/profile/batchUpdate"),
    ("post", "/m2/{client}/v2/profile/batchUpdate"),
    ("post", "/m2/{client}/v3/profile/batchUpdate"),
    ("get", "/m2/{client}/profile/batchStatus"),
    ("get", "/m2/{client}/profile/batchErrors"),
    ("get", "/healthz"),
    ("get", "/readyz"),
    ("get", "/metrics"),
    ("get", "/openapi.json"),
];

#[test]
fn a_node_that_is_told_to_stop_while_it_waits_for_nats_ends_at_once() {
    let key = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    let arguments = ["--node", "edge-1", "--nats", "nats://127.0.0.1:1", "--control-key", key];
    let node = Setup::default().role("edge").with(&arguments).spawn();
    wait::until("a node that waits", || node.log().contains("trying again").then_some(()));
    // With success, as after any other stop: it has lost nothing.
    node.terminate();
}

#[test]
fn the_description_lists_every_route() {
    let server = Server::start();
    let description = server.get("/openapi.json").expect(200).json();
    assert!(description["openapi"].as_str().is_some_and(|v| v.starts_with("3.")), "{description}");
    let paths = &description["paths"];
    let paths = paths.as_object().expect("paths");
    let described: Vec<_> = paths
        .iter()
        .flat_map(|(path, verbs)| verbs.as_object().into_iter().flatten().map(|(verb, _)| (verb.clone(), shape(path))))
        .collect();
    let missing: Vec<_> =
        ROUTES.iter().filter(|(verb, path)| !described.iter().any(|(v, p)| v == verb && *p == shape(path))).collect();
    assert!(missing.is_empty(), "not described: {missing:?}; described: {described:?}");
}

/// A path with its parameters nameless: what they are called is the description's own affair.
fn shape(path: &str) -> String {
    path.split('/').map(|part| if part.starts_with('{') { "{}" } else { part }).collect::<Vec<_>>().join("/")
}

#[test]
fn health_and_readiness_answer() {
    let server = Server::start();
    for path in ["/healthz", "/readyz"] {
        server.get(path).expect(200);
    }
}

#[test]
fn metrics_have_the_promised_names_and_move() {
    let server = Server::start();
    visit(&server, &plain("m1"));
    server.post_json("/v1/demo/visits", &json!({"sessionId": "a b"})).expect(400);
    upload_all(&server, BULK_V2, "batch=pcId,a\nm2,1\nm3,%zz\n");
    let metrics = server.get("/metrics").expect(200).text();
    for name in [
        "cameo_visits_total",
        "cameo_frames_total",
        "cameo_frame_bytes",
        "cameo_append_seconds",
        "cameo_apply_seconds",
        "cameo_lag",
        "cameo_profiles",
        "cameo_profile_bytes",
        "cameo_checkpoint_age_seconds",
        "cameo_batch_rows_total",
    ] {
        assert!(metrics.lines().any(|l| l.starts_with(name)), "{name} is missing in:\n{metrics}");
    }
    let sum = |name: &str| -> f64 {
        let samples = metrics.lines().filter(|l| l.starts_with(name) && l[name.len()..].starts_with([' ', '{']));
        samples.filter_map(|l| l.rsplit(' ').next()).filter_map(|v| v.parse::<f64>().ok()).sum()
    };
    assert!(sum("cameo_visits_total") >= 1.0, "{metrics}");
    assert!(sum("cameo_batch_rows_total") >= 2.0, "{metrics}");
}

/// Names of metrics of ours in a text.
fn metrics_in(text: &str) -> BTreeSet<&str> {
    let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    text.split(word).filter(|word| word.starts_with("cameo_") && *word != "cameo_").collect()
}

/// Also those that count what has not happened: Prometheus sees no rise of what was not there before.
#[test]
fn what_dashboard_alerts_and_readme_name_is_told_from_the_start() {
    let Some(cluster) = Cluster::planned(Plan { spool: true, ..Plan::of(1, 1) }) else { return };
    cluster.visit(0, "m1", "one");
    let nodes = [cluster.edges[0].as_ref(), cluster.gateway.as_ref(), cluster.control.as_ref()];
    let said = || -> String {
        let metrics = nodes.iter().flatten().map(|node| node.get("/metrics").expect(200).text());
        metrics.collect::<Vec<_>>().concat()
    };
    let file = |path: &str| std::fs::read_to_string(process::workspace().join(path)).expect("a file");
    let (dashboard, alerts, readme) =
        (file("deploy/grafana/dashboards/cameo.json"), file("deploy/prometheus/alerts.yml"), readme::text());
    let readme: String = readme.lines().filter(|line| line.starts_with("| `cameo_")).collect();
    let named: BTreeSet<_> = [&dashboard, &alerts, &readme].into_iter().flat_map(|text| metrics_in(text)).collect();
    assert!(named.len() > 30, "{named:?}");
    let mut missing = Vec::new();
    // Of what is looked at now and then, the first look is waited for.
    let all = wait::within(Duration::from_secs(20), || {
        let said = said();
        let there = metrics_in(&said);
        missing = named.iter().filter(|name| !there.contains(*name)).map(|name| (*name).to_owned()).collect();
        missing.is_empty().then_some(())
    });
    assert!(all.is_some(), "named, and not told by any node: {missing:?}");
}

#[test]
fn links_on_their_way_are_counted_until_they_have_arrived() {
    const LINKS: usize = 2000;
    let server = Server::start();
    let link = |n: usize| json!({"sessionId": "s", "ids": {"tntId": format!("t{n}"), "thirdPartyId": format!("p{n}")}});
    let gauge = |name: &str| -> f64 {
        let metrics = server.get("/metrics").expect(200).text();
        let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        value.unwrap_or_else(|| panic!("{name} is missing in:\n{metrics}"))
    };
    let (seen, server) = (AtomicBool::new(false), &server);
    let seen = &seen;
    std::thread::scope(|scope| {
        // The server looks four times a second: they come until it has seen some on their way.
        let sent = scope.spawn(move || {
            let rounds = (0..).take_while(|_| !seen.load(Ordering::Relaxed));
            rounds.for_each(|round: usize| {
                let links: Vec<_> = (round * LINKS..(round + 1) * LINKS).map(link).collect();
                server.post_json("/v1/demo/visits", &json!(links)).expect(200);
            });
        });
        let waits = wait::within(wait::PATIENCE, || (gauge("cameo_links_waiting") > 0.0).then_some(()));
        seen.store(true, Ordering::Relaxed);
        assert!(sent.join().is_ok(), "the visits are answered");
        assert!(waits.is_some(), "no link was ever seen on its way");
    });
    wait::until("links that have arrived", || {
        (gauge("cameo_links_waiting") == 0.0 && gauge("cameo_links_waiting_seconds") == 0.0).then_some(())
    });
}

#[test]
fn two_servers_do_not_share_a_directory() {
    let server = Server::start();
    let refusal = server.setup().try_start().expect_err("a second server on the same directory");
    assert!(!refusal.status.success());
    let data = server.setup().data().to_string_lossy().into_owned();
    assert!(refusal.log.contains(&data), "the directory is not named: {}", refusal.log);
    visit(&server, &plain("still-here"));
}

#[test]
fn durability_traded_away_is_said_at_start() {
    let server = cameo_tests::server::Setup::default().with(&["--durability", "buffered"]).start();
    visit(&server, &plain("b"));
    assert!(server.log().contains("buffered"), "{}", server.log());
}
