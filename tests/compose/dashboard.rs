//! Prometheus and the dashboard: what they ask for is there. Grafana itself is not started; its dashboard is a file of
//! questions to Prometheus, and each is asked here.

use std::net::SocketAddr;

use cameo_tests::compose::{Compose, ask};
use cameo_tests::http::Request;
use cameo_tests::{process, wait};
use serde_json::Value;

/// Where Prometheus listens, inside.
pub(crate) const PORT: u16 = 9090;
/// What Grafana would put for its variable: a few scrapes.
const RATE_INTERVAL: &str = "30s";
/// Panels that may have nothing to show in a cluster where nothing of the kind has happened.
const MAY_BE_EMPTY: [&str; 5] = [
    "Visits not accepted",
    "Appends that failed",
    "Calls refused for their token",
    "Errors told by NATS",
    "Visits waiting in outage spools",
];

/// What a query finds.
pub(crate) fn query(prometheus: SocketAddr, text: &str) -> Value {
    let mut answer = get(prometheus, &format!("/api/v1/query?query={}", encoded(text)));
    assert_eq!(answer["status"], "success", "{text}: {answer}");
    answer["data"]["result"].take()
}

fn get(prometheus: SocketAddr, path: &str) -> Value {
    ask(prometheus, &Request::get(path)).expect("Prometheus answers").json()
}

fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// Asks everything that the dashboard asks, and what the alerts ask.
pub(crate) fn shows_what_there_is(cluster: &Compose) {
    let prometheus = cluster.address("prometheus", PORT);
    let rules = get(prometheus, "/api/v1/rules");
    let rules = rules["data"]["groups"][0]["rules"].as_array().expect("rules").clone();
    assert!(!rules.is_empty());
    wait::until("rules that have been looked at", || {
        let rules = get(prometheus, "/api/v1/rules");
        let rules = rules["data"]["groups"][0]["rules"].as_array()?.clone();
        rules.iter().all(|rule| rule["health"] == "ok").then_some(())
    });
    let file = process::workspace().join("deploy/grafana/dashboards/cameo.json");
    let dashboard = std::fs::read_to_string(file).expect("the dashboard");
    let dashboard: Value = serde_json::from_str(&dashboard).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let mut asked = 0;
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let title = panel["title"].as_str().expect("a title");
        for target in panel["targets"].as_array().expect("questions") {
            let question = target["expr"].as_str().expect("a question").replace("$__rate_interval", RATE_INTERVAL);
            asked += 1;
            if MAY_BE_EMPTY.contains(&title) {
                let _ = query(prometheus, &question);
                continue;
            }
            wait::until(&format!("an answer to {question}, of {title:?}"), || {
                (!query(prometheus, &question).as_array()?.is_empty()).then_some(())
            });
        }
    }
    assert!(asked > 30, "{asked} questions");
}
