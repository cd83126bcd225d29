//! What an operator looks at: health, readiness, metrics, the API description.

use cameo_tests::server::Server;
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
