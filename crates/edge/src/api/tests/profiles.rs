//! Fetch, single update, native profiles, lifetimes: shapes, exact texts, strict decoding.

use http::Method;
use serde_json::json;

use super::{NOW, Rig};

/// A day, in milliseconds.
const DAY_MS: u64 = 86_400_000;

#[tokio::test]
async fn what_is_not_there_is_named_as_documented() {
    let rig = Rig::new().await;
    for (path, named) in [
        ("a1", "mboxPC=a1"),
        ("thirdPartyId/a1", "third party id=a1"),
        ("marketingCloudVisitorId/a1", "marketingCloudVisitorId=a1"),
    ] {
        let reply = rig.get(&format!("/rest/v1/profiles/{path}?client=demo")).await.expect(404);
        let message = format!("No profile found for client demo with {named}");
        assert_eq!(reply.text, json!({"status": 404, "message": message}).to_string());
    }
}

#[tokio::test]
async fn a_fetch_says_what_is_wrong_with_it() {
    let rig = Rig::new().await;
    for (path, status, named) in [
        ("/rest/v1/profiles/a1", 400, "client"),
        ("/rest/v1/profiles/a1?client=nobody", 404, "nobody"),
        ("/rest/v1/profiles/a1?client=demo&client=brief", 400, "client"),
        ("/rest/v1/profiles/a1?client=%zz", 400, "client"),
        ("/rest/v1/profiles/%ff?client=demo", 400, "tntId"),
        ("/rest/v1/profiles/thirdPartyId/a%2Fb?client=demo", 400, "thirdPartyId"),
    ] {
        let reply = rig.get(path).await.expect(status).json();
        assert_eq!(reply["status"], status, "{path}: {reply}");
        assert!(reply["message"].as_str().is_some_and(|m| m.contains(named)), "{path}: {reply}");
    }
}

#[tokio::test]
async fn ids_in_paths_are_decoded_and_shown_as_they_are() {
    let rig = Rig::new().await;
    for (id, path) in [("a/b c", "a%2Fb%20c"), ("é+\"\\", "%C3%A9+%22%5C"), ("100%", "100%25")] {
        rig.visit(&json!({"ids": {"tntId": id}, "profile": {"id": id}})).await.expect(200);
        let fetched = rig.fetch(path).await.expect(200).json();
        assert_eq!((&fetched["visitorId"], &fetched["profileAttributes"]["id"]["value"]), (&json!(id), &json!(id)));
        let native = rig.get(&format!("/v1/demo/profiles/tnt/{path}")).await.expect(200).json();
        assert_eq!(native["ids"]["tntId"], json!([id]));
    }
}

#[tokio::test]
async fn a_location_hint_is_no_part_of_an_id() {
    let rig = Rig::new().await;
    rig.visit(&json!({"ids": {"tntId": "x.28_0"}, "profile": {"a": "1"}})).await.expect(200);
    rig.visit(&json!({"ids": {"tntId": "x"}, "profile": {"b": "2"}})).await.expect(200);
    rig.get("/m2/demo/profile/update?mboxPC=x.1_1&profile.c=3").await.expect(200);
    for id in ["x", "x.28_0", "x.9_9"] {
        let fetched = rig.fetch(id).await.expect(200).json();
        assert_eq!(fetched["visitorId"], id, "as it was asked for");
        let values = ["a", "b", "c"].map(|name| fetched["profileAttributes"][name]["value"].clone());
        assert_eq!(values, [json!("1"), json!("2"), json!("3")]);
        let native = rig.get(&format!("/v1/demo/profiles/tnt/{id}")).await.expect(200).json();
        assert_eq!(native["ids"]["tntId"], json!(["x"]));
    }
}

#[tokio::test]
async fn a_profile_is_the_clients_own() {
    let rig = Rig::new().await;
    rig.visit(&json!({"ids": {"tntId": "a1"}})).await.expect(200);
    rig.get("/rest/v1/profiles/a1?client=brief").await.expect(404);
    rig.get("/v1/brief/profiles/tnt/a1").await.expect(404);
    let reply = rig.get("/m2/brief/profile/update?mboxPC=a1&profile.a=1").await;
    assert!(reply.text.starts_with("<response>"), "{}", reply.text);
    assert_eq!(rig.attribute("a1", "a").await, None);
}

