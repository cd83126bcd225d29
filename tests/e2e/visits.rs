//! Visits: every encoding, generated ids, retries, sessions and counters (TARGET_API §1, §6).

use cameo_tests::http::Request;
use cameo_tests::server::Server;
use serde_json::{Value, json};

use crate::common::{VISITS, attribute, fetch, now_ms, plain, visit, visit_count};

#[test]
fn a_visitor_without_an_id_gets_one() {
    let server = Server::start();
    let first = visit(&server, &json!({"profile": {"country": "france"}}));
    let second = visit(&server, &json!({}));
    let (first, second) = (first["tntId"].as_str().expect("a tntId"), second["tntId"].as_str().expect("a tntId"));
    assert_eq!(first.chars().count(), 26);
    assert!(!first.contains('.'), "the delivery SDKs would read a cluster out of {first}");
    assert!(first < second, "{first} and {second} are not in the order of time");
    assert_eq!(attribute(&server, first, "country").as_deref(), Some("france"));
    assert_eq!(visit_count(&server, second), 1);
}

#[test]
fn every_encoding_is_read() {
    let server = Server::start();
    let two = [plain("enc-1"), plain("enc-2")];
    let lines = format!("{}\n\n{}\n", two[0], two[1]);
    let packed_one = rmp_serde::to_vec_named(&two[0]).expect("MessagePack");
    let packed_two = rmp_serde::to_vec_named(&two).expect("MessagePack");
    let many = [
        ("application/json", Value::from(two.to_vec()).to_string().into_bytes()),
        ("application/x-ndjson", lines.into_bytes()),
        ("application/msgpack", packed_two),
    ];
    for (content_type, body) in many {
        let reply = server.send(&Request::post(VISITS, content_type, body)).expect(200).json();
        assert_eq!((&reply["accepted"], &reply["refused"]), (&json!(2), &json!(0)), "{content_type}: {reply}");
        for (index, id) in ["enc-1", "enc-2"].iter().enumerate() {
            let result = &reply["results"][index];
            assert_eq!((&result["index"], &result["tntId"]), (&json!(index), &json!(id)), "{content_type}: {reply}");
            assert_eq!(result["status"], "accepted");
        }
    }
    let one = server.send(&Request::post(VISITS, "application/msgpack", packed_one)).expect(200).json();
    assert_eq!((&one["status"], &one["tntId"]), (&json!("accepted"), &json!("enc-1")), "{one}");
    visit(&server, &plain("enc-2"));
    assert_eq!((visit_count(&server, "enc-1"), visit_count(&server, "enc-2")), (4, 4));
}

#[test]
fn a_refused_visit_stands_in_its_place_and_harms_no_other() {
    let server = Server::start();
    let long = "x".repeat(129);
    let visits = json!([plain("good-1"), {"ids": {"tntId": long}}, plain("good-2"), {"nonsense": 1}]);
    let reply = server.post_json(VISITS, &visits).expect(200).json();
    assert_eq!((&reply["accepted"], &reply["refused"]), (&json!(2), &json!(2)), "{reply}");
    let statuses: Vec<_> = reply["results"].as_array().expect("results").iter().map(|r| r["status"].clone()).collect();
    assert_eq!(statuses, ["accepted", "refused", "accepted", "refused"]);
    let error = &reply["results"][1]["error"];
    assert_eq!(error["limit"], 128, "{reply}");
    assert!(error["field"].as_str().is_some_and(|f| f.contains("tntId")), "{reply}");
    assert!(error["message"].as_str().is_some_and(|m| m.contains("129")), "{reply}");
    let unknown = &reply["results"][3]["error"];
    assert!(unknown.to_string().contains("nonsense"), "a typo must be named: {reply}");
    assert_eq!((visit_count(&server, "good-1"), visit_count(&server, "good-2")), (1, 1));
}

#[test]
fn a_refused_single_visit_is_a_problem_document() {
    let server = Server::start();
    let reply = server.post_json(VISITS, &json!({"sessionId": "a b", "ids": {"tntId": "refused"}})).expect(400);
    assert_eq!(reply.header("content-type"), "application/problem+json");
    let problem = reply.json();
    assert_eq!((&problem["status"], &problem["field"]), (&json!(400), &json!("sessionId")), "{problem}");
    fetch(&server, "refused").expect(404);
}

#[test]
fn the_profile_comes_back_on_request() {
    let server = Server::start();
    let body = json!({"ids": {"tntId": "ret-1", "thirdPartyId": "crm-1"}, "profile": {"plan": "gold"}});
    let reply = server.post_json(&format!("{VISITS}?return=profile"), &body).expect(200).json();
    let profile = &reply["profile"];
    assert_eq!(profile["client"], "demo", "{reply}");
    assert_eq!(profile["profileAttributes"]["plan"]["value"], "gold", "{reply}");
    assert_eq!(profile["ids"]["thirdPartyId"], "crm-1", "{reply}");
}

