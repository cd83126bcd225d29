//! The service behind the admin API and the pages: what is there, and how it is changed.
//!
//! Reads come from a view that follows the bucket by a watch. Changes read the entry from the bucket itself, decide,
//! write by compare-and-set, wait until the view has caught up, and hand out a [`Rollout`] that ends when every node has
//! let go of what was before.

mod access;
mod anew;
mod change;
mod clients;
mod cluster;
mod identity;
mod rollout;
#[cfg(test)]
mod tests;
mod tokens;
mod users;
mod view;

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use cameo_auth::Action;
use cameo_auth::Revision;
use cameo_auth::bucket::{Bucket, Durability, Expected, Key, PutError, Unreadable};
use cameo_auth::clock::Clock;
use cameo_auth::record::Refused;
use cameo_auth::seal::Sealer;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use crate::audit::{self, AuditLog, AuditResult, Entry, Filter, OperatorNote, Page};
use crate::nodes::Nodes;
use crate::principal::Principal;
use crate::session::Sessions;
use crate::throttle::Throttle;

pub(crate) use access::{Credential, NotSignedIn};
pub(crate) use clients::{NewClient, Settings};
pub(crate) use rollout::{Progress, Rollout};
pub(crate) use tokens::{Made, Rotation, TokenView};
pub(crate) use users::{KeyRecord, UserRecord};

use view::View;

/// Rollouts that can be followed by number.
const ROLLOUTS: usize = 200;
/// Time between looks for nodes that are gone for good.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// What a control plane has to be told.
#[derive(Clone)]
pub struct PlaneConfig {
    /// Where the records are.
    pub bucket: Arc<dyn Bucket>,
    /// Where the audit log is.
    pub audit: Arc<dyn AuditLog>,
    /// Signs records.
    pub sealer: Sealer,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// Why the control plane cannot start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The bucket cannot be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// The bucket cannot be written.
    #[error("the control store cannot be written: {0}")]
    Unwritable(String),
    /// There is no randomness.
    #[error("the system has no randomness to give: {0}")]
    Randomness(String),
    /// A client of the configuration cannot be one.
    #[error("the client {code} cannot be created: {reason}")]
    Client {
        /// Which.
        code: String,
        /// Why.
        reason: String,
    },
    /// The first admin's password is no good.
    #[error("CAMEO_ADMIN_PASSWORD {0}: choose another")]
    Password(String),
    /// The view does not become whole: records are not this control plane's.
    #[error("{0}; is the signing key the one that wrote the control store?")]
    Foreign(String),
}

/// Why an operation did not happen, by what the caller should do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    /// The role does not allow it.
    Forbidden(Action),
    /// There is no such thing.
    Missing(String),
    /// The request breaks a rule.
    Invalid { field: &'static str, text: String },
    /// The state of things stands against it.
    Conflict(String),
    /// Too many failures: seconds to wait.
    Throttled(u16),
    /// The store does not work; nothing was changed.
    Unavailable(String),
    /// The store does not say whether it was changed.
    Unknown(String),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forbidden(action) => {
                write!(f, "{} needs the role {} or more", action.as_str(), action.least().as_str())
            }
            Self::Throttled(seconds) => write!(f, "too many failed attempts; try again in {seconds} seconds"),
            Self::Missing(what) => write!(f, "there is no {what}"),
            Self::Invalid { text, .. } | Self::Conflict(text) | Self::Unavailable(text) => f.write_str(text),
            Self::Unknown(text) => write!(f, "it is not known whether it was changed: {text}"),
        }
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let text = refused.to_string();
        if refused.conflict { Self::Conflict(text) } else { Self::Invalid { field: refused.field, text } }
    }
}

impl From<Unreadable> for Problem {
    fn from(unreadable: Unreadable) -> Self {
        Self::Unavailable(unreadable.to_string())
    }
}

/// What an entry of the audit log is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deed<'a> {
    pub(crate) action: Action,
    pub(crate) client: Option<&'a str>,
    pub(crate) target: Option<&'a str>,
}

