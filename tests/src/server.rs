//! `cameo standalone`, or one role of a cluster, as a child process: started on a free port, waited for, killed, stopped, continued.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::http::{Connection, Request, Response};
use crate::{port, process, wait};

/// A free port can be taken by another process of tests between the look and the start.
const PORT_TRIES: usize = 5;
/// How much of the server's log a failure shows, in bytes.
const LOG_SHOWN: usize = 6000;

/// The whole store in one process.
const STANDALONE: &str = "standalone";

/// Where and how to start a server.
#[derive(Clone, Debug)]
pub struct Setup {
    data: PathBuf,
    // Held so that the directory lives as long as anything that uses it.
    _owned: Option<Arc<TempDir>>,
    /// What it runs.
    role: &'static str,
    arguments: Vec<String>,
    /// Authority of its certificate, if it speaks TLS.
    ca: Option<PathBuf>,
    /// Where its log is written, if not to a temporary directory.
    log_dir: Option<PathBuf>,
}

impl Default for Setup {
    fn default() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let data = dir.path().join("data");
        Self { data, _owned: Some(Arc::new(dir)), role: STANDALONE, arguments: Vec::new(), ca: None, log_dir: None }
    }
}

impl Setup {
    /// In a directory of the caller's.
    #[must_use]
    pub fn at(data: &Path) -> Self {
        Self { data: data.to_owned(), _owned: None, role: STANDALONE, arguments: Vec::new(), ca: None, log_dir: None }
    }

    /// A role of a cluster instead of the whole store.
    #[must_use]
    pub fn role(mut self, role: &'static str) -> Self {
        self.role = role;
        self
    }

    /// With further flags.
    #[must_use]
    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|a| (*a).to_owned()));
        self
    }

    /// With TLS, by a certificate for the address it listens on, which an authority has signed.
    ///
    /// # Panics
    /// When a path is no text.
    #[must_use]
    pub fn secured(mut self, ca: &Path, (certificate, key): &(PathBuf, PathBuf)) -> Self {
        self.ca = Some(ca.to_owned());
        let text = |path: &Path| path.to_str().expect("a path is text").to_owned();
        self.arguments.extend(["--tls-cert".into(), text(certificate), "--tls-key".into(), text(key)]);
        self
    }

    /// With what it writes to standard output and standard error in a file in `dir`.
    #[must_use]
    pub fn logging_in(mut self, dir: &Path) -> Self {
        self.log_dir = Some(dir.to_owned());
        self
    }

    /// The data directory.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Starts it, and does not wait.
    #[must_use]
    pub fn spawn(&self) -> Server {
        Server::spawn(self)
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Panics
    /// When it ends before that; the message shows its log.
    #[must_use]
    pub fn start(&self) -> Server {
        self.try_start()
            .unwrap_or_else(|refusal| panic!("the server ended at start ({}):\n{}", refusal.status, refusal.log))
    }

    /// Starts it and kills it a moment later, wherever it is by then.
    pub fn start_and_kill_after(&self, moment: Duration) {
        let server = Server::spawn(self);
        wait::pass(moment);
        drop(server);
    }

    /// Starts it and waits until it is ready, or has ended.
    ///
    /// # Errors
    /// Its exit status and log, when it ended.
    pub fn try_start(&self) -> Result<Server, Refusal> {
        let mut tries = 1;
        loop {
            match Server::spawn(self).ready() {
                Err(refusal) if tries < PORT_TRIES && refusal.log.contains("in use") => tries += 1,
                result => return result,
            }
        }
    }
}

/// A server that ended before it was ready.
#[derive(Debug)]
pub struct Refusal {
    /// How.
    pub status: ExitStatus,
    /// What it wrote to standard output and standard error.
    pub log: String,
}

/// A running server; killed on drop.
#[derive(Debug)]
pub struct Server {
    child: Child,
    address: SocketAddr,
    log: tempfile::NamedTempFile,
    setup: Setup,
}

impl Server {
    /// A new server with an empty data directory.
    #[must_use]
    pub fn start() -> Self {
        Setup::default().start()
    }

    fn spawn(setup: &Setup) -> Self {
        let address = port::free();
        let log = match &setup.log_dir {
            Some(dir) => tempfile::NamedTempFile::new_in(dir),
            None => tempfile::NamedTempFile::new(),
        };
        let log = log.expect("a file for the log");
        let output = |file: &File| file.try_clone().expect("a second handle of the log");
        let data = setup.data.to_str().expect("the data directory is text");
        let child = process::cameo(&[setup.role, "--listen", &address.to_string(), "--data-dir", data])
            .args(&setup.arguments)
            .stdout(output(log.as_file()))
            .stderr(output(log.as_file()))
            .spawn()
            .expect("the binary starts");
        Self { child, address, log, setup: setup.clone() }
    }