#[tokio::test]
async fn a_profile_ends_when_its_clients_lifetime_is_over() {
    let rig = Rig::new().await;
    for client in ["demo", "brief"] {
        let path = format!("/v1/{client}/visits");
        let visit = json!({"ids": {"tntId": "a1"}}).to_string();
        rig.call(Method::POST, &path, "application/json", visit).await.expect(200);
    }
    rig.clock.set(NOW + 2 * DAY_MS - 1);
    rig.get("/rest/v1/profiles/a1?client=brief").await.expect(200);
    rig.clock.set(NOW + 2 * DAY_MS);
    rig.get("/rest/v1/profiles/a1?client=brief").await.expect(404);
    let patch = json!({"set": {"a": "1"}});
    rig.patch("/v1/brief/profiles/tnt/a1", &patch).await.expect(404);
    rig.call(Method::DELETE, "/v1/brief/profiles/tnt/a1", "", "").await.expect(404);
    rig.clock.set(NOW + 13 * DAY_MS);
    // A change is activity: it begins anew.
    rig.patch("/v1/demo/profiles/tnt/a1", &patch).await.expect(200);
    rig.clock.set(NOW + 27 * DAY_MS - 1);
    rig.fetch("a1").await.expect(200);
    rig.clock.set(NOW + 27 * DAY_MS);
    rig.fetch("a1").await.expect(404);
}

#[tokio::test]
async fn a_single_update_is_read_strictly_and_seen_at_once() {
    let rig = Rig::new().await;
    rig.visit(&json!({"ids": {"thirdPartyId": "crm 9"}})).await.expect(200);
    let form = "application/x-www-form-urlencoded";
    let path = "/m2/demo/profile/update";
    let reply =
        rig.call(Method::POST, path, form, "mbox3rdPartyId=crm+9&profile.a=1%2B1&profile.K%C3%B6ln=x+y\n").await;
    let submitted = "<response><success>true</success><message>Request successfully submitted</message></response>";
    assert_eq!(reply.expect(200).text, submitted);
    let profile = rig.get("/rest/v1/profiles/thirdPartyId/crm%209?client=demo").await.expect(200).json();
    assert_eq!(profile["profileAttributes"]["a"]["value"], "1+1", "{profile}");
    assert_eq!(profile["profileAttributes"]["Köln"]["value"], "x y", "{profile}");
    assert_eq!(profile["visitorId"], "crm 9", "no tntId is known: {profile}");

    let before = rig.settled().await;
    for (query, named) in [
        ("profile.a=1", "mboxPC"),
        ("mboxPC=u&mbox3rdPartyId=v&profile.a=1", "both"),
        ("mboxPC=u", "profile."),
        ("mboxPC=u&profile.visitCount=7", "visitCount"),
        ("mboxPC=u&profile.a=%f", "profile.a"),
        ("mboxPC=u&profile.a=%ff", "UTF-8"),
        ("mbox3rdPartyId=a%2Fb&profile.a=1", "mbox3rdPartyId"),
        ("mboxPC=&profile.a=1", "mboxPC"),
    ] {
        let reply = rig.get(&format!("{path}?{query}")).await.expect(400);
        assert!(
            reply.text.contains("<success>false</success>") && reply.text.contains(named),
            "{query}: {}",
            reply.text
        );
    }
    let reply = rig.get("/m2/nobody/profile/update?mboxPC=u&profile.a=1").await.expect(404);
    assert!(reply.text.contains("<success>false</success>") && reply.text.contains("nobody"), "{}", reply.text);
    assert_eq!(rig.stored(), before);
}

/// Servers have one id for all that belongs to a request of theirs.
#[tokio::test]
async fn a_visit_and_an_update_of_one_id_are_two_events() {
    let rig = Rig::new().await;
    rig.visit(&json!({"eventId": "r1", "ids": {"tntId": "z"}})).await.expect(200);
    for value in ["1", "2"] {
        rig.patch("/v1/demo/profiles/tnt/z", &json!({"set": {"a": value}, "eventId": "r1"})).await.expect(200);
        assert_eq!(rig.attribute("z", "a").await.as_deref(), Some("1"));
    }
}

