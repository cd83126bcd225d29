//! What callers notice of a fault: nothing of a rolling restart, little of an edge that dies, an election of a NATS server.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cameo_profile::{AddressBuf, ClientCode, Partition, PartitionCount};
use cameo_tests::balancer::Balancer;
use cameo_tests::cluster::{Cluster, Plan};
use cameo_tests::http::{Connection, Request};
use cameo_tests::wait;
use serde_json::{Value, json};

use crate::common::{VISITS, visits};

/// Callers at a time.
const CALLERS: usize = 4;
/// How long a caller waits for one answer.
const ANSWER: Duration = Duration::from_secs(20);
/// Longest time without an acknowledgement when an edge dies and callers turn to the next one.
const EDGE_LOSS: Duration = Duration::from_secs(2);
/// What an election may cost on top of itself.
const OVER_ELECTION: Duration = Duration::from_secs(1);
/// P of these clusters.
const PARTITIONS: u16 = 16;

fn visit(id: &str, event: &str) -> Request {
    let visit = json!({"eventId": event, "sessionId": event, "ids": {"tntId": id}, "profile": {"last": event}});
    Request::post(VISITS, "application/json", visit.to_string()).header("Connection", "close")
}

fn status(address: SocketAddr, request: &Request) -> Result<u16, String> {
    let answer = Connection::open_for(address, ANSWER).and_then(|mut connection| connection.send(request));
    answer.map(|answer| answer.status).map_err(|error| error.to_string())
}

/// That every edge has counted so many visits of each caller.
fn check_counts(cluster: &Cluster, counts: &[u64]) {
    let ids: Vec<_> = (0..counts.len()).map(|caller| format!("c{caller}")).collect();
    let counted: Vec<_> = cluster.agreed(&ids).iter().map(|profile| visits(profile).unwrap_or_default()).collect();
    assert_eq!(counted, counts);
}

#[test]
fn edges_are_restarted_one_by_one_without_a_refused_visit() {
    let plan = Plan { drain_seconds: 4, ..Plan::of(1, 3) };
    let Some(mut cluster) = Cluster::planned(plan) else { return };
    let balancer = Balancer::start();
    let addresses = |cluster: &Cluster| cluster.edges.iter().flatten().map(|edge| edge.address()).collect();
    balancer.set(addresses(&cluster));
    wait::until("edges behind the balancer", || (balancer.ready() == 3).then_some(()));
    let over = AtomicBool::new(false);
    let counts: Vec<u64> = std::thread::scope(|scope| {
        let call = |caller: usize| {
            let (over, address) = (&over, balancer.address());
            scope.spawn(move || {
                let (mut sent, mut kept) = (0, None);
                while !over.load(Ordering::Relaxed) {
                    let mut request = visit(&format!("c{caller}"), &format!("{caller}-{sent}"));
                    // Every other caller keeps its connection, until it is told not to.
                    if caller.is_multiple_of(2) {
                        request.headers.retain(|(name, _)| name != "Connection");
                    }
                    let mut connection: Connection =
                        kept.take().unwrap_or_else(|| Connection::open_for(address, ANSWER).expect("the balancer"));
                    let answer = connection.send(&request).unwrap_or_else(|error| panic!("caller {caller}: {error}"));
                    assert_eq!(answer.status, 200, "visit {sent} of caller {caller}: {}", answer.text());
                    kept = (answer.header("connection") != "close").then_some(connection);
                    sent += 1;
                }
                sent
            })
        };
        let callers: Vec<_> = (0..CALLERS).map(call).collect();
        for n in 0..3 {
            let edge = cluster.edges[n].take().expect("the edge runs");
            edge.terminate();
            cluster.restart_edge(n);
            balancer.set(addresses(&cluster));
            wait::until("all edges behind the balancer", || (balancer.ready() == 3).then_some(()));
        }
        over.store(true, Ordering::Relaxed);
        callers.into_iter().map(|caller| caller.join().expect("no visit was refused")).collect()
    });
    assert!(counts.iter().all(|count| *count > 10), "{counts:?}");
    check_counts(&cluster, &counts);
    eprintln!("visits during three restarts: {}", counts.iter().sum::<u64>());
}

/// Sends visits until told to stop, each until one of the edges acknowledges it; what it saw.
fn persist(caller: usize, edges: &[SocketAddr], over: &AtomicBool) -> (u64, Duration) {
    let (mut sent, mut longest, mut edge) = (0, Duration::ZERO, caller);
    while !over.load(Ordering::Relaxed) {
        let (began, request) = (Instant::now(), visit(&format!("c{caller}"), &format!("{caller}-{sent}")));
        while status(edges[edge % edges.len()], &request) != Ok(200) {
            edge += 1;
        }
        longest = longest.max(began.elapsed());
        sent += 1;
    }
    (sent, longest)
}

#[test]
fn callers_that_turn_to_the_next_edge_hardly_notice_that_one_is_killed() {
    let Some(mut cluster) = Cluster::start(3, 3) else { return };
    let edges: Vec<_> = cluster.edges.iter().flatten().map(|edge| edge.address()).collect();
    let over = AtomicBool::new(false);
    let seen: Vec<_> = std::thread::scope(|scope| {
        let (edges, over) = (&edges, &over);
        let callers: Vec<_> = (0..CALLERS).map(|caller| scope.spawn(move || persist(caller, edges, over))).collect();
        wait::pass(Duration::from_secs(1));
        cluster.kill_edge(1);
        wait::pass(Duration::from_secs(3));
        over.store(true, Ordering::Relaxed);
        callers.into_iter().map(|caller| caller.join().expect("a caller")).collect()
    });
    let longest = seen.iter().map(|(_, longest)| *longest).max().unwrap_or_default();
    eprintln!("longest wait over the death of an edge: {longest:?}");
    assert!(longest <= EDGE_LOSS, "{longest:?}");
    // Also the one that was dead, once it is back.
    cluster.restart_edge(1);
    check_counts(&cluster, &seen.iter().map(|(sent, _)| *sent).collect::<Vec<_>>());
}