impl<'a> Deed<'a> {
    pub(crate) fn of(action: Action, client: Option<&'a str>) -> Self {
        Self { action, client, target: None }
    }

    pub(crate) fn on(self, target: &'a str) -> Self {
        Self { target: Some(target), ..self }
    }
}

struct Inner {
    config: PlaneConfig,
    view: RwLock<View>,
    /// The revision that the view has read up to.
    read: watch::Sender<Revision>,
    /// How often the view was begun anew; rises when it is.
    pass: watch::Sender<u64>,
    /// Held while a rule over several records is checked and the change that it allows is made: there is always an
    /// admin, an organisation belongs to one client, names and numbers are bounded. The records themselves change by
    /// compare-and-set, which sees only one of them.
    rules: tokio::sync::Mutex<()>,
    sessions: Sessions,
    throttle: Throttle,
    /// Name and password pairs that were right a moment ago, so that scripts do not pay argon2id with every call.
    proven: Mutex<access::Proven>,
    rollouts: Mutex<(u64, VecDeque<Rollout>)>,
    /// How other nodes are asked.
    nodes: OnceLock<Arc<dyn Nodes>>,
    /// Turns true when the process stops.
    closing: watch::Sender<bool>,
}

/// The control plane. Cheap to clone.
#[derive(Clone)]
pub struct Plane(Arc<Inner>);

impl fmt::Debug for Plane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Plane")
    }
}

impl Plane {
    /// Reads the bucket whole and follows it from then on.
    ///
    /// # Errors
    /// When the bucket cannot be used, or holds records of another control plane.
    pub async fn open(config: PlaneConfig) -> Result<Self, OpenError> {
        let plane = Self(Arc::new(Inner {
            view: RwLock::new(View::new(config.sealer.verifying())),
            read: watch::Sender::new(Revision(0)),
            pass: watch::Sender::new(0),
            rules: tokio::sync::Mutex::new(()),
            sessions: Sessions::default(),
            throttle: Throttle::default(),
            proven: Mutex::new(access::Proven::new().map_err(|error| OpenError::Randomness(error.to_string()))?),
            rollouts: Mutex::new((0, VecDeque::new())),
            nodes: OnceLock::new(),
            closing: watch::Sender::new(false),
            config,
        }));
        metrics::describe_counter!("cameo_audit_failed_total", "Entries of the audit log that could not be written");
        metrics::describe_counter!("cameo_sign_in_failed_total", "Wrong passwords");
        // Told from the start: Prometheus sees no rise of what was not there before.
        metrics::counter!("cameo_audit_failed_total").increment(0);
        metrics::counter!("cameo_sign_in_failed_total").increment(0);
        plane.0.view.write().roster.begin_anew(anew::draw()?);
        tokio::spawn(view::follow(Arc::downgrade(&plane.0)));
        plane.0.read_whole().await.map_err(OpenError::Unwritable)?;
        if let Some(foreign) = plane.0.view.read().foreign() {
            return Err(OpenError::Foreign(foreign));
        }
        let named = plane.0.name_history().await.map_err(OpenError::Unwritable)?;
        plane.caught_up(named).await;
        tokio::spawn(view::sweep(Arc::downgrade(&plane.0)));
        Ok(plane)
    }

    /// Says how other nodes are asked, once; without it what they would have to be asked for is not to be had.
    pub fn ask_nodes_by(&self, nodes: Arc<dyn Nodes>) {
        // The first one stays.
        let _ = self.0.nodes.set(nodes);
    }

    /// Ends what would keep connections open: pages that watch.
    pub fn close(&self) {
        self.0.closing.send_replace(true);
    }

    /// Turns true when the process stops.
    pub(crate) fn closing(&self) -> watch::Receiver<bool> {
        self.0.closing.subscribe()
    }

    pub(crate) fn unix_ms(&self) -> u64 {
        self.0.config.clock.unix_ms()
    }

    /// Waits until the view has read up to a revision.
    pub(crate) async fn caught_up(&self, revision: Revision) {
        self.0.caught_up(revision).await;
    }