    /// Waits until it is ready, or has ended.
    ///
    /// # Errors
    /// Its exit status and log, when it ended.
    ///
    /// # Panics
    /// When it is neither in time.
    pub fn ready(mut self) -> Result<Self, Refusal> {
        enum State {
            Ready,
            Ended(ExitStatus),
        }
        let state = wait::until("a server that is ready", || {
            if let Some(status) = self.child.try_wait().expect("the child can be waited for") {
                return Some(State::Ended(status));
            }
            let answer = self.open().and_then(|mut c| c.send(&Request::get("/readyz")));
            matches!(answer, Ok(r) if r.status == 200).then_some(State::Ready)
        });
        match state {
            State::Ready => Ok(self),
            State::Ended(status) => Err(Refusal { status, log: self.log() }),
        }
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://ADDRESS`, or with TLS `https://ADDRESS`.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.setup.ca.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    fn open(&self) -> std::io::Result<Connection> {
        match &self.setup.ca {
            Some(ca) => Connection::open_tls(self.address, ca),
            None => Connection::open(self.address),
        }
    }

    /// How it was set up: start it again with this.
    #[must_use]
    pub const fn setup(&self) -> &Setup {
        &self.setup
    }

    /// Everything it wrote.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read(self.log.path()).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// A new connection to it.
    ///
    /// # Panics
    /// When it does not accept one.
    #[must_use]
    pub fn connect(&self) -> Connection {
        self.open().expect("the server accepts a connection")
    }

    /// One request on a connection of its own.
    ///
    /// # Panics
    /// When it is not answered.
    pub fn send(&self, request: &Request) -> Response {
        match self.connect().send(request) {
            Ok(response) => response,
            Err(error) => panic!("{} {}: no answer: {error}", request.method, request.path),
        }
    }

    /// GET, of a server that may not be there.
    ///
    /// # Errors
    /// As the system says.
    pub fn try_get(&self, path: &str) -> std::io::Result<Response> {
        self.open()?.send(&Request::get(path))
    }

    /// GET.
    pub fn get(&self, path: &str) -> Response {
        self.send(&Request::get(path))
    }

    /// POST of a JSON document.
    pub fn post_json(&self, path: &str, body: &Value) -> Response {
        self.send(&Request::post(path, "application/json", body.to_string()))
    }

    /// Memory held, in bytes (`VmRSS`).
    ///
    /// # Panics
    /// When the process is gone.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).expect("the status of the process");
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).expect("VmRSS");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("kilobytes") * 1024
    }

    /// Processor time used so far, in all threads.
    ///
    /// # Panics
    /// When the process is gone.
    #[must_use]
    pub fn processor_time(&self) -> Duration {
        let path = format!("/proc/{}/stat", self.child.id());
        let stat = std::fs::read_to_string(path).expect("the status of the process");
        // The name, in brackets, may have anything in it; user and system time are fields 14 and 15 (proc(5)).
        let after_name = stat.rsplit_once(") ").expect("a name").1;
        let ticks: u64 = after_name.split(' ').skip(11).take(2).map(|f| f.parse::<u64>().expect("ticks")).sum();
        Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
    }

    /// `kill -9`, and waits for the end.
    ///
    /// # Panics
    /// When the process cannot be killed.
    pub fn kill(mut self) -> Setup {
        self.end();
        self.setup.clone()
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Panics
    /// When it does not end, or not with success.
    pub fn terminate(mut self) -> Setup {
        self.signal(Signal::TERM);
        let status =
            wait::until("the end after SIGTERM", || self.child.try_wait().expect("the child can be waited for"));
        assert!(status.success(), "ended with {status} after SIGTERM:\n{}", self.log());
        self.setup.clone()
    }

    /// Waits until it ends by itself; its exit code and all it wrote.
    ///
    /// # Panics
    /// When it does not end, or by a signal.
    #[must_use]
    pub fn ended(mut self) -> (i32, String) {
        let status = wait::until("the end of a server", || self.child.try_wait().expect("the child can be waited for"));
        (status.code().expect("it ended by itself"), self.log())
    }

    /// SIGSTOP: it stands still, its connections stay open.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT: it goes on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("the process takes a signal");
    }

    fn end(&mut self) {
        self.child.kill().expect("the process can be killed");
        self.child.wait().expect("the process can be waited for");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already: then both say so, and nothing is left to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let start = log.char_indices().map(|(at, _)| at).find(|at| log.len() - at <= LOG_SHOWN).unwrap_or(0);
            eprintln!("--- the server's log ends with:\n{}---", &log[start..]);
        }
    }
}
