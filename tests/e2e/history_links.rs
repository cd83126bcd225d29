//! History of a person with several ids, with the real binary: told by any id, over a kill, on one machine and in a cluster;
//! the next person on a device sees nothing of the one before.

use cameo_tests::cluster::Cluster;
use cameo_tests::http::Request;
use cameo_tests::server::Server;
use cameo_tests::wait;
use serde_json::{Value, json};

use crate::common::{VISITS, now_ms};

/// The person, two devices of hers, and who uses one of them after her.
const HERS: [&str; 3] = ["tp/ann", "tnt/phone", "tnt/tablet"];

fn visit(server: &Server, ids: Value, page: &str) -> String {
    let body = json!({"sessionId": "s", "ids": ids, "profile": {"page": page}});
    let reply = server.post_json(&format!("{VISITS}?return=profile"), &body).expect(200).json();
    let at = reply["profile"]["modifiedAt"].as_str().expect("a time").to_owned();
    over(&at);
    at
}

/// Waits until a moment of the log is over: each has a millisecond, and what is done next is to be in another one.
fn over(at: &str) {
    let at: jiff::Timestamp = at.parse().expect("a time");
    wait::until("another moment", || (now_ms() > at.as_millisecond()).then_some(()));
}

fn path(id: &str) -> String {
    format!("/v1/demo/profiles/{id}")
}

/// What is told of a profile, oldest first, a line an entry.
fn told(server: &Server, id: &str) -> Vec<String> {
    let history = server.get(&format!("{}/history?limit=200", path(id))).expect(200).json();
    assert_eq!(history.get("completeSince"), None, "{history}");
    let line = |entry: &Value| {
        let text =
            |value: &Value, before: &str| value.as_str().map_or(String::new(), |text| format!(" {before}{text}"));
        let what = [text(&entry["profile"]["page"], ""), text(&entry["set"]["page"], ""), text(&entry["address"], "")];
        format!("{}{}{}", entry["type"].as_str().unwrap_or_default(), what.concat(), text(&entry["via"], "by "))
    };
    history["entries"].as_array().expect("entries").iter().rev().map(line).collect()
}

/// Every server tells this, as soon as it has read that far.
fn all_tell(servers: &[&Server], id: &str, expected: &[&str]) {
    for server in servers {
        wait::until("an edge that has read everything", || {
            server.get(&path(id)).json()["profileAttributes"].is_object().then_some(())?;
            (told(server, id) == expected).then_some(())
        });
    }
}

/// The page that a profile read at a moment.
fn page_then(server: &Server, id: &str, at: &str) -> Value {
    server.get(&format!("{}?asOf={at}", path(id))).expect(200).json()["profileAttributes"]["page"]["value"].clone()
}

/// A person with two devices, the second person on one of them; returns the moments by what was set then.
fn live(servers: &[&Server]) -> Vec<(String, &'static str, &'static str)> {
    let server = |n: usize| servers[n % servers.len()];
    let mut moments = Vec::new();
    let mut see = |at: String, id: &'static str, page: &'static str| moments.push((at, id, page));
    see(visit(server(0), json!({"tntId": "phone"}), "alone"), "tnt/phone", "alone");
    see(visit(server(1), json!({"tntId": "tablet"}), "other"), "tnt/tablet", "other");
    see(visit(server(2), json!({"thirdPartyId": "ann"}), "shop"), "tp/ann", "shop");
    see(visit(server(0), json!({"tntId": "phone", "thirdPartyId": "ann"}), "login"), "tnt/phone", "login");
    see(visit(server(1), json!({"tntId": "tablet", "thirdPartyId": "ann"}), "again"), "tnt/phone", "again");
    let patch = Request::new("PATCH", &path("tnt/tablet")).body(json!({"set": {"page": "set"}}).to_string());
    let patched = server(2).send(&patch).expect(200).json();
    let at = patched["modifiedAt"].as_str().expect("a time");
    over(at);
    see(at.to_owned(), "tp/ann", "set");
    moments
}

const WHOLE: [&str; 8] = [
    "visit alone by tnt:phone",
    "visit other by tnt:tablet",
    "visit shop",
    "link tnt:phone",
    "visit login by tnt:phone",
    "link tnt:tablet",
    "visit again by tnt:tablet",
    "update set by tnt:tablet",
];

fn check(servers: &[&Server], moments: &[(String, &'static str, &'static str)]) {
    for id in HERS {
        all_tell(servers, id, &WHOLE);
    }
    for server in servers {
        for (at, id, page) in moments {
            assert_eq!(page_then(server, id, at), *page, "{id} as of {at}");
        }
        // Before she logged in, the device was on its own, and she knew nothing of it.
        let (alone, shop) = (&moments[0].0, &moments[2].0);
        server.get(&format!("{}?asOf={alone}", path("tp/ann"))).expect(404);
        assert_eq!(page_then(server, "tnt/phone", shop), "alone");
        assert_eq!(page_then(server, "tp/ann", shop), "shop");
    }
}

