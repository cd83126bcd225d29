//! What does not decode: the field is named, and what is wrong with it is said in words of JSON; nothing is stored.

use http::Method;
use serde_json::{Value, json};

use super::{NOW, Rig, VISITS};

/// Words of the language this is written in, and of its libraries.
const FOREIGN: [&str; 15] = [
    "unit", "sequence", "a map", "struct", "f64", "u64", "i64", "Option", "variant", "enum", "EOF", "marker",
    "integer", "floating", "boolean",
];

fn assert_plain(problem: &Value, field: &str, said: &str, shown: &str) {
    let detail = problem["detail"].as_str().unwrap_or_default();
    assert!(detail.contains(said), "{shown}: {problem}");
    for word in FOREIGN {
        assert!(!detail.contains(word), "{shown}: {problem}");
    }
    assert_eq!(problem["field"].as_str().unwrap_or_default(), field, "{shown}: {problem}");
}

/// A visit, the field to blame, and what is said of it.
fn wrong_visits() -> Vec<(Value, &'static str, &'static str)> {
    let customer = |customer: Value| json!({"ids": {"customerIds": [customer]}});
    vec![
        (json!({"ids": null}), "ids", "ids must be an object, and is null"),
        (json!({"ids": 7}), "ids", "ids must be an object, and is a number"),
        (json!({"ids": "a"}), "ids", "must be an object, and is text"),
        (json!({"ids": ["a"]}), "ids", "must be an object, and is a list"),
        (json!({"ids": {"tntId": 1.5}}), "ids.tntId", "must be text, and is a number"),
        (json!({"ids": {"tntId": {}}}), "ids.tntId", "must be text, and is an object"),
        (json!({"ids": {"customerIds": null}}), "ids.customerIds", "must be a list, and is null"),
        (json!({"ids": {"customerIds": {}}}), "ids.customerIds", "must be a list, and is an object"),
        (customer(json!(null)), "ids.customerIds[0]", "must be an object, and is null"),
        (customer(json!({"id": "a"})), "ids.customerIds[0]", "missing field `integrationCode`"),
        (
            customer(json!({"id": "a", "integrationCode": "c", "authenticatedState": 7})),
            "ids.customerIds[0].authenticatedState",
            "must be text, and is a number",
        ),
        (
            customer(json!({"id": "a", "integrationCode": "c", "authenticatedState": "autenticated"})),
            "ids.customerIds[0].authenticatedState",
            "there are \"authenticated\"",
        ),
        (json!({"sessionId": true}), "sessionId", "must be text, and is true/false"),
        (json!({"page": []}), "page", "must be an object, and is a list"),
        (json!({"profile": null}), "profile", "must be an object of names and values, and is null"),
        (json!({"parameters": []}), "parameters", "must be an object of names and values, and is a list"),
        (json!({"categories": "a"}), "categories", "must be a list, and is text"),
        (json!({"categories": [7]}), "categories[0]", "must be text, and is a number"),
        (json!({"order": {"id": "o", "total": "much"}}), "order.total", "must be a number, and is text"),
        (json!({"order": {"id": "o", "total": null}}), "order.total", "must be a number, and is null"),
        (json!({"occurredAt": true}), "occurredAt", "must be a time"),
        (json!({"occurredAt": "yesterday"}), "occurredAt", "and is \"yesterday\""),
        (json!({"occurredAt": -1}), "occurredAt", "and is -1"),
        (json!(null), "", "must be an object, and is null"),
        (json!(7), "", "must be an object, and is a number"),
    ]
}

#[tokio::test]
async fn a_wrong_type_is_named_as_json_names_it() {
    let rig = Rig::new().await;
    let before = rig.settled().await;
    for (visit, field, said) in wrong_visits() {
        let shown = visit.to_string();
        assert_plain(&rig.visit(&visit).await.expect(400).json(), field, said, &shown);
        let packed = rmp_serde::to_vec_named(&visit).unwrap();
        let problem = rig.call(Method::POST, VISITS, "application/msgpack", packed).await.expect(400).json();
        assert_plain(&problem, field, said, &format!("MessagePack of {shown}"));
    }
    for body in ["{", "[{", "{\"ids\":{", "{\"ids\":\"a", "[", "", "{\"ids\"", "nothing", "{\"mbox\":01}", "{}}"] {
        let problem = rig.call(Method::POST, VISITS, "application/json", body).await.expect(400).json();
        assert_plain(&problem, "", "", body);
    }
    // Cut off, a reserved byte, a number for a name, text that is none.
    for body in
        [&b"\x81"[..], b"\xc1", b"\x81\xa3ids", b"\x81\x63\xc0", b"\x81\xa3ids\x81\xa5tntId\xa1\xff", b"\x92\x80"]
    {
        let reply = rig.call(Method::POST, VISITS, "application/msgpack", body).await.expect(400);
        let detail = reply.json()["detail"].as_str().unwrap_or_default().to_owned();
        assert!(!detail.is_empty() && !FOREIGN.iter().any(|word| detail.contains(word)), "{body:?}: {detail}");
    }
    assert_eq!(rig.stored(), before);
}

