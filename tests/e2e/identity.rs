//! One person, many ids: links over HTTP as callers make them, racing each other, and while servers are killed.

use std::net::SocketAddr;
use std::time::Duration;

use cameo_tests::admin::{self, Admin};
use cameo_tests::cluster::Cluster;
use cameo_tests::http::{Connection, Request};
use cameo_tests::random::Random;
use cameo_tests::server::{Server, Setup};
use cameo_tests::wait;
use serde_json::{Value, json};

use crate::common::{BULK_V2, VISITS, upload_all, visits_of};

fn profile(server: &Server, kind: &str, id: &str) -> Value {
    server.get(&format!("/v1/demo/profiles/{kind}/{id}")).expect(200).json()
}

fn visit(server: &Server, ids: Value, set: Value) -> Value {
    let body = json!({"sessionId": "s", "ids": ids, "profile": set});
    server.post_json(&format!("{VISITS}?return=profile"), &body).expect(200).json()["profile"].clone()
}

fn value<'p>(profile: &'p Value, name: &str) -> &'p Value {
    &profile["profileAttributes"][name]["value"]
}

fn unlink(server: &Server, person: &str, kind: &str, id: &str, status: u16) -> Value {
    let path = format!("/v1/demo/profiles/tp/{person}/unlink");
    server.post_json(&path, &json!({"kind": kind, "id": id})).expect(status).json()
}

#[test]
fn a_login_makes_one_profile_of_all_that_is_known() {
    let server = Server::start();
    visit(&server, json!({"tntId": "d1"}), json!({"tier": "bronze", "city": "Köln"}));
    visit(&server, json!({"thirdPartyId": "p1"}), json!({"tier": "gold"}));
    let ids = json!({"tntId": "d1", "ecid": "e1", "thirdPartyId": "p1", "customerIds": [
        {"id": "c1", "integrationCode": "crm", "authenticatedState": "authenticated"},
        {"id": "c2", "integrationCode": "crm", "authenticatedState": "logged_out"},
    ]});
    let answered = visit(&server, ids, json!({"page": "login"}));
    assert_eq!(value(&answered, "tier"), "gold", "the thirdPartyId's value wins");
    assert_eq!((value(&answered, "city"), value(&answered, "visitCount")), (&json!("Köln"), &json!("3")));
    for (kind, id) in [("tnt", "d1"), ("ecid", "e1"), ("tp", "p1"), ("cust:crm", "c1")] {
        assert_eq!(profile(&server, kind, id), answered, "{kind} reads the same");
    }
    server.get("/v1/demo/profiles/cust:crm/c2").expect(404);
    for path in ["d1", "thirdPartyId/p1", "marketingCloudVisitorId/e1"] {
        let fetched = server.get(&format!("/rest/v1/profiles/{path}?client=demo")).expect(200).json();
        assert_eq!(fetched["profileAttributes"], answered["profileAttributes"], "{path}");
    }
    // Every way to change it, by the device's id alone.
    server.get("/m2/demo/profile/update?mboxPC=d1&profile.update=1").expect(200);
    let patch = json!({"set": {"patch": "1"}, "unset": ["city"]}).to_string();
    server.send(&Request::new("PATCH", "/v1/demo/profiles/ecid/e1").body(patch)).expect(200);
    upload_all(&server, BULK_V2, "batch=pcId,bulk\nd1,1\nother,2\n");
    let last = visit(&server, json!({"tntId": "d1"}), json!({"visit": "1"}));
    for name in ["update", "patch", "bulk", "visit"] {
        assert_eq!(value(&last, name), "1", "{name}");
    }
    assert_eq!((value(&last, "city"), value(&last, "visitCount")), (&Value::Null, &json!("4")));
    let server = server.kill().start();
    assert_eq!(profile(&server, "tp", "p1"), last);
    server.send(&Request::new("DELETE", "/v1/demo/profiles/tnt/d1")).expect(204);
    for (kind, id) in [("tnt", "d1"), ("ecid", "e1"), ("tp", "p1"), ("cust:crm", "c1")] {
        server.get(&format!("/v1/demo/profiles/{kind}/{id}")).expect(404);
    }
    let anew = visit(&server, json!({"tntId": "d1"}), json!({}));
    assert_eq!((value(&anew, "visitCount"), &anew["ids"]), (&json!("1"), &json!({"tntId": ["d1"]})));
}

