//! NATS servers of a test's own: real processes on loopback addresses of their own, ended on drop.
//!
//! The server is found by `CAMEO_NATS_SERVER`, which `cargo xtask test` sets; without it [`Servers::start`] says so and
//! gives none, and the test that asked leaves itself out; with `CI=true` it fails.

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use zeroize::Zeroizing;

use crate::{Nats, NatsOptions};

mod authority;

pub use authority::Authority;

/// Far above what a cluster takes to elect its leaders on two busy cores.
const PATIENCE: Duration = Duration::from_secs(60);

struct Server {
    config: PathBuf,
    address: Ipv4Addr,
    child: Option<Child>,
}

/// One server, or a cluster of several.
pub struct Servers {
    servers: Vec<Server>,
    /// Who connects for the test.
    user: Option<(String, Zeroizing<String>)>,
    /// Who has signed the certificates of servers and clients, and a client's.
    secured: Option<(Authority, PathBuf, PathBuf)>,
    dir: tempfile::TempDir,
}

/// Ports of every server; the address is its own.
const PORT: u16 = 4222;
const ROUTE_PORT: u16 = 6222;

/// Addresses of loopback that nobody uses: a server that is killed and started again must find its port free, whatever
/// else is started on this machine meanwhile.
fn free_addresses(count: usize) -> Vec<Ipv4Addr> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let process = std::process::id() % 16_000;
    std::iter::repeat_with(|| {
        let n = process * 1000 + NEXT.fetch_add(1, Ordering::Relaxed) % 1000;
        Ipv4Addr::from_bits(u32::from_be_bytes([127, 0, 0, 0]) | (n + 256))
    })
    .filter(|address| TcpListener::bind((*address, PORT)).is_ok() && TcpListener::bind((*address, ROUTE_PORT)).is_ok())
    .take(count)
    .collect()
}

impl Servers {
    /// Starts so many servers with `sync_interval: always` and waits until JetStream answers; `None` when this machine
    /// has no server.
    pub async fn start(count: usize) -> Option<Self> {
        Self::start_with(count, "", None).await
    }

    /// As [`Self::start`], with more text in the configuration of every server, and the user and password by which the
    /// test itself connects.
    ///
    /// # Panics
    /// When they do not come up.
    pub async fn start_with(count: usize, configuration: &str, user: Option<(&str, &str)>) -> Option<Self> {
        Self::start_all(count, configuration, user, false).await
    }

    /// As [`Self::start_with`], over TLS, with servers that ask for a certificate.
    ///
    /// # Panics
    /// When they do not come up.
    pub async fn start_secured(count: usize, configuration: &str, user: Option<(&str, &str)>) -> Option<Self> {
        Self::start_all(count, configuration, user, true).await
    }

