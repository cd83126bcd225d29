//! Nodes as processes of their own, which can be stopped for real: what a rotation promises when one of them stands still.
//!
//! The bucket is served over loopback TCP by the test, to children that are this very program, started with
//! `CAMEO_TEST_BUCKET`. It stands in for the bucket of a cluster; everything above the trait is the real thing.

#![expect(clippy::unwrap_used, reason = "also the helpers of a test fail by a panic")]

#[path = "processes/bucket.rs"]
mod bucket;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::routing::get;
use cameo_auth::bucket::LocalBucket;
use cameo_auth::clock::SystemClock;
use cameo_auth::node::NodeStatus;
use cameo_auth::seal::{Sealer, Verifying};
use cameo_auth::{Node, NodeConfig, Scope};
use cameo_control::{LocalAudit, Plane, PlaneConfig, Upstream};
use cameo_profile::ClientCode;
use http::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tower::ServiceExt as _;
use zeroize::Zeroizing;

/// The shortest lease there is: the test waits for it to lapse.
const LEASE: Duration = Duration::from_secs(1);
/// Beyond `lapse(LEASE)`: a look every 250 ms, and a busy machine.
const MARGIN: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(30);
const PASSWORD: &str = "seven green bicycles";

const BUCKET: &str = "CAMEO_TEST_BUCKET";
const NAME: &str = "CAMEO_TEST_NODE";
const KEY: &str = "CAMEO_TEST_KEY";

/// What the children run; without their variables it has nothing to do.
#[test]
fn node_process() {
    let Ok(bucket) = std::env::var(BUCKET) else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let config = NodeConfig {
            node: std::env::var(NAME).unwrap(),
            roles: vec!["edge".into()],
            lease: LEASE,
            key: Verifying::from_hex(&std::env::var(KEY).unwrap()).unwrap(),
            status: Arc::new(NodeStatus::default),
        };
        let bucket = Arc::new(bucket::Remote::new(bucket.parse().unwrap()));
        let node = Node::start(bucket, config, Arc::new(SystemClock)).unwrap();
        node.synced().await;
        let route = get(async || "in").layer(node.verifier().layer(Scope::ProfileRead));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        println!("\nlistening {}", listener.local_addr().unwrap());
        let router = Router::new().route("/rest/v1/profiles/a1", route);
        cameo_http::serve::serve(listener, None, router, std::future::pending()).await;
    });
}

/// A child; killed on drop.
struct NodeProcess {
    child: Child,
    address: SocketAddr,
}

