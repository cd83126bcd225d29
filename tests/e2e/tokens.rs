//! Tokens that die at once: what a rotation promises, under load; what is refused, and how; that a secret shows nowhere.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use cameo_tests::admin::{self, ADMIN_PASSWORD, Admin, basic};
use cameo_tests::http::{Request, Response};
use cameo_tests::process;
use cameo_tests::server::{Server, Setup};
use cameo_tests::wait;
use serde_json::{Value, json};

const FETCH: &str = "/rest/v1/profiles/a1?client=demo";
const STATUS: &str = "/m2/demo/profile/batchStatus?batchId=none";
const GENERATE: &str = "/demo/target/authentication/token?authorizationScope=profile_api";

fn require(admin: Admin<'_>, on: bool) -> Value {
    let body = json!({"enableProfileApiAuthentication": on});
    admin.patch("/demo/target/clients/settings", &body).expect(200).json()
}

fn visited(server: &Server) {
    server.post_json("/v1/demo/visits", &json!({"ids": {"tntId": "a1"}, "profile": {"country": "france"}})).expect(200);
}

fn bearer(path: &str, token: &str) -> Request {
    Request::get(path).header("Authorization", &format!("Bearer {token}"))
}

fn access_token(reply: &Response) -> String {
    reply.json()["accessToken"].as_str().expect("a token").to_owned()
}

fn made(admin: Admin<'_>, name: &str, scopes: &[&str]) -> (String, String) {
    let reply = admin.post("/v1/demo/tokens", &json!({"name": name, "scopes": scopes})).expect(201);
    (reply.json()["token"]["id"].as_str().expect("an id").to_owned(), access_token(&reply))
}

