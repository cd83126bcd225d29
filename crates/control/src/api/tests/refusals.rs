//! What is refused, with which status and which field, in the shape of its family.

use super::*;

const VENDOR: &str = "application/vnd.adobe.target.v1+json";
const TOKEN: &str = "/demo/target/authentication/token";
const SETTINGS: &str = "/demo/target/clients/settings";

/// What could have been changed: records and how they are shown.
async fn records(scene: &Scene, admin: &str) -> [Value; 4] {
    let get = async |path: &str| Call::get(path).key(admin).send(&scene.router).await.body;
    [get("/v1/clients").await, get("/v1/demo/tokens").await, get("/v1/users").await, get("/v1/keys").await]
}

#[tokio::test]
async fn what_breaks_a_rule_is_named() {
    let scene = scene().await;
    let admin = scene.stage.key("*", Role::Admin).await;
    let rotate = format!("/v1/demo/tokens/{}/rotate", scene.token);
    let long = "x".repeat(101);
    let origins: Vec<_> = (0..51).map(|n| format!("https://{n}.example.com")).collect();
    let user = |name: &str, password: &str, roles: Value| json!({"name": name, "password": password, "roles": roles});
    let all = || json!([{"client": "*", "role": "admin"}]);
    let cases: Vec<(&str, &str, Value, u16, &str)> = vec![
        ("POST", "/v1/demo/tokens", json!({"scopes": ["bulk:write"]}), 400, ""),
        ("POST", "/v1/demo/tokens", json!({"name": "", "scopes": ["bulk:write"]}), 400, "name"),
        ("POST", "/v1/demo/tokens", json!({"name": "a\u{7}b", "scopes": ["bulk:write"]}), 400, "name"),
        ("POST", "/v1/demo/tokens", json!({"name": long, "scopes": ["bulk:write"]}), 400, "name"),
        ("POST", "/v1/demo/tokens", json!({"name": "pos", "scopes": ["bulk:write"]}), 409, ""),
        ("POST", "/v1/demo/tokens", json!({"name": "x", "scopes": []}), 400, "scopes"),
        ("POST", "/v1/demo/tokens", json!({"name": "x", "scopes": ["bulk:read"]}), 400, "scopes"),
        (
            "POST",
            "/v1/demo/tokens",
            json!({"name": "x", "scopes": ["bulk:write"], "expiresIn": 3599}),
            400,
            "expiresIn",
        ),
        (
            "POST",
            "/v1/demo/tokens",
            json!({"name": "x", "scopes": ["bulk:write"], "expiresIn": 31_536_001}),
            400,
            "expiresIn",
        ),
        ("POST", "/v1/demo/tokens", json!({"name": "x", "scopes": ["bulk:write"], "expiresIn": -1}), 400, "expiresIn"),
        ("POST", "/v1/demo/tokens", json!({"name": "x", "scopes": ["bulk:write"], "secret": "mine"}), 400, "secret"),
        ("POST", "/v1/demo/tokens", json!([]), 400, ""),
        ("POST", "/v1/nosuch/tokens", json!({"name": "x", "scopes": ["bulk:write"]}), 404, ""),
        ("POST", &rotate, json!({"graceSeconds": 604_801}), 400, "graceSeconds"),
        ("POST", &rotate, json!({"graceSeconds": 1, "killNow": true}), 400, "killNow"),
        ("POST", &rotate, json!({"expiresIn": 0}), 400, "expiresIn"),
        ("POST", "/v1/demo/tokens/nosuch/rotate", json!({}), 404, ""),
        ("POST", "/v1/demo/tokens/nosuch/kill", Value::Null, 404, ""),
        ("POST", "/v1/shop/tokens/%2e%2e/kill", Value::Null, 404, ""),
        ("DELETE", "/v1/demo/tokens/nosuch", Value::Null, 404, ""),
        ("GET", "/v1/demo/tokens/nosuch", Value::Null, 404, ""),
        ("PATCH", "/v1/demo/settings", json!({}), 400, ""),
        ("PATCH", "/v1/demo/settings", json!({"lifetimeDays": 0}), 400, "lifetimeDays"),
        ("PATCH", "/v1/demo/settings", json!({"lifetimeDays": 91}), 400, "lifetimeDays"),
        ("PATCH", "/v1/demo/settings", json!({"allowedOrigins": ["www.example.com"]}), 400, "allowedOrigins"),
        // There is no secret yet.
        ("PATCH", "/v1/demo/settings", json!({"requireIdentitySignature": true}), 409, ""),
        ("POST", "/v1/demo/identity-secret", json!({"graceSeconds": 7 * 86_400 + 1}), 400, "graceSeconds"),
        (
            "PATCH",
            "/v1/demo/settings",
            json!({"allowedOrigins": ["https://www.example.com/path"]}),
            400,
            "allowedOrigins",
        ),
        ("PATCH", "/v1/demo/settings", json!({"allowedOrigins": origins}), 400, "allowedOrigins"),
        ("PATCH", "/v1/demo/settings", json!({"imsOrgId": ""}), 400, "imsOrgId"),
        ("PATCH", "/v1/demo/settings", json!({"code": "other"}), 400, "code"),
        ("PATCH", "/v1/demo/settings", json!({"lifetime": 30}), 400, "lifetime"),
        ("PATCH", "/v1/nosuch/settings", json!({"lifetimeDays": 30}), 404, ""),
        ("GET", "/v1/clients/nosuch", Value::Null, 404, ""),
        ("POST", "/v1/clients", json!({}), 400, "code"),
        ("POST", "/v1/clients", json!({"code": "v1"}), 400, "code"),
        ("POST", "/v1/clients", json!({"code": "a b"}), 400, "code"),
        ("POST", "/v1/clients", json!({"code": "third", "lifetimeDays": 91}), 400, "lifetimeDays"),
        ("POST", "/v1/clients", json!({"code": "demo"}), 409, ""),
        ("POST", "/v1/users", user("a:b", PASSWORD, all()), 400, "name"),
        ("POST", "/v1/users", user("", PASSWORD, all()), 400, "name"),
        ("POST", "/v1/users", user("cleo", "short", all()), 400, "password"),
        ("POST", "/v1/users", user("cleo", "Password1234", all()), 400, "password"),
        ("POST", "/v1/users", user("cleo", "queen-cleo-of-the-nile", all()), 400, "password"),
        ("POST", "/v1/users", user("cleo", &"long".repeat(65), all()), 400, "password"),
        ("POST", "/v1/users", user("cleo", PASSWORD, json!([])), 400, "roles"),
        ("POST", "/v1/users", user("cleo", PASSWORD, json!([{"client": "nosuch", "role": "admin"}])), 400, "roles"),
        ("POST", "/v1/users", user("cleo", PASSWORD, json!([{"client": "*", "role": "king"}])), 400, "roles[0].role"),
        ("POST", "/v1/users", user("cleo", PASSWORD, json!([all()[0], all()[0]])), 400, "roles"),
        ("POST", "/v1/users", user("bob", PASSWORD, all()), 409, ""),
        ("PATCH", "/v1/users/nosuch", json!({"roles": all()}), 404, ""),
        ("PATCH", "/v1/users/ada", json!({"roles": [{"client": "demo", "role": "admin"}]}), 409, ""),
        ("DELETE", "/v1/users/ada", Value::Null, 409, ""),
        ("DELETE", "/v1/users/nosuch", Value::Null, 404, ""),
        ("POST", "/v1/users/bob/password", json!({"password": "changeme"}), 400, "password"),
        ("POST", "/v1/users/nosuch/password", json!({"password": PASSWORD}), 404, ""),
        ("POST", "/v1/keys", json!({"name": "spare", "roles": all()}), 409, ""),
        ("POST", "/v1/keys", json!({"name": "ci", "roles": all(), "expiresIn": 1}), 400, "expiresIn"),
        ("DELETE", "/v1/keys/nosuch", Value::Null, 404, ""),
        ("GET", "/v1/audit?limit=0", Value::Null, 400, "limit"),
        ("GET", "/v1/audit?limit=1001", Value::Null, 400, "limit"),
        ("GET", "/v1/audit?limit=1&limit=2", Value::Null, 400, "limit"),
        ("GET", "/v1/audit?before=x", Value::Null, 400, "before"),
        ("GET", "/v1/demo/audit?format=xml", Value::Null, 400, "format"),
    ];
    let before = records(&scene, &admin).await;
    for (method, path, body, status, field) in cases {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let answer = Call::new(method, path).json(&body).key(&admin).send(&scene.router).await;
        let about = format!("{path} {body:.120}: {}", answer.body);
        assert_eq!(answer.status, status, "{about}");
        assert_eq!(answer.header("content-type"), "application/problem+json", "{about}");
        assert_eq!(answer.body["field"].as_str().unwrap_or_default(), field, "{about}");
        assert!(answer.body["detail"].as_str().is_some_and(|text| text.len() > 10), "{about}");
        assert_eq!(records(&scene, &admin).await, before, "{about}");
    }
    // The last admin is counted over users, not keys.
    assert!(scene.stage.audit.lines().contains(&"key:all-admin user.manage ada refused".into()));
}

