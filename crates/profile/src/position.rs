//! Coordinates in the log: partitions and positions. What is stored there is not this file's business.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One of the P ordered sub-logs. Every address belongs to exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Partition(pub u16);

impl Partition {
    /// As an index into a table of partitions.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// P: how many partitions a log has. Fixed when the log is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionCount(u16);

/// P was not 1 to 1,024.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a log has 1 to {max} partitions, not {0}", max = PartitionCount::MAX)]
pub struct BadPartitionCount(pub u32);

impl PartitionCount {
    /// The most partitions a log can have (design, "The idea").
    pub const MAX: u16 = 1024;
    /// What a log has unless it was created with another number (design, "The idea").
    pub const DEFAULT: Self = Self(16);

    /// A single one.
    pub const ONE: Self = Self(1);

    /// Checks the range.
    ///
    /// # Errors
    /// When `count` is not 1 to [`Self::MAX`].
    pub fn new(count: u32) -> Result<Self, BadPartitionCount> {
        match u16::try_from(count) {
            Ok(n) if (1..=Self::MAX).contains(&n) => Ok(Self(n)),
            _ => Err(BadPartitionCount(count)),
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }

    /// Every partition, in order.
    pub fn iter(self) -> impl ExactSizeIterator<Item = Partition> + Clone {
        (0..self.0).map(Partition)
    }
}

/// A place in one partition of the log: rising, the first is 1. Zero means "before the first".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

impl Position {
    /// Before the first frame.
    pub const START: Self = Self(0);

    /// The place after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