/// An id of a visitor whose partition is in a stream.
fn visitor_of(stream: usize, streams: usize) -> String {
    let client = ClientCode::new("demo").expect("a client");
    let count = PartitionCount::new(PARTITIONS.into()).expect("a count");
    let is_there = |id: &String| {
        let Partition(partition) = AddressBuf::tnt(id).expect("an id").as_address().partition(&client, count);
        usize::from(partition) % streams == stream
    };
    (0..).map(|n| format!("s{stream}-{n}")).find(is_there).expect("there is one")
}

/// When visits of one stream were acknowledged.
struct Stalls {
    sent: u64,
    acknowledged: Vec<Instant>,
}

impl Stalls {
    /// The longest time without an acknowledgement, and when it ended.
    fn longest(&self) -> (Duration, Instant) {
        let gaps = self.acknowledged.windows(2).map(|pair| (pair[1] - pair[0], pair[1]));
        gaps.max_by_key(|(gap, _)| *gap).expect("several acknowledgements")
    }
}

#[test]
fn writes_stall_for_the_election_of_their_stream_and_nothing_else_does() {
    const STREAMS: usize = 4;
    // The lease is about something else: the control bucket may have lost its leader too.
    let Some(mut cluster) = Cluster::planned(Plan { lease_seconds: 30, ..Plan::of(3, 3) }) else { return };
    let name = |stream: usize| format!("CAMEO_LOG_{stream}");
    let leaders: Vec<_> = (0..STREAMS).map(|stream| cluster.leader(&name(stream))).collect();
    let victim =
        (0..3).max_by_key(|server| leaders.iter().filter(|leader| *leader == server).count()).expect("a server");
    let orphans: Vec<_> = (0..STREAMS).filter(|stream| leaders[*stream] == victim).collect();
    let ids: Vec<_> = (0..STREAMS).map(|stream| visitor_of(stream, STREAMS)).collect();
    let edge = cluster.edge(0).address();
    let (over, elections) = (AtomicBool::new(false), cluster.elections());
    let (killed, stalls, read) = std::thread::scope(|scope| {
        let (over, ids) = (&over, &ids);
        let write = |stream: usize| {
            scope.spawn(move || {
                let mut stalls = Stalls { sent: 0, acknowledged: vec![Instant::now()] };
                while !over.load(Ordering::Relaxed) {
                    let request = visit(&ids[stream], &format!("{stream}-{}", stalls.sent));
                    // A caller that got no word, or 503, comes again with the same event.
                    if status(edge, &request) == Ok(200) {
                        stalls.sent += 1;
                        stalls.acknowledged.push(Instant::now());
                    }
                }
                stalls
            })
        };
        let writers: Vec<_> = (0..STREAMS).map(write).collect();
        let reader = scope.spawn(move || {
            let mut longest = Duration::ZERO;
            while !over.load(Ordering::Relaxed) {
                let began = Instant::now();
                let request = Request::get(&format!("/v1/demo/profiles/tnt/{}", ids[0])).header("Connection", "close");
                assert!(matches!(status(edge, &request), Ok(200 | 404)));
                longest = longest.max(began.elapsed());
            }
            longest
        });
        wait::pass(Duration::from_secs(1));
        cluster.nats.kill(victim);
        let killed = Instant::now();
        wait::until("new leaders", || {
            let told = elections.lock();
            orphans.iter().all(|stream| told.iter().any(|(of, _)| *of == name(*stream))).then_some(())
        });
        wait::pass(Duration::from_secs(4));
        over.store(true, Ordering::Relaxed);
        let stalls: Vec<_> = writers.into_iter().map(|writer| writer.join().expect("a writer")).collect();
        (killed, stalls, reader.join().expect("a reader"))
    });
    let told = elections.lock();
    // A busy machine may elect twice: the stall is judged by the last one before it ended.
    let elected = |stream: usize, until: Instant| {
        let mut of_it = told.iter().filter(|(of, at)| *of == name(stream) && *at > killed);
        let first = of_it.next();
        of_it.take_while(|(_, at)| *at <= until).last().or(first)
    };
    for (stream, stall) in stalls.iter().enumerate() {
        let (longest, until) = stall.longest();
        match elected(stream, until) {
            Some((_, at)) => {
                let over = until.saturating_duration_since(*at);
                eprintln!("stream {stream}: elected after {:?}, stalled {longest:?}, {over:?} over", *at - killed);
                assert!(over <= OVER_ELECTION, "stream {stream} wrote {over:?} after its election");
            }
            None => {
                eprintln!("stream {stream}: kept its leader, longest {longest:?}");
                assert!(longest <= EDGE_LOSS, "stream {stream} kept its leader and stalled for {longest:?}");
            }
        }
    }
    eprintln!("longest read: {read:?}");
    assert!(read <= OVER_ELECTION, "a read took {read:?}");
    cluster.nats.restart(victim);
    let counted: Vec<Value> = cluster.agreed(&ids);
    let counted: Vec<_> = counted.iter().map(|profile| visits(profile).unwrap_or_default()).collect();
    assert_eq!(counted, stalls.iter().map(|stall| stall.sent).collect::<Vec<_>>());
}
