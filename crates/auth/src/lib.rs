//! Who may do what, and how every node knows at once when that changes.
//!
//! What it is: tokens and their digests ([`token`]), scopes and roles ([`role`]), the signed record of a client with its
//! tokens and settings ([`record`], [`seal`]), the control bucket ([`bucket`]), the lease protocol as pure decisions
//! ([`lease`]), the node that follows the bucket ([`node`]), what it knows at a moment ([`state`]), the tower layer
//! that asks it ([`verifier`]), the table of routes with what each of them needs ([`routes`]), and the records of a bucket as a
//! file ([`backup`]).
//!
//! What it is not: it changes no record (that is `cameo-control`), and knows nothing of profiles or files.
//!
//! Invariants:
//! - **A secret exists once**, in the reply that created it. Everything else holds its SHA-256. The types that hold a
//!   secret print as `***`. The one exception says why in [`identity`].
//! - **A node that cannot prove that it is fresh refuses.** Proof is its own heartbeat, come back through the bucket's
//!   total order: by then it has seen everything that was committed before the heartbeat was sent.
//! - **The lease is looked at before the state**, so a state that is older than the lease is never used.
//! - **When a change is reported as confirmed, every lease that any node can still hold was earned after it.** The
//!   decisions that this rests on are the pure functions of [`lease`], and the model in its tests runs these very
//!   functions.
//! - **A record is what the control plane signed**, for this key, and never an older version than one seen before.

pub mod backup;
pub mod bucket;
pub mod clock;
mod hex;
pub mod identity;
pub mod lease;
mod named;
pub mod node;
pub mod record;
pub mod role;
pub mod routes;
pub mod seal;
pub mod state;
pub mod token;
pub mod verifier;

pub use bucket::{Bucket, Revision};
pub use identity::IdentitySecret;
pub use node::{Node, NodeConfig};
pub use record::{ClientRecord, TokenId, TokenRecord};
pub use role::{Action, Role, Scope};
pub use routes::{Access, Routes};
pub use state::AuthState;
pub use token::{Digest, Secret};
pub use verifier::{Denied, Verifier};
