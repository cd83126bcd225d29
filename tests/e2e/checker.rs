//! The checker: counters through the whole cluster while nodes, servers and networks fail, by a seed that is printed.
//!
//! Callers repeat a visit, under its event id, until some edge has acknowledged it; uploads are repeated under their key;
//! tokens are rotated all the time. Meanwhile edges are killed, stopped, restarted and cut off, and NATS servers, leaders
//! above all, are killed and stopped. Persons log in on devices that they share. In the end every acknowledged visit and row is
//! counted exactly once on every edge, the edges' partitions are the same by their digests, and no edge ever let in a token
//! after the rotation that killed it had returned, nor did the gateway.
//!
//! `CAMEO_CHECK_SECONDS` says how long (90), `CAMEO_CHECK_SEED` with which faults. A run follows its seed as far as the
//! machine's timing allows: the faults and what is sent are the same, their moments are not.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cameo_tests::admin::{ADMIN_PASSWORD, basic};
use cameo_tests::cluster::{Cluster, Plan};
use cameo_tests::http::{Connection, Request, Response};
use cameo_tests::proxy::Network;
use cameo_tests::random::Random;
use cameo_tests::wait;
use serde_json::{Value, json};

use crate::common::{VISITS, visits_of};

/// Edges, and callers with visitors of their own.
const EDGES: usize = 3;
const CALLERS: usize = 3;
const VISITORS: usize = 4;
/// Persons of a caller, who share the visitors' devices.
const PERSONS: u64 = 3;
/// Rows of an uploaded file.
const ROWS: usize = 40;
/// How long a caller waits for an answer before it tries elsewhere.
const ANSWER: Duration = Duration::from_secs(4);
/// How long an upload or a rotation may take: a lease, and an election or two.
const SLOW_ANSWER: Duration = Duration::from_secs(60);
/// Dead tokens that are tried again and again.
const DEAD_TRIED: usize = 6;

/// What all threads share.
struct World {
    /// Where the edges are now.
    edges: Mutex<Vec<Option<SocketAddr>>>,
    gateway: SocketAddr,
    control: SocketAddr,
    /// A token for uploads, which nobody rotates.
    uploads: String,
    over: AtomicBool,
    /// Tokens whose rotation has returned, the latest last.
    dead: Mutex<Vec<String>>,
    /// Promises that were broken.
    broken: Mutex<Vec<String>>,
}

impl World {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn edge(&self, n: usize) -> Option<SocketAddr> {
        self.edges.lock().expect("no panic")[n]
    }

    fn broke(&self, what: String) {
        self.broken.lock().expect("no panic").push(what);
    }

    fn admin(&self, method: &str, path: &str, body: &Value) -> Option<Response> {
        let request = Request::new(method, path).header("Content-Type", "application/json").body(body.to_string());
        send(self.control, &request.header("Authorization", &basic("admin", ADMIN_PASSWORD)), SLOW_ANSWER)
    }
}

fn send(to: SocketAddr, request: &Request, patience: Duration) -> Option<Response> {
    Connection::open_for(to, patience).and_then(|mut connection| connection.send(request)).ok()
}

/// Sends visits; how many were acknowledged.
fn call(world: &World, caller: usize, mut random: Random) -> u64 {
    let mut counted = 0;
    for n in 0.. {
        if world.is_over() {
            break;
        }
        let visitor = random.below(VISITORS as u64) as usize;
        let event = format!("{caller}-{n}");
        let mut visit = json!({"eventId": event, "sessionId": "s", "ids": {"tntId": id(caller, visitor)}, "profile": {"last": event}});
        if random.below(4) == 0 {
            visit["ids"]["thirdPartyId"] = json!(person(caller, random.below(PERSONS)));
        }
        let request = Request::post(VISITS, "application/json", visit.to_string());
        // Also when all is over: what was begun has to come to its end, or nobody could say what to count.
        loop {
            let Some(edge) = world.edge(random.below(EDGES as u64) as usize) else { continue };
            match send(edge, &request, ANSWER).map(|answer| answer.status) {
                // Durable at one edge, which brings it into the log.
                Some(200 | 202) => break,
                None | Some(429 | 503) => {}
                Some(other) => {
                    world.broke(format!("visit {event} was answered with {other}"));
                    return counted;
                }
            }
        }
        counted += 1;
    }
    counted
}

