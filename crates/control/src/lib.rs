//! The control plane: who may do what, changed and confirmed.
//!
//! What it is: the [`Plane`], which changes the records of clients, tokens, users and keys by compare-and-set and waits
//! until every node has let go of what was before; the admin API over it; the audit log; sign-in.
//!
//! What it is not: it decides on no call of the profile API (nodes do, `cameo-auth`), and has no profile on disk.
//!
//! Invariants:
//! - **Nothing changes without a principal, a check of its role, and a line in the audit log**, refused attempts included.
//! - **A change of a client is answered when it is confirmed**: by report of every node, or by lapse of its lease.
//! - **A secret is shown once.** No record, log line, error or audit entry holds one.
//! - **Passwords are argon2id**, checked a few at a time; guessing is slowed down by name and by address.

mod api;
mod audit;
mod keyfile;
mod nodes;
mod pages;
mod password;
mod plane;
mod principal;
mod session;
#[cfg(test)]
mod stage;
mod throttle;

pub use api::openapi;
pub use audit::{AuditLog, Entry, LocalAudit, OperatorNote};
pub use keyfile::{KeyFileError, signing_key};
pub use nodes::{Nodes, PartitionView, SnapshotResult, SnapshotView};
pub use pages::Upstream;
pub use plane::{OpenError, Plane, PlaneConfig};

/// Every route of the control plane, and what each asks for: the admin API, and the pages, which reach profiles and
/// batches through `upstream`.
pub fn router(plane: &Plane, upstream: Upstream) -> (axum::Router, Vec<cameo_auth::routes::RouteAccess>) {
    let (api, mut table) = api::router(plane);
    let (pages, rest) = pages::router(plane, upstream);
    table.extend(rest);
    (api.merge(pages), table)
}
