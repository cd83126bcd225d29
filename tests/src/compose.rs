//! The cluster of `docker-compose.yml` as a test's own: a project of its own name, on free ports of loopback, with secrets
//! of its own, and nothing of it left behind. It touches no container but those of its project.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::admin::basic;
use crate::http::{Connection, Request, Response};
use crate::process::{self, said};
use crate::{needs, wait};

/// First part of the names of all projects of tests; the rest is the process that made it.
const PROJECT: &str = "cameo-test-";
/// The label by which Compose marks what belongs to a project.
const LABEL: &str = "com.docker.compose.project";
/// Lines of each container's log that a failure shows.
const LOG_LINES: &str = "25";
/// Seconds of the auth lease: short, as tests wait for it to lapse, and long enough for two busy cores.
const LEASE_SECONDS: &str = "5";
/// Seconds between snapshots: short, so that there are some before the test ends.
const SNAPSHOT_SECONDS: &str = "15";

/// The edges, by the names of their services.
pub const EDGES: [&str; 3] = ["edge-1", "edge-2", "edge-3"];
/// Port of every Cameo node and of the proxy, inside.
const PORT: u16 = 8080;

/// A running cluster; removed on drop.
#[derive(Debug)]
pub struct Compose {
    project: String,
    secrets: tempfile::TempDir,
    admin_password: String,
    proxy: SocketAddr,
}