#[tokio::test]
async fn bodies_are_json_and_small() {
    let scene = scene().await;
    let admin = scene.stage.key("*", Role::Admin).await;
    let post =
        |kind: &str, body: Vec<u8>| Call::post("/v1/demo/tokens").with("content-type", kind).body(body).key(&admin);
    let wrong = post("text/plain", b"{}".to_vec()).send(&scene.router).await;
    assert_eq!((wrong.status, &wrong.body["field"]), (415, &json!("Content-Type")), "{}", wrong.body);
    let broken = post("application/json", b"{\n  \"name\": oops}".to_vec()).send(&scene.router).await;
    assert_eq!((broken.status, &broken.body["line"]), (400, &json!(2)), "{}", broken.body);
    for misplaced in [json!(PASSWORD), json!({"name": "cleo", "password": PASSWORD, "roles": PASSWORD})] {
        let refused = Call::post("/v1/users").json(&misplaced).key(&admin).send(&scene.router).await;
        assert!(refused.status == 400 && !refused.body.to_string().contains(PASSWORD), "{}", refused.body);
    }
    let deep = post("application/json", b"[".repeat(60_000)).send(&scene.router).await;
    assert_eq!(deep.status, 400, "{}", deep.body);
    let limit = super::super::input::BODY_BYTES;
    let rotate = format!("/v1/demo/tokens/{}/rotate", scene.token);
    for path in ["/v1/demo/tokens", TOKEN, &rotate, "/v1/users/bob/password"] {
        let large = Call::post(path).with("content-type", "application/json").body(vec![b' '; limit + 1]).key(&admin);
        let large = large.send(&scene.router).await;
        assert_eq!(large.status, 413, "{path}: {}", large.body);
        let details = if path == TOKEN { &large.body["errors"][0]["meta"] } else { &large.body };
        assert_eq!(details["limit"], limit, "{path}: {}", large.body);
    }
}

