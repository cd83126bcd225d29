//! Every limit of TARGET_API and `limits.rs` that this API has: at the limit it passes, one past it there is an error
//! that names field and limit, and nothing was stored.

use std::fmt::Write as _;

use cameo_profile::limits;
use http::Method;
use serde_json::{Value, json};

use super::{Rig, VISITS};
use crate::NotTaken;

/// A field, its limit, and a visit that has so much of it.
type Case = (&'static str, usize, fn(usize) -> Value);

/// Two bytes a character: a limit of characters must not be one of bytes.
fn text(length: usize) -> String {
    "é".repeat(length)
}

fn entries(count: usize) -> Value {
    (0..count).map(|n| (format!("n{n}"), json!("v"))).collect::<serde_json::Map<_, _>>().into()
}

fn list(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("c{n}")).collect()
}

fn customers(count: usize, id: usize, code: usize) -> Value {
    let one = |n: usize| {
        let (id, code) = (format!("{n}{}", text(id - 1)), text(code));
        json!({"id": id, "integrationCode": code, "authenticatedState": "authenticated"})
    };
    json!({"ids": {"customerIds": (0..count).map(one).collect::<Vec<_>>()}})
}

const CASES: [Case; 25] = [
    ("sessionId", limits::SESSION_ID_CHARS, |n| json!({"sessionId": text(n)})),
    ("eventId", limits::EVENT_ID_CHARS, |n| json!({"eventId": text(n)})),
    ("tntId", limits::TNT_ID_CHARS, |n| json!({"ids": {"tntId": text(n)}})),
    ("ecid", limits::ECID_CHARS, |n| json!({"ids": {"ecid": text(n)}})),
    ("thirdPartyId", limits::THIRD_PARTY_ID_CHARS, |n| json!({"ids": {"thirdPartyId": text(n)}})),
    ("customerIds", limits::CUSTOMER_IDS, |n| customers(n, 1, 1)),
    ("customerIds.id", limits::CUSTOMER_ID_CHARS, |n| customers(1, n, 1)),
    ("customerIds.integrationCode", limits::INTEGRATION_CODE_CHARS, |n| customers(1, 1, n)),
    ("identitySignature", 64, |n| json!({"ids": {"identitySignature": entries(n)}})),
    ("mbox", limits::MBOX_NAME_CHARS, |n| json!({"mbox": text(n)})),
    ("parameters", limits::MBOX_PARAMETERS, |n| json!({"parameters": entries(n)})),
    ("parameters.", limits::MBOX_PARAMETER_NAME_CHARS, |n| json!({"parameters": {text(n): "v"}})),
    ("parameters.p", limits::MBOX_PARAMETER_VALUE_CHARS, |n| json!({"parameters": {"p": text(n)}})),
    ("profile", limits::PROFILE_PARAMETERS, |n| json!({"profile": entries(n)})),
    ("profile.", limits::ATTRIBUTE_NAME_CHARS, |n| json!({"profile": {text(n): "v"}})),
    ("profile.p", limits::PROFILE_PARAMETER_VALUE_CHARS, |n| json!({"profile": {"p": text(n)}})),
    ("page.url", limits::URL_CHARS, |n| json!({"page": {"url": text(n)}})),
    ("page.referrer", limits::URL_CHARS, |n| json!({"page": {"referrer": text(n)}})),
    ("order.id", limits::ORDER_ID_CHARS, |n| json!({"order": {"id": text(n)}})),
    ("order.productIds", limits::PRODUCT_ID_CHARS, |n| json!({"order": {"id": "o", "productIds": [text(n)]}})),
    ("order.productIds", limits::ORDER_PRODUCTS, |n| json!({"order": {"id": "o", "productIds": list(n)}})),
    ("categories", limits::CATEGORIES, |n| json!({"categories": list(n)})),
    ("categories", limits::CATEGORY_CHARS, |n| json!({"categories": [text(n)]})),
    ("categories", limits::CATEGORIES, |n| json!({"parameters": {"user.categoryId": list(n).join(",")}})),
    ("userAgent", limits::USER_AGENT_CHARS, |n| json!({"userAgent": text(n)})),
];

#[tokio::test]
async fn of_a_visit() {
    let rig = Rig::new().await;
    for (field, limit, build) in CASES {
        rig.visit(&build(limit)).await.expect(200);
        let before = rig.settled().await;
        let reply = rig.visit(&build(limit + 1)).await.expect(400);
        let problem = reply.json();
        assert_eq!(problem["limit"], limit, "{field}: {problem}");
        assert!(problem["field"].as_str().is_some_and(|f| f.starts_with(field)), "{field}: {problem}");
        assert!(problem["detail"].as_str().is_some_and(|d| d.contains(&limit.to_string())), "{field}: {problem}");
        // Among others it is refused alone.
        let reply = rig.visit(&json!([build(limit + 1)])).await.expect(200).json();
        assert_eq!(reply["results"][0]["error"]["limit"], limit, "{field}: {reply}");
        assert_eq!(rig.stored(), before, "{field}: something was stored");
    }
}

