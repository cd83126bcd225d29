//! Snapshots: all pairs of one partition with its place in the log, of one moment, as one file.
//!
//! What it is: the [`mod@file`] format, the [`Store`] that holds snapshots (a folder, or the NATS object store of a cluster),
//! and the decision which of them are needed ([`Plan`]).
//!
//! What it is not: it does not know what a pair means, when a snapshot is due (`cameo-edge`), or who may remove one.
//!
//! Invariants:
//! - A snapshot that is listed is whole: it appears in one step, after all its bytes.
//! - A snapshot that is read is what was written, or an error: checksums cover every byte, of the file and on its way.
//! - Two of one partition and position are the same state, so whoever comes second writes nothing.

pub mod file;
mod name;
mod plan;
mod store;

pub use file::{Damage, Head, Reader, Writer};
pub use name::Name;
pub use plan::{GENERATIONS, Plan};
pub use store::{Folder, Listed, Objects, Put, Store, StoreError};
