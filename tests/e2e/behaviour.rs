//! What a profile does by itself (TARGET_API §6): tests/data/behaviour.json, case by case, over HTTP.

use std::collections::BTreeMap;

use cameo_tests::http::Request;
use cameo_tests::server::{Server, Setup};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::common::{now_ms, upload_all};

const CASES: &str = include_str!("../data/behaviour.json");
const DAY_MS: i64 = 86_400_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    #[serde(default = "demo")]
    client: String,
    steps: Vec<Step>,
    /// By kind and id; null: there is none.
    reads: BTreeMap<String, Option<Read>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Step {
    visit: Option<Value>,
    /// Of the visit, after a start that all visits of a case share.
    minute: Option<i64>,
    /// A delivery call without its context.
    delivery: Option<Value>,
    /// Query of a single update.
    update: Option<String>,
    /// A bulk file that creates profiles.
    bulk: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Read {
    /// Null: it has none of this name.
    #[serde(default)]
    attributes: BTreeMap<String, Option<String>>,
    affinities: Option<BTreeMap<String, f64>>,
    ids: Option<Value>,
    lives_days: Option<i64>,
}

fn demo() -> String {
    "demo".into()
}

fn take(server: &Server, client: &str, step: &Step, start: i64) {
    if let Some(visit) = &step.visit {
        let mut visit = visit.clone();
        if let Some(minute) = step.minute {
            visit["occurredAt"] = json!(start + minute * 60_000);
        }
        server.post_json(&format!("/v1/{client}/visits"), &visit).expect(200);
    }
    if let Some(call) = &step.delivery {
        let mut call = call.clone();
        call["context"] = json!({"channel": "web"});
        server.post_json(&format!("/rest/v1/delivery?client={client}&sessionId=s"), &call).expect(200);
    }
    if let Some(query) = &step.update {
        server.send(&Request::get(&format!("/m2/{client}/profile/update?{query}"))).expect(200);
    }
    if let Some(file) = &step.bulk {
        upload_all(server, &format!("/m2/{client}/v2/profile/batchUpdate"), file);
    }
}

#[test]
fn a_profile_behaves_as_documented() {
    let server = Setup::default().with(&["--client", "demo", "--client", "long:90"]).start();
    let cases: Vec<Case> = serde_json::from_str(CASES).expect("the cases");
    assert!(!cases.is_empty());
    for Case { name, client, steps, reads } in &cases {
        // Within every lifetime, and long enough ago for the minutes to be in the past.
        let start = now_ms() - 90 * 60_000;
        steps.iter().for_each(|step| take(&server, client, step, start));
        for (path, expected) in reads {
            let answer = server.get(&format!("/v1/{client}/profiles/{path}"));
            let Some(expected) = expected else {
                assert_eq!(answer.status, 404, "{name}: {path}");
                continue;
            };
            let profile = answer.expect(200).json();
            for (attribute, value) in &expected.attributes {
                let found = profile["profileAttributes"][attribute]["value"].as_str();
                assert_eq!(found, value.as_deref(), "{name}: {attribute} of {path}");
            }
            if let Some(ids) = &expected.ids {
                assert_eq!(&profile["ids"], ids, "{name}: {path}");
            }
            if let Some(affinities) = &expected.affinities {
                let held = profile["categoryAffinities"].as_array().expect("affinities").iter();
                let held = held.map(|one| (one["category"].as_str().unwrap(), one["points"].as_f64().unwrap()));
                let expected = affinities.iter().map(|(category, points)| (category.as_str(), *points));
                assert_eq!(held.collect::<BTreeMap<_, _>>(), expected.collect(), "{name}: {path}");
            }
            if let Some(days) = expected.lives_days {
                let time = |name: &str| profile[name].as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok());
                let (modified, expires) = (time("modifiedAt").expect("a time"), time("expiresAt").expect("a time"));
                assert_eq!(expires.as_millisecond() - modified.as_millisecond(), days * DAY_MS, "{name}: {path}");
            }
        }
    }
}