#[tokio::test]
async fn of_the_bytes_of_an_event() {
    let rig = Rig::new().await;
    let parameters = |bytes: usize| -> Value {
        // Four bytes a character, so that all fields keep to their characters.
        let value = "\u{1f600}".repeat(limits::MBOX_PARAMETER_VALUE_CHARS);
        let count = bytes / value.len() + 1;
        (0..count).map(|n| (format!("p{n}"), json!(value))).collect::<serde_json::Map<_, _>>().into()
    };
    rig.visit(&json!({"parameters": parameters(limits::EVENT_BYTES / 2)})).await.expect(200);
    let before = rig.settled().await;
    let reply = rig.visit(&json!({"parameters": parameters(limits::EVENT_BYTES)})).await.expect(400);
    assert!(reply.text.contains("bytes long; the limit is"), "{}", reply.text);
    // As a message of a NATS producer it is one that can never be taken.
    let message = json!({"parameters": parameters(limits::EVENT_BYTES * 2)}).to_string();
    let taken = rig.edge.take_visit("demo", "event-1", message.as_bytes()).await;
    assert!(matches!(&taken, Err(NotTaken::Refused(refusal)) if refusal.status == 400), "{taken:?}");
    assert_eq!(rig.stored(), before);
}

#[tokio::test]
async fn of_forbidden_characters_and_names() {
    let rig = Rig::new().await;
    let before = rig.settled().await;
    for (field, visit) in [
        ("sessionId", json!({"sessionId": "a b"})),
        ("sessionId", json!({"sessionId": "a?"})),
        ("sessionId", json!({"sessionId": "{a"})),
        ("sessionId", json!({"sessionId": "a}"})),
        ("sessionId", json!({"sessionId": "a/b"})),
        ("sessionId", json!({"sessionId": ""})),
        ("eventId", json!({"eventId": ""})),
        ("tntId", json!({"ids": {"tntId": ""}})),
        ("tntId", json!({"ids": {"tntId": "a\u{7}"}})),
        ("thirdPartyId", json!({"ids": {"thirdPartyId": "a+b"}})),
        ("thirdPartyId", json!({"ids": {"thirdPartyId": "a/b"}})),
        ("profile.visitCount", json!({"profile": {"visitCount": "7"}})),
        ("profile.user.categoryAffinity", json!({"profile": {"user.categoryAffinity": "x"}})),
        ("profile.a", json!({"profile": {"a": null}})),
        ("profile.a", json!({"profile": {"a": {"b": 1}}})),
        ("parameters.a", json!({"parameters": {"a": [1]}})),
        ("ids.tntId", json!({"ids": {"tntId": 7}})),
        ("order.total", json!({"order": {"id": "o", "total": "much"}})),
        ("nonsense", json!({"nonsense": 1})),
        ("nonsense", json!({"ids": {"nonsense": 1}})),
    ] {
        let problem = rig.visit(&visit).await.expect(400).json();
        assert!(problem["field"].as_str().is_some_and(|f| f.contains(field)), "{visit}: {problem}");
    }
    assert_eq!(rig.stored(), before);
}

#[tokio::test]
async fn of_a_call() {
    let rig = Rig::new().await;
    let lines = |count: usize| "{\"ids\":{\"tntId\":\"many\"}}\n".repeat(count);
    let reply = rig.call(Method::POST, VISITS, "application/x-ndjson", lines(10_000)).await.expect(200).json();
    assert_eq!((&reply["accepted"], reply["results"].as_array().map(Vec::len)), (&json!(10_000), Some(10_000)));
    let before = rig.settled().await;
    let json_list = format!("[{}]", lines(10_001).trim_end().replace('\n', ","));
    let packed = rmp_serde::to_vec_named(&vec![json!({"ids": {"tntId": "many"}}); 10_001]).unwrap();
    for (content_type, body) in [
        ("application/x-ndjson", lines(10_001).into_bytes()),
        ("application/json", json_list.into_bytes()),
        ("application/msgpack", packed),
    ] {
        let problem = rig.call(Method::POST, VISITS, content_type, body).await.expect(413).json();
        assert_eq!(problem["limit"], 10_000, "{content_type}: {problem}");
    }
    let mut body = b"[{\"ids\":{\"tntId\":\"many\"}},".to_vec();
    body.resize((60 << 20) + 1, b' ');
    let problem = rig.call(Method::POST, VISITS, "application/json", body).await.expect(413).json();
    assert_eq!(problem["limit"], 60 << 20, "{problem}");
    assert_eq!(rig.stored(), before);
}

