//! History: for every profile the places in the log of the events that touched it, so that what happened, and how the
//! profile read at an earlier moment, is told from the log itself.
//!
//! What it is: an index. Appliers note what an event touched ([`Pending`], in memory); a checkpoint writes it in the same
//! atomic step as profiles and position ([`store`]), so that both are of one moment; [`tend`] keeps it small beside the
//! hot path. What it is not: it holds no values. Those are in the log, and go with it.
//!
//! Invariants:
//! - Every event that took effect up to a partition's position is in the index, or in a [`Gap`] that is told, or was let go
//!   with its profile's [`Floor`]: nothing is missing in silence.
//! - Nothing from before an erasure is found once the erasure has been applied, and nothing of it is in the next
//!   checkpoint.

pub(crate) mod alias;
pub(crate) mod chunk;
mod forget;
pub(crate) mod pending;
pub(crate) mod read;
pub(crate) mod store;
pub(crate) mod stretch;
pub(crate) mod tend;
#[cfg(test)]
mod tests;
pub(crate) mod timeline;

use std::ops::Range;
use std::sync::Arc;

use cameo_eventlog::Hint;
use cameo_profile::state::{Came, Touch};
use cameo_profile::{LogTime, Position, limits};
use serde::{Deserialize, Serialize};

pub(crate) use pending::Pending;

/// Entries kept for a profile, oldest let go first. Ours: a visit every four minutes for a month.
pub(crate) const ENTRIES_KEPT: usize = 10_000;

/// Images kept of a profile, oldest let go first. Ours: every link makes one.
pub(crate) const IMAGES_KEPT: usize = 256;

/// Bytes of all images kept of a profile, oldest let go first, but the last one stays. Ours: 256 of most profiles; one with
/// many links may have a megabyte ([`limits::LINKED_PROFILE_BYTES`]), and of that there are 16.
pub(crate) const IMAGE_BYTES_KEPT: usize = 16 * limits::LINKED_PROFILE_BYTES;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// To a profile, or to an address. [`Touch::Erased`] and [`Touch::Forgotten`] are never stored: what they say is done by
    /// the checkpoint that would store them.
    Touched(Touch),
    /// Days that profiles of the client live from then on; noted for the client, at an empty address.
    Settings(u16),
}

/// One event that touched a profile or an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The frame's.
    pub(crate) position: Position,
    /// Which event of the frame, from 0.
    pub(crate) event: u32,
    /// Which of the changes that the event made, from 0; of rows in an index of version 1 the line.
    pub(crate) change: u32,
    /// The time it was folded at.
    pub(crate) at: LogTime,
    /// Where the frame is found again.
    pub(crate) hint: Hint,
    /// What it did.
    pub(crate) what: What,
}

impl Entry {
    /// By the order of the log.
    pub(crate) fn order(&self) -> (Position, u32, u32) {
        (self.position, self.event, self.change)
    }

    /// What happened to a profile or an address, if anything did.
    pub(crate) const fn touch(&self) -> Option<&Touch> {
        if let What::Touched(touch) = &self.what { Some(touch) } else { None }
    }

    /// How its event came, if it had a way to go.
    pub(crate) fn came(&self) -> Option<&Came> {
        match self.touch()? {
            Touch::Visit { came, .. } | Touch::Update { came } | Touch::Row { came, .. } => came.as_deref(),
            _ => None,
        }
    }

    /// Whether it cannot be made again from the log: an image follows it.
    pub(crate) fn is_whole(&self) -> bool {
        self.touch().is_some_and(Touch::is_whole)
    }

    /// It made the profile.
    pub(crate) const fn is_birth(&self) -> bool {
        matches!(self.what, What::Touched(Touch::Visit { created: true, .. }))
    }
}

/// A stretch of a partition that is not in the index: after `after`, up to `upto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Gap {
    pub(crate) after: u64,
    pub(crate) after_ms: u64,
    pub(crate) upto: u64,
    pub(crate) upto_ms: u64,
}

/// The last entry of a profile that was let go, because the log has trimmed it or there were too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Floor {
    pub(crate) position: Position,
    pub(crate) at: LogTime,
}

/// A profile as it was right after a position, to replay from: where its bytes are, which are fetched when they are needed
/// ([`store::image`]).
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) position: Position,
    pub(crate) at: LogTime,
    /// How many bytes; 0 when there was no profile.
    pub(crate) length: usize,
    /// Where they are as long as they are not in the index.
    pub(crate) noted: Option<Slice>,
}

/// Some bytes of a block that is shared.
#[derive(Clone, Debug)]
pub(crate) struct Slice {
    pub(crate) block: Arc<[u8]>,
    pub(crate) place: Range<usize>,
}

impl Slice {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.block[self.place.clone()]
    }
}