#[test]
fn a_retried_event_id_is_counted_once_and_answered_the_same() {
    let server = Server::start();
    let with_id = json!({"eventId": "e-1", "sessionId": "s1", "ids": {"tntId": "twice"}});
    assert_eq!(visit(&server, &with_id), visit(&server, &with_id));
    assert_eq!(visit_count(&server, "twice"), 1);

    // Nobody but the store knows the id that it made up: the retry must be told the same one.
    let anonymous = json!({"eventId": "e-2", "profile": {"a": "1"}});
    let first = visit(&server, &anonymous);
    assert_eq!(first, visit(&server, &anonymous));
    assert_eq!(visit_count(&server, first["tntId"].as_str().expect("a tntId")), 1);

    let batch = json!([with_id, anonymous, {"eventId": "e-3", "ids": {"tntId": "twice"}}, {"eventId": "e-3", "ids": {"tntId": "twice"}}]);
    let reply = server.post_json(VISITS, &batch).expect(200).json();
    assert_eq!(reply["accepted"], 4, "{reply}");
    assert_eq!(reply["results"][1]["tntId"], first["tntId"], "{reply}");
    assert_eq!(visit_count(&server, "twice"), 2);
}

/// Minutes after a fixed start, and the sessionId.
type At<'a> = (i64, Option<&'a str>);

/// Visits of one visitor at minutes after a fixed start, each with a sessionId or none.
fn at_minutes(server: &Server, tnt_id: &str, visits: &[At<'_>]) {
    // An hour and a half ago: within every lifetime, and the last session is over or not as the minutes say.
    let start = now_ms() - 90 * 60_000;
    for (minute, session) in visits {
        let mut body = json!({"ids": {"tntId": tnt_id}, "occurredAt": start + minute * 60_000});
        if let Some(session) = session {
            body["sessionId"] = json!(session);
        }
        visit(server, &body);
    }
}

#[test]
fn sessions_end_by_a_new_id_or_thirty_idle_minutes() {
    let server = Server::start();
    let cases: [(&str, &[At<'_>], &str, &str); 5] = [
        ("ses-1", &[(0, Some("a")), (29, Some("a")), (58, Some("a"))], "1", "3"),
        ("ses-2", &[(0, Some("a")), (31, Some("a"))], "2", "2"),
        ("ses-3", &[(0, Some("a")), (1, Some("b"))], "2", "2"),
        ("ses-4", &[(0, None), (29, None)], "1", "2"),
        ("ses-5", &[(0, None), (31, None), (40, None)], "2", "3"),
    ];
    for (id, visits, sessions, count) in cases {
        at_minutes(&server, id, visits);
        assert_eq!(attribute(&server, id, "sessionCount").as_deref(), Some(sessions), "{id}");
        assert_eq!(attribute(&server, id, "visitCount").as_deref(), Some(count), "{id}");
        assert_eq!(
            attribute(&server, id, "isFirstSession").as_deref(),
            Some(if sessions == "1" { "true" } else { "false" }),
            "{id}"
        );
    }
}

#[test]
fn times_of_visits_are_those_that_they_name() {
    let server = Server::start();
    let now = now_ms();
    let first = now - 4 * 86_400_000;
    for at in [first, first + 2 * 86_400_000] {
        visit(&server, &json!({"ids": {"tntId": "times"}, "occurredAt": at}));
    }
    let value = |name| attribute(&server, "times", name);
    assert_eq!(value("firstSessionStart"), Some(first.to_string()));
    assert_eq!(value("lastVisit"), Some((first + 2 * 86_400_000).to_string()));
    assert_eq!(value("averageDaysBetweenVisits").as_deref(), Some("2"));
    assert_eq!(value("daysSinceLastVisit").as_deref(), Some("2"));
    assert_eq!(value("isNewSession").as_deref(), Some("true"));

    // The same moment as text.
    visit(&server, &json!({"ids": {"tntId": "text-time"}, "occurredAt": "2026-01-02T03:04:05.678Z"}));
    let expected = "1767323045678";
    assert_eq!(attribute(&server, "text-time", "firstSessionStart").as_deref(), Some(expected));
}

#[test]
fn attributes_are_won_by_the_latest_event_time() {
    let server = Server::start();
    let now = now_ms();
    for (at, plan) in [(now - 1000, "new"), (now - 60_000, "old")] {
        visit(&server, &json!({"ids": {"tntId": "lww"}, "occurredAt": at, "profile": {"plan": plan}}));
    }
    assert_eq!(attribute(&server, "lww", "plan").as_deref(), Some("new"));
}

#[test]
fn an_unknown_client_is_named() {
    let server = Server::start();
    let problem = server.post_json("/v1/nobody/visits", &plain("x")).expect(404);
    assert_eq!(problem.header("content-type"), "application/problem+json");
    assert!(problem.text().contains("nobody"), "{}", problem.text());
    let reply = server.get("/rest/v1/profiles/x?client=nobody").expect(404).json();
    assert_eq!(reply["status"], 404);
    assert!(reply["message"].as_str().is_some_and(|m| m.contains("nobody")), "{reply}");
    for path in ["/m2/nobody/profile/update?mboxPC=x&profile.a=1", "/m2/nobody/profile/batchStatus?batchId=x"] {
        let reply = server.get(path).expect(404).text();
        assert!(reply.contains("<success>false</success>") && reply.contains("nobody"), "{path}: {reply}");
    }
}
