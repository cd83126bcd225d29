//! Visitors who come again and again through the proxy, as callers are told to: a visit that was not acknowledged is sent
//! again with its event id. What was acknowledged is counted, and so is what went wrong.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cameo_tests::http::{Connection, Request};
use cameo_tests::wait;
use serde_json::json;

/// Callers at the same time.
const CALLERS: usize = 3;
/// Visitors of each.
const VISITORS: usize = 8;
/// Pause between two visits of a caller: the machine is to be busy with the cluster, not with its load.
const PAUSE: Duration = Duration::from_millis(15);
/// Pause before a visit is sent again.
const AGAIN: Duration = Duration::from_millis(50);
/// A visit that is not taken within this time never will be.
const GIVE_UP: Duration = Duration::from_secs(60);

/// What went wrong since the last look.
#[derive(Debug, Default)]
pub(crate) struct Trouble {
    /// Answers other than 200, and connections that broke.
    pub(crate) failures: Vec<String>,
    /// The longest time from the first try of a visit to its acknowledgement.
    pub(crate) slowest: Duration,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    acknowledged: AtomicU64,
    trouble: Mutex<Trouble>,
}

/// A load that runs.
#[derive(Debug)]
pub(crate) struct Load {
    shared: Arc<Shared>,
    callers: Vec<JoinHandle<Vec<(String, u64)>>>,
}

impl Load {
    /// Starts it.
    pub(crate) fn start(proxy: SocketAddr) -> Self {
        let shared = Arc::new(Shared::default());
        let callers = (0..CALLERS).map(|caller| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || call(caller, proxy, &shared))
        });
        Self { callers: callers.collect(), shared }
    }

    /// What went wrong since the last look.
    pub(crate) fn trouble(&self) -> Trouble {
        std::mem::take(&mut self.shared.trouble.lock().expect("no caller has failed"))
    }

    /// The failures among it; it stays.
    pub(crate) fn failures(&self) -> Vec<String> {
        self.shared.trouble.lock().expect("no caller has failed").failures.clone()
    }

    /// Visits acknowledged so far.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until so many more visits were acknowledged.
    pub(crate) fn goes_on(&self, visits: u64) {
        let wanted = self.acknowledged() + visits;
        wait::until("visits that are taken", || {
            assert!(!self.callers.iter().any(JoinHandle::is_finished), "a caller has given up");
            (self.acknowledged() >= wanted).then_some(())
        });
    }

    /// Stops it: tntIds, with the number of acknowledged visits of each.
    pub(crate) fn stop(self) -> Vec<(String, u64)> {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.callers.into_iter().flat_map(|caller| caller.join().expect("a caller that has not failed")).collect()
    }
}

fn call(caller: usize, proxy: SocketAddr, shared: &Shared) -> Vec<(String, u64)> {
    let mut visitors: Vec<_> = (0..VISITORS).map(|n| (format!("load-{caller}-{n}"), 0)).collect();
    let mut connection = None;
    for n in 0.. {
        if shared.stop.load(Ordering::Relaxed) {
            break;
        }
        let visitor = n % VISITORS;
        let event = format!("{caller}-{n}");
        let body = json!({"eventId": event, "sessionId": event, "ids": {"tntId": visitors[visitor].0}, "profile": {"last": event}});
        let request = Request::post("/v1/demo/visits", "application/json", body.to_string());
        let began = Instant::now();
        while let Err(failure) = once(&mut connection, proxy, &request) {
            let failure = format!("{event}: after {} ms: {failure}", began.elapsed().as_millis());
            assert!(began.elapsed() < GIVE_UP, "{failure}");
            shared.trouble.lock().expect("no caller has failed").failures.push(failure);
            wait::pass(AGAIN);
        }
        visitors[visitor].1 += 1;
        shared.acknowledged.fetch_add(1, Ordering::Relaxed);
        let mut trouble = shared.trouble.lock().expect("no caller has failed");
        trouble.slowest = trouble.slowest.max(began.elapsed());
        drop(trouble);
        wait::pass(PAUSE);
    }
    visitors
}

/// One try; a connection that broke is not used again.
fn once(connection: &mut Option<Connection>, proxy: SocketAddr, request: &Request) -> Result<(), String> {
    let mut open = match connection.take() {
        Some(open) => open,
        None => Connection::open(proxy).map_err(|error| error.to_string())?,
    };
    let answer = open.send(request).map_err(|error| error.to_string())?;
    if answer.header("connection") != "close" {
        *connection = Some(open);
    }
    if answer.status == 200 { Ok(()) } else { Err(format!("{} {}", answer.status, answer.text())) }
}
