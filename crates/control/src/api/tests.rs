//! The admin API by itself: every route for every role, what is refused and how, who is let in, and callers that hang up.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use cameo_auth::Role;
use cameo_auth::routes::RouteAccess;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, ready};
use http::Method;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::nodes::{Nodes, PartitionView, SnapshotResult, SnapshotView};
use crate::principal::Principal;
use crate::stage::{Call, PASSWORD, Stage};

mod entry;
mod refusals;

/// The route that has a node do something, and changes no record.
const TAKES_SNAPSHOTS: (&str, &str) = ("POST", "/v1/cluster/snapshots");

/// Nodes that have nothing; counts what they are told to do.
#[derive(Default)]
struct IdleNodes(AtomicU64);

impl Nodes for IdleNodes {
    fn partitions<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Vec<PartitionView>, String>> {
        ready(Ok(Vec::new())).boxed()
    }

    fn take_snapshots<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Vec<SnapshotResult>, String>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        ready(Ok(Vec::new())).boxed()
    }

    fn snapshots(&self) -> BoxFuture<'_, Result<Vec<SnapshotView>, String>> {
        ready(Ok(Vec::new())).boxed()
    }
}

/// A control plane with something for every route to be about.
struct Scene {
    stage: Stage,
    nodes: Arc<IdleNodes>,
    router: Router,
    table: Vec<RouteAccess>,
    /// A token of `demo` whose grace runs.
    token: String,
    /// An admin key that nobody uses.
    spare: String,
}

async fn scene() -> Scene {
    let stage = Stage::with_clients().await;
    let system = Principal::system();
    stage.user("ada", &[("*", Role::Admin)]).await;
    stage.user("bob", &[("demo", Role::Editor)]).await;
    stage.plane.generate(&system, "demo").await.unwrap();
    let scopes = vec![cameo_auth::Scope::ProfileRead];
    let made = stage.plane.create_token(&system, "demo", "pos".into(), scopes, None).await.unwrap();
    let id = made.token.record.id;
    let rotation = crate::plane::Rotation { grace_seconds: 600, expires_in: None };
    stage.plane.rotate_token(&system, "demo", &id, rotation).await.unwrap();
    let roles = vec![crate::principal::Grant::everywhere(Role::Observer)];
    let spare = stage.plane.create_key(&system, "spare", roles, None).await.unwrap().key.id;
    let nodes = Arc::new(IdleNodes::default());
    stage.plane.ask_nodes_by(Arc::clone(&nodes) as Arc<dyn Nodes>);
    let (router, table) = super::router(&stage.plane);
    stage.audit.forget();
    Scene { stage, nodes, router, table, token: id.0, spare }
}

impl Scene {
    /// A call of a route that is carried out, if the caller may.
    fn call(&self, route: &RouteAccess) -> Call {
        let id = if route.path.starts_with("/v1/keys") { &self.spare } else { &self.token };
        let path = route.path.replace("{client}", "demo").replace("{code}", "demo").replace("{name}", "bob");
        let call = Call::new(route.method.clone(), &path.replace("{id}", id));
        call.json(&match (route.method.as_str(), route.path) {
            ("POST", "/v1/{client}/tokens") => json!({"name": "new", "scopes": ["profile:read"]}),
            ("PATCH", "/v1/{client}/settings") => json!({"lifetimeDays": 30}),
            ("POST", "/v1/clients") => json!({"code": "third"}),
            ("PATCH", "/v1/clients/{code}") => json!({"disabled": true}),
            ("POST", "/v1/users") => {
                json!({"name": "cleo", "password": PASSWORD, "roles": [{"client": "*", "role": "editor"}]})
            }
            ("PATCH", "/v1/users/{name}") => json!({"roles": [{"client": "*", "role": "observer"}]}),
            ("POST", "/v1/users/{name}/password") => json!({"password": "eleven blue tricycles"}),
            ("POST", "/v1/{client}/identity-secret") => json!({"graceSeconds": 60}),
            ("POST", "/v1/keys") => json!({"name": "ci", "roles": [{"client": "demo", "role": "editor"}]}),
            ("PUT" | "PATCH", _) => json!({"enableProfileApiAuthentication": true}),
            _ => Value::Null,
        })
    }

