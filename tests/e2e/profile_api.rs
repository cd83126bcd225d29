//! The profile API: fetch and its exact 404s (TARGET_API §4), single update (§2), native GET, PATCH, DELETE.

use cameo_tests::http::{Request, Response};
use cameo_tests::server::Server;
use serde_json::{Value, json};

use crate::common::{attribute, fetch, plain, visit};

/// The reply to every accepted single update.
const SUBMITTED: &str = "<response><success>true</success><message>Request successfully submitted</message></response>";

/// `2026-08-18T17:53:39.003Z` and nothing else.
fn is_time(value: &Value) -> bool {
    value.as_str().is_some_and(|text| {
        text.len() == 24
            && text
                .bytes()
                .zip(*b"dddd-dd-ddTdd:dd:dd.dddZ")
                .all(|(b, form)| if form == b'd' { b.is_ascii_digit() } else { b == form })
    })
}

#[test]
fn a_fetch_has_the_documented_shape() {
    let server = Server::start();
    visit(&server, &json!({"sessionId": "s1", "ids": {"tntId": "a1"}, "profile": {"country": "france"}}));
    let profile = fetch(&server, "a1").expect(200).json();
    let keys: Vec<_> = profile.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(keys.len(), 4, "{profile}");
    assert_eq!((&profile["client"], &profile["visitorId"]), (&json!("demo"), &json!("a1")));
    assert!(is_time(&profile["modifiedAt"]), "{profile}");
    assert_eq!(profile["profileAttributes"]["country"]["value"], "france");
    let attributes = profile["profileAttributes"].as_object().expect("attributes");
    for (name, attribute) in attributes {
        assert!(attribute["value"].is_string() && is_time(&attribute["modifiedAt"]), "{name}: {attribute}");
        assert_eq!(attribute.as_object().map(serde_json::Map::len), Some(2), "{name}: {attribute}");
    }
    let system = [
        "firstSessionStart",
        "lastVisit",
        "visitCount",
        "sessionCount",
        "averageDaysBetweenVisits",
        "daysSinceLastVisit",
        "isFirstSession",
        "isNewSession",
    ];
    for name in system {
        assert!(attributes.contains_key(name), "{name} is missing: {profile}");
    }
    assert_eq!(attributes.len(), system.len() + 1, "{profile}");
}

#[test]
fn a_profile_is_found_by_each_kind_of_id() {
    let server = Server::start();
    visit(&server, &json!({"ids": {"thirdPartyId": "crm-1"}, "profile": {"k": "tp"}}));
    visit(&server, &json!({"ids": {"ecid": "42"}, "profile": {"k": "ecid"}}));
    for (path, id, value) in [("thirdPartyId/crm-1", "crm-1", "tp"), ("marketingCloudVisitorId/42", "42", "ecid")] {
        let profile = server.get(&format!("/rest/v1/profiles/{path}?client=demo")).expect(200).json();
        assert_eq!(profile["visitorId"], id, "{profile}");
        assert_eq!(profile["profileAttributes"]["k"]["value"], value, "{profile}");
    }
}

#[test]
fn what_is_not_there_is_named_as_documented() {
    let server = Server::start();
    let cases = [
        ("a1", "mboxPC=a1"),
        ("thirdPartyId/a1", "third party id=a1"),
        ("marketingCloudVisitorId/a1", "marketingCloudVisitorId=a1"),
    ];
    for (path, named) in cases {
        let reply = server.get(&format!("/rest/v1/profiles/{path}?client=demo")).expect(404);
        let message = format!("No profile found for client demo with {named}");
        assert_eq!(reply.json(), json!({"status": 404, "message": message}));
    }
}

#[test]
fn a_single_update_is_seen_by_the_next_read() {
    let server = Server::start();
    visit(&server, &json!({"ids": {"tntId": "u1"}}));
    visit(&server, &json!({"ids": {"thirdPartyId": "crm 9"}}));
    let get = server.get("/m2/demo/profile/update?mboxPC=u1&profile.town=K%C3%B6ln&profile.Town=Bonn").expect(200);
    assert_eq!(get.text(), SUBMITTED);
    assert!(get.header("content-type").contains("xml"), "{:?}", get.headers);
    assert_eq!(attribute(&server, "u1", "town").as_deref(), Some("Köln"));
    assert_eq!(attribute(&server, "u1", "Town").as_deref(), Some("Bonn"), "names are case-sensitive");

    let form = Request::post(
        "/m2/demo/profile/update",
        "application/x-www-form-urlencoded",
        "mbox3rdPartyId=crm+9&profile.a=1%2B1&profile.b=x+y",
    );
    assert_eq!(server.send(&form).expect(200).text(), SUBMITTED);
    let profile = server.get("/rest/v1/profiles/thirdPartyId/crm%209?client=demo").expect(200).json();
    assert_eq!(profile["profileAttributes"]["a"]["value"], "1+1", "{profile}");
    assert_eq!(profile["profileAttributes"]["b"]["value"], "x y", "{profile}");
}