#[tokio::test]
async fn the_compatible_paths_keep_their_media_type_and_shape() {
    let scene = scene().await;
    let admin = scene.stage.key("*", Role::Admin).await;
    let refused = |call: Call| {
        let call = call.key(&admin);
        async { call.send(&scene.router).await }
    };
    let put = |kind: &str, body: &str| Call::new(Method::PUT, SETTINGS).with("content-type", kind).body(body);
    let on = r#"{"enableProfileApiAuthentication": true}"#;
    let cases = [
        (Call::post(TOKEN).with("accept", "text/html"), 406, "NotAcceptable"),
        (Call::get(SETTINGS).with("accept", "application/xml;q=0.9"), 406, "NotAcceptable"),
        (put("text/csv", on), 415, "UnsupportedMediaType"),
        (put(VENDOR, "{}"), 400, "Bad.Request"),
        (put(VENDOR, r#"{"enableProfileApiAuthentication": "yes"}"#), 400, "Bad.Request"),
        (put(VENDOR, "[true]"), 400, "Bad.Request"),
        (Call::post(&format!("{TOKEN}?authorizationScope=everything")), 400, "Bad.Request"),
        (Call::post(&format!("{TOKEN}?authorizationScope=profile_api&authorizationScope=x")), 400, "Bad.Request"),
        (Call::get("/shop/target/authentication/token"), 404, "NotFound"),
        (Call::post("/nosuch/target/authentication/token"), 404, "NotFound"),
        (Call::get("/nosuch/target/clients/settings"), 404, "NotFound"),
    ];
    let before = scene.writes();
    for (call, status, code) in cases {
        let about = format!("{} {}", call.method, call.path);
        let answer = refused(call).await;
        assert_eq!((answer.status, answer.header("content-type")), (status, VENDOR), "{about}: {}", answer.body);
        assert_eq!(answer.body["httpStatus"], status, "{about}");
        assert_eq!(answer.body["errors"][0]["errorCode"], code, "{about}");
        let error = &answer.body["errors"][0];
        assert!(error["message"].is_string() && error["meta"].is_object(), "{about}: {}", answer.body);
        assert!(answer.body["requestId"].is_string() && answer.body["requestTime"].is_string(), "{about}");
    }
    assert_eq!(scene.writes(), before);
    let nobody = Call::get(SETTINGS).send(&scene.router).await;
    assert_eq!((nobody.status, &nobody.body["errors"][0]["errorCode"]), (401, &json!("Unauthorized")));

    // The vendor's other settings come along with a PUT and are not ours to judge.
    let flipped = refused(put(VENDOR, r#"{"enableProfileApiAuthentication": true, "propertyCount": 3}"#)).await;
    assert_eq!((flipped.status, flipped.header("content-type")), (200, VENDOR), "{}", flipped.body);
    let plain = refused(Call::get(SETTINGS).with("accept", "application/json")).await;
    assert_eq!(plain.header("content-type"), "application/json");
    assert_eq!(plain.body, json!({"enableProfileApiAuthentication": true}));
    let masked = refused(Call::get(TOKEN)).await.body;
    assert!(masked["accessToken"].as_str().unwrap().ends_with("****") && masked["scope"] == "profile_api", "{masked}");
}
