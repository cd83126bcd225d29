//! Delivery calls (TARGET_API §1): replies, one visit a call, limits, retries, organisations, origins, signatures.

use super::*;
use cameo_auth::identity::{self, IdentitySecret};
use cameo_auth::token::{Secret, SecretKind};
use cameo_profile::{AddressBuf, Kind};
use serde_json::json;

const DELIVERY: &str = "/rest/v1/delivery?client=demo&sessionId=s1";

async fn deliver(rig: &Rig, body: &Value) -> Reply {
    rig.call(Method::POST, DELIVERY, "application/json", body.to_string()).await
}

/// A call with a channel and these fields.
fn call(mut fields: Value) -> Value {
    if fields.get("context").is_none() {
        fields["context"] = json!({"channel": "web"});
    }
    fields
}

#[tokio::test]
async fn only_what_was_asked_for_is_answered() {
    let rig = Rig::new().await;
    let reply = deliver(&rig, &call(json!({}))).await.expect(200).json();
    let mut fields: Vec<_> = reply.as_object().unwrap().keys().map(String::as_str).collect();
    fields.sort_unstable();
    assert_eq!(fields, ["client", "edgeHost", "id", "requestId", "status"]);
    assert_eq!((&reply["status"], &reply["client"]), (&json!(200), &json!("demo")));
    assert_eq!(reply["requestId"].as_str().unwrap().len(), 36);
    let tnt_id = reply["id"]["tntId"].as_str().unwrap();
    assert!(tnt_id.len() == 26 && !tnt_id.contains('.'));

    let asked = json!({
        "requestId": "r-1", "id": {"tntId": "a.28_0", "marketingCloudVisitorId": "e1",
            "customerIds": [{"id": "c1", "integrationCode": "crm", "authenticatedState": "logged_out", "extra": 1}]},
        "execute": {"pageLoad": {}, "mboxes": [{"index": 7, "name": "a"}, {"name": "b\"", "unknown": [1]}]},
        "prefetch": {"views": [{}], "mboxes": []},
        "notifications": [{"id": "n1", "type": "display", "timestamp": 1.0}, {"id": "n2", "type": "click", "timestamp": 2}],
        "unknown": {"deep": [null]}, "qaMode": {}, "trace": {"authorizationToken": "x"}, "impressionId": "i",
        "property": {"token": "p"}, "experienceCloud": {"analytics": {"logging": "server_side"}}
    });
    let mut reply = deliver(&rig, &call(asked)).await.expect(200).json();
    assert_eq!(reply.as_object_mut().unwrap().remove("edgeHost"), Some(json!("cameo")));
    let expected = json!({
        "status": 200, "requestId": "r-1", "client": "demo",
        "id": {"tntId": "a.28_0", "marketingCloudVisitorId": "e1",
            "customerIds": [{"id": "c1", "integrationCode": "crm", "authenticatedState": "logged_out"}]},
        "execute": {"pageLoad": {"options": []}, "mboxes": [
            {"index": 7, "name": "a", "options": []}, {"index": 1, "name": "b\"", "options": []}]},
        "prefetch": {"views": [], "mboxes": []},
        "notifications": [{"id": "n1", "result": "success"}, {"id": "n2", "result": "success"}],
    });
    assert_eq!(reply, expected);
}

#[tokio::test]
async fn a_call_is_one_visit_and_later_parts_win() {
    let rig = Rig::new().await;
    let part = |value: &str| json!({"profileParameters": {"tier": value, value: true, "none": null}});
    let mut mbox = part("mbox");
    mbox["name"] = json!("m");
    let body = json!({
        "id": {"tntId": "a"},
        "execute": {"pageLoad": part("page"), "mboxes": [mbox.clone()]},
        "prefetch": {"pageLoad": part("later"), "mboxes": [mbox], "views": [part("view")]},
        "notifications": [
            {"id": "n", "type": "display", "timestamp": NOW - 5000, "profileParameters": {"seen": "second", "tier": "old"}},
            {"id": "m", "type": "click", "timestamp": NOW - 6000, "profileParameters": {"seen": "first"}},
        ],
    });
    deliver(&rig, &call(body)).await.expect(200);
    let expected = [("visitCount", "1"), ("tier", "view"), ("page", "true"), ("view", "true"), ("seen", "second")];
    for (name, value) in expected {
        assert_eq!(rig.attribute("a", name).await.as_deref(), Some(value), "{name}");
    }
    assert_eq!(rig.attribute("a", "none").await, None);
}

