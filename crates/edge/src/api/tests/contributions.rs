//! What a profile is made of, as `?contributions=true` tells it: every id's own part, and nobody else's.

use http::Method;
use serde_json::{Value, json};

use super::{NOW, Reply, Rig};

impl Rig {
    async fn parts(&self, kind: &str, id: &str) -> Value {
        let path = format!("/v1/demo/profiles/{kind}/{id}?contributions=true");
        self.get(&path).await.expect(200).json()["contributions"].take()
    }

    async fn seen(&self, ids: Value, profile: Value, category: &str) {
        let visit = json!({"sessionId": "s", "ids": ids, "profile": profile, "categories": [category]});
        self.visit(&visit).await.expect(200);
    }

    async fn unlink(&self, person: &str, kind: &str, id: &str) -> Reply {
        let body = json!({"kind": kind, "id": id}).to_string();
        self.call(Method::POST, &format!("/v1/demo/profiles/tp/{person}/unlink"), "application/json", body).await
    }
}

/// `{name: value, …}` of a part, `*` before what is shadowed.
fn held(part: &Value) -> Value {
    let attributes = part["attributes"].as_object().expect("attributes").iter();
    let one = |(name, held): (&String, &Value)| {
        assert!(held["modifiedAt"].is_string(), "{part}");
        let mark = if held["shadowed"] == true { "*" } else { "" };
        (format!("{mark}{name}"), held["value"].clone())
    };
    Value::Object(attributes.map(one).collect())
}

#[tokio::test]
async fn each_id_of_a_person_shows_what_it_brought_and_did() {
    let rig = Rig::new().await;
    rig.seen(json!({"tntId": "d1"}), json!({"tier": "bronze", "city": "Köln"}), "shoes").await;
    rig.clock.set(NOW + 1000);
    rig.seen(json!({"thirdPartyId": "p"}), json!({"tier": "gold"}), "hats").await;
    rig.seen(json!({"tntId": "d1", "ecid": "e1", "thirdPartyId": "p"}), json!({"page": "login"}), "hats").await;
    let parts = rig.parts("tnt", "d1").await;
    assert_eq!(parts, rig.parts("tp", "p").await, "whichever id is asked for");
    let [home, first, second] = parts.as_array().expect("a list").as_slice() else { panic!("{parts}") };
    assert_eq!((&home["kind"], &home["id"], &home["linkedTo"]), (&json!("tp"), &json!("p"), &Value::Null));
    assert_eq!(held(home), json!({"tier": "gold"}));
    let (device, ecid) = if first["kind"] == "tnt" { (first, second) } else { (second, first) };
    assert_eq!((&device["id"], &device["linkedTo"]), (&json!("d1"), &json!({"kind": "ecid", "id": "e1"})));
    assert_eq!((&ecid["id"], &ecid["linkedTo"]), (&json!("e1"), &json!({"kind": "tp", "id": "p"})));
    assert_eq!(held(device), json!({"*tier": "bronze", "city": "Köln", "page": "login"}));
    assert_eq!((&device["visitCount"], &home["visitCount"], &ecid["visitCount"]), (&json!(2), &json!(1), &Value::Null));
    assert!(device["createdAt"].is_string() && device["lastVisit"].is_string() && device["left"].is_null(), "{device}");
    let of_device = json!([{"category": "shoes", "points": 9}, {"category": "hats", "points": 5}]);
    assert_eq!(device["categoryAffinities"], of_device);
    assert_eq!(home["categoryAffinities"], json!([{"category": "hats", "points": 10}]));
    // The whole is told as without them.
    let mut with = rig.get("/v1/demo/profiles/tp/p?contributions=true").await.expect(200).json();
    with.as_object_mut().unwrap().remove("contributions");
    assert_eq!(with, rig.get("/v1/demo/profiles/tp/p?contributions=false").await.expect(200).json());
}

#[tokio::test]
async fn a_profile_without_links_is_one_part() {
    let rig = Rig::new().await;
    rig.seen(json!({"tntId": "a"}), json!({"tier": "gold"}), "shoes").await;
    let parts = rig.parts("tnt", "a").await;
    assert_eq!(parts.as_array().map(Vec::len), Some(1));
    assert_eq!((&parts[0]["kind"], &parts[0]["id"], &parts[0]["visitCount"]), (&json!("tnt"), &json!("a"), &json!(1)));
    assert_eq!((held(&parts[0]), &parts[0]["linkedTo"]), (json!({"tier": "gold"}), &Value::Null));
    rig.patch("/v1/demo/profiles/tnt/a", &json!({"unset": ["tier"]})).await.expect(200);
    assert_eq!(held(&rig.parts("tnt", "a").await[0]), json!({}), "what was removed is not told");
    rig.get("/v1/demo/profiles/tnt/b?contributions=true").await.expect(404);
}

#[tokio::test]
async fn nobody_sees_what_a_device_did_for_others() {
    let rig = Rig::new().await;
    rig.seen(json!({"tntId": "d", "thirdPartyId": "ann"}), json!({"secret": "of ann"}), "shoes").await;
    rig.clock.set(NOW + 60_000);
    rig.seen(json!({"tntId": "d", "thirdPartyId": "bob"}), json!({"hobby": "chess"}), "hats").await;
    let (ann, bob) = (rig.parts("tp", "ann").await, rig.parts("tp", "bob").await);
    assert_eq!(
        (&ann[1]["id"], &ann[1]["left"], held(&ann[1])),
        (&json!("d"), &json!(true), json!({"secret": "of ann"}))
    );
    assert!(!ann.to_string().contains("bob") && !ann.to_string().contains("hats"), "{ann}");
    assert_eq!((held(&bob[1]), &bob[1]["visitCount"]), (json!({"hobby": "chess"}), &json!(1)));
    assert!(!bob.to_string().contains("ann") && !bob.to_string().contains("shoes"), "{bob}");
    let later = cameo_profile::time::Iso8601::new(NOW + 60_000);
    assert_eq!(bob[1]["createdAt"], later.as_str(), "nor since when it was somebody else's");
    assert_eq!(bob, rig.parts("tnt", "d").await);

    rig.unlink("bob", "tnt", "d").await.expect(200);
    let (alone, bob) = (rig.parts("tnt", "d").await, rig.parts("tp", "bob").await);
    assert_eq!((alone.as_array().map(Vec::len), held(&alone[0])), (Some(1), json!({"hobby": "chess"})));
    assert_eq!(bob.as_array().map(Vec::len), Some(1), "{bob}");
    assert!(!alone.to_string().contains("ann") && !alone.to_string().contains("bob"), "{alone}");
}

#[tokio::test]
async fn they_are_asked_for_by_true_or_false_and_of_now() {
    let rig = Rig::new().await;
    rig.visit(&json!({"ids": {"tntId": "a"}})).await.expect(200);
    for query in
        ["contributions=", "contributions=yes", "contributions=true&contributions=true", "contributions=true&asOf=1"]
    {
        let refused = rig.get(&format!("/v1/demo/profiles/tnt/a?{query}")).await.expect(400).json();
        assert_eq!(refused["field"], "contributions", "{query}: {refused}");
    }
}