impl Compose {
    /// Builds the image around the binary under test, starts the cluster with Prometheus and waits until all of it is
    /// ready; `None` when this machine has no Docker.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start() -> Option<Self> {
        if !needs::have(needs::DOCKER) {
            return None;
        }
        remove_leftovers();
        let project = format!("{PROJECT}{}", std::process::id());
        let secrets = tempfile::tempdir().expect("a temporary directory");
        // The same command as in README, in another place.
        let script = process::workspace().join("deploy/secrets.sh");
        done(Command::new("sh").arg(script).arg(secrets.path()));
        let admin_password = std::fs::read_to_string(secrets.path().join("admin.password")).expect("a password");
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        // From here on it is removed by its drop, also when the start fails.
        let mut cluster = Self { project, secrets, admin_password, proxy: nowhere };
        cluster.build();
        cluster.compose(&["up", "--detach", "--no-build"]);
        cluster.compose(&["up", "--detach", "--no-build", "--no-deps", "prometheus"]);
        cluster.look_up_proxy();
        for edge in EDGES {
            cluster.wait_ready(edge);
        }
        wait::until("a control plane that is ready", || is_ready(cluster.address("control-1", PORT)).then_some(()));
        wait::until("a gateway behind the proxy", || {
            (ask(cluster.proxy, &Request::get("/v1/demo/batches")).ok()?.status == 200).then_some(())
        });
        Some(cluster)
    }

    fn build(&self) {
        let context = tempfile::tempdir().expect("a temporary directory");
        done(Command::new("strip").arg("-o").arg(context.path().join("cameo")).arg(process::binary()));
        let deploy = process::workspace().join("deploy");
        let base = format!("{}-base", self.image());
        let mut build = docker(&["build", "--target", "base", "--tag", &base, "--file"]);
        done(build.arg(deploy.join("Dockerfile")).arg(context.path()));
        let base = format!("BASE={base}");
        let mut build = docker(&["build", "--build-arg", &base, "--tag", &self.image(), "--file"]);
        done(build.arg(deploy.join("stand-ins/Dockerfile")).arg(context.path()));
    }

    /// Size of the image without the binary.
    ///
    /// # Panics
    /// When Docker does not say.
    #[must_use]
    pub fn base_bytes(&self) -> u64 {
        let base = format!("{}-base", self.image());
        let size = done(&mut docker(&["image", "inspect", "--format", "{{.Size}}", &base]));
        size.trim().parse().expect("a number of bytes")
    }

    fn image(&self) -> String {
        format!("cameo:{}", self.project)
    }

    /// Runs a command of Compose on this project to its end.
    ///
    /// # Panics
    /// When it fails.
    pub fn compose(&self, arguments: &[&str]) {
        // Compose is a plugin of newer engines, and a program of its own before.
        let plugin = docker(&["compose", "version"]).output().is_ok_and(|output| output.status.success());
        let mut command = if plugin { docker(&["compose"]) } else { Command::new("docker-compose") };
        let root = process::workspace();
        command.current_dir(root).args(["--project-name", &self.project]);
        command.args(["--file", "docker-compose.yml", "--file", "tests/compose/ports.yml"]);
        command.env("CAMEO_IMAGE", self.image()).env("CAMEO_SECRETS", self.secrets.path());
        command.env("CAMEO_USER", owner(self.secrets.path())).env("CAMEO_AUTH_LEASE_SECONDS", LEASE_SECONDS);
        command.env("CAMEO_SNAPSHOT_SECONDS", SNAPSHOT_SECONDS);
        // Any free ones: Docker chooses.
        for port in ["CAMEO_PORT", "CAMEO_ADMIN_PORT", "CAMEO_PROMETHEUS_PORT", "CAMEO_GRAFANA_PORT"] {
            command.env(port, "0");
        }
        done(command.args(arguments));
    }

    /// Finds out again where the proxy is reached: its port changes when it starts again.
    ///
    /// # Panics
    /// When it does not run.
    pub fn look_up_proxy(&mut self) {
        self.proxy = self.address("proxy", PORT);
    }

    /// Where the proxy listens.
    #[must_use]
    pub const fn proxy(&self) -> SocketAddr {
        self.proxy
    }

    /// Where a port of a service is reached from outside.
    ///
    /// # Panics
    /// When it is not published.
    #[must_use]
    pub fn address(&self, service: &str, port: u16) -> SocketAddr {
        let told = done(&mut docker(&["port", &self.container(service), &format!("{port}/tcp")]));
        let line = told.lines().next().unwrap_or_default();
        line.parse().unwrap_or_else(|error| panic!("{service}:{port} is at {line:?}: {error}"))
    }

    /// The container of a service, running or not.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn container(&self, service: &str) -> String {
        let project = format!("label={LABEL}={}", self.project);
        let of_service = format!("label=com.docker.compose.service={service}");
        let ids = done(&mut docker(&["ps", "--all", "--quiet", "--filter", &project, "--filter", &of_service]));
        let id = ids.lines().next().unwrap_or_else(|| panic!("there is no container of {service}"));
        id.to_owned()
    }

    /// Does something to the container of a service: `kill`, `start`, `stop`, `pause`, `unpause`.
    ///
    /// # Panics
    /// When Docker refuses.
    pub fn docker(&self, verb: &str, service: &str) {
        done(&mut docker(&[verb, &self.container(service)]));
    }

    /// Whether a command succeeds in the container of a service.
    ///
    /// # Panics
    /// When Docker cannot be asked.
    #[must_use]
    pub fn succeeds_in(&self, service: &str, command: &[&str]) -> bool {
        let mut exec = docker(&["exec", &self.container(service)]);
        exec.args(command).output().expect("Docker can be asked").status.success()
    }

    /// Cuts a service off from NATS, or joins it again; callers still reach it.
    ///
    /// # Panics
    /// When Docker refuses.
    pub fn nats_network(&self, verb: &str, service: &str) {
        done(&mut docker(&["network", verb, &format!("{}_cluster", self.project), &self.container(service)]));
    }

    /// Removes the container of a service with all that it had on disk, and makes a new one.
    ///
    /// # Panics
    /// When Docker refuses.
    pub fn lose_disk(&self, service: &str) {
        done(&mut docker(&["rm", "--force", &self.container(service)]));
        done(&mut docker(&["volume", "rm", &format!("{}_{service}", self.project)]));
        self.compose(&["up", "--detach", "--no-build", "--no-deps", service]);
    }

    /// Waits until a service says that it is ready, wherever it is by now.
    ///
    /// # Panics
    /// When it does not in time.
    pub fn wait_ready(&self, service: &str) {
        let address = self.address(service, PORT);
        wait::until(&format!("{service} that is ready"), || is_ready(address).then_some(()));
    }

    /// Waits until Docker itself has found a container healthy, as its own health check says.
    ///
    /// # Panics
    /// When it does not in time.
    pub fn wait_healthy(&self, service: &str) {
        let container = self.container(service);
        wait::until(&format!("{service} that is healthy"), || {
            let status = done(&mut docker(&["inspect", "--format", "{{.State.Health.Status}}", &container]));
            (status.trim() == "healthy").then_some(())
        });
    }

    /// Asks a service that is published on a port, or through the proxy with `proxy`.
    ///
    /// # Panics
    /// When it is not answered.
    #[must_use]
    pub fn ask(&self, service: &str, request: &Request) -> Response {
        let address = if service == "proxy" { self.proxy } else { self.address(service, PORT) };
        match ask(address, request) {
            Ok(answer) => answer,
            Err(error) => panic!("{service}: {} {}: no answer: {error}", request.method, request.path),
        }
    }

    /// Calls the admin API as its first admin, by the password of the secrets.
    ///
    /// # Panics
    /// When it is not answered.
    #[must_use]
    pub fn admin(&self, method: &str, path: &str, body: &Value) -> Response {
        let request = Request::new(method, path).header("Content-Type", "application/json").body(body.to_string());
        let request = request.header("Authorization", &basic("admin", self.admin_password.trim()));
        ask(self.address("control-1", PORT), &request)
            .unwrap_or_else(|error| panic!("{method} {path}: no answer: {error}"))
    }

    /// Waits until every edge reads the same for these tntIds, and returns what.
    ///
    /// # Panics
    /// When they do not agree in time.
    #[must_use]
    pub fn agreed(&self, ids: &[String]) -> Vec<Value> {
        let addresses = EDGES.map(|edge| self.address(edge, PORT));
        let read = |address: SocketAddr| {
            let mut connection = Connection::open(address).ok()?;
            let mut profile = |id: &String| {
                let answer = connection.send(&Request::get(&format!("/v1/demo/profiles/tnt/{id}"))).ok()?;
                (answer.status == 200).then(|| answer.json())
            };
            ids.iter().map(&mut profile).collect::<Option<Vec<_>>>()
        };
        wait::until("edges that read the same", || {
            let [first, others @ ..] = addresses.map(read);
            let first = first?;
            others.iter().all(|other| other.as_ref() == Some(&first)).then_some(first)
        })
    }
}