    /// What was changed so far: records, and nodes.
    fn writes(&self) -> u64 {
        self.stage.bucket.writes.load(Ordering::SeqCst) + self.nodes.0.load(Ordering::SeqCst)
    }
}

/// Who calls, and the role of their key.
const EVERYBODY: [(&str, Option<(&str, Role)>); 6] = [
    ("nobody", None),
    ("observer", Some(("*", Role::Observer))),
    ("editor", Some(("*", Role::Editor))),
    ("approver", Some(("*", Role::Approver))),
    ("admin", Some(("*", Role::Admin))),
    ("shop-admin", Some(("shop", Role::Admin))),
];

/// A scene, and the keys of everybody.
async fn peopled() -> (Scene, Vec<Option<Zeroizing<String>>>) {
    let scene = scene().await;
    let mut keys = Vec::new();
    for (_, grant) in EVERYBODY {
        keys.push(match grant {
            Some((client, role)) => Some(scene.stage.key(client, role).await),
            None => None,
        });
    }
    (scene, keys)
}

/// Every route for everybody as a printed table (STYLE 7). What is refused changes nothing, and what a role is refused is
/// noted; what is changed is noted, and the next call finds a control plane without that change.
#[tokio::test]
async fn what_every_role_gets_of_every_route_is_the_golden_table() {
    let mut text =
        String::from("# what a call gets, by who calls; shop-admin is admin of another client than is asked for\n");
    let head = EVERYBODY.map(|(name, _)| name).join(" ");
    let _ = writeln!(text, "{:<6} {:<40} {head}", "method", "path");
    let (mut scene, mut keys) = peopled().await;
    for route in &scene.table.clone() {
        let _ = write!(text, "{:<6} {:<40}", route.method.as_str(), route.path);
        let by_node = (route.method.as_str(), route.path) == TAKES_SNAPSHOTS;
        for (at, (name, _)) in EVERYBODY.into_iter().enumerate() {
            if by_node {
                scene.stage.silent_node("edge-9", Duration::from_secs(10)).await;
            }
            let call = scene.call(route);
            let call = if let Some(key) = &keys[at] { call.key(key) } else { call };
            scene.stage.audit.forget();
            let before = scene.writes();
            let answer = call.send(&scene.router).await;
            let changed = scene.writes() > before;
            let noted = |result: &str| scene.stage.audit.lines().iter().any(|line| line.ends_with(result));
            match answer.status {
                401 => assert!(!changed && !answer.header("www-authenticate").is_empty(), "{route}"),
                403 => assert!(!changed && noted(" refused"), "{route} {name}: {}", answer.body),
                200 | 201 => assert!(changed != (route.method == Method::GET), "{route} {name}"),
                other => panic!("{route} for {name}: {other} {}", answer.body),
            }
            assert!(answer.status > 299 || answer.header("cache-control") == "no-store", "{route} {name}");
            let _ = write!(text, " {:<width$}", answer.status, width = name.len());
            if changed {
                assert!(noted(" done"), "{route} {name}");
            }
            // The node never reports anything, so later changes would wait for it.
            if changed || by_node {
                (scene, keys) = peopled().await;
            }
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    assert_eq!(text, include_str!("../../golden/api.txt"), "golden/api.txt differs; new text:\n{text}");
}

#[tokio::test]
async fn each_setting_asks_for_its_own_role() {
    let cases = [
        (json!({"lifetimeDays": 30}), Role::Approver),
        (json!({"allowedOrigins": ["https://www.example.com"]}), Role::Approver),
        (json!({"enableProfileApiAuthentication": true}), Role::Approver),
        (json!({"requireVisitTokens": true}), Role::Approver),
        (json!({"imsOrgId": "ABC@AdobeOrg"}), Role::Admin),
        (json!({"disabled": true}), Role::Admin),
        (json!({"lifetimeDays": 30, "disabled": false}), Role::Admin),
    ];
    for (body, least) in cases {
        let scene = scene().await;
        for role in Role::ALL {
            let key = scene.stage.key("demo", role).await;
            for path in ["/v1/demo/settings", "/v1/clients/demo"] {
                let before = scene.writes();
                let answer = Call::new(Method::PATCH, path).json(&body).key(&key).send(&scene.router).await;
                assert_eq!(answer.status, if role >= least { 200 } else { 403 }, "{path} {body} {role:?}");
                assert_eq!(scene.writes() > before, role >= least, "{path} {body} {role:?}");
            }
        }
    }
}

/// The description and the router have the same routes.
#[tokio::test]
async fn every_route_is_described_and_nothing_else_is() {
    let described = serde_json::to_value(super::openapi()).unwrap();
    let paths = described["paths"].as_object().unwrap();
    let methods = |path: &str| paths[path].as_object().unwrap().keys().map(|m| m.to_uppercase()).collect::<Vec<_>>();
    let mut described: Vec<_> =
        paths.keys().flat_map(|path| methods(path).into_iter().map(move |method| (path.clone(), method))).collect();
    let mut routed: Vec<_> =
        scene().await.table.iter().map(|route| (route.path.to_owned(), route.method.to_string())).collect();
    described.sort();
    routed.sort();
    assert_eq!(described, routed);
}

#[tokio::test]
async fn a_caller_that_hangs_up_undoes_nothing_and_hides_nothing() {
    let scene = scene().await;
    let key = scene.stage.key("demo", Role::Approver).await;
    scene.stage.audit.forget();
    let rotate = format!("/v1/demo/tokens/{}/rotate", scene.token);
    let closed = scene.stage.bucket.gate.acquire().await.unwrap();
    let call = Call::post(&rotate).key(&key).send(&scene.router);
    let hung_up = tokio::time::timeout(Duration::from_millis(100), call).await;
    assert!(hung_up.is_err(), "the write was held up");
    assert_eq!(scene.stage.audit.lines(), Vec::<String>::new());
    drop(closed);
    let line = format!("key:demo-approver token.rotate {} done", scene.token);
    tokio::time::timeout(Duration::from_secs(10), scene.stage.audit.has(&line)).await.expect("a line in the audit log");
}

#[tokio::test]
async fn the_audit_log_goes_back_page_by_page_and_leaves_as_csv() {
    let scene = scene().await;
    let approver = scene.stage.key("demo", Role::Approver).await;
    let admin = scene.stage.key("*", Role::Admin).await;
    scene.stage.audit.forget();
    for name in ["=1+1", "two"] {
        let body = json!({"name": name, "scopes": ["bulk:write"]});
        assert_eq!(Call::post("/v1/demo/tokens").json(&body).key(&approver).send(&scene.router).await.status, 201);
    }
    let refused = Call::post("/v1/shop/tokens").json(&json!({"name": "x", "scopes": []})).key(&approver);
    assert_eq!(refused.send(&scene.router).await.status, 403);
    let read = |path: &'static str, key: &Zeroizing<String>| Call::get(path).key(key).send(&scene.router);
    let of_demo = read("/v1/demo/audit?action=token", &approver).await;
    let targets: Vec<_> = of_demo.body["entries"].as_array().unwrap().iter().map(|entry| &entry["target"]).collect();
    assert_eq!(targets, ["two", "=1+1"], "newest first, nothing of shop");
    let entry = &of_demo.body["entries"][1];
    assert_eq!(
        (&entry["who"], &entry["from"], &entry["result"]),
        (&json!("key:demo-approver"), &json!("10.0.0.9"), &json!("done"))
    );
    assert_eq!(read("/v1/shop/audit", &approver).await.status, 403);
    assert_eq!(read("/v1/audit", &approver).await.status, 403, "what concerns all is not a client's");
    let of_all = read("/v1/audit?limit=1000&who=key%3Ademo-approver", &admin).await;
    let results: Vec<_> = of_all.body["entries"].as_array().unwrap().iter().map(|entry| &entry["result"]).collect();
    assert_eq!(results, ["refused", "refused", "refused", "done", "done"]);
    let csv =
        Call::get("/v1/demo/audit?action=token").with("accept", "text/csv").key(&approver).send(&scene.router).await;
    assert_eq!(csv.header("content-type"), "text/csv; charset=utf-8");
    let csv = csv.body.as_str().unwrap().to_owned();
    assert!(csv.starts_with("id,at,who,") && csv.contains(",'=1+1,") && csv.ends_with("\r\n"), "{csv}");
}
