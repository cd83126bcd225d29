//! The edge: profiles in memory, kept by folding the log, and the HTTP API that visits come in by and profiles go out.
//!
//! What it is: the [`Replica`] (apply, checkpoint, snapshot, recover, read your writes), the visit and profile API
//! ([`Edge::router`]).
//!
//! With a spool it takes visits also while the log does not.
//!
//! What it is not: it does not order or store events (`cameo-eventlog`), does not know what an event does to a profile
//! (`cameo-profile`), and takes no bulk files (`cameo-gateway`).
//!
//! Invariants:
//! - A reply of success means: in the log, and applied here; of "spooled": durable here, and applied once the log is back.
//! - Nobody but an applier thread changes a partition's state, and only by frames of the log, in order.
//! - A partition that meets a gap, a broken chain or bytes that do not decode stops for good: it is served and
//!   checkpointed no more, and `/readyz` names the position.
//! - A checkpoint holds a partition's pairs, its index of history and its position of one and the same moment.

mod api;
mod config;
mod edge;
mod history;
mod metrics;
pub mod replica;
mod spool;

pub use api::openapi::openapi;

#[doc(hidden)]
pub use api::visits::probe::check_visits;
pub use api::visits::queued::NotTaken;
pub use config::{EdgeConfig, SnapshotConfig};
pub use edge::Edge;
pub use replica::{LoadError, restore_partition};
pub use replica::{OpenError, PartitionDigest, Replica, SnapshotOutcome, SnapshotTaken, SubmitError};
pub use spool::{MAX_BYTES_DEFAULT as SPOOL_BYTES_DEFAULT, SpoolConfig, SpoolError};