impl Drop for Compose {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- what the containers said:\n{}---", logs(&self.project));
        }
        remove(&self.project);
        let _ = docker(&["image", "rm", "--force", &self.image(), &format!("{}-base", self.image())]).output();
    }
}

/// One request on a connection of its own.
///
/// # Errors
/// When it is not answered.
pub fn ask(address: SocketAddr, request: &Request) -> std::io::Result<Response> {
    Connection::open(address)?.send(request)
}

fn is_ready(address: SocketAddr) -> bool {
    ask(address, &Request::get("/readyz")).is_ok_and(|answer| answer.status == 200)
}

/// `uid:gid` of whoever owns the secrets, which is who may read them.
fn owner(secrets: &Path) -> String {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata(secrets.join("signing.key")).expect("the signing key");
    format!("{}:{}", metadata.uid(), metadata.gid())
}

fn docker(arguments: &[&str]) -> Command {
    let mut command = Command::new("docker");
    command.args(arguments);
    command
}

/// Runs a command to its end and returns what it printed.
fn done(command: &mut Command) -> String {
    let output: Output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, said(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn listed(arguments: &[&str]) -> Vec<String> {
    let output = docker(arguments).stdin(Stdio::null()).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn logs(project: &str) -> String {
    let label = format!("label={LABEL}={project}");
    let containers = listed(&["ps", "--all", "--filter", &label, "--format", "{{.Names}} {{.Status}}"]);
    let tail = |line: &String| {
        let name = line.split(' ').next().unwrap_or_default();
        let output = docker(&["logs", "--tail", LOG_LINES, name]).output();
        format!("{line}\n{}", output.map(|output| said(&output)).unwrap_or_default())
    };
    containers.iter().map(tail).collect()
}

/// Removes what a project has made.
fn remove(project: &str) {
    let label = format!("label={LABEL}={project}");
    let removals: [(&[&str], &[&str]); 3] = [
        (&["ps", "--all", "--quiet", "--filter", &label], &["rm", "--force", "--volumes"]),
        (&["network", "ls", "--quiet", "--filter", &label], &["network", "rm"]),
        (&["volume", "ls", "--quiet", "--filter", &label], &["volume", "rm", "--force"]),
    ];
    for (list, removal) in removals {
        let names = listed(list);
        if !names.is_empty() {
            let _ = docker(removal).args(names).output();
        }
    }
}

/// Removes the projects of tests that were ended before they could do it.
fn remove_leftovers() {
    let format = format!("{{{{.Label \"{LABEL}\"}}}}");
    for project in listed(&["ps", "--all", "--filter", &format!("label={LABEL}"), "--format", &format]) {
        let Some(process) = project.strip_prefix(PROJECT) else { continue };
        if process.parse::<u32>().is_ok() && !Path::new("/proc").join(process).exists() {
            remove(&project);
        }
    }
}