fn id(caller: usize, visitor: usize) -> String {
    format!("k{caller}-{visitor}")
}

/// Somebody who logs in on any of a caller's devices.
fn person(caller: usize, number: u64) -> String {
    format!("person-{caller}-{number}")
}

/// Uploads files of new profiles; how many were acknowledged.
fn upload(world: &World) -> usize {
    let mut files = 0;
    while !world.is_over() {
        let mut file = String::from("batch=pcId,file\n");
        (0..ROWS).for_each(|row| file.push_str(&format!("f{files}-{row},{files}\n")));
        let request = Request::post("/m2/demo/v2/profile/batchUpdate", "text/csv", file)
            .header("Accept", "application/json")
            .header("Idempotency-Key", &format!("file-{files}"))
            .header("Authorization", &format!("Bearer {}", world.uploads));
        let batch = loop {
            let Some(answer) = send(world.gateway, &request, SLOW_ANSWER) else { continue };
            match answer.status {
                200 => break answer.json()["batchId"].as_str().expect("a batch").to_owned(),
                429 | 503 => {}
                other => {
                    world.broke(format!("file {files} was answered with {other}: {}", answer.text()));
                    return files;
                }
            }
        };
        let path = format!("/v1/demo/batches/{batch}");
        let status = wait::within(SLOW_ANSWER, || {
            let ask = Request::get(&path).header("Authorization", &format!("Bearer {}", world.uploads));
            let answer = send(world.gateway, &ask, ANSWER)?;
            if answer.status != 200 {
                return None;
            }
            let status = answer.json();
            // What got stuck goes on when it is sent again.
            if status["status"] == "stuck" {
                let _ = send(world.gateway, &request, SLOW_ANSWER);
            }
            (status["status"] == "complete").then_some(status)
        });
        match status {
            Some(status) if status["createdProfiles"] == ROWS => files += 1,
            Some(status) => world.broke(format!("file {files} did not make {ROWS} profiles: {status}")),
            None => world.broke(format!("file {files} does not come to its end")),
        }
        if !world.broken.lock().expect("no panic").is_empty() {
            return files;
        }
    }
    files
}

/// Rotates a token all the time; how often.
fn rotate(world: &World) -> u64 {
    let scopes = json!({"name": "checked", "scopes": ["profile:read", "bulk:write"]});
    let made =
        wait::until("a token", || world.admin("POST", "/v1/demo/tokens", &scopes).filter(|made| made.status == 201));
    let made = made.json();
    let path = format!("/v1/demo/tokens/{}/rotate", made["token"]["id"].as_str().expect("an id"));
    let mut alive = vec![made["accessToken"].as_str().expect("a token").to_owned()];
    let mut rotations = 0;
    while !world.is_over() {
        // One that was not answered may have made a secret that nobody knows; the next one kills it too.
        let Some(answer) = world.admin("POST", &path, &json!({})).filter(|answer| answer.status == 200) else {
            continue;
        };
        let new = answer.json()["accessToken"].as_str().expect("a token").to_owned();
        world.dead.lock().expect("no panic").append(&mut std::mem::replace(&mut alive, vec![new]));
        rotations += 1;
    }
    rotations
}

/// Tries dead tokens at all edges and at the gateway; how often one was refused at an edge, and there.
fn try_dead(world: &World, mut random: Random) -> [u64; 2] {
    let mut refused = [0; 2];
    while !world.is_over() {
        let token = {
            let dead = world.dead.lock().expect("no panic");
            let back = random.below(DEAD_TRIED as u64) as usize;
            dead.len().checked_sub(1 + back).map(|at| dead[at].clone())
        };
        let node = random.below(EDGES as u64 + 1) as usize;
        let (at, path, place) = match node {
            EDGES => (1, "/v1/demo/batches/1", Some(world.gateway)),
            edge => (0, "/v1/demo/profiles/tnt/k0-0", world.edge(edge)),
        };
        let (Some(token), Some(place)) = (token, place) else { continue };
        let request = Request::get(path).header("Authorization", &format!("Bearer {token}"));
        match send(place, &request, ANSWER).map(|answer| answer.status) {
            Some(401 | 503) => refused[at] += 1,
            None => {}
            Some(other) => world.broke(format!("a dead token was answered with {other} at {place}, {path}")),
        }
    }
    refused
}

