//! What a snapshot is called in a store: partition, position and log, so that a list needs no look into files.
//!
//! ```text
//! 0003-00000000000000012345-0102030405060708090a0b0c0d0e0f10.snap
//! partition, position, log id (hexadecimal); numbers are padded so that names sort by partition and age
//! ```

use std::fmt;

use cameo_eventlog::{LogId, Partition, Position};

const SUFFIX: &str = ".snap";

/// Which snapshot. Sorts by partition, then age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Name {
    /// Of which partition.
    pub partition: Partition,
    /// Up to where its log is in it.
    pub position: Position,
    /// Of which log.
    pub log: LogId,
}

impl Name {
    /// By its text; `None` when it is no snapshot's.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.strip_suffix(SUFFIX)?.split('-');
        let (partition, position, log) = (parts.next()?, parts.next()?, parts.next()?);
        let name = Self {
            partition: Partition(partition.parse().ok()?),
            position: Position(position.parse().ok()?),
            log: LogId(u128::from_str_radix(log, 16).ok()?),
        };
        // Only one text for each: two would be two objects of one snapshot.
        (parts.next().is_none() && name.to_string() == text).then_some(name)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:020}-{}{SUFFIX}", self.partition.0, self.position.0, self.log)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_reads_back_and_no_other_text_does() {
        let name = Name { partition: Partition(3), position: Position(12_345), log: LogId(0x0102) };
        let text = "0003-00000000000000012345-00000000000000000000000000000102.snap";
        assert_eq!(name.to_string(), text);
        assert_eq!(Name::parse(text), Some(name));
        for other in ["", ".snap", "3-12345-102.snap", &text[1..], &text[..text.len() - 1], &format!("{text}.new")] {
            assert_eq!(Name::parse(other), None, "{other}");
        }
        let largest = Name { partition: Partition(1023), position: Position(u64::MAX), log: LogId(u128::MAX) };
        assert_eq!(Name::parse(&largest.to_string()), Some(largest));
    }
}