#[test]
fn whoever_is_told_of_a_login_sees_the_device_gone_from_the_person_before() {
    let server = Server::start();
    for round in 0..60 {
        // Through an ECID in every other device, so that there is a chain.
        let device = format!("sw{}", round % 4);
        let mut ids = json!({"tntId": device, "thirdPartyId": format!("sw-p{}", round % 3)});
        if round % 2 == 1 {
            ids["ecid"] = json!(format!("{device}-e"));
        }
        visit(&server, ids, json!({}));
        for person in (0..3).filter(|person| *person != round % 3) {
            let path = format!("/v1/demo/profiles/tp/sw-p{person}");
            let ids = server.get(&path).json()["ids"]["tntId"].clone();
            let listed = ids.as_array().is_some_and(|ids| ids.contains(&json!(device)));
            assert!(!listed, "round {round}: sw-p{person} still lists {device}");
        }
    }
}

#[test]
fn a_shared_device_follows_the_last_login_and_can_be_given_back() {
    let server = Server::start();
    visit(&server, json!({"tntId": "d", "thirdPartyId": "ann"}), json!({"name": "Ann"}));
    visit(&server, json!({"tntId": "d", "thirdPartyId": "bob"}), json!({"hobby": "chess"}));
    let bob = visit(&server, json!({"tntId": "d"}), json!({"page": "x"}));
    let ann = profile(&server, "tp", "ann");
    assert_eq!(
        (value(&ann, "name"), value(&ann, "hobby"), value(&ann, "page")),
        (&json!("Ann"), &Value::Null, &Value::Null)
    );
    assert_eq!((value(&bob, "name"), value(&bob, "hobby")), (&Value::Null, &json!("chess")));
    assert_eq!((&ann["ids"], &bob["ids"]["tntId"]), (&json!({"thirdPartyId": "ann"}), &json!(["d"])));

    let refused = unlink(&server, "ann", "tnt", "d", 404);
    assert!(refused["detail"].as_str().expect("a detail").contains("not linked"), "{refused}");
    unlink(&server, "bob", "tp", "bob", 409);
    unlink(&server, "nobody", "tnt", "d", 404);
    unlink(&server, "bob", "fax", "d", 400);
    let device = unlink(&server, "bob", "tnt", "d", 200);
    assert_eq!(
        (value(&device, "hobby"), value(&device, "page"), value(&device, "visitCount")),
        (&json!("chess"), &json!("x"), &json!("2"))
    );
    assert_eq!(device["ids"], json!({"tntId": ["d"]}));
    let bob = profile(&server, "tp", "bob");
    assert_eq!((value(&bob, "hobby"), &bob["ids"]), (&Value::Null, &json!({"thirdPartyId": "bob"})));
    let alone = visit(&server, json!({"tntId": "d"}), json!({"alone": "1"}));
    assert_eq!((value(&alone, "visitCount"), profile(&server, "tp", "bob")), (&json!("3"), bob));
}