#[test]
fn the_compatible_admin_api_answers_as_documented() {
    let server = admin::server();
    let admin = Admin::new(&server);
    let none = admin.get(GENERATE);
    assert_eq!(none.status, 404, "{}", none.text());
    let error = none.json();
    assert_eq!((error["httpStatus"].as_u64(), error["errors"][0]["errorCode"].as_str()), (Some(404), Some("NotFound")));
    assert!(
        error["requestId"].is_string() && error["requestTime"].is_string() && error["errors"][0]["meta"].is_object()
    );

    let generated = admin.call(Request::new("POST", GENERATE)).expect(201);
    assert_eq!(generated.header("content-type"), "application/vnd.adobe.target.v1+json");
    assert_eq!(generated.header("cache-control"), "no-store");
    let body = generated.json();
    assert_eq!((body["tokenType"].as_str(), body["scope"].as_str()), (Some("Bearer"), Some("profile_api")));
    assert_eq!(body["expiresIn"].as_u64(), Some(30 * 86_400));
    assert_eq!(body["confirmation"]["nodes"][0]["how"], "reported");
    let secret = access_token(&generated);
    assert!(secret.starts_with("cameo_pat_"), "{}", secret.len());

    let shown = admin.call(Request::get(GENERATE).header("Accept", "application/json")).expect(200);
    assert_eq!(shown.header("content-type"), "application/json");
    assert!(!shown.text().contains(&secret) && shown.json()["accessToken"].as_str().unwrap().contains("***"));

    assert_eq!(admin.get("/demo/target/clients/settings").expect(200).json()["enableProfileApiAuthentication"], false);
    for method in ["PUT", "PATCH"] {
        let body = r#"{"enableProfileApiAuthentication":true,"somethingElse":1}"#;
        let request = Request::new(method, "/demo/target/clients/settings")
            .header("Content-Type", "application/vnd.adobe.target.v1+json")
            .body(body);
        assert_eq!(admin.call(request).expect(200).json()["enableProfileApiAuthentication"], true);
    }
    for (request, status) in [
        (Request::get(GENERATE).header("Accept", "text/html"), 406),
        (Request::get("/demo/target/authentication/token?authorizationScope=other"), 400),
        (Request::get("/nobody/target/clients/settings"), 404),
        (Request::post("/demo/target/clients/settings", "application/json", "{}"), 405),
        (Request::new("PUT", "/demo/target/clients/settings").header("Content-Type", "text/xml").body("<x/>"), 415),
        (Request::new("PATCH", "/demo/target/clients/settings").body("{}"), 400),
        (
            Request::new("PATCH", "/demo/target/clients/settings").body(r#"{"enableProfileApiAuthentication":"yes"}"#),
            400,
        ),
    ] {
        let text = format!("{} {}", request.method, request.path);
        let refused = admin.call(request);
        assert_eq!(refused.status, status, "{text}: {}", refused.text());
    }
    let stranger = server.get(GENERATE).expect(401);
    assert!(stranger.header("www-authenticate").starts_with("Basic realm="));
    assert_eq!(stranger.json()["errors"][0]["errorCode"], "Unauthorized");
}

#[test]
fn with_the_switch_on_every_protected_call_needs_its_scope_and_visits_stay_open() {
    let server = admin::server();
    let admin = Admin::new(&server);
    visited(&server);
    let (_, reads) = made(admin, "reads", &["profile:read"]);
    let (_, writes) = made(admin, "writes", &["profile:write"]);
    let (_, bulk) = made(admin, "bulk", &["bulk:write"]);
    require(admin, true);
    const FILE: &str = "batch=pcId,tier\na1,gold\n";
    type Call<'a> = (&'a str, Box<dyn Fn() -> Request>, u16);
    let calls: [Call<'_>; 6] = [
        ("profile:read", Box::new(|| Request::get(FETCH)), 200),
        ("profile:read", Box::new(|| Request::get("/v1/demo/profiles/tnt/a1")), 200),
        ("profile:write", Box::new(|| Request::get("/m2/demo/profile/update?mboxPC=a1&profile.x=1")), 200),
        (
            "profile:write",
            Box::new(|| Request::new("PATCH", "/v1/demo/profiles/tnt/a1").body(r#"{"set":{"y":"1"}}"#)),
            200,
        ),
        ("bulk:write", Box::new(|| Request::post("/m2/demo/v2/profile/batchUpdate", "text/plain", FILE)), 200),
        ("bulk:write", Box::new(|| Request::get(STATUS)), 404),
    ];
    for (scope, call, success) in &calls {
        let missing = server.send(&call());
        assert_eq!(missing.status, 401, "{scope}: {}", missing.text());
        assert!(missing.header("www-authenticate").starts_with("Bearer error=\"invalid_token\""));
        for (token, has) in [(&reads, "profile:read"), (&writes, "profile:write"), (&bulk, "bulk:write")] {
            let answer = server.send(&call().header("Authorization", &format!("Bearer {token}")));
            if has == *scope {
                assert_eq!(answer.status, *success, "{scope}: {}", answer.text());
            } else {
                assert_eq!(answer.status, 403, "{scope} with {has}: {}", answer.text());
                assert!(answer.header("www-authenticate").contains("error=\"insufficient_scope\""));
            }
        }
    }
    visited(&server);
    require(admin, false);
    server.get(FETCH).expect(200);
}

#[test]
fn what_is_no_good_token_is_told_apart_as_far_as_rfc_6750_allows() {
    let server = admin::server();
    let admin = Admin::new(&server);
    visited(&server);
    let (id, token) = made(admin, "pos", &["profile:read"]);
    require(admin, true);
    server.send(&bearer(FETCH, &token)).expect(200);
    let fake = format!("{}{}", &token[..token.len() - 1], if token.ends_with('0') { '1' } else { '0' });
    let get = || Request::get(FETCH);
    let authorization = |value: &str| get().header("Authorization", value);
    for (request, status, words) in [
        (get(), 401, "a token is required"),
        (authorization(&basic("admin", ADMIN_PASSWORD)), 401, "a token is required"),
        (authorization("Bearer"), 401, "unknown or revoked"),
        (authorization(&format!("Bearer {fake}")), 401, "unknown or revoked"),
        (authorization(&format!("Bearer {token} {token}")), 401, "unknown or revoked"),
        (authorization(&format!("Bearer {}", "x".repeat(20_000))), 401, "unknown or revoked"),
        (authorization(&format!("Bearer {token}")).header("Authorization", "Bearer x"), 400, "more than one"),
        (Request::get(&format!("{FETCH}&access_token={token}")), 400, "in the query"),
        (
            Request::get(&format!("{FETCH}&client=demo")).header("Authorization", &format!("Bearer {token}")),
            400,
            "client",
        ),
        (Request::get("/rest/v1/profiles/a1?client=d%65mo"), 400, "client"),
    ] {
        let refused = server.send(&request);
        assert_eq!(refused.status, status, "{}: {}", request.path, refused.text());
        assert!(refused.text().contains(words), "{words}: {}", refused.text());
        assert!(!refused.text().contains(&token), "a refusal never repeats a token");
    }
    server.send(&authorization(&format!("bearer   {token}"))).expect(200);
    let huge = server.send(&get().header("Authorization", &format!("Bearer {}", "x".repeat(300_000))));
    assert_eq!(huge.status, 431);
    admin.delete(&format!("/v1/demo/tokens/{id}")).expect(200);
    server.send(&bearer(FETCH, &token)).expect(401);
    // Another client's token opens nothing here.
    admin.post("/v1/clients", &json!({"code": "shop"})).expect(201);
    let other = admin.post("/v1/shop/tokens", &json!({"name": "pos", "scopes": ["profile:read"]})).expect(201);
    server.send(&bearer(FETCH, &access_token(&other))).expect(401);
}

#[test]
fn a_grace_keeps_the_old_secret_until_it_is_killed() {
    let server = admin::server();
    let admin = Admin::new(&server);
    visited(&server);
    let (id, first) = made(admin, "pos", &["profile:read"]);
    require(admin, true);
    let rotate = |body: Value| admin.post(&format!("/v1/demo/tokens/{id}/rotate"), &body);
    let second = access_token(&rotate(json!({"graceSeconds": 3600})).expect(200));
    server.send(&bearer(FETCH, &first)).expect(200);
    server.send(&bearer(FETCH, &second)).expect(200);
    let kill = || admin.post(&format!("/v1/demo/tokens/{id}/kill"), &json!({}));
    kill().expect(200);
    server.send(&bearer(FETCH, &first)).expect(401);
    server.send(&bearer(FETCH, &second)).expect(200);
    kill().expect(409);
    let third = access_token(&rotate(json!({"graceSeconds": 60})).expect(200));
    let fourth = access_token(&rotate(json!({"killNow": true})).expect(200));
    for (token, status) in [(&second, 401), (&third, 401), (&fourth, 200)] {
        server.send(&bearer(FETCH, token)).expect(status);
    }
    for (body, field) in [
        (json!({"graceSeconds": 7 * 86_400 + 1}), "graceSeconds"),
        (json!({"graceSeconds": -1}), "graceSeconds"),
        (json!({"expiresIn": 3599}), "expiresIn"),
        (json!({"expiresIn": 365 * 86_400 + 1}), "expiresIn"),
        (json!({"graceSeconds": 1, "killNow": true}), "killNow"),
        (json!({"unheard": 1}), "unheard"),
    ] {
        let refused = rotate(body.clone()).expect(400).json();
        assert_eq!(refused["field"].as_str().unwrap_or_default(), field, "{body}: {refused}");
    }
    server.send(&bearer(FETCH, &fourth)).expect(200);
}

/// The promise itself: a request that starts after the reply of a rotation is never let in with the old token.
#[test]
fn two_hundred_rotations_under_load_and_no_old_token_is_ever_accepted_after_the_reply() {
    const ROTATIONS: usize = 200;
    const CALLERS: usize = 8;
    let server = admin::server();
    let admin = Admin::new(&server);
    visited(&server);
    let (id, first) = made(admin, "pos", &["profile:read", "bulk:write"]);
    require(admin, true);
    // The token that callers use, with its number; and the number of the newest that a reply has named.
    let current = Arc::new(Mutex::new((0_usize, first)));
    let dead_below = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let (let_in, met) = std::sync::mpsc::channel();
    let refused = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for caller in 0..CALLERS {
            let (current, dead_below, stop) = (Arc::clone(&current), Arc::clone(&dead_below), Arc::clone(&stop));
            let (let_in, server, refused) = (let_in.clone(), &server, &refused);
            scope.spawn(move || {
                let path = if caller % 2 == 0 { FETCH } else { STATUS };
                let mut connection = server.connect();
                let mut known = None;
                while !stop.load(Ordering::SeqCst) {
                    let (number, token) = current.lock().unwrap().clone();
                    // A token is used until it is refused, as a caller does who was not told of the rotation.
                    while !stop.load(Ordering::SeqCst) {
                        let dead_before = dead_below.load(Ordering::SeqCst);
                        let answer = connection.send(&bearer(path, &token)).expect("an answer");
                        if answer.status == 401 {
                            refused.fetch_add(1, Ordering::SeqCst);
                            break;
                        }
                        assert!(
                            number as u64 >= dead_before,
                            "token {number} was accepted after {dead_before} was out"
                        );
                        if known.replace(number) != Some(number) {
                            let_in.send(number).unwrap();
                        }
                    }
                }
            });
        }
        let mut took: Vec<_> = (1..=ROTATIONS)
            .map(|number| {
                // Every caller is in the middle of using the token when it dies.
                for _ in 0..CALLERS {
                    assert_eq!(met.recv_timeout(wait::PATIENCE), Ok(number - 1), "the load meets every rotation");
                }
                let before = Instant::now();
                let reply = admin.post(&format!("/v1/demo/tokens/{id}/rotate"), &json!({})).expect(200);
                let took = before.elapsed();
                dead_below.store(number as u64, Ordering::SeqCst);
                *current.lock().unwrap() = (number, access_token(&reply));
                took
            })
            .collect();
        stop.store(true, Ordering::SeqCst);
        took.sort_unstable();
        println!("rotations: median {:?}, slowest {:?}", took[ROTATIONS / 2], took[ROTATIONS - 1]);
    });
    // Who used a token when it died was refused before the next was taken: all callers, in all rotations but the last.
    assert!(refused.into_inner() >= (CALLERS * (ROTATIONS - 1)) as u64);
}