    async fn start_all(count: usize, configuration: &str, user: Option<(&str, &str)>, secured: bool) -> Option<Self> {
        let Ok(binary) = std::env::var("CAMEO_NATS_SERVER") else {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "CI=true, and there is no nats-server");
            eprintln!("left out: CAMEO_NATS_SERVER names no nats-server; `cargo xtask test` obtains one");
            return None;
        };
        let dir = tempfile::tempdir().expect("a directory can be made");
        let addresses = free_addresses(count);
        let secured = secured.then(|| {
            let authority = Authority::new(dir.path(), "ca");
            let hosts: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            let server = authority.issue("server", &hosts.iter().map(String::as_str).collect::<Vec<_>>());
            let (certificate, key) = authority.issue("client", &["client"]);
            let tls = format!(
                "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: true }}",
                server.0,
                server.1,
                authority.ca()
            );
            ((authority, certificate, key), tls)
        });
        let tls = secured.as_ref().map_or("", |(_, tls)| tls);
        let routes: Vec<_> = addresses.iter().map(|address| format!("nats-route://{address}:{ROUTE_PORT}")).collect();
        let servers = addresses.iter().enumerate().map(|(n, address)| {
            let store = dir.path().join(format!("n{n}"));
            let cluster = if count == 1 {
                String::new()
            } else {
                format!(
                    "cluster {{ name: test, listen: \"{address}:{ROUTE_PORT}\", routes: [{}] }}\n",
                    routes.join(", ")
                )
            };
            let text = format!(
                "server_name: n{n}\nlisten: \"{address}:{PORT}\"\n{cluster}\
                 jetstream {{ store_dir: {store:?}, sync_interval: always, max_file_store: 8GB }}\n\
                 {tls}\n{configuration}\n"
            );
            let config = dir.path().join(format!("n{n}.conf"));
            std::fs::write(&config, text).expect("a file can be written");
            Server { config, address: *address, child: None }
        });
        let user = user.map(|(user, password)| (user.to_owned(), Zeroizing::new(password.to_owned())));
        let servers = servers.collect();
        let mut servers = Self { servers, user, secured: secured.map(|(secured, _)| secured), dir };
        for n in 0..count {
            servers.spawn(&binary, n);
        }
        servers.settled().await;
        Some(servers)
    }

    /// Waits until JetStream takes a stream on all servers: for a cluster, until it has elected its leader.
    async fn settled(&self) {
        let nats = self.connect("settled").await;
        let end = Instant::now() + PATIENCE;
        let spec = crate::stream::StreamSpec {
            name: "SETTLED".into(),
            subjects: vec!["settled".into()],
            replicas: self.servers.len(),
            max_bytes: -1,
            max_messages: -1,
            per_subject: -1,
            duplicate_window: Duration::from_secs(1),
            work_queue: false,
            republish: None,
            metadata: Default::default(),
        };
        loop {
            match nats.ensure_stream(&spec).await {
                Ok(_) => return,
                Err(error) => assert!(Instant::now() < end, "JetStream does not come up: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn spawn(&mut self, binary: &str, n: usize) {
        let log = std::fs::File::options().create(true).append(true).open(self.dir.path().join(format!("n{n}.log")));
        let log = log.expect("a file can be written");
        let server = &mut self.servers[n];
        let mut command = Command::new(binary);
        command.arg("-c").arg(&server.config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        server.child = Some(command.spawn().expect("the server can be started"));
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.servers.len()
    }

    /// Where they are.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        let scheme = if self.secured.is_some() { "tls" } else { "nats" };
        self.servers.iter().map(|server| format!("{scheme}://{}:{PORT}", server.address)).collect()
    }

    /// How to connect to them.
    #[must_use]
    pub fn options(&self, name: &str, user: Option<(String, Zeroizing<String>)>) -> NatsOptions {
        NatsOptions {
            user,
            ca: self.secured.as_ref().map(|(authority, ..)| authority.ca().to_owned()),
            identity: self.secured.as_ref().map(|(_, certificate, key)| (certificate.clone(), key.clone())),
            ..NatsOptions::new(name, self.urls())
        }
    }

    /// The authority that has signed their certificates, if they speak TLS.
    #[must_use]
    pub fn authority(&self) -> Option<&Authority> {
        self.secured.as_ref().map(|(authority, ..)| authority)
    }

    /// A connection to them.
    pub async fn connect(&self, name: &str) -> Nats {
        self.connect_as(name, self.user.clone()).await
    }

    /// A connection to them as somebody else than the test.
    ///
    /// # Panics
    /// When there is none in time.
    pub async fn connect_as(&self, name: &str, user: Option<(String, Zeroizing<String>)>) -> Nats {
        let options = self.options(name, user);
        let end = Instant::now() + PATIENCE;
        loop {
            match Nats::connect(&options).await {
                Ok(nats) => return nats,
                Err(error) => assert!(Instant::now() < end, "{error:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Kills one as a crash would (SIGKILL).
    pub fn kill(&mut self, n: usize) {
        if let Some(mut child) = self.servers[n].child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts one that was killed, with what it has on disk.
    pub fn restart(&mut self, n: usize) {
        let binary = std::env::var("CAMEO_NATS_SERVER").expect("it was there at the start");
        self.spawn(&binary, n);
    }

    /// Stops one in its tracks (SIGSTOP), or lets it go on.
    pub fn pause(&self, n: usize, paused: bool) {
        let Some(child) = &self.servers[n].child else { return };
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a child has a number");
        let signal = if paused { Signal::STOP } else { Signal::CONT };
        kill_process(pid, signal).expect("a child takes a signal");
    }

    /// Directory of one server's storage.
    #[must_use]
    pub fn store(&self, n: usize) -> PathBuf {
        self.dir.path().join(format!("n{n}"))
    }

    /// Which of them leads a stream.
    pub async fn leader(&self, nats: &Nats, stream: &str) -> usize {
        #[derive(serde::Deserialize)]
        struct Info {
            cluster: Option<Cluster>,
        }
        #[derive(serde::Deserialize)]
        struct Cluster {
            leader: Option<String>,
        }
        let end = Instant::now() + PATIENCE;
        loop {
            let info: Result<Info, _> = nats.api(&format!("STREAM.INFO.{stream}"), &serde_json::json!({})).await;
            let leader = info.ok().map(|info| info.cluster.and_then(|cluster| cluster.leader));
            match leader {
                Some(Some(name)) => return name.trim_start_matches('n').parse().expect("servers are named by numbers"),
                Some(None) if self.count() == 1 => return 0,
                _ => assert!(Instant::now() < end, "{stream} has no leader"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for n in 0..self.servers.len() {
            self.kill(n);
        }
    }
}
