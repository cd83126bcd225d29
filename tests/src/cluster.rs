//! A cluster of a test's own: real NATS servers, a control plane, a gateway and edges, each a process.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Output;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cameo_nats::Publish;
use cameo_nats::stream::StreamInfo;
use cameo_nats::testing::Servers;
use parking_lot::Mutex;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::admin::{ADMIN_PASSWORD, basic};
use crate::http::{Request, Response};
use crate::proxy::{Network, Proxy};
use crate::server::{Server, Setup};
use crate::{process, wait};

/// The key pair of the control plane: that of RFC 8032 §7.1, test 1.
const SIGNING_KEY: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
const CONTROL_KEY: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

/// Users of NATS, one for each node and for producers; in these tests of one password.
const USERS: [&str; 7] = ["control-1", "edge-1", "edge-2", "edge-3", "gateway-1", "producer", "sys"];
const PASSWORD: &str = "eleven quiet herons";

/// How long an answer of JetStream's is waited for that is to come if the question is allowed.
const ANSWER: Duration = Duration::from_secs(5);

/// The auth lease unless a test wants another: short, as tests wait for it to lapse; long enough to be held by a process
/// that waits for one of two busy cores.
pub const LEASE_SECONDS: u64 = 5;

/// Flags that a test adds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flags {
    /// Of every edge.
    pub edge: &'static [&'static str],
    /// Of the control plane.
    pub control: &'static [&'static str],
}

/// Streams that got a leader, and when.
pub type Elections = Arc<Mutex<Vec<(String, Instant)>>>;

/// What a cluster is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// NATS servers.
    pub nats: usize,
    /// Edges.
    pub edges: usize,
    /// Seconds of the auth lease.
    pub lease_seconds: u64,
    /// TLS everywhere: NATS asks every node for a certificate, and every node serves https.
    pub secured: bool,
    /// Edges have an outage spool.
    pub spool: bool,
    /// Where the spools are, if not beside the edges' data.
    pub spools_in: Option<PathBuf>,
    /// Further flags.
    pub flags: Flags,
    /// Each edge reaches NATS over a network of its own, which can be cut.
    pub networks: bool,
    /// Seconds that a node serves on after SIGTERM.
    pub drain_seconds: u64,
    /// A folder of snapshots, from which the log is restored before any node starts.
    pub restored_from: Option<PathBuf>,
}

impl Plan {
    /// So many NATS servers and edges, and nothing out of the ordinary.
    #[must_use]
    pub const fn of(nats: usize, edges: usize) -> Self {
        Self {
            nats,
            edges,
            lease_seconds: LEASE_SECONDS,
            secured: false,
            spool: false,
            spools_in: None,
            flags: Flags { edge: &[], control: &[] },
            networks: false,
            drain_seconds: 1,
            restored_from: None,
        }
    }
}

/// NATS with a control plane and edges.
pub struct Cluster {
    // Ended in this order.
    /// The edges; one that is down is not there.
    pub edges: Vec<Option<Server>>,
    /// The gateway.
    pub gateway: Option<Server>,
    /// The control plane.
    pub control: Option<Server>,
    /// The network of each edge, if the plan has them: a way to every NATS server.
    networks: Vec<Vec<Proxy>>,
    /// NATS.
    pub nats: Servers,
    plan: Plan,
    runtime: tokio::runtime::Runtime,
    files: tempfile::TempDir,
}