#[test]
fn an_upload_whose_token_is_revoked_while_it_is_sent_applies_nothing() {
    let server = admin::server();
    let admin = Admin::new(&server);
    visited(&server);
    let (id, token) = made(admin, "pos", &["bulk:write"]);
    require(admin, true);
    let file = "batch=pcId,tier\na1,gold\n";
    let head =
        Request::new("POST", "/m2/demo/v2/profile/batchUpdate").header("Authorization", &format!("Bearer {token}"));
    let head = head.header("Content-Length", &file.len().to_string()).head();
    let mut connection = server.connect();
    let (sent, rest) = file.split_at(10);
    connection.write(format!("{head}{sent}").as_bytes()).unwrap();
    admin.delete(&format!("/v1/demo/tokens/{id}")).expect(200);
    connection.write(rest.as_bytes()).unwrap();
    let answer = connection.read().unwrap();
    assert_eq!(answer.status, 401, "{}", answer.text());
    require(admin, false);
    assert!(!server.get(FETCH).expect(200).text().contains("gold"));
    assert_eq!(server.get("/v1/demo/batches").expect(200).json()["batches"], json!([]));
}

#[test]
fn records_survive_a_kill_and_the_first_rotation_after_it_is_quick() {
    let server = admin::server();
    visited(&server);
    let (id, token) = made(Admin::new(&server), "pos", &["profile:read"]);
    require(Admin::new(&server), true);
    let server = server.kill().start();
    server.get(FETCH).expect(401);
    server.send(&bearer(FETCH, &token)).expect(200);
    let admin = Admin::new(&server);
    let reply = admin.post(&format!("/v1/demo/tokens/{id}/rotate"), &json!({})).expect(200).json();
    // The run that was killed holds no lease that anybody would have to wait for.
    assert_eq!(reply["confirmation"]["nodes"].as_array().map(Vec::len), Some(1), "{reply}");
    assert!(reply["confirmation"]["tookMs"].as_u64().unwrap() < 5000, "{reply}");
    server.send(&bearer(FETCH, &token)).expect(401);
    let entries = admin.get("/v1/audit").expect(200).json();
    let actions: Vec<_> =
        entries["entries"].as_array().unwrap().iter().map(|e| e["action"].as_str().unwrap().to_owned()).collect();
    assert!(
        actions.starts_with(&["token.rotate".to_owned(), "auth.switch".into(), "token.create".into()]),
        "{actions:?}"
    );
}