#[test]
fn a_single_update_creates_no_profile() {
    let server = Server::start();
    let reply = server.get("/m2/demo/profile/update?mboxPC=nobody&profile.a=1");
    assert!(reply.text().starts_with("<response>"), "{}", reply.text());
    fetch(&server, "nobody").expect(404);
}

#[test]
fn a_single_update_without_its_parts_says_which() {
    let server = Server::start();
    visit(&server, &plain("u2"));
    let cases = [
        ("profile.a=1", "mboxPC"),
        ("mboxPC=u2", "profile."),
        ("mboxPC=u2&profile.visitCount=7", "visitCount"),
        ("mbox3rdPartyId=a%2Fb&profile.a=1", "mbox3rdPartyId"),
    ];
    for (query, named) in cases {
        let reply = server.get(&format!("/m2/demo/profile/update?{query}")).expect(400).text();
        assert!(reply.contains("<success>false</success>") && reply.contains(named), "{query}: {reply}");
    }
}

fn native(method: &str, path: &str, body: Option<Value>) -> Request {
    let request = Request::new(method, &format!("/v1/demo/profiles/{path}"));
    match body {
        Some(body) => request.header("Content-Type", "application/json").body(body.to_string()),
        None => request,
    }
}

#[test]
fn a_native_profile_is_read_patched_and_deleted() {
    let server = Server::start();
    let ids = json!({"tntId": "n1", "thirdPartyId": "crm-n"});
    visit(&server, &json!({"ids": ids, "profile": {"a": "1", "b": "2"}}));
    let read = |server: &Server| -> Response { server.send(&native("GET", "tp/crm-n", None)) };

    let profile = read(&server).expect(200).json();
    assert_eq!((&profile["client"], &profile["ids"]["thirdPartyId"]), (&json!("demo"), &json!("crm-n")), "{profile}");
    assert_eq!(profile["ids"]["tntId"], json!(["n1"]), "{profile}");
    for time in ["createdAt", "modifiedAt", "expiresAt"] {
        assert!(is_time(&profile[time]), "{time}: {profile}");
    }
    assert_eq!(profile["profileAttributes"]["a"]["value"], "1", "{profile}");

    let patch = native("PATCH", "tp/crm-n", Some(json!({"set": {"a": "9", "c": "3"}, "unset": ["b"]})));
    let status = server.send(&patch).status;
    assert!((200..300).contains(&status), "PATCH: {status}");
    let attributes = read(&server).expect(200).json()["profileAttributes"].clone();
    assert_eq!((&attributes["a"]["value"], &attributes["c"]["value"]), (&json!("9"), &json!("3")), "{attributes}");
    assert!(attributes.get("b").is_none(), "{attributes}");

    let status = server.send(&native("DELETE", "tp/crm-n", None)).status;
    assert!((200..300).contains(&status), "DELETE: {status}");
    let gone = read(&server).expect(404);
    assert_eq!(gone.header("content-type"), "application/problem+json");
    server.get("/rest/v1/profiles/thirdPartyId/crm-n?client=demo").expect(404);
    server.send(&native("DELETE", "tp/crm-n", None)).expect(404);
    server.send(&patch).expect(404);

    // Erased means from the checkpoint and the replay as well.
    let server = server.terminate().start();
    read(&server).expect(404);
    let server = server.kill().start();
    read(&server).expect(404);
}

#[test]
fn a_native_profile_is_addressed_by_each_kind() {
    let server = Server::start();
    visit(&server, &plain("k1"));
    visit(&server, &json!({"ids": {"ecid": "k2"}}));
    visit(
        &server,
        &json!({"ids": {"customerIds": [{"id": "k3", "integrationCode": "crm", "authenticatedState": "authenticated"}]}}),
    );
    for path in ["tnt/k1", "ecid/k2", "cust:crm/k3"] {
        server.send(&native("GET", path, None)).expect(200);
    }
    server.send(&native("GET", "cust:other/k3", None)).expect(404);
    let wrong = server.send(&native("GET", "shoe/k1", None));
    assert!(matches!(wrong.status, 400 | 404) && wrong.text().contains("kind"), "{} {}", wrong.status, wrong.text());
}

#[test]
fn a_patch_that_is_wrong_changes_nothing() {
    let server = Server::start();
    visit(&server, &json!({"ids": {"tntId": "p1"}, "profile": {"a": "1"}}));
    let cases = [
        (json!({"set": {"a": "2", "visitCount": "7"}}), "visitCount"),
        (json!({"set": {"a": "2"}, "unset": ["n".repeat(129)]}), "128"),
        (json!({"set": {"a": {"b": "c"}}}), "a"),
        (json!({"sett": {"a": "2"}}), "sett"),
    ];
    for (body, named) in cases {
        let reply = server.send(&native("PATCH", "tnt/p1", Some(body.clone()))).expect(400);
        assert_eq!(reply.header("content-type"), "application/problem+json", "{body}");
        assert!(reply.text().contains(named), "{body}: {}", reply.text());
    }
    assert_eq!(attribute(&server, "p1", "a").as_deref(), Some("1"));
}