#[tokio::test]
async fn of_a_single_update() {
    let rig = Rig::new().await;
    rig.visit(&json!({"ids": {"tntId": "u"}})).await.expect(200);
    let before = rig.settled().await;
    let path = "/m2/demo/profile/update";
    let query = |bytes: usize| {
        let head = "mboxPC=u&profile.a=";
        format!("{head}{}", "v".repeat(bytes - head.len()))
    };
    let reply = rig.get(&format!("{path}?{}", query(8193))).await.expect(414);
    assert!(reply.text.contains("<success>false</success>") && reply.text.contains("8192"), "{}", reply.text);
    let form = "application/x-www-form-urlencoded";
    let reply = rig.call(Method::POST, path, form, query(60 * 1024 + 1)).await.expect(413);
    assert!(reply.text.contains("<success>false</success>") && reply.text.contains("61440"), "{}", reply.text);
    let reply = rig.get(&format!("{path}?mboxPC=u&profile.{}=1", "n".repeat(129))).await.expect(400);
    assert!(reply.text.contains("128"), "{}", reply.text);
    let reply = rig.get(&format!("{path}?mboxPC={}&profile.a=1", "n".repeat(129))).await.expect(400);
    assert!(reply.text.contains("mboxPC") && reply.text.contains("128"), "{}", reply.text);
    assert_eq!(rig.stored(), before);
    rig.get(&format!("{path}?{}", query(8192))).await.expect(200);
    rig.call(Method::POST, path, form, query(60 * 1024)).await.expect(200);
    assert_eq!(rig.attribute("u", "a").await.map(|v| v.len()), Some(60 * 1024 - "mboxPC=u&profile.a=".len()));
}

#[tokio::test]
async fn of_a_profile() {
    let rig = Rig::new().await;
    rig.visit(&json!({"ids": {"tntId": "fat"}, "profile": {"small": "1"}})).await.expect(200);
    let path = "/v1/demo/profiles/tnt/fat";
    rig.patch(path, &json!({"set": {"a": "v".repeat(60_000)}})).await.expect(200);
    let problem = rig.patch(path, &json!({"set": {"b": "v".repeat(6000)}})).await.expect(413).json();
    assert_eq!(problem["limit"], limits::PROFILE_BYTES, "{problem}");
    let form = format!("mboxPC=fat&profile.b={}", "v".repeat(6000));
    let form_type = "application/x-www-form-urlencoded";
    let reply = rig.call(Method::POST, "/m2/demo/profile/update", form_type, form).await.expect(413);
    assert!(reply.text.contains("64 KB"), "{}", reply.text);
    assert_eq!(rig.attribute("fat", "b").await, None);
    // A visit is counted all the same, and says that its attributes were not stored.
    let values: serde_json::Map<_, _> = (0..50).map(|n| (format!("v{n}"), json!("v".repeat(200)))).collect();
    let reply = rig.visit(&json!({"ids": {"tntId": "fat"}, "profile": values})).await.expect(200).json();
    assert_eq!(reply["warning"]["field"], "profile", "{reply}");
    assert_eq!(rig.attribute("fat", "v0").await, None);
    assert_eq!(rig.attribute("fat", "visitCount").await.as_deref(), Some("2"));
    // What takes away is never refused.
    rig.patch(path, &json!({"unset": ["a"]})).await.expect(200);
    let mut many = String::from("{\"set\":{");
    for n in 0..limits::ATTRIBUTES {
        let _ = write!(many, "\"n{n}\":\"1\",");
    }
    let many = format!("{}}}}}", many.trim_end_matches(','));
    let problem = rig.call(Method::PATCH, path, "application/json", many).await.expect(413);
    assert!(problem.text.contains("1,000"), "{}", problem.text);
    let names: Vec<_> = (0..=limits::ATTRIBUTES).map(|n| format!("n{n}")).collect();
    let problem = rig.patch(path, &json!({"unset": names})).await.expect(400).json();
    assert_eq!(problem["limit"], limits::ATTRIBUTES, "{problem}");
    let problem = rig.call(Method::PATCH, path, "application/json", " ".repeat((256 << 10) + 1)).await.expect(413);
    assert_eq!(problem.json()["limit"], 256 << 10);
}