#[test]
fn a_changed_lifetime_reaches_the_profiles_and_a_disabled_client_is_refused() {
    let server = admin::server();
    let admin = Admin::new(&server);
    visited(&server);
    let ends = |server: &Server| {
        server.get("/v1/demo/profiles/tnt/a1").expect(200).json()["expiresAt"].as_str().unwrap().to_owned()
    };
    let before = ends(&server);
    let changed = admin.patch("/v1/demo/settings", &json!({"lifetimeDays": 90})).expect(200).json();
    assert_eq!(changed["lifetimeDays"], 90);
    cameo_tests::wait::until("the longer life", || (ends(&server) > before).then_some(()));
    let server = server.kill().start();
    assert!(ends(&server) > before);
    let admin = Admin::new(&server);
    for (settings, field) in [
        (json!({"lifetimeDays": 0}), "lifetimeDays"),
        (json!({"lifetimeDays": 91}), "lifetimeDays"),
        (json!({"allowedOrigins": ["example.com"]}), "allowedOrigins"),
        (json!({"imsOrgId": "a b"}), "imsOrgId"),
        (json!({}), ""),
    ] {
        let refused = admin.patch("/v1/demo/settings", &settings).expect(400).json();
        assert_eq!(refused["field"].as_str().unwrap_or_default(), field, "{refused}");
    }
    admin.patch("/v1/clients/demo", &json!({"disabled": true})).expect(200);
    for request in [
        Request::get(FETCH),
        Request::post("/v1/demo/visits", "application/json", r#"{"ids":{"tntId":"a1"}}"#),
        Request::post("/m2/demo/v2/profile/batchUpdate", "text/plain", "batch=pcId,x\na,b\n"),
    ] {
        assert!(server.send(&request).expect(403).text().contains("the client is disabled"));
    }
    admin.patch("/v1/clients/demo", &json!({"disabled": false})).expect(200);
    server.get(FETCH).expect(200);
}

#[test]
fn pages_of_allowed_origins_may_send_visits() {
    let server = admin::server();
    let admin = Admin::new(&server);
    let visit = |origin: &str| {
        let request = Request::post("/v1/demo/visits", "application/json", r#"{"ids":{"tntId":"a1"}}"#);
        server.send(&request.header("Origin", origin)).expect(200).header("access-control-allow-origin").to_owned()
    };
    assert_eq!(visit("https://www.example.com"), "");
    admin.patch("/v1/demo/settings", &json!({"allowedOrigins": ["https://www.example.com"]})).expect(200);
    assert_eq!(visit("https://www.example.com"), "https://www.example.com");
    assert_eq!(visit("https://evil.test"), "");
    let preflight = Request::new("OPTIONS", "/v1/demo/visits").header("Origin", "https://www.example.com");
    let preflight = preflight
        .header("Access-Control-Request-Method", "POST")
        .header("Access-Control-Request-Headers", "content-type");
    let answer = server.send(&preflight);
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, "https://www.example.com"));
}

