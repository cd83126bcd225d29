//! The pages without a browser: every route for every role, the guard, what is said once, streams that end.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use cameo_auth::Role;
use cameo_auth::routes::RouteAccess;
use cameo_auth::verifier::Internal;
use http::Method;
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use serde_json::json;
use std::sync::atomic::Ordering;
use zeroize::Zeroizing;

use super::*;
use crate::principal::Principal;
use crate::session::Presence;
use crate::stage::{Call, PASSWORD, Stage};

struct Scene {
    stage: Stage,
    router: Router,
    table: Vec<RouteAccess>,
    token: String,
    /// What went on to edge and gateway.
    passed: Arc<Mutex<Vec<String>>>,
}

async fn scene() -> Scene {
    let stage = Stage::with_clients().await;
    let system = Principal::system();
    stage.user("ada", &[("*", Role::Admin)]).await;
    stage.user("tim", &[("demo", Role::Editor)]).await;
    let scopes = vec![cameo_auth::Scope::ProfileRead];
    let made = stage.plane.create_token(&system, "demo", "pos".into(), scopes, None).await.unwrap();
    let rotation = crate::plane::Rotation { grace_seconds: 600, expires_in: None };
    stage.plane.rotate_token(&system, "demo", &made.token.record.id, rotation).await.unwrap();
    let passed = Arc::new(Mutex::new(Vec::new()));
    let upstream = {
        let passed = Arc::clone(&passed);
        Router::new().fallback(move |request: Request| {
            assert!(request.extensions().get::<Internal>().is_some());
            passed.lock().push(format!("{} {}", request.method(), request.uri()));
            let answer = json!({"profileAttributes": {}, "ids": {}, "batches": []});
            async move { crate::api::json_reply(StatusCode::OK, &answer) }
        })
    };
    let (router, table) = router(&stage.plane, Upstream::new(upstream));
    stage.audit.forget();
    Scene { stage, router, table, token: made.token.record.id.0, passed }
}

/// A user who is signed in.
struct SignedIn {
    cookie: String,
    csrf: String,
    id: Zeroizing<String>,
}

impl Scene {
    async fn sign_in(&self, name: &str) -> SignedIn {
        let from = "10.0.0.9".parse().unwrap();
        let id = self.stage.plane.sign_in(name, Zeroizing::new(PASSWORD.into()), from).await.unwrap();
        let csrf = self.stage.plane.session(&id, Presence::Acting, from).unwrap().1.csrf.to_string();
        SignedIn { cookie: format!("cameo_session={}", *id), csrf, id }
    }

    /// A call of a route that is carried out, if the caller may.
    fn call(&self, route: &RouteAccess, by: Option<&SignedIn>) -> Call {
        let path = route.path.replace("{client}", "demo").replace("{name}", "tim").replace("{number}", "1");
        let id = if path.contains("batches") { "demo-1-a" } else { &self.token };
        let query = if path.ends_with("/profiles") { "?kind=tnt&id=a1" } else { "" };
        let call = Call::new(route.method.clone(), &format!("{}{query}", path.replace("{id}", id)));
        let Some(by) = by else { return call };
        let call = call.with("cookie", &by.cookie);
        if route.method != Method::POST {
            return call;
        }
        if path.ends_with("/upload") {
            return call.with("x-csrf-token", &by.csrf).body("batch=pcId,a\n1,2\n");
        }
        let fields = match path.rsplit('/').next().unwrap() {
            "require" => "on=true",
            "tokens" => "name=new&scope=profile%3Aread&expiresIn=3600",
            "rotate" => "graceSeconds=0",
            "settings" => "lifetimeDays=30",
            "edit" => "kind=tnt&id=a1&name=tier&value=gold&do=set",
            "unlink" => "kind=tp&id=p&leavingKind=tnt&leavingId=a1",
            "erase" => "kind=tnt&id=a1",
            "clients" => "code=third&lifetimeDays=14",
            "state" => "disabled=true",
            "users" => "name=cleo&password=eleven+blue+tricycles&role=editor&client=*",
            "role" => "role=approver&client=*",
            "password" => "password=eleven+blue+tricycles",
            "account" => "current=seven+green+bicycles&password=eleven+blue+tricycles",
            _ => "",
        };
        call.form(&by.csrf, fields)
    }