#[tokio::test]
async fn affinity_follows_the_example_whatever_names_the_categories() {
    let rig = Rig::new().await;
    let views = ["mens-clothing", "accessories", "jewelry", "accessories"];
    let mbox = |category: &str| json!({"name": "m", "parameters": {"user.categoryId": category}});
    let product = |category: &str| json!({"name": "m", "product": {"id": "p", "categoryId": category}});
    for (id, part) in [("by-parameter", &mbox as &dyn Fn(&str) -> Value), ("by-product", &product)] {
        for view in views {
            deliver(&rig, &call(json!({"id": {"tntId": id}, "execute": {"mboxes": [part(view)]}}))).await.expect(200);
        }
        let at_once = json!({"id": {"tntId": format!("{id}-1")}, "execute": {"mboxes": views.map(part)}});
        deliver(&rig, &call(at_once)).await.expect(200);
        let listed = json!({"id": {"tntId": format!("{id}-2")}, "execute": {"mboxes": [part(&views.join(", "))]}});
        if id == "by-parameter" {
            deliver(&rig, &call(listed)).await.expect(200);
        }
    }
    for id in ["by-parameter", "by-parameter-1", "by-parameter-2", "by-product", "by-product-1"] {
        let profile = rig.get(&format!("/v1/demo/profiles/tnt/{id}")).await.expect(200).json();
        let expected = json!([
            {"category": "accessories", "points": 9.0}, {"category": "mens-clothing", "points": 8.0},
            {"category": "jewelry", "points": 5.0}]);
        let points: Vec<_> = profile["categoryAffinities"]
            .as_array()
            .unwrap()
            .iter()
            .map(|a| json!({"category": a["category"], "points": a["points"].as_f64()}))
            .collect();
        assert_eq!(json!(points), expected, "{id}");
    }
    // A page that gives all its mboxes its category, and the product's too, is one view of it.
    let same = json!({"name": "m", "parameters": {"user.categoryId": "shoes"}, "product": {"categoryId": "shoes"}});
    deliver(&rig, &call(json!({"id": {"tntId": "same"}, "execute": {"mboxes": vec![same; 3]}}))).await.expect(200);
    let profile = rig.get("/v1/demo/profiles/tnt/same").await.expect(200).json();
    assert_eq!(profile["categoryAffinities"][0]["points"].as_f64(), Some(10.0));
}

#[tokio::test]
async fn a_retry_is_the_same_call() {
    let rig = Rig::new().await;
    let body = call(json!({"requestId": "r", "execute": {"pageLoad": {"parameters": {"user.categoryId": "a"}}}}));
    let first = deliver(&rig, &body).await.expect(200).json();
    assert_eq!(deliver(&rig, &body).await.expect(200).json(), first);
    let id = first["id"]["tntId"].as_str().unwrap();
    assert_eq!(rig.attribute(id, "visitCount").await.as_deref(), Some("1"));

    // A person without a device gets one, and the same again.
    let body = call(json!({"requestId": "p", "id": {"thirdPartyId": "crm-1"}}));
    let first = deliver(&rig, &body).await.expect(200).json();
    assert_eq!(deliver(&rig, &body).await.expect(200).json(), first);
    assert_eq!(first["id"]["thirdPartyId"], "crm-1");
    let device = first["id"]["tntId"].as_str().unwrap();
    assert!(device.len() == 26);
    let other = deliver(&rig, &call(json!({"id": {"thirdPartyId": "crm-1"}}))).await.expect(200).json();
    assert_eq!(other["id"]["tntId"], device);
    let person = rig.get("/v1/demo/profiles/tp/crm-1").await.expect(200).json();
    assert_eq!(person["profileAttributes"]["visitCount"]["value"], "2");
    assert_eq!(person["ids"]["tntId"], json!([device]));
}