#[test]
fn roles_bind_keys_and_users_and_the_last_admin_stays() {
    let server = admin::server();
    let admin = Admin::new(&server);
    let key = |role: &str, client: &str| {
        let body =
            json!({"name": format!("{role}-of-all-{}", client.len()), "roles": [{"client": client, "role": role}]});
        admin.post("/v1/keys", &body).expect(201).json()["apiKey"].as_str().unwrap().to_owned()
    };
    let with = |request: Request, key: &str| server.send(&request.header("X-Api-Key", key)).status;
    let generate = || Request::new("POST", GENERATE);
    let (observer, approver) = (key("observer", "*"), key("approver", "*"));
    assert_eq!(with(generate(), &observer), 403);
    assert_eq!(with(generate(), &approver), 201);
    assert_eq!(with(Request::get("/v1/demo/tokens"), &observer), 200);
    assert_eq!(with(Request::get("/v1/users"), &approver), 403);
    assert_eq!(server.send(&bearer("/v1/demo/tokens", &observer)).status, 200, "also as a bearer");
    assert_eq!(with(Request::get("/v1/demo/tokens"), &format!("{}x", &observer[..observer.len() - 1])), 401);
    admin.post("/v1/clients", &json!({"code": "shop"})).expect(201);
    let shop = key("admin", "shop");
    assert_eq!(with(Request::get("/v1/shop/tokens"), &shop), 200);
    assert_eq!(with(Request::get("/v1/demo/tokens"), &shop), 403);
    assert_eq!(with(Request::post("/v1/users", "application/json", "{}"), &shop), 400, "an empty body is judged first");
    let body = json!({"name": "eve", "password": "seven blue bicycles", "roles": [{"client": "*", "role": "admin"}]});
    assert_eq!(with(Request::post("/v1/users", "application/json", body.to_string()), &shop), 403);

    admin.delete("/v1/users/admin").expect(409);
    admin.patch("/v1/users/admin", &json!({"roles": [{"client": "*", "role": "observer"}]})).expect(409);
    for (password, words) in
        [("short", "at least 12"), ("password1234", "everybody tries first"), ("an eve of snow", "")]
    {
        let body = json!({"name": "evelyn", "password": password, "roles": [{"client": "*", "role": "observer"}]});
        let answer = admin.post("/v1/users", &body);
        if words.is_empty() {
            answer.expect(201);
        } else {
            assert!(answer.expect(400).text().contains(words));
        }
    }
    admin.delete("/v1/users/evelyn").expect(200);
    admin.post("/v1/users", &body).expect(201);
    admin.delete("/v1/users/admin").expect(200);
    admin.get("/v1/users").expect(401);
    let eve = Request::get("/v1/users").header("Authorization", &basic("eve", "seven blue bicycles"));
    server.send(&eve).expect(200);
    // Refused attempts are in the audit log, with who and what.
    let audit = Request::get("/v1/audit?limit=1000").header("Authorization", &basic("eve", "seven blue bicycles"));
    let entries = server.send(&audit).expect(200).json();
    let refused = |who: &str, action: &str| {
        entries["entries"]
            .as_array()
            .unwrap()
            .iter()
            .any(|e| e["who"] == who && e["action"] == action && e["result"] == "refused")
    };
    assert!(refused("key:observer-of-all-1", "token.create") && refused("key:approver-of-all-1", "user.manage"));
    assert!(refused("admin", "user.manage") && refused("admin", "sign.in"));
}