impl Cluster {
    /// Starts it and waits until all of it is ready; `None` when this machine has no NATS server.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start(nats: usize, edges: usize) -> Option<Self> {
        Self::planned(Plan::of(nats, edges))
    }

    /// As [`Self::start`], with another lease.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start_with_lease(nats: usize, edges: usize, lease_seconds: u64) -> Option<Self> {
        Self::planned(Plan { lease_seconds, ..Plan::of(nats, edges) })
    }

    /// As [`Self::start`], by a plan.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn planned(plan: Plan) -> Option<Self> {
        let runtime = tokio::runtime::Runtime::new().expect("threads");
        // As deployed: everybody may do what they must, and no more.
        let passwords =
            USERS.map(|user| format!("{}_PASSWORD: \"{PASSWORD}\"\n", user.to_uppercase().replace('-', "_")));
        let accounts = process::workspace().join("deploy/nats/accounts.conf");
        let accounts = std::fs::read_to_string(accounts).expect("the accounts of the deployment");
        let configuration = format!("{}{accounts}", passwords.concat());
        let user = Some(("control-1", PASSWORD));
        let servers = runtime.block_on(async {
            if plan.secured {
                Servers::start_secured(plan.nats, &configuration, user).await
            } else {
                Servers::start_with(plan.nats, &configuration, user).await
            }
        })?;
        let files = tempfile::tempdir().expect("a temporary directory");
        let secret = |name: &str, text: &str| {
            let path = files.path().join(name);
            std::fs::write(&path, text).expect("a file can be written");
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            std::fs::set_permissions(&path, mode).expect("a file takes its mode");
        };
        secret("signing.key", SIGNING_KEY);
        secret("admin.password", ADMIN_PASSWORD);
        secret("nats.password", PASSWORD);
        let edges = plan.edges;
        let mut cluster = Self {
            edges: Vec::new(),
            gateway: None,
            control: None,
            networks: Vec::new(),
            nats: servers,
            plan,
            runtime,
            files,
        };
        if cluster.plan.networks {
            let servers: Vec<_> = cluster.nats.urls().iter().map(|url| url.replace("nats://", "")).collect();
            let network = || servers.iter().map(|server| Proxy::start(&cluster.runtime, server.clone())).collect();
            cluster.networks = (0..edges).map(|_| network()).collect();
        }
        if let Some(folder) = cluster.plan.restored_from.clone() {
            let key = cluster.signing_key();
            let command =
                ["restore", "--from", &folder.to_string_lossy(), "--signing-key-file", &key.to_string_lossy()];
            let restored = cluster.operate(&command);
            assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
        }
        // All at once, as compose does: who needs another waits for it.
        let starting: Vec<_> = (0..edges).map(|n| cluster.edge_setup(n).spawn()).collect();
        let gateway = cluster.gateway_setup().spawn();
        let control = cluster.control_setup(&starting[0].url(), &gateway.url()).spawn();
        let up = |server: Server| match server.ready() {
            Ok(server) => Some(server),
            Err(refusal) => panic!("a node ended at start ({}):\n{}", refusal.status, refusal.log),
        };
        cluster.gateway = up(gateway);
        cluster.control = up(control);
        cluster.edges = starting.into_iter().map(up).collect();
        Some(cluster)
    }

    fn common(&self, node: &str, urls: &str) -> Vec<String> {
        let (lease, drain) = (self.plan.lease_seconds.to_string(), self.plan.drain_seconds.to_string());
        let password = self.files.path().join("nats.password");
        let password = password.to_string_lossy();
        let options = self.nats.options(node, None);
        let (certificate, key) = options.identity.unzip();
        let files = [("--nats-ca", options.ca), ("--nats-cert", certificate), ("--nats-key", key)];
        let files = files.into_iter().filter_map(|(flag, path)| Some([flag.to_owned(), path?.to_str()?.to_owned()]));
        ["--node", node, "--nats", urls, "--nats-password-file", &*password]
            .into_iter()
            .chain(["--auth-lease-seconds", &lease, "--drain-seconds", &drain])
            .map(str::to_owned)
            .chain(files.flatten())
            .collect()
    }

    /// With TLS, if NATS has it.
    fn secured(&self, setup: Setup) -> Setup {
        match self.nats.authority() {
            Some(authority) => {
                let name = setup.data().file_name().and_then(|name| name.to_str()).unwrap_or("node");
                let pair = authority.issue(&format!("http-{name}"), &["127.0.0.1"]);
                setup.secured(authority.ca(), &pair)
            }
            None => setup,
        }
    }

    fn edge_setup(&self, n: usize) -> Setup {
        let urls = match self.networks.get(n) {
            Some(ways) => ways.iter().map(|way| format!("nats://{}", way.address())).collect(),
            None => self.nats.urls(),
        };
        let mut arguments = self.common(&format!("edge-{}", n + 1), &urls.join(","));
        arguments.extend(["--control-key", CONTROL_KEY, "--checkpoint-seconds", "1"].map(str::to_owned));
        if self.plan.spool {
            let within = self.plan.spools_in.as_deref().unwrap_or_else(|| self.files.path());
            let dir = within.join(format!("edge-{n}-spool"));
            arguments.extend(["--spool".to_owned(), dir.to_string_lossy().into_owned()]);
        }
        arguments.extend(self.plan.flags.edge.iter().map(|flag| (*flag).to_owned()));
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        self.secured(Setup::at(&self.files.path().join(format!("edge-{n}"))).role("edge").with(&arguments))
    }

    fn gateway_setup(&self) -> Setup {
        let mut arguments = self.common("gateway-1", &self.nats.urls().join(","));
        arguments.extend(["--control-key", CONTROL_KEY].map(str::to_owned));
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        self.secured(Setup::at(&self.files.path().join("gateway")).role("gateway").with(&arguments))
    }

    fn control_setup(&self, edge_url: &str, gateway_url: &str) -> Setup {
        let mut arguments = self.common("control-1", &self.nats.urls().join(","));
        let file = |name: &str| self.files.path().join(name).to_string_lossy().into_owned();
        arguments.extend(["--signing-key-file".to_owned(), file("signing.key")]);
        arguments.extend(["--admin-password-file".to_owned(), file("admin.password")]);
        arguments.extend(["--log-replicas".to_owned(), self.nats.count().to_string()]);
        arguments.extend(["--edge-url", edge_url, "--gateway-url", gateway_url].map(str::to_owned));
        arguments.extend(self.plan.flags.control.iter().map(|flag| (*flag).to_owned()));
        if let Some(authority) = self.nats.authority() {
            arguments.extend(["--node-ca".to_owned(), authority.ca().to_string_lossy().into_owned()]);
        }
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        self.secured(Setup::at(&self.files.path().join("control")).role("control").with(&arguments))
    }

    /// Changes the network between an edge and all of NATS.
    ///
    /// # Panics
    /// When the plan has no networks.
    pub fn set_network(&self, edge: usize, network: Network) {
        self.networks[edge].iter().for_each(|way| way.set(network));
    }

    /// An edge that runs.
    ///
    /// # Panics
    /// When it is down.
    #[must_use]
    pub fn edge(&self, n: usize) -> &Server {
        self.edges[n].as_ref().expect("the edge runs")
    }

    /// The data directory of an edge, which may run or not.
    #[must_use]
    pub fn edge_data(&self, n: usize) -> std::path::PathBuf {
        self.edge_setup(n).data().to_owned()
    }

    /// Kills an edge.
    pub fn kill_edge(&mut self, n: usize) {
        if let Some(edge) = self.edges.get_mut(n).and_then(Option::take) {
            edge.kill();
        }
    }

    /// Starts an edge again, and does not wait: it may need NATS, which is not there.
    pub fn respawn_edge(&mut self, n: usize) {
        self.edges[n] = Some(self.edge_setup(n).spawn());
    }

    /// Waits until an edge says that it is ready.
    pub fn edge_is_ready(&self, n: usize) {
        wait::until("an edge that is ready", || {
            self.edge(n).try_get("/readyz").is_ok_and(|answer| answer.status == 200).then_some(())
        });
    }

    /// Starts an edge again, with what it has on disk.
    pub fn restart_edge(&mut self, n: usize) {
        self.edges[n] = Some(self.edge_setup(n).start());
    }

    /// Starts an edge that was never there before, or has lost its disk.
    ///
    /// # Panics
    /// When it does not come up, or its directory cannot be emptied.
    pub fn join_edge(&mut self, n: usize) {
        self.kill_edge(n);
        let setup = self.edge_setup(n);
        if setup.data().exists() {
            std::fs::remove_dir_all(setup.data()).expect("a directory can be removed");
        }
        self.edges.resize_with(self.edges.len().max(n + 1), || None);
        self.edges[n] = Some(setup.start());
    }

    /// The first message that a stream holds.
    ///
    /// # Panics
    /// When there is none of this name.
    #[must_use]
    pub fn first_of(&self, stream: &str) -> u64 {
        self.info(stream).first
    }

    /// The last message that a stream was given.
    ///
    /// # Panics
    /// When there is none of this name.
    #[must_use]
    pub fn last_of(&self, stream: &str) -> u64 {
        self.info(stream).last
    }

    fn info(&self, stream: &str) -> StreamInfo {
        self.runtime.block_on(async {
            let nats = self.nats.connect("test").await;
            nats.stream_info(stream).await.expect("JetStream answers").expect("the stream is there")
        })
    }

    /// Runs a command of an operator that goes to NATS as the control plane may.
    #[must_use]
    pub fn operate(&self, command: &[&str]) -> Output {
        let (urls, password) = (self.nats.urls().join(","), self.files.path().join("nats.password"));
        let password = password.to_string_lossy();
        let replicas = self.nats.count().to_string();
        let mut arguments = command.to_vec();
        arguments.extend(["--nats", &urls, "--nats-password-file", &*password]);
        if command[0] == "restore" {
            arguments.extend(["--log-replicas", &replicas]);
        }
        process::run(&arguments)
    }

    /// Calls the admin API as its first admin.
    ///
    /// # Panics
    /// When the control plane is down.
    #[must_use]
    pub fn admin(&self, method: &str, path: &str, body: &Value) -> Response {
        let request = Request::new(method, path).header("Content-Type", "application/json").body(body.to_string());
        let request = request.header("Authorization", &basic("admin", ADMIN_PASSWORD));
        self.control.as_ref().expect("the control plane runs").send(&request)
    }

    /// Which NATS server leads a stream.
    #[must_use]
    pub fn leader(&self, stream: &str) -> usize {
        self.runtime.block_on(async {
            let nats = self.nats.connect("test").await;
            self.nats.leader(&nats, stream).await
        })
    }

    /// Notes from now on when streams get a leader, as the servers tell: the stream, and when that was told.
    ///
    /// # Panics
    /// When NATS is away.
    #[must_use]
    pub fn elections(&self) -> Elections {
        let elections = Elections::default();
        let noted = Arc::clone(&elections);
        self.runtime.block_on(async {
            let nats = self.nats.connect("test").await;
            let told = nats.subscribe("$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED.>", None).await;
            let mut told = told.expect("advisories can be heard");
            nats.flush().await.expect("NATS is there");
            tokio::spawn(async move {
                // The connection lives as long as somebody listens.
                let _nats = nats;
                while let Some(message) = told.next().await {
                    let stream = message.subject.rsplit('.').next().unwrap_or_default().to_owned();
                    noted.lock().push((stream, Instant::now()));
                }
            });
        });
        elections
    }

    /// Publishes messages to NATS, each with its id and subject, and waits until they are stored.
    ///
    /// # Panics
    /// When one is not.
    pub fn publish(&self, messages: &[(String, String, Value)]) {
        let bytes =
            |(id, subject, body): &(String, String, Value)| (id.clone(), subject.clone(), body.to_string().into());
        self.publish_bytes(&messages.iter().map(bytes).collect::<Vec<_>>());
    }

    /// The same for messages that are not JSON.
    ///
    /// # Panics
    /// When one is not stored.
    pub fn publish_bytes(&self, messages: &[(String, String, Vec<u8>)]) {
        self.runtime.block_on(async {
            let user = Some(("producer".to_owned(), Zeroizing::new(PASSWORD.to_owned())));
            let nats = self.nats.connect_as("producer", user).await;
            for (id, subject, bytes) in messages {
                let (id, subject, payload) = (id.clone(), subject.clone(), bytes.clone().into());
                let publish = Publish { subject, id, expected: None, headers: vec![], payload };
                nats.publish(&publish, wait::PATIENCE).await.expect("a message is stored");
            }
        });
    }

    /// The file with the control plane's signing key.
    #[must_use]
    pub fn signing_key(&self) -> PathBuf {
        self.files.path().join("signing.key")
    }

    /// Where producers reach NATS, and the password of their user.
    #[must_use]
    pub fn producer(&self) -> (String, &'static str) {
        (self.nats.urls().swap_remove(0), PASSWORD)
    }

    /// Whether somebody may publish to a subject, with what JetStream says to it: the seconds given are waited for.
    ///
    /// # Panics
    /// When NATS does not take the user.
    #[must_use]
    pub fn may(&self, user: &str, subject: &str, body: &Value) -> bool {
        self.runtime.block_on(async {
            let pair = Some((user.to_owned(), Zeroizing::new(PASSWORD.to_owned())));
            let nats = self.nats.connect_as(user, pair).await;
            // What is denied is never answered; what is allowed is, if only with an error of JetStream's.
            nats.request(subject, body.to_string().into(), ANSWER).await.is_ok()
        })
    }

    /// Whether nothing is left in a stream.
    ///
    /// # Panics
    /// When there is none of this name.
    #[must_use]
    pub fn is_drained(&self, stream: &str) -> bool {
        self.runtime.block_on(async {
            let nats = self.nats.connect("test").await;
            let info = nats.stream_info(stream).await.expect("JetStream answers").expect("the stream is there");
            info.first > info.last
        })
    }

    /// Waits until every running edge reads the same for these ids, and returns what.
    ///
    /// # Panics
    /// When they do not agree in time.
    #[must_use]
    pub fn agreed(&self, ids: &[String]) -> Vec<Value> {
        let read = |edge: &Server| {
            let profile = |id: &String| {
                let answer = edge.get(&format!("/v1/demo/profiles/tnt/{id}"));
                (answer.status == 200).then(|| answer.json())
            };
            ids.iter().map(profile).collect::<Option<Vec<_>>>()
        };
        wait::until("edges that read the same", || {
            let mut all = self.edges.iter().flatten().map(read);
            let first = all.next()??;
            all.all(|other| other.as_ref() == Some(&first)).then_some(first)
        })
    }

    /// The digest of every partition at each running edge, once all of them stand at one position.
    ///
    /// # Panics
    /// When they never do.
    #[must_use]
    pub fn digests(&self) -> BTreeMap<String, Value> {
        let of = |answer: &Value| -> BTreeMap<String, Value> {
            let nodes = answer["nodes"].as_array().expect("nodes").iter();
            // A run that was killed is listed for a while beside the one that follows it.
            let edges = nodes.filter(|node| node["roles"][0] == "edge" && node["silent"] != true);
            edges
                .map(|edge| {
                    let told = edge.get("partitions").or_else(|| edge.get("partitionsError"));
                    (edge["node"].as_str().expect("a name").to_owned(), told.cloned().unwrap_or_default())
                })
                .collect()
        };
        let mut last = BTreeMap::new();
        let positions = |partitions: &Value| -> Option<Vec<u64>> {
            partitions.as_array()?.iter().map(|partition| partition["position"].as_u64()).collect()
        };
        let settled = wait::within(std::time::Duration::from_secs(60), || {
            let answer = self.admin("GET", "/v1/cluster?digests=true", &Value::Null).expect(200).json();
            last = of(&answer);
            let all: Vec<_> = last.values().map(positions).collect();
            (all[0].is_some() && all.iter().all(|one| *one == all[0])).then_some(())
        });
        assert!(settled.is_some(), "edges stand at different positions: {last:?}");
        last
    }

    /// Asks an edge, again while it cannot prove that it knows the latest tokens: a busy machine may cost it its lease.
    ///
    /// # Panics
    /// When it never can.
    #[must_use]
    pub fn ask(&self, n: usize, request: &Request) -> Response {
        wait::until("an edge that holds its lease", || {
            let answer = self.edge(n).send(request);
            (answer.status != 503).then_some(answer)
        })
    }

    /// Sends a visit to an edge, again and again until it is answered with 200, and returns how long that took.
    ///
    /// # Panics
    /// When it never is, or is refused for good.
    pub fn visit(&self, n: usize, id: &str, event: &str) -> std::time::Duration {
        let visit = json!({"eventId": event, "sessionId": event, "ids": {"tntId": id}, "profile": {"last": event}});
        let began = std::time::Instant::now();
        wait::until("a visit that is taken", || {
            let answer = self.edge(n).post_json("/v1/demo/visits", &visit);
            assert!(matches!(answer.status, 200 | 503), "{}: {}", answer.status, answer.text());
            (answer.status == 200).then_some(())
        });
        began.elapsed()
    }
}