#[test]
fn what_each_id_brought_is_told_the_same_after_a_kill_and_only_to_who_may_read() {
    let server = admin::server();
    let admin = Admin::new(&server);
    visit(&server, json!({"tntId": "d1"}), json!({"tier": "bronze"}));
    visit(&server, json!({"tntId": "d1", "ecid": "e", "thirdPartyId": "ann"}), json!({"name": "Ann"}));
    visit(&server, json!({"tntId": "d2", "thirdPartyId": "ann"}), json!({"tier": "gold"}));
    visit(&server, json!({"tntId": "d2", "thirdPartyId": "bob"}), json!({"hobby": "chess"}));
    let path = "/v1/demo/profiles/tp/ann?contributions=true";
    let told = server.get(path).expect(200).json();
    let part = |id: &str| {
        let parts = told["contributions"].as_array().expect("parts");
        parts.iter().find(|part| part["id"] == id).unwrap_or_else(|| panic!("no {id} in {told}"))
    };
    assert_eq!(
        (part("d1")["attributes"]["tier"]["shadowed"].clone(), &part("d1")["visitCount"]),
        (json!(true), &json!(2))
    );
    assert_eq!((&part("d2")["left"], &part("d2")["attributes"]["tier"]["value"]), (&json!(true), &json!("gold")));
    assert!(!told.to_string().contains("bob") && !told.to_string().contains("chess"), "{told}");

    let token = admin.post("/v1/demo/tokens", &json!({"name": "pos", "scopes": ["profile:read", "profile:write"]}));
    let token = token.expect(201).json()["accessToken"].as_str().expect("a token").to_owned();
    let bulk = admin.post("/v1/demo/tokens", &json!({"name": "crm", "scopes": ["bulk:write"]})).expect(201).json();
    admin.patch("/v1/demo/settings", &json!({"enableProfileApiAuthentication": true})).expect(200);
    let server = server.kill().start();
    let bearer = |token: &str| format!("Bearer {token}");
    let read = |token: &str| server.send(&Request::get(path).header("Authorization", &bearer(token)));
    server.get(path).expect(401);
    read(bulk["accessToken"].as_str().expect("a token")).expect(403);
    assert_eq!(read(&token).expect(200).json(), told, "after a kill");
}

#[test]
fn devices_that_race_to_one_person_lose_nothing() {
    const THREADS: usize = 8;
    const DEVICES: usize = 12;
    let server = Server::start();
    let address = server.address();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                let mut connection = Connection::open(address).expect("a connection");
                for n in 0..DEVICES {
                    let device = format!("d{thread}-{n}");
                    for ids in [
                        json!({"tntId": device}),
                        json!({"tntId": device, "thirdPartyId": "p"}),
                        json!({"tntId": device}),
                    ] {
                        let name = format!("{device}{}", ids.as_object().map_or(0, serde_json::Map::len));
                        let body = json!({"ids": ids, "profile": {name: "1"}}).to_string();
                        let request = Request::post(VISITS, "application/json", body);
                        connection.send(&request).expect("an answer").expect(200);
                    }
                }
            });
        }
    });
    let person = profile(&server, "tp", "p");
    assert_eq!(value(&person, "visitCount"), &json!((THREADS * DEVICES * 3).to_string()));
    let attributes = person["profileAttributes"].as_object().expect("attributes");
    assert_eq!(
        attributes.keys().filter(|name| name.starts_with('d') && name.contains('-')).count(),
        THREADS * DEVICES * 2
    );
    assert_eq!(person["ids"]["tntId"].as_array().expect("devices").len(), THREADS * DEVICES);
}

/// Devices and persons of one caller.
const NAMES: u64 = 4;

/// Visits of one caller, by devices and persons that nobody else names.
struct Caller {
    number: u64,
    random: Random,
    sent: u64,
    unanswered: Vec<Value>,
}

impl Caller {
    fn any(&mut self) -> Value {
        self.sent += 1;
        let number = self.number;
        let mut ids = json!({});
        let kind = self.random.below(10);
        if kind < 9 {
            ids["tntId"] = json!(format!("k{number}d{}", self.random.below(NAMES)));
        }
        if kind > 4 {
            ids["thirdPartyId"] = json!(format!("k{number}p{}", self.random.below(NAMES)));
        }
        json!({"eventId": format!("k{number}e{}", self.sent), "sessionId": "s", "ids": ids})
    }

    /// Sends without a pause until the server is gone. What is not answered is sent again later.
    fn work(&mut self, server: SocketAddr) {
        let Ok(mut connection) = Connection::open(server) else { return };
        loop {
            let visit = self.any();
            if !self.send(&mut connection, visit) {
                return;
            }
        }
    }

    fn send(&mut self, connection: &mut Connection, visit: Value) -> bool {
        let request = Request::post(VISITS, "application/json", visit.to_string());
        match connection.send(&request) {
            Ok(answer) if answer.status == 200 => true,
            answer => {
                self.unanswered.push(visit);
                answer.is_ok()
            }
        }
    }