#[tokio::test]
async fn a_beacon_has_no_body() {
    let rig = Rig::new().await;
    let body = json!({"id": {"tntId": "b"}, "context": {"channel": "mobile", "beacon": true},
        "notifications": [{"id": "n", "type": "click", "timestamp": NOW, "mbox": {"name": "m"}, "profileParameters": {"a": "1"}}]});
    // As `navigator.sendBeacon` sends it.
    let reply = rig.call(Method::POST, DELIVERY, "text/plain;charset=UTF-8", body.to_string()).await.expect(204);
    assert_eq!(reply.text, "");
    assert_eq!(rig.attribute("b", "a").await.as_deref(), Some("1"));
}

#[tokio::test]
async fn what_is_wrong_is_named_and_nothing_is_stored() {
    let rig = Rig::new().await;
    let before = rig.settled().await;
    let long = |n: usize| "x".repeat(n);
    let mboxes = |n: usize| vec![json!({"name": "m"}); n];
    let mbox = |fields: Value| {
        let mut mbox = json!({"name": "m"});
        mbox.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        json!({"execute": {"mboxes": [{"name": "first"}, mbox]}})
    };
    let many = |n: usize| (0..n).map(|i| (format!("n{i}"), json!("v"))).collect::<serde_json::Map<_, _>>();
    let categories = |n: usize| (0..n).map(|i| format!("{i}")).collect::<Vec<_>>().join(",");
    let by_parameter = |n: usize| {
        let one = |at: usize| json!({"user.categoryId": format!("{at}-,{}", categories(99))});
        (0..n).map(|at| json!({"name": "m", "parameters": one(at)})).collect::<Vec<_>>()
    };
    let cases = [
        (json!({"context": null}), "context is missing"),
        (json!({"context": {}}), "context.channel is missing"),
        (json!({"context": {"channel": "tv"}}), "context.channel can only be"),
        (json!({"context": {"channel": 1}}), "context.channel must be text"),
        (json!({"context": {"channel": "web", "beacon": "yes"}}), "context.beacon"),
        (json!({"context": {"channel": "web", "address": {"url": long(4097)}}}), "context.address.url"),
        (json!({"context": {"channel": "web", "screen": {"width": "1"}}}), "context.screen.width must be a number"),
        (json!({"context": {"channel": "web", "geo": {"latitude": "x"}}}), "context.geo.latitude"),
        (json!({"id": []}), "id must be an object"),
        (json!({"id": {"tntId": long(129)}}), "id.tntId"),
        (json!({"id": {"tntId": 7}}), "id.tntId must be text"),
        (json!({"id": {"thirdPartyId": "a+b"}}), "id.thirdPartyId"),
        (json!({"id": {"thirdPartyId": long(257)}}), "id.thirdPartyId"),
        (json!({"id": {"marketingCloudVisitorId": long(129)}}), "id.marketingCloudVisitorId"),
        (json!({"id": {"customerIds": [{"id": "x", "authenticatedState": "authenticated"}]}}), "id.customerIds"),
        (json!({"requestId": long(129)}), "requestId"),
        (json!({"execute": {"mboxes": mboxes(51)}}), "execute.mboxes has 51 entries"),
        (json!({"execute": {"mboxes": mboxes(26)}, "prefetch": {"mboxes": mboxes(25)}}), "together has 51"),
        (json!({"execute": {"mboxes": {}}}), "execute.mboxes must be a list"),
        (json!({"execute": {"mboxes": [null]}}), "execute.mboxes[0]"),
        (json!({"execute": {"mboxes": [{}]}}), "execute.mboxes[0].name is missing"),
        (mbox(json!({"name": long(251)})), "execute.mboxes[1].name"),
        (mbox(json!({"index": "1"})), "execute.mboxes[1].index must be a whole number"),
        (mbox(json!({"parameters": many(101)})), "execute.mboxes[1].parameters has 101"),
        (mbox(json!({"parameters": {long(129): "v"}})), "execute.mboxes[1].parameters.x"),
        (mbox(json!({"parameters": {"n": long(5001)}})), "execute.mboxes[1].parameters.n"),
        (mbox(json!({"parameters": {"n": []}})), "execute.mboxes[1].parameters.n must be text"),
        (mbox(json!({"profileParameters": many(51)})), "execute.mboxes[1].profileParameters has 51"),
        (mbox(json!({"profileParameters": {"n": long(257)}})), "execute.mboxes[1].profileParameters.n"),
        (mbox(json!({"profileParameters": {"visitCount": "9"}})), "execute.mboxes[1].profileParameters.visitCount"),
        (mbox(json!({"profileParameters": {"profile.n": "9"}})), "without profile."),
        (mbox(json!({"order": {"id": long(251)}})), "execute.mboxes[1].order.id"),
        (mbox(json!({"order": {"total": "1"}})), "execute.mboxes[1].order.total"),
        (mbox(json!({"order": {"purchasedProductIds": [long(51)]}})), "order.purchasedProductIds[0]"),
        (mbox(json!({"product": {"id": long(129)}})), "execute.mboxes[1].product.id"),
        (mbox(json!({"product": {"categoryId": long(129)}})), "execute.mboxes[1].product.categoryId"),
        (
            mbox(json!({"product": {"categoryId": categories(200_000)}})),
            "[1].product.categoryId is 1288889 characters long",
        ),
        (mbox(json!({"product": {"categoryId": categories(501)}})), "together name more than 500 categories"),
        (json!({"execute": {"mboxes": by_parameter(6)}}), "together name more than 500 categories"),
        (json!({"notifications": [{"type": "click", "timestamp": 1}]}), "notifications[0].id is missing"),
        (json!({"notifications": [{"id": "n", "timestamp": 1}]}), "notifications[0].type is missing"),
        (json!({"notifications": [{"id": "n", "type": "hover", "timestamp": 1}]}), "notifications[0].type can only"),
        (json!({"notifications": [{"id": "n", "type": "click"}]}), "notifications[0].timestamp is missing"),
        (json!({"notifications": [{"id": "n", "type": "click", "timestamp": "1"}]}), "notifications[0].timestamp"),
    ];
    for (fields, named) in cases {
        let mut body = json!({"context": {"channel": "web"}});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let reply = deliver(&rig, &body).await;
        let said = reply.expect(400).json();
        assert_eq!(said["status"], 400, "{said}");
        assert!(said["message"].as_str().is_some_and(|m| m.contains(named)), "{named}: {said}");
        assert_eq!(said.as_object().unwrap().len(), 2, "{said}");
    }
    for body in ["", "[]", "{", "null", "{\"context\":{\"channel\":\"web\"}} x", "\u{1}"] {
        rig.call(Method::POST, DELIVERY, "application/json", body).await.expect(400);
    }
    let broken = "{\"context\": {\"channel\": \"web\"},\n \"id\": {\"tntId\": tru}}";
    let said = rig.call(Method::POST, DELIVERY, "application/json", broken).await.expect(400).json();
    let message = "this is not JSON: a word other than true, false and null stands there (line 2, column 21)";
    assert_eq!(said, json!({"status": 400, "message": message}));
    assert_eq!(rig.stored(), before);
    for (query, status, named) in [
        ("client=demo", 400, "sessionId is missing"),
        ("client=demo&sessionId=a%20b", 400, "sessionId"),
        ("client=nobody&sessionId=s", 404, "nobody"),
        ("sessionId=s", 400, "client is missing"),
        ("imsOrgId=A@AdobeOrg&sessionId=s", 400, "imsOrgId"),
    ] {
        let reply =
            rig.call(Method::POST, &format!("/rest/v1/delivery?{query}"), "", call(json!({})).to_string()).await;
        let said = reply.expect(status).json();
        assert!(said["message"].as_str().is_some_and(|m| m.contains(named)), "{said}");
    }
}

