//! Cuts pieces of any size into lines, each held in memory only as far as it is allowed to be long.

use super::Refused;
use crate::bounds;

/// A line without its end, or an element of an array.
#[derive(Clone, Copy, Debug)]
pub(super) enum Line<'a> {
    Whole(&'a [u8]),
    /// Longer than [`bounds::LINE_BYTES`]; its bytes are gone.
    TooLong,
}

/// The begin of something whose end has not come yet.
#[derive(Debug, Default)]
pub(super) struct Held {
    bytes: Vec<u8>,
    too_long: bool,
}

impl Held {
    pub(super) const fn is_empty(&self) -> bool {
        self.bytes.is_empty() && !self.too_long
    }

    pub(super) fn hold(&mut self, part: &[u8]) {
        // One more for a carriage return, which does not count.
        if self.bytes.len() + part.len() > bounds::LINE_BYTES + 1 {
            self.too_long = true;
            self.bytes.clear();
        }
        if !self.too_long {
            self.bytes.extend_from_slice(part);
        }
    }

    /// What is held with its last `part`, which needs no copy if nothing is held. Call [`Self::clear`] next.
    pub(super) fn ended_by<'a>(&'a mut self, part: &'a [u8]) -> Line<'a> {
        if self.is_empty() {
            return line(part);
        }
        self.hold(part);
        if self.too_long { Line::TooLong } else { line(&self.bytes) }
    }

    pub(super) fn clear(&mut self) {
        self.too_long = false;
        self.bytes.clear();
    }
}

fn line(bytes: &[u8]) -> Line<'_> {
    let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
    if bytes.len() > bounds::LINE_BYTES { Line::TooLong } else { Line::Whole(bytes) }
}

#[derive(Debug)]
pub(super) struct Lines {
    number: u32,
    held: Held,
}

impl Lines {
    /// The next byte belongs to line `number`.
    pub(super) fn starting_at(number: u32) -> Self {
        Self { number, held: Held::default() }
    }

    pub(super) fn feed(
        &mut self,
        piece: &[u8],
        take: &mut impl FnMut(u32, Line<'_>) -> Result<(), Refused>,
    ) -> Result<(), Refused> {
        let mut from = 0;
        for end in memchr::memchr_iter(b'\n', piece) {
            take(self.number, self.held.ended_by(&piece[from..end]))?;
            self.held.clear();
            self.number += 1;
            from = end + 1;
        }
        self.held.hold(&piece[from..]);
        Ok(())
    }

    pub(super) fn finish(
        &mut self,
        take: &mut impl FnMut(u32, Line<'_>) -> Result<(), Refused>,
    ) -> Result<(), Refused> {
        if self.held.is_empty() {
            return Ok(());
        }
        take(self.number, self.held.ended_by(b""))?;
        self.held.clear();
        Ok(())
    }
}