    /// How much was changed, here and upstream.
    fn changes(&self) -> u64 {
        let passed = self.passed.lock().iter().filter(|line| !line.starts_with("GET")).count();
        self.stage.bucket.writes.load(Ordering::SeqCst) + passed as u64
    }
}

const EVERYBODY: [(&str, Option<(&str, Role)>); 6] = [
    ("nobody", None),
    ("observer", Some(("*", Role::Observer))),
    ("editor", Some(("*", Role::Editor))),
    ("approver", Some(("*", Role::Approver))),
    ("admin", Some(("*", Role::Admin))),
    ("shop-admin", Some(("shop", Role::Admin))),
];

async fn peopled() -> (Scene, Vec<Option<SignedIn>>) {
    let scene = scene().await;
    let mut people = Vec::new();
    for (name, grant) in EVERYBODY {
        people.push(match grant {
            Some(grant) => {
                scene.stage.user(name, &[grant]).await;
                Some(scene.sign_in(name).await)
            }
            None => None,
        });
    }
    (scene, people)
}

/// Every route for everybody, as a printed table (STYLE 7): a status, or what came of a form. Nothing that is refused
/// reaches the bucket, edge or gateway.
#[tokio::test]
async fn what_every_role_gets_of_every_page_is_the_golden_table() {
    let mut text =
        String::from("# what a page answers, by who looks; shop-admin is admin of another client than is asked for\n");
    let head = EVERYBODY.map(|(name, _)| format!("{name:<10}")).join(" ");
    let _ = writeln!(text, "{:<4} {:<42} {}", "", "path", head.trim_end());
    let (mut scene, mut people) = peopled().await;
    for route in &scene.table.clone() {
        let _ = write!(text, "{:<4} {:<42}", route.method.as_str(), route.path);
        for (at, (name, _)) in EVERYBODY.into_iter().enumerate() {
            let before = scene.changes();
            scene.stage.audit.forget();
            let answer = scene.call(route, people[at].as_ref()).open(&scene.router).await;
            let changed = scene.changes() > before;
            let noted = |result: &str| scene.stage.audit.lines().iter().any(|line| line.ends_with(result));
            let location = answer.headers().get("location").map_or("", |to| to.to_str().unwrap());
            let cell = match answer.status().as_u16() {
                303 if location.starts_with("/admin/sign-in") && !changed => "sign-in".to_owned(),
                303 if changed => "done".into(),
                303 if noted(" refused") => "refused".into(),
                303 => "303".into(),
                200 if changed => "done".into(),
                status => status.to_string(),
            };
            assert!(!changed || cell == "done" || location == "/admin/sign-in", "{route} {name}: {cell}");
            assert!(cell != "403" || noted(" refused"), "{route} {name}");
            let _ = write!(text, " {cell:<10}");
            // What was changed, or whose session ended, is set up anew.
            if changed || route.path.ends_with("sign-out") || route.path.ends_with("account") {
                (scene, people) = peopled().await;
            }
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    // In whatever order the routes are declared.
    let sorted = |text: &str| {
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    };
    let golden = include_str!("../../golden/pages.txt");
    assert_eq!(sorted(&text), sorted(golden), "golden/pages.txt differs; new text:\n{text}");
}

#[tokio::test]
async fn a_form_of_another_session_changes_nothing() {
    let scene = scene().await;
    let (ada, tim) = (scene.sign_in("ada").await, scene.sign_in("tim").await);
    let before = scene.changes();
    for route in scene.table.iter().filter(|route| route.method == Method::POST && route.access != Access::Public) {
        let wrong = SignedIn { cookie: ada.cookie.clone(), csrf: tim.csrf.clone(), id: ada.id.clone() };
        let none = SignedIn { cookie: ada.cookie.clone(), csrf: String::new(), id: ada.id.clone() };
        for by in [wrong, none] {
            assert_eq!(scene.call(route, Some(&by)).send(&scene.router).await.status, 403, "{route}");
        }
    }
    assert_eq!(scene.changes(), before);
    let large = Call::post("/admin/clients").with("cookie", &ada.cookie).form(&ada.csrf, &"x".repeat(200_000));
    assert_eq!(large.send(&scene.router).await.status, 413);
    let by_header = Call::post("/admin/clients").with("cookie", &ada.cookie).with("x-csrf-token", &ada.csrf);
    assert_eq!(by_header.send(&scene.router).await.status, 303, "an empty form is refused as a form");
    assert_eq!(scene.changes(), before);
}

#[tokio::test]
async fn what_goes_upstream_is_about_the_client_that_was_checked() {
    let scene = scene().await;
    let ada = scene.sign_in("ada").await;
    for client in ["demo%2Fprofiles%2Ftnt%2Fa1%3F", "..", "nosuch", "demo%3Fx"] {
        for (path, fields) in [
            ("profiles/edit", "kind=tnt&id=a1&name=n&value=v"),
            ("profiles/unlink", "kind=tp&id=p&leavingKind=tnt&leavingId=a1"),
            ("profiles/erase", "kind=tnt&id=a1"),
        ] {
            let call = Call::post(&format!("/admin/c/{client}/{path}")).with("cookie", &ada.cookie);
            call.form(&ada.csrf, fields).send(&scene.router).await;
        }
        let upload = Call::post(&format!("/admin/c/{client}/batches/upload")).with("cookie", &ada.cookie);
        let upload = upload.with("x-csrf-token", &ada.csrf).body("batch=pcId,a\n1,2\n").send(&scene.router).await;
        assert_eq!(upload.status, 404, "{client}");
    }
    assert_eq!(*scene.passed.lock(), Vec::<String>::new());
    let edit = Call::post("/admin/c/demo/profiles/edit").with("cookie", &ada.cookie);
    edit.form(&ada.csrf, "kind=tnt&id=..%2F..%2Fx%3Fy&name=n&value=v").send(&scene.router).await;
    assert_eq!(*scene.passed.lock(), ["PATCH /v1/demo/profiles/tnt/%2E%2E%2F%2E%2E%2Fx%3Fy"]);
}

#[tokio::test]
async fn a_secret_is_on_one_page_once() {
    let scene = scene().await;
    let ada = scene.sign_in("ada").await;
    let generate = Call::post("/admin/c/demo/profile-api/generate").with("cookie", &ada.cookie).form(&ada.csrf, "");
    let made = generate.send(&scene.router).await;
    assert_eq!((made.status, made.header("location")), (303, "/admin/c/demo/profile-api"));
    let look = || Call::get("/admin/c/demo/profile-api").with("cookie", &ada.cookie).send(&scene.router);
    let page = look().await;
    assert_eq!(page.body.as_str().unwrap().matches("cameo_pat_").count(), 1);
    assert_eq!(page.header("cache-control"), "no-store");
    let policy = page.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
    assert_eq!((page.header("x-content-type-options"), page.header("referrer-policy")), ("nosniff", "no-referrer"));
    assert!(!look().await.body.as_str().unwrap().contains("cameo_pat_"), "shown once");
}

#[tokio::test]
async fn what_people_wrote_is_text_on_every_page() {
    let scene = scene().await;
    let ada = scene.sign_in("ada").await;
    let evil = "%3Cscript%3Ealert(1)%3C%2Fscript%3E";
    let create = Call::post("/admin/c/demo/tokens").with("cookie", &ada.cookie);
    let fields = format!("name={evil}&scope=profile%3Aread&expiresIn=3600");
    assert_eq!(create.form(&ada.csrf, &fields).send(&scene.router).await.status, 303);
    for path in [
        "/admin/c/demo/profile-api".to_owned(),
        "/admin/audit".into(),
        format!("/admin/audit?client={evil}&who={evil}&action={evil}"),
        format!("/admin/c/demo/profiles?kind=tnt&id={evil}&code={evil}"),
        format!("/admin/c/{evil}/settings"),
        format!("/admin/sign-in?next={evil}"),
    ] {
        let page = Call::get(&path).with("cookie", &ada.cookie).send(&scene.router).await;
        let html = page.body.as_str().unwrap();
        assert!(html.contains("Cameo") && !html.contains("<script>alert"), "{path}: {html}");
    }
}

#[tokio::test]
async fn a_stream_ends_with_the_session_and_with_the_server_and_keeps_nobody_signed_in() {
    let scene = scene().await;
    let (ada, tim) = (scene.sign_in("ada").await, scene.sign_in("tim").await);
    let open = async |by: &SignedIn| {
        let call = Call::get("/admin/cluster/events").with("cookie", &by.cookie);
        let response = call.open(&scene.router).await;
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let mut body = response.into_body();
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(first.starts_with(b"data: "), "{first:?}");
        body
    };
    let mut of_tim = open(&tim).await;
    scene.stage.plane.sign_out(&tim.id);
    let ended = tokio::time::timeout(Duration::from_secs(20), of_tim.frame()).await.expect("the stream ends");
    assert!(ended.is_none());

    for _ in 0..5 {
        scene.stage.clock.forward(Duration::from_secs(7 * 60));
        if scene.stage.plane.is_signed_in(&ada.id) {
            drop(open(&ada).await);
        }
    }
    assert!(!scene.stage.plane.is_signed_in(&ada.id), "35 minutes with nothing but streams");

    let ada = scene.sign_in("ada").await;
    let mut of_ada = open(&ada).await;
    scene.stage.plane.close();
    let ended = tokio::time::timeout(Duration::from_secs(20), of_ada.frame()).await.expect("the stream ends");
    assert!(ended.is_none());
}

#[tokio::test]
async fn signing_in_sets_a_careful_cookie_and_guessing_is_slowed_down() {
    let scene = scene().await;
    let sign_in = |password: &str| {
        let fields = format!("name=ada&password={password}&next=/admin/cluster");
        Call::post("/admin/sign-in").with("host", "cameo.test").body(fields)
    };
    let good = sign_in("seven+green+bicycles").with("x-forwarded-proto", "https").send(&scene.router).await;
    assert_eq!((good.status, good.header("location")), (303, "/admin/cluster"));
    let cookie = good.header("set-cookie");
    for part in ["HttpOnly", "SameSite=Strict", "Path=/", "Secure"] {
        assert!(cookie.contains(part), "{part}: {cookie}");
    }
    let elsewhere = sign_in("seven+green+bicycles").with("origin", "http://evil.test").send(&scene.router).await;
    assert_eq!((elsewhere.status, elsewhere.header("set-cookie")), (403, ""));
    for n in 0..10 {
        assert_eq!(sign_in(&format!("guess+number+{n}")).send(&scene.router).await.status, 401);
    }
    let throttled = sign_in("seven+green+bicycles").send(&scene.router).await;
    // Proven a moment ago: whoever is flooded by others goes on.
    assert_eq!(throttled.status, 303);
    scene.stage.clock.forward(Duration::from_secs(61));
    for _ in 0..3 {
        sign_in("guess").send(&scene.router).await;
    }
    let throttled = sign_in("seven+green+bicycles").send(&scene.router).await;
    assert_eq!(throttled.status, 429);
    assert!(!throttled.header("retry-after").is_empty() && !throttled.body.to_string().contains("bicycles"));
}