fn part(servers: &[&Server]) -> String {
    // Ben logs in on her tablet, and takes nothing of hers along.
    let server = servers[0];
    let hers = visit(server, json!({"thirdPartyId": "ann"}), "hers");
    visit(servers[servers.len() - 1], json!({"tntId": "tablet", "thirdPartyId": "ben"}), "ben");
    for id in ["tp/ben", "tnt/tablet"] {
        all_tell(servers, id, &["link tnt:tablet", "visit ben by tnt:tablet"]);
        let export = server.get(&format!("{}/export", path(id))).expect(200).text();
        assert!(!export.contains("shop") && !export.contains("other"), "{export}");
    }
    let mut left = WHOLE.to_vec();
    left.extend(["visit hers", "leave tnt:tablet"]);
    all_tell(servers, "tp/ann", &left);
    assert_eq!(page_then(server, "tnt/tablet", &hers), "hers", "it was hers then");
    // The phone is unlinked, and gets its own back.
    let unlinked = json!({"kind": "tnt", "id": "phone"});
    server.post_json(&format!("{}/unlink", path("tp/ann")), &unlinked).expect(200);
    all_tell(servers, "tnt/phone", &["visit alone", "return"]);
    assert_eq!(page_then(server, "tnt/phone", &hers), "hers", "it was linked then");
    let export = server.get(&format!("{}/export", path("tnt/phone"))).expect(200).json();
    assert_eq!(export["profile"]["profileAttributes"]["page"]["value"], "login", "{export}");
    let of_ann = server.get(&format!("{}/export", path("tp/ann"))).expect(200).json();
    let parts = of_ann["profile"]["contributions"].as_array().expect("contributions");
    assert!(parts.iter().any(|part| part["id"] == "tablet" && part["left"] == true), "{of_ann}");
    visit(server, json!({"tntId": "phone", "thirdPartyId": "ann"}), "back");
    hers
}

fn check_erased(servers: &[&Server], hers: &str) {
    for server in servers {
        for id in ["tp/ann", "tnt/phone"] {
            let nothing = |what: &str| server.get(&format!("{}{what}", path(id))).status == 404;
            wait::until("an edge that has read the erasure", || {
                (nothing("/history") && nothing("/export") && nothing(&format!("?asOf={hers}"))).then_some(())
            });
        }
        assert_eq!(told(server, "tp/ben"), ["link tnt:tablet", "visit ben by tnt:tablet"]);
    }
}

#[test]
fn a_person_with_two_devices_is_told_by_any_of_them() {
    let server = Server::start();
    let moments = live(&[&server]);
    check(&[&server], &moments);
    let server = server.kill().start();
    check(&[&server], &moments);
    let server = server.terminate().start();
    check(&[&server], &moments);
    let hers = part(&[&server]);
    let server = server.kill().start();
    server.send(&Request::new("DELETE", &path("tnt/phone"))).expect(204);
    check_erased(&[&server], &hers);
    let server = server.kill().start();
    check_erased(&[&server], &hers);
}

#[test]
fn three_edges_tell_the_same_of_a_person() {
    let Some(cluster) = Cluster::start(1, 3) else { return };
    let edges: Vec<_> = (0..3).map(|n| cluster.edge(n)).collect();
    let moments = live(&edges);
    check(&edges, &moments);
    let hers = part(&edges);
    edges[0].send(&Request::new("DELETE", &path("tnt/phone"))).expect(204);
    check_erased(&edges, &hers);
}

/// What is brought along arrives where the login leads, though the ECID that it passes led to somebody else a moment before.
#[test]
fn what_a_device_brings_is_told_of_whom_it_was_brought_to() {
    let server = Server::start();
    for n in 0..8 {
        let id = |name: &str| format!("{name}{n}");
        for (ids, page) in [
            (json!({"tntId": id("a")}), "alone"),
            (json!({"tntId": id("b"), "thirdPartyId": id("p")}), "p"),
            (json!({"tntId": id("b"), "ecid": id("e")}), "browser"),
            (json!({"tntId": id("a"), "ecid": id("e"), "thirdPartyId": id("q")}), "q"),
            (json!({"tntId": id("b"), "ecid": id("e"), "thirdPartyId": id("p")}), "back"),
        ] {
            visit(&server, ids, page);
        }
        let tells = |person: &str| {
            let lines = told(&server, &format!("tp/{}", id(person)));
            lines.iter().any(|line| line.starts_with("visit alone"))
        };
        assert_eq!((tells("p"), tells("q")), (false, true), "round {n}");
    }
}