impl NodeProcess {
    fn start(name: &str, bucket: SocketAddr, key: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["node_process", "--exact", "--nocapture", "--test-threads=1"]);
        command.env(BUCKET, bucket.to_string()).env(NAME, name).env(KEY, key);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).stdin(Stdio::null()).spawn().unwrap();
        let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
        let address = loop {
            let mut line = String::new();
            assert!(std::io::BufRead::read_line(&mut out, &mut line).unwrap() > 0, "{name} ended");
            if let Some(address) = line.trim().strip_prefix("listening ") {
                break address.parse().unwrap();
            }
        };
        Self { child, address }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
        // On a busy machine its threads may go on for a while.
        while signal == Signal::STOP && !self.stands_still() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn stands_still(&self) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let mut states = threads.map(|thread| std::fs::read_to_string(thread.unwrap().path().join("stat")).unwrap());
        states.all(|state| state.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T')))
    }

    /// The status of a fetch with this token.
    fn fetch(&self, token: &str) -> u16 {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = format!(
            "GET /rest/v1/profiles/a1?client=demo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split(' ').nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        // It may stand still, or have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A control plane over a bucket that is served to others.
struct Control {
    router: Router,
    bucket: SocketAddr,
    key: String,
    _dir: tempfile::TempDir,
}

impl Control {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (local, sealer) = (LocalBucket::in_memory(), Sealer::generate().unwrap());
        let bucket = bucket::serve(local.clone()).await;
        let key = sealer.verifying().to_hex();
        let audit = Arc::new(LocalAudit::open(&dir.path().join("audit")).unwrap());
        let plane = PlaneConfig { bucket: Arc::new(local), audit, sealer, clock: Arc::new(SystemClock) };
        let plane = Plane::open(plane).await.unwrap();
        plane.ensure_client(&ClientCode::new("demo").unwrap(), 14).await.unwrap();
        plane.ensure_admin(Some(Zeroizing::new(PASSWORD.into()))).await.unwrap();
        let (router, _) = cameo_control::router(&plane, Upstream::new(Router::new()));
        Self { router, bucket, key, _dir: dir }
    }

    fn node(&self, name: &str) -> NodeProcess {
        NodeProcess::start(name, self.bucket, &self.key)
    }

    async fn call(&self, method: Method, path: &str, body: &Value) -> Value {
        use base64::Engine as _;
        let pair = base64::engine::general_purpose::STANDARD.encode(format!("admin:{PASSWORD}"));
        let request = Request::builder().method(method).uri(path).header("authorization", format!("Basic {pair}"));
        let response = self.router.clone().oneshot(request.body(Body::from(body.to_string())).unwrap()).await.unwrap();
        let status = response.status();
        let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        let value: Value = serde_json::from_slice(&bytes).unwrap();
        assert!(status.is_success(), "{path}: {value}");
        value
    }

    /// A token, with the switch on: its path and its secret.
    async fn token(&self) -> (String, String) {
        let body = json!({"name": "pos", "scopes": ["profile:read"]});
        let made = self.call(Method::POST, "/v1/demo/tokens", &body).await;
        self.call(Method::PATCH, "/v1/demo/settings", &json!({"enableProfileApiAuthentication": true})).await;
        let path = format!("/v1/demo/tokens/{}/rotate", made["token"]["id"].as_str().unwrap());
        (path, secret(&made))
    }
}

fn secret(made: &Value) -> String {
    made["accessToken"].as_str().unwrap().to_owned()
}

/// How each node was confirmed, by name.
fn how(reply: &Value) -> Vec<(String, String)> {
    let nodes = reply["confirmation"]["nodes"].as_array().unwrap();
    let text = |node: &Value, name: &str| node[name].as_str().unwrap().to_owned();
    nodes.iter().map(|node| (text(node, "node"), text(node, "how"))).collect()
}

fn named(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(node, how)| ((*node).into(), (*how).into())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stands_still_delays_a_rotation_by_its_lease_and_refuses_when_it_goes_on() {
    let control = Control::start().await;
    let (north, south) = (control.node("north"), control.node("south"));
    let (path, first) = control.token().await;
    assert_eq!((north.fetch(&first), south.fetch(&first)), (200, 200));

    let quick = control.call(Method::POST, &path, &json!({})).await;
    assert_eq!(how(&quick), named(&[("north", "reported"), ("south", "reported")]));
    let second = secret(&quick);
    assert_eq!((north.fetch(&first), south.fetch(&first)), (401, 401));
    assert_eq!((north.fetch(&second), south.fetch(&second)), (200, 200));

    south.signal(Signal::STOP);
    let began = Instant::now();
    let slow = control.call(Method::POST, &path, &json!({})).await;
    let took = began.elapsed();
    assert_eq!(how(&slow), named(&[("north", "reported"), ("south", "lapsed")]));
    assert!(took < cameo_auth::lease::lapse(LEASE) + MARGIN, "{took:?}");
    let third = secret(&slow);
    assert_eq!((north.fetch(&second), north.fetch(&third)), (401, 200));

    // From its first breath on, whatever it still has to catch up with.
    south.signal(Signal::CONT);
    let went_on = Instant::now();
    let mut seen = Vec::new();
    while went_on.elapsed() < LEASE * 2 {
        let status = south.fetch(&second);
        assert!(matches!(status, 401 | 503), "the old token was let in with {status}: {seen:?}");
        seen.push(status);
    }
    assert_eq!(seen.last(), Some(&401), "it has caught up and knows the token is dead");
    assert_eq!(south.fetch(&third), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_killed_is_waited_for_once_and_its_successor_starts_with_what_holds() {
    let control = Control::start().await;
    let (north, south) = (control.node("north"), control.node("south"));
    let (path, first) = control.token().await;
    drop(south);
    let reply = control.call(Method::POST, &path, &json!({})).await;
    assert_eq!(how(&reply), named(&[("north", "reported"), ("south", "lapsed")]));
    let again = control.node("south");
    assert_eq!((again.fetch(&first), again.fetch(&secret(&reply))), (401, 200));
    // The run that is gone is known to be silent: nobody waits for it a second time.
    let quick = control.call(Method::POST, &path, &json!({})).await;
    assert!(quick["confirmation"]["tookMs"].as_u64().unwrap() < 1000, "{quick}");
    assert_eq!(north.fetch(&secret(&quick)), 200);
}

/// Two nodes under load while the token is rotated again and again.
#[tokio::test(flavor = "multi_thread")]
async fn no_node_lets_a_request_in_that_started_after_the_reply() {
    const ROTATIONS: usize = 60;
    const CALLERS: usize = 4;
    let control = Control::start().await;
    let nodes = Arc::new([control.node("north"), control.node("south")]);
    let (path, first) = control.token().await;
    let current = Arc::new(std::sync::Mutex::new((0, first)));
    let dead_below = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (let_in, mut met) = tokio::sync::mpsc::channel(CALLERS);
    use std::sync::atomic::Ordering::SeqCst;
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let (nodes, current, let_in) = (Arc::clone(&nodes), Arc::clone(&current), let_in.clone());
            let (dead_below, stop) = (Arc::clone(&dead_below), Arc::clone(&stop));
            std::thread::spawn(move || {
                let mut known = None;
                // A token is used until it is refused, as a caller does who was not told of the rotation.
                while !stop.load(SeqCst) {
                    let (number, token) = current.lock().unwrap().clone();
                    let dead = dead_below.load(SeqCst);
                    if nodes[caller % 2].fetch(&token) == 200 {
                        assert!(number >= dead, "token {number} was let in after the reply to rotation {dead}");
                        if known.replace(number) != Some(number) {
                            let_in.blocking_send(number).unwrap();
                        }
                    }
                }
            })
        })
        .collect();
    for number in 1..=ROTATIONS {
        // Every caller is in the middle of using the token when it dies.
        for _ in 0..CALLERS {
            let used = tokio::time::timeout(PATIENCE, met.recv()).await.expect("the load meets every rotation");
            assert_eq!(used, Some(number - 1));
        }
        let reply = control.call(Method::POST, &path, &json!({})).await;
        dead_below.store(number, SeqCst);
        *current.lock().unwrap() = (number, secret(&reply));
    }
    stop.store(true, SeqCst);
    for caller in callers {
        caller.join().unwrap();
    }
}