/// Makes faults until the time is over, and leaves everything well again.
fn make_faults(cluster: &mut Cluster, world: &World, random: &mut Random, time: Duration) {
    let end = Instant::now() + time;
    let some = |random: &mut Random, from: u64, upto: u64| Duration::from_millis(from + random.below(upto - from));
    while Instant::now() < end && world.broken.lock().expect("no panic").is_empty() {
        let edge = random.below(EDGES as u64) as usize;
        let long = some(random, 300, 6000);
        match random.below(10) {
            9 => {
                // Two at once.
                let server = cluster.leader("CAMEO_LOG_0");
                eprintln!("edge {edge} is killed for {long:?}, NATS server {server} meanwhile too");
                cluster.nats.kill(server);
                world.edges.lock().expect("no panic")[edge] = None;
                cluster.kill_edge(edge);
                wait::pass(long);
                cluster.respawn_edge(edge);
                cluster.nats.restart(server);
                cluster.edge_is_ready(edge);
                world.edges.lock().expect("no panic")[edge] = Some(cluster.edge(edge).address());
            }
            0 | 1 => {
                eprintln!("edge {edge} is killed for {long:?}");
                restart(cluster, world, edge, long, true);
            }
            2 => {
                eprintln!("edge {edge} is stopped, and started after {long:?}");
                restart(cluster, world, edge, long, false);
            }
            3 => {
                eprintln!("edge {edge} stands still for {long:?}");
                cluster.edge(edge).pause();
                wait::pass(long);
                cluster.edge(edge).resume();
            }
            4 | 5 => {
                let delay = some(random, 5, 150);
                let networks = [Network::Still, Network::Cut, Network::Slow(delay)];
                let network = networks[random.below(3) as usize];
                eprintln!("the network of edge {edge} is {network:?} for {long:?}");
                cluster.set_network(edge, network);
                wait::pass(long);
                cluster.set_network(edge, Network::Well);
            }
            kind => {
                let streams = ["CAMEO_LOG_0", "CAMEO_LOG_1", "CAMEO_LOG_2", "CAMEO_LOG_3", "KV_CAMEO_CONTROL"];
                let stream = streams[random.below(streams.len() as u64) as usize];
                let server = cluster.leader(stream);
                if kind == 6 {
                    eprintln!("NATS server {server}, which leads {stream}, stands still for {long:?}");
                    cluster.nats.pause(server, true);
                    wait::pass(long);
                    cluster.nats.pause(server, false);
                } else {
                    eprintln!("NATS server {server}, which leads {stream}, is killed for {long:?}");
                    cluster.nats.kill(server);
                    wait::pass(long);
                    cluster.nats.restart(server);
                }
            }
        }
        wait::pass(some(random, 0, 1500));
    }
}

/// Ends an edge and starts it again; callers learn its new place.
fn restart(cluster: &mut Cluster, world: &World, edge: usize, down: Duration, kill: bool) {
    world.edges.lock().expect("no panic")[edge] = None;
    if kill {
        cluster.kill_edge(edge);
    } else if let Some(server) = cluster.edges[edge].take() {
        server.terminate();
    }
    wait::pass(down);
    cluster.respawn_edge(edge);
    cluster.edge_is_ready(edge);
    world.edges.lock().expect("no panic")[edge] = Some(cluster.edge(edge).address());
}

#[test]
fn everything_acknowledged_counts_once_through_a_storm_of_faults() {
    if let Err(panic) = std::panic::catch_unwind(check) {
        // Once more, after the logs of all servers, which are long.
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        eprintln!("what broke: {}", text.unwrap_or("see above"));
        std::panic::resume_unwind(panic);
    }
}