    /// Sends what was not answered, some of it twice, and checks that every visit counts once.
    fn check(&mut self, server: &Server) {
        for visit in std::mem::take(&mut self.unanswered) {
            for _ in 0..=self.random.below(2) {
                server.post_json(VISITS, &visit).expect(200);
            }
        }
        let number = self.number;
        let paths = (0..NAMES).flat_map(|n| [format!("tnt/k{number}d{n}"), format!("tp/k{number}p{n}")]);
        assert_eq!(visits_of(server, paths), Some(self.sent));
    }
}

#[test]
fn kills_between_any_two_steps_of_a_link_leave_no_trace() {
    let mut random = Random::from_env("CAMEO_LINK_SEED");
    let rounds: u32 = std::env::var("CAMEO_LINK_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(25);
    let setup = Setup::default().with(&["--checkpoint-seconds", "1"]);
    let mut callers: Vec<_> = (0..4)
        .map(|number| Caller { number, random: Random::new(random.next()), sent: 0, unanswered: Vec::new() })
        .collect();
    for _ in 0..rounds {
        let server = setup.start();
        callers.iter_mut().for_each(|caller| caller.check(&server));
        let address = server.address();
        std::thread::scope(|scope| {
            for caller in &mut callers {
                scope.spawn(move || caller.work(address));
            }
            wait::pass(Duration::from_millis(30 + random.below(300)));
            server.kill();
        });
    }
    let server = setup.start();
    callers.iter_mut().for_each(|caller| caller.check(&server));
    let sent: u64 = callers.iter().map(|caller| caller.sent).sum();
    eprintln!("{rounds} rounds, {sent} visits");
    assert!(sent > u64::from(rounds), "the load was no load");
}

#[test]
fn edges_of_a_cluster_agree_on_who_is_who() {
    let Some(mut cluster) = Cluster::start(1, 3) else { return };
    let mut random = Random::from_env("CAMEO_LINK_SEED");
    let mut events = 0;
    let mut send = |cluster: &Cluster, edge: usize, ids: Value| {
        events += 1;
        let visit = json!({"eventId": format!("x{events}"), "sessionId": "s", "ids": ids});
        wait::until("a visit that is taken", || {
            let answer = cluster.edge(edge).post_json(VISITS, &visit);
            assert!(matches!(answer.status, 200 | 503), "{}: {}", answer.status, answer.text());
            (answer.status == 200).then_some(())
        });
    };
    // Two persons race for one device, at two edges.
    for n in 0..10 {
        let device = format!("r{n}");
        std::thread::scope(|scope| {
            for (edge, person) in [(0, "ann"), (1, "bob")] {
                let visit = json!({"eventId": format!("{device}{person}"), "ids": {"tntId": device, "thirdPartyId": format!("{person}{n}")}});
                let edge = cluster.edge(edge);
                scope.spawn(move || edge.post_json(VISITS, &visit).expect(200));
            }
        });
        let seen = cluster.agreed(&[device]).remove(0);
        let person = seen["ids"]["thirdPartyId"].as_str().expect("somebody has it");
        assert!(person == format!("ann{n}") || person == format!("bob{n}"), "{seen}");
        assert_eq!(value(&seen, "visitCount"), "1", "the other one keeps the other visit");
    }
    // An edge dies amid links; the others carry on what it began.
    for n in 0..60 {
        let edge = if n < 30 { random.below(3) as usize } else { random.below(2) as usize };
        let (device, person) = (random.below(5), random.below(3));
        let mut ids = json!({"tntId": format!("c{device}")});
        if random.below(2) == 0 {
            ids["thirdPartyId"] = json!(format!("cp{person}"));
        }
        send(&cluster, edge, ids);
        if n == 30 {
            cluster.kill_edge(2);
        }
    }
    cluster.respawn_edge(2);
    cluster.edge_is_ready(2);
    let paths = || (0..5).map(|n| format!("tnt/c{n}")).chain((0..3).map(|n| format!("tp/cp{n}")));
    for n in 0..3 {
        wait::until("every visit counted once", || (visits_of(cluster.edge(n), paths()) == Some(60)).then_some(()));
    }
    let digests = cluster.digests();
    let first = digests.values().next();
    assert!(digests.len() == 3 && digests.values().all(|other| Some(other) == first), "{digests:?}");
}
