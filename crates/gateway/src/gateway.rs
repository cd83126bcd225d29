//! The gateway as the binary sees it: start, hand out the router, close.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cameo_auth::Verifier;
use cameo_auth::routes::RouteAccess;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::api;
use crate::bounds;
use crate::ledger::Ledger;
use crate::metrics::Meters;
use crate::submit::{Running, ShortOfRoom};

/// How long closing waits for files that are being submitted. Ours: a full file takes about a second.
const CLOSE_PATIENCE: Duration = Duration::from_secs(20);
/// How long it waits for them to notice that they shall stop.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// What a gateway has to be told. Checked by the binary before anything starts.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// What is known of clients (tenants), and who may call.
    pub auth: Verifier,
    /// Directory of the spool files; created when missing.
    pub spool_dir: PathBuf,
    /// No other process submits batches to the same log, so that one that is not under way here is stuck.
    pub sole_gateway: bool,
}

/// Why a gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The spool directory cannot be made or written.
    #[error("cannot write to the spool directory {}", dir.display())]
    Spool {
        /// Which.
        dir: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The system has no random numbers.
    #[error("the system gives no random numbers: {0}")]
    Random(getrandom::Error),
}

/// What every handler has.
pub(crate) struct App<L> {
    pub(crate) ledger: Arc<L>,
    pub(crate) config: GatewayConfig,
    pub(crate) running: Running,
    pub(crate) short_of_room: ShortOfRoom,
    pub(crate) meters: Arc<Meters>,
    /// This process, new at every start.
    pub(crate) process: String,
    uploads: Arc<Semaphore>,
    closing: AtomicBool,
    stop: watch::Sender<bool>,
}

impl<L> App<L> {
    /// Room for one more upload, until it is dropped.
    pub(crate) fn enter(&self) -> Option<Place> {
        let permit = Arc::clone(&self.uploads).try_acquire_owned().ok()?;
        self.meters.uploads_active.increment(1.0);
        Some(Place { meters: Arc::clone(&self.meters), _permit: permit })
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    pub(crate) fn stop_signal(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }
}

/// The place of one upload among those under way.
pub(crate) struct Place {
    meters: Arc<Meters>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.meters.uploads_active.decrement(1.0);
    }
}

/// A running gateway.
pub struct Gateway<L> {
    app: Arc<App<L>>,
}

impl<L: Ledger> Gateway<L> {
    /// Makes the spool directory and tries it.
    ///
    /// # Errors
    /// When nothing can be written there.
    pub fn new(config: GatewayConfig, ledger: Arc<L>) -> Result<Self, StartError> {
        let spool = |source| StartError::Spool { dir: config.spool_dir.clone(), source };
        std::fs::create_dir_all(&config.spool_dir).map_err(spool)?;
        tempfile::tempfile_in(&config.spool_dir).map_err(spool)?;
        let app = App {
            ledger,
            running: Running::default(),
            short_of_room: ShortOfRoom::default(),
            meters: Arc::new(Meters::new()),
            process: random().map_err(StartError::Random)?,
            uploads: Arc::new(Semaphore::new(bounds::UPLOADS)),
            closing: AtomicBool::new(false),
            stop: watch::Sender::new(false),
            config,
        };
        Ok(Self { app: Arc::new(app) })
    }

    /// The HTTP API.
    pub fn router(&self) -> axum::Router {
        api::router(Arc::clone(&self.app)).0
    }

    /// Its routes, and what each asks for.
    #[must_use]
    pub fn routes(&self) -> Vec<RouteAccess> {
        api::router(Arc::clone(&self.app)).1
    }

    /// Takes no more uploads, and waits, within bounds, until those under way are in the log. What is left reads as
    /// stuck, and the same upload with its key resumes it.
    pub async fn close(&self) {
        self.app.closing.store(true, Ordering::Relaxed);
        let all = || self.app.uploads.acquire_many(bounds::UPLOADS as u32);
        if tokio::time::timeout(CLOSE_PATIENCE, all()).await.is_ok() {
            return;
        }
        self.app.stop.send_replace(true);
        if tokio::time::timeout(STOP_PATIENCE, all()).await.is_err() {
            tracing::warn!("some uploads did not end in time");
        }
    }
}

/// 16 random characters.
pub(crate) fn random() -> Result<String, getrandom::Error> {
    getrandom::u64().map(|number| format!("{number:016x}"))
}