#[tokio::test]
async fn a_native_profile_is_read_patched_and_erased() {
    let rig = Rig::new().await;
    let ids = json!({"tntId": "n1", "thirdPartyId": "crm-n", "ecid": "e1",
        "customerIds": [{"id": "c:1", "integrationCode": "crm", "authenticatedState": "authenticated"}]});
    rig.visit(&json!({"ids": ids, "profile": {"a": "1", "b": "2"}})).await.expect(200);
    let path = "/v1/demo/profiles/tp/crm-n";
    let profile = rig.get(path).await.expect(200).json();
    let expected = json!({"tntId": ["n1"], "thirdPartyId": "crm-n", "ecid": "e1",
        "customerIds": [{"id": "c:1", "integrationCode": "crm"}]});
    assert_eq!(profile["ids"], expected, "{profile}");
    assert_eq!(profile["profileAttributes"]["visitCount"]["value"], "1", "system attributes stand in it too");
    assert_eq!(profile["expiresAt"], cameo_profile::time::Iso8601::new(NOW + 14 * DAY_MS).as_str());

    let patch = json!({"set": {"a": "9", "c": "3"}, "unset": ["b"], "eventId": "p1"});
    let patched = rig.patch(path, &patch).await.expect(200).json();
    assert_eq!(patched["profileAttributes"]["a"]["value"], "9", "{patched}");
    assert!(patched["profileAttributes"].get("b").is_none(), "{patched}");
    rig.patch(path, &json!({"set": {"a": "10"}})).await.expect(200);
    let again = rig.patch(path, &patch).await.expect(200).json();
    assert_eq!(again["profileAttributes"]["a"]["value"], "10", "a retry changes nothing: {again}");

    let before = rig.settled().await;
    for (body, named) in [
        (json!({}), "neither"),
        (json!({"set": {"a": "2", "visitCount": "7"}}), "visitCount"),
        (json!({"set": {"a": null}}), "set.a"),
        (json!({"set": {"a": "1"}, "unset": ["a"]}), "unset.a"),
        (json!({"sett": {"a": "2"}}), "sett"),
        (json!([{"a": "2"}]), "object"),
        (json!({"unset": [""]}), "empty"),
    ] {
        let reply = rig.patch(path, &body).await.expect(400);
        assert!(reply.text.contains(named), "{body}: {}", reply.text);
        assert_eq!(reply.content_type, "application/problem+json", "{body}");
    }
    assert_eq!(rig.stored(), before);

    rig.call(Method::DELETE, path, "", "").await.expect(204);
    for method in [Method::GET, Method::DELETE] {
        rig.call(method, path, "", "").await.expect(404);
    }
    rig.patch(path, &patch).await.expect(404);
    for (path, named) in [("/v1/demo/profiles/shoe/a", "kind"), ("/v1/nobody/profiles/tnt/a", "nobody")] {
        let reply = rig.get(path).await;
        assert!(reply.status.is_client_error() && reply.text.contains(named), "{path}: {}", reply.text);
    }
}

#[tokio::test]
async fn readiness_names_what_has_stopped() {
    use cameo_eventlog::EventLog;
    use cameo_eventlog::frame::{AppenderId, FrameBuilder};

    let rig = Rig::new().await;
    rig.get("/healthz").await.expect(200);
    assert_eq!(rig.get("/readyz").await.expect(200).json()["status"], "ready");
    let mut frame = FrameBuilder::with_capacity(64);
    frame.push(|out| out.push(99));
    let partition = cameo_profile::Partition(2);
    let (bytes, _) = frame.finish(AppenderId(7), partition, 1, 0);
    let position = rig.log.append(vec![(partition, bytes)]).await.remove(0).unwrap();
    let since = std::time::Instant::now();
    loop {
        let reply = rig.get("/readyz").await;
        if reply.status == 503 {
            let named = format!("partition 2 has stopped: position {position}");
            assert!(reply.json()["reasons"][0].as_str().is_some_and(|r| r.starts_with(&named)), "{}", reply.text);
            break;
        }
        assert!(since.elapsed().as_secs() < 20, "it never stops: {}", reply.text);
        tokio::task::yield_now().await;
    }
    rig.get("/healthz").await.expect(200);
}
