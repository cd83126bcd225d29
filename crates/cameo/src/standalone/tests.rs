//! Every route of the process against the golden table: who may call what.

use std::fmt::Write as _;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use cameo_auth::{ClientRecord, Scope, Verifier};
use cameo_profile::ClientCode;
use tower::ServiceExt as _;

use super::*;

async fn process(dir: &tempfile::TempDir) -> (Router, Vec<RouteAccess>) {
    let log = Arc::new(EmbeddedLog::open(EmbeddedOptions::new(dir.path().join("log"))).unwrap());
    let mut demo = ClientRecord::new(&ClientCode::new("demo").unwrap(), 0).unwrap();
    demo.require_authentication = true;
    demo.require_visit_tokens = true;
    let auth = Verifier::fixed(vec![demo]);
    let edge = EdgeConfig {
        auth: auth.clone(),
        checkpoint_dir: dir.path().join("checkpoint"),
        checkpoint_every: Duration::from_secs(3600),
        snapshots: None,
        retention: Some(Duration::from_secs(3600)),
        spool: None,
        draining: Arc::default(),
        metrics: None,
    };
    let edge = Edge::open(edge, log).await.unwrap();
    let gateway = GatewayConfig { auth, spool_dir: dir.path().join("spool"), sole_gateway: true };
    let gateway = Gateway::new(gateway, Arc::new(ReplicaLedger(edge.replica()))).unwrap();
    let plane = PlaneConfig {
        bucket: Arc::new(LocalBucket::in_memory()),
        audit: Arc::new(LocalAudit::open(&dir.path().join("audit")).unwrap()),
        sealer: Sealer::generate().unwrap(),
        clock: Arc::new(SystemClock),
    };
    let plane = Plane::open(plane).await.unwrap();
    router(&edge, &gateway, &plane).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_call_what_is_the_golden_table() {
    let dir = tempfile::tempdir().unwrap();
    let (_, mut table) = process(&dir).await;
    table.sort_by(|a, b| (a.path, a.method.as_str()).cmp(&(b.path, b.method.as_str())));
    let mut text = String::from("# method, path, who may\n");
    for route in &table {
        let _ = writeln!(text, "{route}");
    }
    assert_eq!(text, include_str!("../../golden/routes.txt"), "golden/routes.txt differs; new text:\n{text}");
}

/// The table is no paper: without anything brought along, what is not public is refused by its guard.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_public_turns_away_who_brings_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (router, table) = process(&dir).await;
    for route in &table {
        let mut path = route.path.replace("{client}", "demo").replace("{kind}", "tnt").replace(['{', '}'], "");
        if path.starts_with("/rest/") {
            path.push_str("?client=demo");
        }
        let request = Request::builder().method(&route.method).uri(&path).body(Body::empty()).unwrap();
        let status = router.clone().oneshot(request).await.unwrap().status().as_u16();
        match route.access {
            // Signing in as nobody is refused by itself.
            Access::Public if path == "/admin/sign-in" => {}
            Access::Public => assert!(!matches!(status, 401 | 403 | 405), "{route}: {status}"),
            Access::Token(_) => assert_eq!(status, 401, "{route}"),
            Access::Role(_) | Access::SignedIn if path.starts_with("/admin") => assert_eq!(status, 303, "{route}"),
            Access::Role(_) | Access::SignedIn => assert_eq!(status, 401, "{route}"),
        }
    }
    assert!(Scope::ALL.iter().all(|scope| table.iter().any(|route| route.access == Access::Token(*scope))));
}

/// A page for people, or a part of one.
fn is_page(path: &str) -> bool {
    path == "/" || path == "/admin" || path.starts_with("/admin/")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_description_has_every_route_of_the_api_under_a_name_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let (router, table) = process(&dir).await;
    let request = Request::builder().uri("/openapi.json").body(Body::empty()).unwrap();
    let response = router.oneshot(request).await.unwrap();
    let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    let description: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    let mut names = std::collections::BTreeSet::new();
    for route in table.iter().filter(|route| !is_page(route.path)) {
        let operation = &description["paths"][route.path][route.method.as_str().to_ascii_lowercase()];
        let name = operation["operationId"].as_str();
        let name = name.unwrap_or_else(|| panic!("{route} is not described"));
        assert!(names.insert(name.to_owned()), "{name} is the name of two operations");
        assert!(operation["summary"].is_string(), "{route} does not say what it does");
    }
    // And nothing that is not there.
    let paths = description["paths"].as_object().unwrap();
    let described: usize = paths.values().map(|item| item.as_object().unwrap().len()).sum();
    assert_eq!(described, names.len());
}