#[tokio::test]
async fn a_patch_is_told_the_same_way() {
    let rig = Rig::new().await;
    rig.visit(&json!({"ids": {"tntId": "p"}})).await.expect(200);
    let before = rig.settled().await;
    for (patch, field, said) in [
        (json!({"set": null}), "set", "must be an object of names and values, and is null"),
        (json!({"unset": {}}), "unset", "must be a list, and is an object"),
        (json!({"unset": [7]}), "unset[0]", "must be text, and is a number"),
        (json!({"occurredAt": "soon"}), "occurredAt", "and is \"soon\""),
        (json!([]), "", "the body must be an object, and is a list"),
        (json!({"sett": {}}), "sett", "unknown field `sett`"),
    ] {
        let problem = rig.patch("/v1/demo/profiles/tnt/p", &patch).await.expect(400).json();
        assert_plain(&problem, field, said, &patch.to_string());
    }
    assert_eq!(rig.stored(), before);
}

#[tokio::test]
async fn a_name_given_twice_is_refused_however_it_is_written() {
    let rig = Rig::new().await;
    let before = rig.settled().await;
    let twice = r#"{"ids":{"tntId":"twice"},"profile":{"tier":"gold","x":"1","tier":"silver"}}"#;
    let problem = rig.call(Method::POST, VISITS, "application/json", twice).await.expect(400).json();
    assert_plain(&problem, "profile.tier", "more than once", twice);
    let parameters = r#"{"ids":{"tntId":"twice"},"parameters":{"p":"1","p":"1"}}"#;
    let problem = rig.call(Method::POST, VISITS, "application/json", parameters).await.expect(400).json();
    assert_plain(&problem, "parameters.p", "more than once", parameters);
    let list = format!("[{twice}]");
    let reply = rig.call(Method::POST, VISITS, "application/json", list).await.expect(200).json();
    assert_eq!(reply["results"][0]["error"]["field"], "profile.tier", "{reply}");
    let packed =
        [&b"\x82\xa3ids\x81\xa5tntId\xa5twice\xa7profile\x82"[..], b"\xa4tier\xa4gold", b"\xa4tier\xa6silver"].concat();
    let problem = rig.call(Method::POST, VISITS, "application/msgpack", packed).await.expect(400).json();
    assert_plain(&problem, "profile.tier", "more than once", "MessagePack");
    assert_eq!(rig.stored(), before);
}

#[tokio::test]
async fn the_last_times_of_the_calendar_are_too_far_ahead_and_not_misspelt() {
    let rig = Rig::new().await;
    for ahead in [
        json!("9999-12-31T23:59:59Z"),
        json!("9999-12-31T23:59:59.999999999Z"),
        json!("9999-12-31T23:59:59-12:00"),
        json!("9999-01-01T00:00:00+02:00"),
        json!("2999-01-01T00:00:00Z"),
        json!(u64::MAX),
        json!(NOW + 300_001),
    ] {
        let problem = rig.visit(&json!({"ids": {"tntId": "far"}, "occurredAt": ahead})).await.expect(400).json();
        assert_plain(&problem, "occurredAt", "ahead of the server's clock", &ahead.to_string());
    }
    for wrong in ["9999-12-31", "9999-12-31T23:59:59", "9999-13-31T23:59:59Z", "9999-12-31T23:59:59Zulu", "99999"] {
        let problem = rig.visit(&json!({"occurredAt": wrong})).await.expect(400).json();
        assert_plain(&problem, "occurredAt", "RFC 3339", wrong);
    }
}

#[tokio::test]
async fn a_packed_body_is_not_read_as_if_it_were_none() {
    let rig = Rig::new().await;
    rig.visit(&json!({"ids": {"tntId": "z"}})).await.expect(200);
    let before = rig.settled().await;
    for (method, path, body) in [
        (Method::POST, VISITS, r#"{"ids":{"tntId":"z"}}"#),
        (Method::PATCH, "/v1/demo/profiles/tnt/z", r#"{"set":{"a":"1"}}"#),
        (Method::POST, "/m2/demo/profile/update", "mboxPC=z&profile.a=1"),
    ] {
        let send = |coding: &str| {
            let request = http::Request::builder().method(method.clone()).uri(path).header("content-encoding", coding);
            rig.send(request.body(body.into()).unwrap())
        };
        let reply = send("gzip").await.expect(415);
        assert!(reply.text.contains("gzip") && reply.text.contains("identity"), "{path}: {}", reply.text);
        assert_eq!(rig.stored(), before, "{path}");
    }
    let request = http::Request::post(VISITS).header("content-encoding", "identity").body("{}".into()).unwrap();
    rig.send(request).await.expect(200);
}

#[tokio::test]
async fn a_bad_escape_in_a_path_names_nobody() {
    let rig = Rig::new().await;
    let before = rig.settled().await;
    for path in ["/v1/demo/profiles/tnt/%zz", "/rest/v1/profiles/a%?client=demo", "/v1/de%mo/profiles/tnt/a"] {
        let reply = rig.get(path).await.expect(400);
        assert!(reply.text.contains("two hexadecimal digits"), "{path}: {}", reply.text);
    }
    rig.patch("/v1/demo/profiles/tnt/%zz", &json!({"set": {"a": "1"}})).await.expect(400);
    rig.get("/v1/demo/profiles/tnt/%25zz").await.expect(404);
    assert_eq!(rig.stored(), before);
}