fn check() {
    let mut random = Random::from_env("CAMEO_CHECK_SEED");
    // With a spool acknowledgements go on in an outage, and mean less: both have to hold.
    let spool = random.below(2) == 1;
    eprintln!("edges have a spool: {spool}");
    let Some(mut cluster) = Cluster::planned(Plan { networks: true, spool, ..Plan::of(3, EDGES) }) else { return };
    let seconds = std::env::var("CAMEO_CHECK_SECONDS").map_or(90, |text| text.parse().expect("a number of seconds"));
    cluster.admin("PATCH", "/v1/demo/settings", &json!({"enableProfileApiAuthentication": true})).expect(200);
    let made = cluster.admin("POST", "/v1/demo/tokens", &json!({"name": "files", "scopes": ["bulk:write"]}));
    let uploads = made.expect(201).json()["accessToken"].as_str().expect("a token").to_owned();
    let place = |server: &Option<cameo_tests::server::Server>| server.as_ref().map(|server| server.address());
    let world = World {
        edges: Mutex::new(cluster.edges.iter().map(place).collect()),
        gateway: place(&cluster.gateway).expect("the gateway runs"),
        control: place(&cluster.control).expect("the control plane runs"),
        uploads,
        over: AtomicBool::new(false),
        dead: Mutex::default(),
        broken: Mutex::default(),
    };
    let (counts, files, rotations, refused) = std::thread::scope(|scope| {
        let world = &world;
        let seeds: Vec<_> = (0..=CALLERS).map(|_| Random::new(random.next())).collect();
        let callers: Vec<_> = seeds[1..]
            .iter()
            .enumerate()
            .map(|(caller, random)| (caller, random.clone()))
            .map(|(caller, random)| scope.spawn(move || call(world, caller, random)))
            .collect();
        let first = seeds[0].clone();
        let uploads = scope.spawn(move || upload(world));
        let rotations = scope.spawn(move || rotate(world));
        let refused = scope.spawn(move || try_dead(world, first));
        make_faults(&mut cluster, world, &mut random, Duration::from_secs(seconds));
        world.over.store(true, Ordering::Relaxed);
        let counts: Vec<_> = callers.into_iter().map(|caller| caller.join().expect("a caller")).collect();
        let rotations = rotations.join().expect("the rotations");
        (counts, uploads.join().expect("the uploads"), rotations, refused.join().expect("the dead tokens"))
    });
    assert_eq!(*world.broken.lock().expect("no panic"), Vec::<String>::new());
    wait::until("settings that are changed", || {
        let off = json!({"enableProfileApiAuthentication": false});
        (world.admin("PATCH", "/v1/demo/settings", &off)?.status == 200).then_some(())
    });
    (0..EDGES).for_each(|edge| cluster.edge_is_ready(edge));
    wait::until("empty spools", || {
        let spooled = |edge: usize| cluster.edge(edge).get("/readyz").json()["spool"]["visits"].as_u64().unwrap_or(0);
        (0..EDGES).all(|edge| spooled(edge) == 0).then_some(())
    });
    for (caller, sent) in counts.iter().enumerate() {
        let devices = move || (0..VISITORS).map(move |visitor| format!("tnt/{}", id(caller, visitor)));
        let persons = move || (0..PERSONS).map(move |number| format!("tp/{}", person(caller, number)));
        for edge in 0..EDGES {
            let counted = || visits_of(cluster.edge(edge), devices().chain(persons()));
            let all = wait::within(SLOW_ANSWER, || (counted() == Some(*sent)).then_some(()));
            assert!(all.is_some(), "caller {caller} sent {sent}, edge {edge} counted {:?}", counted());
        }
    }
    let rows: Vec<_> = (0..files).flat_map(|file| (0..ROWS).map(move |row| format!("f{file}-{row}"))).collect();
    assert_eq!(cluster.agreed(&rows).len(), rows.len());
    let digests = cluster.digests();
    let first = digests.values().next();
    assert!(digests.len() == EDGES && digests.values().all(|other| Some(other) == first), "{digests:?}");
    let total: u64 = counts.iter().sum();
    eprintln!("{total} visits, {} rows, {rotations} rotations, dead tokens refused: {refused:?}", rows.len());
    let refused = refused.iter().all(|refused| *refused > 0);
    assert!(total > 0 && files > 0 && rotations > 0 && refused, "the checker checked something");
}
