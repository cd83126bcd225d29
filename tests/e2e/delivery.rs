//! The delivery API (TARGET_API §1): calls as the vendor's libraries send them, what they do to profiles, affinity (§6),
//! and ids that need a signature.

use cameo_tests::http::Request;
use cameo_tests::server::Server;
use serde_json::{Value, json};

use crate::common::{attribute, fetch, visit_count};

const CALLS: &str = include_str!("../data/delivery.json");
const DELIVERY: &str = "/rest/v1/delivery?client=demo&sessionId=s1";

fn deliver(server: &Server, body: &Value) -> Value {
    server.post_json(DELIVERY, body).expect(200).json()
}

#[test]
fn calls_of_the_official_libraries_are_answered_as_they_read_it() {
    let server = Server::start();
    let calls: Vec<Value> = serde_json::from_str(CALLS).expect("the recorded calls");
    assert!(calls.len() >= 8);
    for call in &calls {
        let (sdk, path) = (&call["sdk"], call["path"].as_str().expect("a path"));
        let mut request = Request::post(path, "application/json", call["body"].to_string());
        for (name, value) in call["headers"].as_object().expect("headers") {
            if !name.eq_ignore_ascii_case("content-type") {
                request = request.header(name, value.as_str().expect("text"));
            }
        }
        let reply = server.send(&request).expect(call["status"].as_u64().map_or(200, |status| status as u16));
        if reply.status == 204 {
            assert!(reply.body.is_empty(), "{sdk}");
            continue;
        }
        let said = reply.json();
        let asked = &call["body"];
        assert_eq!((&said["status"], &said["client"]), (&json!(200), &json!("demo")), "{sdk}");
        assert_eq!(said["requestId"], asked["requestId"], "{sdk}");
        // What would send the next call of the library to another host.
        let tnt_id = said["id"]["tntId"].as_str().expect("a tntId");
        match asked["id"]["tntId"].as_str() {
            Some(given) => assert_eq!(tnt_id, given, "{sdk}"),
            None => assert!(!tnt_id.contains('.'), "{sdk}: {tnt_id}"),
        }
        assert_ne!(said["edgeHost"].as_str().expect("a host").split('.').count(), 4, "{sdk}");
        for section in ["execute", "prefetch", "notifications"] {
            assert_eq!(said[section].is_null(), asked[section].is_null(), "{sdk} {section}");
        }
        for kind in ["execute", "prefetch"] {
            let count = |of: &Value| of[kind]["mboxes"].as_array().map_or(0, Vec::len);
            assert_eq!(count(&said), count(asked), "{sdk} {kind}");
        }
    }
    let visitor = server.get("/v1/demo/profiles/ecid/2304820394812039").expect(200).json();
    assert_eq!(visitor["profileAttributes"]["sdk"]["value"], "at.js");
    assert_eq!(attribute(&server, "6c0ae0b4a2b14a5d8f5b0f1d.34_0", "clicked").as_deref(), Some("yes"));
    let person = server.get("/v1/demo/profiles/tp/crm-python").expect(200).json();
    for (name, value) in [("tier", "gold"), ("page", "7"), ("seen", "later"), ("visitCount", "2")] {
        assert_eq!(person["profileAttributes"][name]["value"], value, "{name}: {person}");
    }
    let person = server.get("/v1/demo/profiles/cust:crm/dotnet-9").expect(200).json();
    assert_eq!(person["profileAttributes"]["sdk"]["value"], "dotnet");
}

#[test]
fn affinity_follows_the_example_by_parameter_and_by_product() {
    let server = Server::start();
    for (id, part) in [
        ("par", (|category| json!({"user.categoryId": category})) as fn(&str) -> Value),
        ("pro", (|category| json!({"id": "p", "categoryId": category})) as fn(&str) -> Value),
    ] {
        let field = if id == "par" { "parameters" } else { "product" };
        for category in ["mens-clothing", "accessories", "jewelry", "accessories"] {
            let mut mbox = json!({"index": 0, "name": "m"});
            mbox[field] = part(category);
            let body = json!({"id": {"tntId": id}, "context": {"channel": "web"}, "execute": {"mboxes": [mbox]}});
            deliver(&server, &body);
        }
        let listed = attribute(&server, id, "user.categoryAffinities");
        assert_eq!(listed.as_deref(), Some("accessories,mens-clothing,jewelry"), "{id}");
        let profile = server.get(&format!("/v1/demo/profiles/tnt/{id}")).expect(200).json();
        let points = profile["categoryAffinities"].as_array().expect("affinities").iter();
        assert_eq!(points.filter_map(|one| one["points"].as_f64()).collect::<Vec<_>>(), [9.0, 8.0, 5.0], "{id}");
        assert_eq!((visit_count(&server, id), attribute(&server, id, "sessionCount").as_deref()), (4, Some("1")));
    }
}

#[test]
fn a_retry_is_the_same_call_also_after_a_crash() {
    let server = Server::start();
    let body = json!({"requestId": "r-1", "context": {"channel": "web"}, "execute": {"pageLoad": {}}});
    let first = deliver(&server, &body);
    let server = server.kill().start();
    let mut again = deliver(&server, &body);
    again["edgeHost"] = first["edgeHost"].clone();
    assert_eq!(again, first);
    assert_eq!(visit_count(&server, first["id"]["tntId"].as_str().expect("a tntId")), 1);
}

#[test]
fn errors_have_the_vendors_shape() {
    let server = Server::start();
    let reply = server.post_json("/rest/v1/delivery?client=demo", &json!({"context": {"channel": "web"}})).expect(400);
    assert_eq!(reply.header("cache-control"), "no-store");
    assert_eq!(reply.json(), json!({"status": 400, "message": "sessionId is missing in the query"}));
    let reply = server.post_json(DELIVERY, &json!({"context": {"channel": "tv"}})).expect(400).json();
    assert!(reply["message"].as_str().is_some_and(|text| text.contains("context.channel")), "{reply}");
    assert_eq!(fetch(&server, "nobody").status, 404);
}