#[test]
fn guessing_passwords_is_slowed_down_and_does_not_stop_the_owner_s_scripts() {
    let server = admin::server();
    let admin = Admin::new(&server);
    admin.get("/v1/cluster").expect(200);
    let guess = |n: usize| {
        let request =
            Request::get("/v1/cluster").header("Authorization", &basic("admin", &format!("guess number {n}")));
        server.send(&request)
    };
    let statuses: Vec<_> = (0..15).map(|n| guess(n).status).collect();
    assert!(
        statuses[..9].iter().all(|status| *status == 401) && statuses[12..].iter().all(|status| *status == 429),
        "{statuses:?}"
    );
    assert!(!guess(99).header("retry-after").is_empty());
    // Who was right a moment ago goes on.
    admin.get("/v1/cluster").expect(200);
}

#[test]
fn no_secret_shows_in_logs_metrics_audit_or_errors() {
    let setup = Setup::default().with(&["--admin-password", ADMIN_PASSWORD, "--log", "debug"]);
    let server = setup.start();
    let admin = Admin::new(&server);
    visited(&server);
    let (id, first) = made(admin, "pos", &["profile:read"]);
    require(admin, true);
    let key = admin.post("/v1/keys", &json!({"name": "ci", "roles": [{"client": "*", "role": "admin"}]})).expect(201);
    let key = key.json()["apiKey"].as_str().unwrap().to_owned();
    let user_password = "nine yellow bicycles";
    let user = json!({"name": "ada", "password": user_password, "roles": [{"client": "*", "role": "approver"}]});
    admin.post("/v1/users", &user).expect(201);
    let second = access_token(&admin.post(&format!("/v1/demo/tokens/{id}/rotate"), &json!({})).expect(200));
    for token in [&first, &second] {
        let _ = server.send(&bearer(FETCH, token));
        let _ = server.send(&Request::get(&format!("{FETCH}&access_token={token}")));
        let _ = server.send(&Request::get("/v1/users").header("X-Api-Key", token));
    }
    let _ = server.send(&Request::get("/v1/cluster").header("X-Api-Key", &key));
    let _ = server.send(&Request::get("/v1/cluster").header("Authorization", &basic("ada", user_password)));
    let mut seen = server.get("/metrics").text() + &server.log();
    for path in
        ["/v1/audit?limit=1000", "/v1/audit?format=csv", "/v1/demo/tokens", "/v1/keys", "/v1/users", "/v1/cluster"]
    {
        seen += &admin.get(path).expect(200).text();
    }
    let digest = |text: &str| text.rsplit('_').nth(1).unwrap_or(text).to_owned();
    let setup = server.terminate();
    for secret in [&first, &second, &key, &user_password.to_owned(), &ADMIN_PASSWORD.to_owned()] {
        assert!(!seen.contains(&digest(secret)), "a secret shows");
        // Nor is it on disk.
        assert!(!holds(setup.data(), &digest(secret)), "a secret is on disk");
    }
    let configured = process::run(&["config", "--admin-password", ADMIN_PASSWORD]);
    let said = process::said(&configured);
    assert!(said.contains("admin_password = \"***\"") && !said.contains(ADMIN_PASSWORD), "{said}");
}