#[tokio::test]
async fn calls_at_their_limits_fit() {
    let rig = Rig::new().await;
    // 25 MB of parameters, each within its limit: what history cannot hold is left out, the rest is stored.
    let parameters: serde_json::Map<_, _> = (0..100).map(|i| (format!("n{i}"), json!("é".repeat(5000)))).collect();
    let profile = |at: usize| (0..20).map(|i| (format!("p{at}-{i}"), json!("v"))).collect::<serde_json::Map<_, _>>();
    let mbox =
        |at| json!({"index": at, "name": "é".repeat(250), "parameters": parameters, "profileParameters": profile(at)});
    let body = call(json!({"id": {"tntId": "big"}, "execute": {"mboxes": (0..25).map(mbox).collect::<Vec<_>>()}}));
    deliver(&rig, &body).await.expect(200);
    assert_eq!(rig.attribute("big", "p24-19").await.as_deref(), Some("v"));
    assert_eq!(rig.attribute("big", "visitCount").await.as_deref(), Some("1"));

    // More than any profile holds is refused as a whole.
    let wide: serde_json::Map<_, _> = (0..50).map(|i| (format!("w{i}"), json!("x".repeat(256)))).collect();
    let mboxes: Vec<_> = (0..10)
        .map(|at| {
            let own: serde_json::Map<_, _> =
                wide.iter().map(|(name, value)| (format!("{at}{name}"), value.clone())).collect();
            json!({"name": "m", "profileParameters": own})
        })
        .collect();
    let reply = deliver(&rig, &call(json!({"id": {"tntId": "big"}, "execute": {"mboxes": mboxes}}))).await.expect(400);
    assert!(reply.text.contains("profileParameters of the call together"), "{}", reply.text);
}

