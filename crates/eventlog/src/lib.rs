//! The log: P partitions, each an ordered, durable sequence of frames. The only writer of truth in Cameo.
//!
//! What it is: the [`EventLog`] trait and its promises, the frame codec ([`frame`]), the [`Appender`] that packs
//! events into frames and commits them in groups, the backends ([`embedded`] for one process, [`memory`] for tests),
//! and the conformance suite that every backend passes.
//!
//! What it is not: it does not know what an event means. Events are bytes.
//!
//! Invariants:
//! - A frame that [`EventLog::append`] has returned a position for is durable (as far as the backend was told to be),
//!   and every reader sees it at that position, after all lower positions of its partition.
//! - Positions rise within a partition; log times never fall within a partition.
//! - A reader never skips: what it cannot read intact is an error that names the position.

pub mod appender;
pub mod embedded;
pub mod frame;
pub mod memory;

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
pub use cameo_profile::{LogTime, Partition, PartitionCount, Position};

pub use appender::Appender;