/// Whether a file below `dir` holds these bytes.
fn holds(dir: &std::path::Path, text: &str) -> bool {
    std::fs::read_dir(dir).expect("a directory").filter_map(Result::ok).any(|entry| {
        let path = entry.path();
        if path.is_dir() {
            return holds(&path, text);
        }
        std::fs::read(&path).unwrap_or_default().windows(text.len()).any(|bytes| bytes == text.as_bytes())
    })
}

#[test]
fn a_weak_password_or_an_open_signing_key_stops_the_start() {
    for (password, words) in
        [("changeme", "at least 12"), ("Password1234", "everybody tries first"), ("admin-admin-1", "")]
    {
        let started = Setup::default().with(&["--admin-password", password]).try_start();
        if let Err(refusal) = started {
            assert!(refusal.log.contains("CAMEO_ADMIN_PASSWORD") && refusal.log.contains(words), "{}", refusal.log);
            assert!(!refusal.log.contains(password), "{}", refusal.log);
        } else {
            panic!("{password} was taken");
        }
    }
    use std::os::unix::fs::PermissionsExt as _;
    let server = Server::start();
    let log = server.log();
    assert!(log.contains("Password, shown this once: "), "{log}");
    let setup = server.terminate();
    let again = setup.start();
    assert!(!again.log().contains("Password, shown this once"), "{}", again.log());
    let setup = again.terminate();
    let key = setup.data().join("control/signing.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let refusal = setup.try_start().expect_err("an open key");
    assert!(refusal.log.contains("open to others") && refusal.log.contains("chmod 600"), "{}", refusal.log);
}

#[test]
fn the_command_line_does_what_the_pages_do() {
    let server = admin::server();
    visited(&server);
    let url = server.url();
    let run = |args: &[&str]| {
        let mut command = process::cameo(args);
        command
            .args(["--url", &url])
            .env("CAMEO_PASSWORD", ADMIN_PASSWORD)
            .env("CAMEO_NEW_PASSWORD", "seven blue bicycles");
        command.output().expect("the binary starts")
    };
    let out = |output: &std::process::Output| String::from_utf8_lossy(&output.stdout).into_owned();
    let created = run(&["token", "create", "pos", "--scope", "profile:read,bulk:write", "--expires-in", "12h"]);
    assert!(created.status.success(), "{}", process::said(&created));
    let token = out(&created).lines().next().unwrap().to_owned();
    assert!(token.starts_with("cameo_pat_") && out(&created).contains("Confirmed by every node"), "{}", out(&created));
    assert!(out(&run(&["auth", "require", "on"])).contains("is required"));
    server.get(FETCH).expect(401);
    let profile = process::cameo(&["profile", "get", "tnt", "a1", "--url", &url, "--token", &token]).output().unwrap();
    assert!(out(&profile).contains("france"), "{}", process::said(&profile));
    assert!(out(&run(&["token", "list"])).contains("pos"));
    let rotated = run(&["token", "rotate", "pos", "--json"]);
    let rotated: Value = serde_json::from_str(&out(&rotated)).unwrap();
    assert_eq!(rotated["confirmation"]["nodes"][0]["how"], "reported");
    server.send(&bearer(FETCH, &token)).expect(401);
    assert!(run(&["token", "revoke", "pos"]).status.success());
    assert_eq!(run(&["token", "revoke", "pos"]).status.code(), Some(4));
    assert!(run(&["user", "add", "ada", "--role", "demo:approver"]).status.success());
    assert!(out(&run(&["user", "list"])).contains("ada  demo:approver"));
    assert!(run(&["user", "passwd", "ada"]).status.success());
    assert!(run(&["user", "remove", "ada"]).status.success());
    assert!(run(&["client", "add", "shop", "--lifetime-days", "30"]).status.success());
    assert!(run(&["client", "set", "--client", "shop", "--origin", "https://shop.example"]).status.success());
    assert!(out(&run(&["client", "list"])).contains("shop  enabled  lifetime 30 days"));
    assert_eq!(run(&["client", "set"]).status.code(), Some(2));
    let audit = out(&run(&["audit", "--all", "--csv"]));
    assert!(audit.starts_with("id,at,who,action") && audit.contains("token.rotate"), "{audit}");
    let wrong = process::cameo(&["token", "list", "--url", &url]).env("CAMEO_PASSWORD", "wrong").output().unwrap();
    assert_eq!(wrong.status.code(), Some(1));
    assert!(process::said(&wrong).contains("CAMEO_PASSWORD"), "{}", process::said(&wrong));
}
