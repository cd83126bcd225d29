//! The pure core of Cameo: what a visitor is called, what can happen to a profile, and the *fold* that turns a log
//! of events into profiles.
//!
//! What it is: ids and addresses ([`ids`]), log coordinates ([`position`], [`time`]), the limits of the public API
//! ([`limits`]), the events and their MessagePack form ([`event`]), and [`PartitionState`]: everything one partition
//! of the log adds up to.
//!
//! What it is not: there is no IO here, no async, no clock, no randomness and no HTTP. Time, ids and random bytes
//! arrive as data. CI checks the dependency tree for it.
//!
//! Invariants:
//! - **The fold is total and deterministic.** [`PartitionState::apply`] never fails and depends on nothing but the
//!   state, the log time and the event: a replica, a restart and a full replay reach byte-identical state
//!   ([`PartitionState::digest`]).
//! - **What has expired does not exist**, for every reader and for the fold itself, whether or not the sweeper has
//!   been by.
//! - **Validation happens before the log.** Whatever is in the log is folded, even if a limit has changed since.

mod affinity;
mod batch;
mod client;
mod dedupe;
pub mod event;
pub mod ids;
pub mod limits;
mod names;
mod packed;
mod parts;
pub mod position;
mod session;
pub mod state;
pub mod time;
pub mod varint;
pub mod view;

pub use event::Event;
pub use ids::{Address, AddressBuf, ClientCode, Kind};
pub use position::{Partition, PartitionCount, Position};
pub use state::{Outcome, PartitionState, Replay};
pub use time::LogTime;