#[tokio::test]
async fn an_organisation_stands_for_its_client() {
    let org = |org: &str| Some(org.to_owned());
    let rig = Rig::with(vec![
        ClientRecord { ims_org_id: org("A@AdobeOrg"), ..client("demo") },
        ClientRecord { ims_org_id: org("B@AdobeOrg"), ..client("shop") },
    ])
    .await;
    let path = "/rest/v1/delivery?imsOrgId=B%40AdobeOrg&sessionId=s&version=2.5.0";
    let reply = rig.call(Method::POST, path, "application/json", call(json!({})).to_string()).await.expect(200).json();
    assert_eq!(reply["client"], "shop");
}

#[tokio::test]
async fn pages_of_allowed_origins_may_call_and_no_others() {
    let rig =
        Rig::with(vec![ClientRecord { allowed_origins: vec!["https://shop.example".into()], ..client("demo") }]).await;
    let ask = |method: Method, origin: &str| {
        let request =
            Request::builder().method(method).uri("/rest/v1/delivery?imsOrgId=x&sessionId=s").header("origin", origin);
        request
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "content-type,x-exc-sdk")
            .body(Body::from(call(json!({})).to_string()))
            .unwrap()
    };
    for (origin, allowed) in [("https://shop.example", true), ("https://evil.example", false)] {
        for method in [Method::OPTIONS, Method::POST] {
            let response = rig.router.clone().oneshot(ask(method.clone(), origin)).await.unwrap();
            let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
            assert_eq!(header("access-control-allow-origin") == origin, allowed, "{method} {origin}");
            assert_eq!(header("access-control-allow-credentials"), "true");
            if method == Method::OPTIONS {
                assert!(header("access-control-allow-headers").contains("x-exc-sdk"));
            } else {
                assert_eq!(header("cache-control"), "no-store");
            }
        }
    }
}

