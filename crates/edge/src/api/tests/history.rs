//! History, earlier moments and exports through HTTP.

use http::Method;
use serde_json::{Value, json};

use super::{NOW, Rig};

const PATH: &str = "/v1/demo/profiles/tnt/a1";

impl Rig {
    fn at(&self, ms: u64) -> String {
        self.clock.set(NOW + ms);
        cameo_profile::time::Iso8601::new(NOW + ms).as_str().to_owned()
    }

    async fn entries(&self, query: &str) -> (Vec<Value>, Value) {
        let mut page = self.get(&format!("{PATH}/history{query}")).await.expect(200).json();
        let entries = page["entries"].as_array().unwrap().clone();
        page.as_object_mut().unwrap().remove("entries");
        (entries, page)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happened_is_told_newest_first() {
    let rig = Rig::new().await;
    let first = rig.at(1000);
    let order = json!({"id": "o1", "total": 12.5, "productIds": ["p1"]});
    rig.visit(&json!({"eventId": "e1", "sessionId": "s1", "ids": {"tntId": "a1"}, "profile": {"country": "france"},
        "categories": ["shoes"], "page": {"url": "https://x.test/", "referrer": "https://y.test/"}, "mbox": "home",
        "parameters": {"p": "q"}, "order": order, "userAgent": "UA", "occurredAt": "2026-09-01T00:00:00Z"}))
        .await
        .expect(200);
    // Sent again: it counts once, and is told once.
    rig.visit(&json!({"eventId": "e1", "sessionId": "s1", "ids": {"tntId": "a1"}})).await.expect(200);
    let second = rig.at(2000);
    rig.patch(PATH, &json!({"set": {"tier": "gold"}, "unset": ["country"]})).await.expect(200);
    rig.visit(&json!({"ids": {"tntId": "b2"}})).await.expect(200);
    let (entries, rest) = rig.entries("").await;
    assert_eq!(rest, json!({"client": "demo"}), "whole, and on one page");
    let visit = json!({"at": first, "type": "visit", "created": true, "occurredAt": "2026-09-01T00:00:00.000Z",
        "eventId": "e1", "sessionId": "s1", "profile": {"country": "france"}, "categories": ["shoes"],
        "page": {"url": "https://x.test/", "referrer": "https://y.test/"}, "mbox": "home", "parameters": {"p": "q"},
        "order": order, "userAgent": "UA"});
    let update = json!({"at": second, "type": "update", "set": {"tier": "gold"}, "unset": ["country"]});
    assert_eq!(entries, [update, visit]);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_follow_one_another_and_miss_nothing() {
    let rig = Rig::new().await;
    for n in 0..10 {
        rig.at(n * 10);
        let visit = json!({"ids": {"tntId": "a1"}, "profile": {"n": n}});
        rig.call(Method::POST, super::VISITS, "application/json", json!([visit, visit]).to_string()).await.expect(200);
    }
    let (all, _) = rig.entries("").await;
    assert_eq!(all.len(), 20);
    assert!(all.is_sorted_by_key(|entry| std::cmp::Reverse(entry["at"].as_str().unwrap().to_owned())));
    for limit in [1, 3, 7, 19, 20] {
        let (mut paged, mut query) = (Vec::new(), format!("?limit={limit}"));
        loop {
            let (entries, rest) = rig.entries(&query).await;
            assert!(!entries.is_empty() && entries.len() <= limit);
            paged.extend(entries);
            let Some(next) = rest["next"].as_str() else { break };
            query = format!("?limit={limit}&after={next}");
        }
        assert_eq!(paged, all, "{limit}");
    }
    for (query, named) in [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=x", "limit"),
        ("after=", "after"),
        ("after=1.2", "after"),
        ("limit=1&limit=2", "limit"),
    ] {
        let refused = rig.get(&format!("{PATH}/history?{query}")).await.expect(400);
        assert_eq!((&refused.json()["field"], &*refused.content_type), (&json!(named), "application/problem+json"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_reads_as_it_did() {
    let rig = Rig::new().await;
    let mut seen = Vec::new();
    for n in 1..=5 {
        let at = rig.at(n * 1000);
        rig.visit(&json!({"ids": {"tntId": "a1"}, "profile": {"n": n}, "categories": [format!("c{n}")]}))
            .await
            .expect(200);
        seen.push((at, rig.get(PATH).await.expect(200).json()));
    }
    for (n, (at, profile)) in (1..).zip(&seen) {
        assert_eq!(&rig.get(&format!("{PATH}?asOf={at}")).await.expect(200).json(), profile);
        // Until the next event nothing changes but what goes by the clock.
        let between = rig.get(&format!("{PATH}?asOf={}", NOW + n * 1000)).await.expect(200).json();
        assert_eq!(&between, profile);
    }
    let before = rig.get(&format!("{PATH}?asOf={NOW}")).await.expect(404).json();
    assert!(before["detail"].as_str().unwrap().contains("at 2026-"), "{before}");
    for (time, named) in
        [(format!("{}", NOW + 6000), "future"), ("soon".into(), "RFC 3339"), (String::new(), "RFC 3339")]
    {
        let refused = rig.get(&format!("{PATH}?asOf={time}")).await.expect(400).json();
        assert!(refused["field"] == "asOf" && refused["detail"].as_str().unwrap().contains(named), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_is_one_file_with_everything() {
    let rig = Rig::new().await;
    for n in 1..=250 {
        rig.at(n);
        rig.visit(&json!({"ids": {"tntId": "a1"}, "profile": {"n": n}})).await.expect(200);
    }
    let export = rig.get(&format!("{PATH}/export")).await.expect(200).json();
    assert_eq!(export["profile"], rig.get(&format!("{PATH}?contributions=true")).await.json());
    assert_eq!(export["profile"]["contributions"].as_array().unwrap().len(), 1);
    assert_eq!((&export["kind"], &export["id"], &export["client"]), (&json!("tnt"), &json!("a1"), &json!("demo")));
    let entries = export["history"]["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 250);
    assert_eq!(entries[..50], rig.entries("").await.0);
    assert_eq!(export["history"].get("completeSince"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_told_of_what_was_erased_or_never_was() {
    let rig = Rig::new().await;
    let at = rig.at(1000);
    rig.visit(&json!({"ids": {"tntId": "a1"}, "profile": {"secret": "x"}})).await.expect(200);
    rig.at(2000);
    rig.call(Method::DELETE, PATH, "application/json", "").await.expect(204);
    for path in [format!("{PATH}/history"), format!("{PATH}/export"), format!("{PATH}?asOf={at}")] {
        let reply = rig.get(&path).await.expect(404);
        assert!(!reply.text.contains("secret"), "{}", reply.text);
    }
    rig.at(3000);
    rig.visit(&json!({"ids": {"tntId": "a1"}})).await.expect(200);
    let (entries, _) = rig.entries("").await;
    assert_eq!(entries.len(), 1);
    rig.get(&format!("{PATH}?asOf={at}")).await.expect(404);
    for path in
        ["/v1/demo/profiles/tnt/nobody/history", "/v1/demo/profiles/x/y/export", "/v1/none/profiles/tnt/a1/history"]
    {
        rig.get(path).await.expect(404);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_made_a_change_is_told() {
    let rig = Rig::new().await;
    rig.visit(&json!({"ids": {"tntId": "a1"}})).await.expect(200);
    let by = |method: Method, path: &str, body: String, by: &str| {
        let request = http::Request::builder().method(method).uri(path).header("content-type", "application/json");
        let mut request = request.body(body.into()).unwrap();
        // As the verifier does when it knows the caller.
        request.extensions_mut().insert(cameo_auth::verifier::Caller(by.into()));
        request
    };
    let patch = json!({"set": {"tier": "gold"}}).to_string();
    rig.send(by(Method::PATCH, PATH, patch, "user:ada")).await.expect(200);
    let update = "/m2/demo/profile/update?mboxPC=a1&profile.a=1";
    rig.send(by(Method::GET, update, String::new(), "token:pos")).await.expect(200);
    rig.get(update).await.expect(200);
    let (entries, _) = rig.entries("").await;
    let who: Vec<_> = entries.iter().map(|entry| entry["by"].as_str()).collect();
    assert_eq!(who, [None, Some("token:pos"), Some("user:ada"), None]);
    // In whatever partition the person lives.
    for n in 0..8 {
        let (device, person) = (format!("w{n}"), format!("W{n}"));
        rig.visit(&json!({"ids": {"tntId": device, "thirdPartyId": person}})).await.expect(200);
        let unlink = json!({"kind": "tnt", "id": device}).to_string();
        let path = format!("/v1/demo/profiles/tp/{person}");
        rig.send(by(Method::POST, &format!("{path}/unlink"), unlink, "user:ada")).await.expect(200);
        let history = rig.get(&format!("{path}/history")).await.expect(200).json();
        let newest = &history["entries"][0];
        assert_eq!((&newest["type"], &newest["by"]), (&json!("unlink"), &json!("user:ada")), "{history}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn by_an_id_that_leads_there_no_more_nothing_of_a_new_life_is_told() {
    let rig = Rig::new().await;
    rig.visit(&json!({"ids": {"tntId": "a1"}, "profile": {"mine": "x"}})).await.expect(200);
    rig.visit(&json!({"ids": {"tntId": "a1", "thirdPartyId": "P"}})).await.expect(200);
    assert_eq!(rig.get(&format!("{PATH}/export")).await.expect(200).json()["kind"], "tp");
    // The person ends, and begins anew on another device.
    rig.at(15 * 86_400_000);
    rig.visit(&json!({"ids": {"tntId": "b2", "thirdPartyId": "P"}, "profile": {"secret": "y"}})).await.expect(200);
    for path in [PATH.to_owned(), format!("{PATH}/history"), format!("{PATH}/export")] {
        let reply = rig.get(&path).await.expect(404);
        assert!(reply.text.contains("tntId=a1") && !reply.text.contains("secret"), "{path}: {}", reply.text);
    }
    assert!(rig.get("/v1/demo/profiles/tp/P/export").await.expect(200).text.contains("secret"));
    // An earlier moment that is not told is named with the id that was asked for.
    rig.call(Method::DELETE, "/v1/demo/profiles/tp/P", "application/json", "").await.expect(204);
    let before = rig.get(&format!("/v1/demo/profiles/tnt/b2?asOf={}", NOW + 15 * 86_400_000)).await.expect(404);
    assert!(before.text.contains("tntId=b2"), "{}", before.text);
}
