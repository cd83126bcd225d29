//! Bulk files (TARGET_API §3): parse, validate, submit to the log, and tell how far they are.
//!
//! What it is: the [`parse`]r of batch text, JSON and NDJSON; the spool that takes uploads in; the tasks that bring
//! rows into the log; the HTTP API ([`Gateway::router`]).
//!
//! What it is not: there are no profiles here, and no log. Both are behind the [`Ledger`].
//!
//! Invariants:
//! - A file is read and validated whole before the first of its rows is appended.
//! - A row that is wrong fails alone, with its line, its column and a reason; a file that is wrong stores nothing.
//! - Nothing that a batch is known by lives here: heads and counters are in the replicated state, so a batch survives
//!   the process, and any process with the file can complete it.

mod api;
pub mod bounds;
mod chunk;
#[cfg(test)]
mod fake;
mod gateway;
pub mod ledger;
mod metrics;
mod open;
pub mod parse;
mod spool;
mod status;
mod submit;

pub use api::openapi::openapi;
pub use gateway::{Gateway, GatewayConfig, StartError};
pub use ledger::{Folded, Known, Ledger, LedgerError, Question};