#[tokio::test]
async fn persons_are_named_only_with_a_signature_where_the_client_asks_for_it() {
    let secret = Secret::generate(SecretKind::IdentitySecret).unwrap();
    let old = Secret::generate(SecretKind::IdentitySecret).unwrap();
    let mut record = ClientRecord { require_identity_signature: true, ..client("demo") };
    record.rotate_identity_secret(IdentitySecret::new(&old, "ada", 1), 0).unwrap();
    // The rig judges by the real clock.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    record.rotate_identity_secret(IdentitySecret::new(&secret, "ada", now), 3600).unwrap();
    let rig = Rig::with(vec![record]).await;
    let sign = |secret: &Secret, kind: Kind<'_>, id: &str| {
        let address = AddressBuf::of(kind, id).unwrap();
        identity::signature(secret.reveal(), "demo", address.as_address())
    };
    let crm = sign(&secret, Kind::ThirdParty, "crm-1");
    let before = rig.settled().await;
    for (id, named) in [
        (json!({"thirdPartyId": "crm-1"}), "needs a signature in identitySignature.tp"),
        (json!({"marketingCloudVisitorId": "e"}), "needs a signature in identitySignature.ecid"),
        (json!({"thirdPartyId": "crm-2", "identitySignature": {"tp": crm}}), "is not the signature"),
        (json!({"marketingCloudVisitorId": "crm-1", "identitySignature": {"ecid": crm}}), "is not the signature"),
        (json!({"thirdPartyId": "crm-1", "identitySignature": {"tp": "00"}}), "is not the signature"),
        (
            json!({"customerIds": [{"id": "1", "integrationCode": "crm", "authenticatedState": "authenticated"}]}),
            "identitySignature.cust:crm",
        ),
    ] {
        let said = deliver(&rig, &call(json!({"id": id}))).await.expect(403).json();
        assert!(said["message"].as_str().is_some_and(|m| m.contains(named)), "{named}: {said}");
    }
    let native = json!({"ids": {"thirdPartyId": "crm-1"}});
    rig.visit(&native).await.expect(403);
    // What a caller can have computed is bounded: one of each kind in an object, and some among the parts of a call.
    let many: serde_json::Map<_, _> = (0..65).map(|n| (format!("cust:{n}"), json!(crm))).collect();
    let twice = format!("{{\"thirdPartyId\":\"crm-1\",\"identitySignature\":{{\"tp\":\"{crm}\",\"tp\":\"{crm}\"}}}}");
    for (ids, named) in [
        (json!({"thirdPartyId": "crm-1", "identitySignature": many}).to_string(), "identitySignature has 65 entries"),
        (twice, "identitySignature.tp is given more than once"),
    ] {
        for (path, body) in [
            (DELIVERY, format!("{{\"context\":{{\"channel\":\"web\"}},\"id\":{ids}}}")),
            (VISITS, format!("{{\"ids\":{ids}}}")),
        ] {
            let reply = rig.call(Method::POST, path, "application/json", body).await.expect(400);
            assert!(reply.text.contains(named), "{}", reply.text);
        }
    }
    let parts = |signatures: &[&str]| {
        let mbox = |signature| json!({"name": "m", "parameters": {"identitySignature.tp": signature}});
        let mboxes: Vec<_> = signatures.iter().map(mbox).collect();
        call(json!({"id": {"thirdPartyId": "crm-1"}, "execute": {"mboxes": mboxes}}))
    };
    let wrong: Vec<_> = (0..16).map(|n| format!("{n:064x}")).collect();
    let mut wrong: Vec<_> = wrong.iter().map(String::as_str).collect();
    wrong.push(&crm);
    let said = deliver(&rig, &parts(&wrong)).await.expect(403);
    assert!(said.text.contains("none of 16 in identitySignature.tp"), "{}", said.text);
    assert_eq!(rig.stored(), before);
    deliver(&rig, &parts(&[[wrong[0]; 49].as_slice(), &[&crm]].concat())).await.expect(200);

    deliver(&rig, &call(json!({"id": {"tntId": "a"}}))).await.expect(200);
    let not_counted = json!([{"id": "1", "integrationCode": "crm", "authenticatedState": "unknown"}]);
    deliver(&rig, &call(json!({"id": {"customerIds": not_counted}}))).await.expect(200);
    for secret in [&secret, &old] {
        let good = sign(secret, Kind::ThirdParty, "crm-1");
        deliver(&rig, &call(json!({"id": {"thirdPartyId": "crm-1", "identitySignature": {"tp": good}}})))
            .await
            .expect(200);
        let parameters = json!({"identitySignature.tp": good, "identitySignature.cust:crm": sign(secret, Kind::Customer("crm"), "9")});
        let ids = json!({"thirdPartyId": "crm-1", "tntId": "a",
            "customerIds": [{"id": "9", "integrationCode": "crm", "authenticatedState": "authenticated"}]});
        let body = call(json!({"id": ids, "execute": {"mboxes": [{"name": "m", "parameters": parameters}]}}));
        deliver(&rig, &body).await.expect(200);
        rig.visit(&json!({"ids": {"thirdPartyId": "crm-1", "identitySignature": {"tp": good}}})).await.expect(200);
    }
}