    /// Whether a principal may; a refusal goes into the audit log.
    pub(crate) async fn allow(&self, by: &Principal, deed: Deed<'_>) -> Result<(), Problem> {
        if by.may(deed.action, deed.client) {
            return Ok(());
        }
        let problem = Problem::Forbidden(deed.action);
        self.note(by, deed, Err(&problem)).await;
        Err(problem)
    }

    /// Writes how an attempt ended into the audit log. That it cannot be written undoes nothing: it is logged.
    pub(crate) async fn note(&self, by: &Principal, deed: Deed<'_>, how: Result<Option<String>, &Problem>) {
        let (result, detail) = match how {
            Ok(detail) => (AuditResult::Done, detail),
            Err(problem @ (Problem::Unavailable(_) | Problem::Unknown(_))) => {
                (AuditResult::Failed, Some(problem.to_string()))
            }
            Err(problem) => (AuditResult::Refused, Some(problem.to_string())),
        };
        let entry = Entry {
            id: 0,
            at_ms: self.unix_ms(),
            who: audit::text(&by.who),
            action: deed.action.as_str().to_owned(),
            client: deed.client.map(audit::text),
            target: deed.target.map(audit::text),
            from: audit::text(&by.from),
            result,
            detail: detail.map(audit::text),
        };
        self.append(entry).await;
    }

    /// Writes into the audit log what an operator did past this control plane.
    ///
    /// # Errors
    /// Says why it is not durable there.
    pub async fn note_of_operator(&self, note: OperatorNote) -> Result<(), String> {
        self.0.config.audit.append(note.entry(self.unix_ms())).await.map_err(|error| error.to_string())
    }

    async fn append(&self, entry: Entry) {
        if let Err(error) = self.0.config.audit.append(entry).await {
            metrics::counter!("cameo_audit_failed_total").increment(1);
            tracing::error!(%error, "an entry of the audit log is lost");
        }
    }

    /// Notes the end of an operation and passes it on.
    async fn noted<T>(
        &self,
        by: &Principal,
        deed: Deed<'_>,
        detail: Option<String>,
        done: Result<T, Problem>,
    ) -> Result<T, Problem> {
        self.note(by, deed, done.as_ref().map(|_| detail)).await;
        done
    }

    /// Some entries of the audit log that a principal may see: of a client, or of all.
    pub(crate) async fn audit(&self, by: &Principal, filter: Filter) -> Result<Page, Problem> {
        let client = filter.client.clone();
        self.allow(by, Deed::of(Action::AuditRead, client.as_deref())).await?;
        self.0.config.audit.page(filter).await.map_err(|error| Problem::Unavailable(error.to_string()))
    }

    /// Puts a record in the place of the one that was read, and says at which revision.
    ///
    /// # Errors
    /// `Ok(None)` when somebody else was first.
    async fn put(&self, key: Key, sealed: Bytes, expected: Expected) -> Result<Option<Revision>, Problem> {
        let bucket = &self.0.config.bucket;
        let place = self.place();
        let revision = match bucket.put(key.clone(), sealed.clone(), expected, Durability::Durable).await {
            Ok(revision) => revision,
            Err(PutError::Conflict) => return Ok(None),
            Err(PutError::Unavailable(why)) => return Err(Problem::Unavailable(why)),
            Err(PutError::Unknown(why)) => {
                // Signatures are of the content, so the same bytes are ours.
                let found = bucket.get(&key).await.map_err(|_| Problem::Unknown(why.clone()))?;
                let ours = found.filter(|entry| entry.value == sealed);
                ours.ok_or(Problem::Unknown(why))?.revision
            }
        };
        if !self.stands(place, revision).await {
            // It may be among what was lost, and is restored only if the view had read it by then.
            let found = bucket.get(&key).await.map_err(|error| Problem::Unknown(error.to_string()))?;
            if found.is_none_or(|entry| entry.value != sealed) {
                return Err(Problem::Unknown(anew::LOST.into()));
            }
        }
        Ok(Some(revision))
    }
}
