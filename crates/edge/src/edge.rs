//! The edge as the binary sees it: open, hand out the router, close.

use std::sync::Arc;
use std::time::Duration;

use cameo_auth::Revision;
use cameo_auth::routes::RouteAccess;
use cameo_eventlog::EventLog;
use cameo_profile::Event;
use cameo_profile::event::ClientSettings;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use crate::api::ids::Generator;
use crate::api::visits::queued::{self, Lanes, NotTaken};
use crate::api::{self, App};
use crate::config::EdgeConfig;
use crate::metrics::ApiMeters;
use crate::replica::{OpenError, Replica, describe};
use crate::spool::Spool;
use crate::spool::drain::drain;

/// How often the log's settings are compared with the clients' records although nothing has changed here.
const SETTLE_AGAIN: Duration = Duration::from_secs(30);
/// Pause before settings are looked at again that could not be appended, or not without the auth lease.
const SETTLE_RETRY: Duration = Duration::from_secs(1);

/// A running edge.
pub struct Edge<L: EventLog> {
    app: Arc<App<L>>,
    /// Of the spool.
    draining: Option<JoinHandle<()>>,
}

impl<L: EventLog> Edge<L> {
    /// Recovers the replica and brings the clients' settings into the log.
    ///
    /// # Errors
    /// When the checkpoint or the log cannot be used; the error names file, partition and position.
    pub async fn open(config: EdgeConfig, log: Arc<L>) -> Result<Self, OpenError> {
        // Blocks until it has caught up, which needs the runtime where the log comes over the network.
        let open = {
            let config = config.clone();
            tokio::task::spawn_blocking(move || {
                let spool = config.spool.as_ref().map(|spool| Spool::open(spool, log.partitions())).transpose()?;
                Ok::<_, OpenError>((Replica::open_with(&config, log, spool.clone())?, spool))
            })
        };
        let (replica, spool) = open.await.map_err(|error| OpenError::Thread(std::io::Error::other(error)))??;
        let replica = Arc::new(replica);
        // Without the lease, or when the log takes nothing, later, by `follow_settings`: what is there can be read, and has what
        // the nodes before have settled.
        if let Err(error) = settle_lifetimes(&config, &replica).await {
            tracing::warn!(error = %describe(&error), "trying again");
        }
        let draining = spool.clone().map(|spool| tokio::spawn(drain(spool, Arc::clone(&replica))));
        let (ids, history_readers) = (Generator::default(), Arc::new(Semaphore::new(api::history::READERS)));
        let lanes = Lanes::of(replica.log());
        let app = App { replica, config, spool, meters: ApiMeters::new(), ids, lanes, history_readers };
        Ok(Self { app: Arc::new(app), draining })
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

    /// Brings every change of a client's lifetime into the log, until `changes` has no sender any more.
    pub async fn follow_settings(self: Arc<Self>, mut changes: watch::Receiver<Revision>) {
        loop {
            let settled = settle_lifetimes(&self.app.config, &self.app.replica).await.unwrap_or_else(|error| {
                tracing::warn!(error = %describe(&error), "trying again");
                false
            });
            // Also without a change: another node may have appended an older one after ours.
            let again = if settled { SETTLE_AGAIN } else { SETTLE_RETRY };
            if let Ok(Err(_)) = tokio::time::timeout(again, changes.changed()).await {
                return;
            }
        }
    }

    /// Takes one visit that came by another way than a request, as JSON or MessagePack. One without an event id gets this
    /// one, so that it counts once however often it is given.
    ///
    /// # Errors
    /// Says whether it is to be given again.
    pub async fn take_visit(&self, client: &str, event_id: &str, bytes: &[u8]) -> Result<(), NotTaken> {
        queued::take_one(&self.app, client, event_id, bytes).await
    }

    /// The replica, for the gateway's ledger.
    #[must_use]
    pub fn replica(&self) -> Arc<Replica<L>> {
        Arc::clone(&self.app.replica)
    }

    /// Appends what is pending, applies it, and writes a last checkpoint.
    pub async fn close(&self) {
        if let Some(draining) = &self.draining {
            draining.abort();
        }
        let replica = self.replica();
        // A panic in there has been reported by the panic hook.
        let _ = tokio::task::spawn_blocking(move || replica.close()).await;
    }
}

/// The fold knows lifetimes only by the log, so that every replica ends profiles alike. Whether this node has looked at all
/// of them: one that cannot prove that it knows the latest records leaves the log alone, as it might undo a newer one.
async fn settle_lifetimes<L: EventLog>(config: &EdgeConfig, replica: &Replica<L>) -> Result<bool, OpenError> {
    if !config.auth.holds_lease() {
        return Ok(false);
    }
    // Read after the lease was seen: as new as the lease says.
    let state = config.auth.state().clone();
    let mut failure = None;
    // One that has stopped takes nothing, and says why elsewhere.
    for partition in replica.partitions().iter().filter(|partition| !replica.has_stopped(*partition)) {
        for client in state.clients() {
            let (code, days) = (client.code.as_str(), client.record.lifetime_days);
            let event = Event::ClientSettings(ClientSettings { client: code, lifetime_days: days });
            let settled = match replica.read(partition, |state, _| state.lifetime_days(code)) {
                Ok(held) if held == days => Ok(()),
                Ok(_) if !config.auth.holds_lease() => return Ok(false),
                Ok(_) => replica.submit(partition, &event).await.map(drop),
                Err(error) => Err(error),
            };
            if let Err(source) = settled {
                // The other partitions need not wait for this one.
                failure.get_or_insert(OpenError::Settings { client: client.code.clone(), source });
                break;
            }
        }
    }
    failure.map_or(Ok(true), Err)
}
