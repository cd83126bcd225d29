//! What was touched since the last checkpoint, in memory: written by the applier for every event, so it is a few bytes
//! appended to a buffer and nothing else.

use std::sync::Arc;

use cameo_eventlog::{Hint, StoredFrame};
use cameo_profile::state::Touched;
use cameo_profile::varint::{self, Reader};
use cameo_profile::{LogTime, Position};

use super::chunk::{put_days, put_touch, take_what};
use super::{Entry, Gap, Image, Slice};

/// Bytes after which the open block is closed, so that a reader copies no more.
const BLOCK_BYTES: usize = 64 << 10;
/// Bytes of a partition that wait for a checkpoint at most. Ours: a hundred thousand events. Past it they are not noted, and
/// the [`Gap`] is told.
pub(crate) const PENDING_BYTES: usize = 8 << 20;
/// Gaps remembered of a partition; past it the two oldest become one.
const GAPS: usize = 16;

/// What a note is of.
const ENTRY: u8 = 1;
const IMAGE: u8 = 2;

/// Where a frame stands, for its events.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    position: Position,
    at: LogTime,
    hint: Hint,
}

impl Place {
    /// Of a frame that is folded at this time.
    pub(crate) const fn of(frame: &StoredFrame, at: LogTime) -> Self {
        Self { position: frame.position, at, hint: frame.hint }
    }
}

/// Notes of one partition.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    closed: Vec<Arc<[u8]>>,
    open: Vec<u8>,
    /// Reused for what a note says.
    scratch: Vec<u8>,
    closed_bytes: usize,
    /// Whether the last note was dropped.
    dropping: bool,
    /// Stretches that are not in the index, oldest first. Never forgotten, also when the log has let them go: what began in
    /// one cannot be replayed from its beginning.
    gaps: Vec<Gap>,
}

/// What a checkpoint takes along.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    pub(crate) blocks: Vec<Arc<[u8]>>,
    pub(crate) gaps: Vec<Gap>,
}

/// One note as it is read back.
pub(crate) struct Note<'a> {
    pub(crate) client: &'a str,
    pub(crate) address: &'a str,
    said: &'a [u8],
    block: &'a Arc<[u8]>,
    /// Where what it says ends in its block.
    end: usize,
}

/// What a note says.
pub(crate) enum Noted {
    Entry(Entry),
    Image(Image),
}

impl Pending {
    /// With what is known to be missing.
    pub(crate) fn with_gaps(gaps: Vec<Gap>) -> Self {
        Self { gaps, ..Self::default() }
    }

    /// Notes a change that an event made.
    pub(crate) fn push(&mut self, place: &Place, event: u32, change: u32, touched: &Touched) {
        self.note(place, &touched.client, &touched.address, |out| {
            out.push(ENTRY);
            place.put(out);
            varint::put(out, u64::from(event));
            varint::put(out, u64::from(change));
            put_touch(out, &touched.what);
        });
    }

    /// Notes for how many days profiles of a client live from an event on.
    pub(crate) fn push_settings(&mut self, place: &Place, event: u32, client: &str, days: u16) {
        self.note(place, client, "", |out| {
            out.push(ENTRY);
            place.put(out);
            varint::put(out, u64::from(event));
            varint::put(out, 0);
            put_days(out, days);
        });
    }

    /// Notes how a profile was right after a frame; no bytes when there was none.
    pub(crate) fn push_image(&mut self, place: &Place, client: &str, address: &str, bytes: &[u8]) {
        self.note(place, client, address, |out| {
            out.push(IMAGE);
            place.put(out);
            varint::put_bytes(out, bytes);
        });
    }

    fn note(&mut self, place: &Place, client: &str, address: &str, say: impl FnOnce(&mut Vec<u8>)) {
        if self.bytes() >= PENDING_BYTES {
            self.drop_note(place);
            return;
        }
        self.scratch.clear();
        say(&mut self.scratch);
        let out = &mut self.open;
        varint::put_bytes(out, client.as_bytes());
        varint::put_bytes(out, address.as_bytes());
        varint::put_bytes(out, &self.scratch);
        self.dropping = false;
        if self.open.len() >= BLOCK_BYTES {
            self.close();
        }
    }

    fn drop_note(&mut self, place: &Place) {
        let (before, at) = (place.position.0.saturating_sub(1), place.at.0);
        let goes_on = self.dropping.then(|| self.gaps.last_mut()).flatten();
        match goes_on {
            Some(gap) => (gap.upto, gap.upto_ms) = (place.position.0, at),
            None => {
                self.dropping = true;
                self.add_gap(Gap { after: before, after_ms: at, upto: place.position.0, upto_ms: at });
            }
        }
    }

    fn add_gap(&mut self, gap: Gap) {
        self.gaps.push(gap);
        if self.gaps.len() > GAPS {
            let second = self.gaps.remove(1);
            (self.gaps[0].upto, self.gaps[0].upto_ms) = (second.upto, second.upto_ms);
        }
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.closed_bytes += self.open.len();
            self.closed.push(self.open.as_slice().into());
            self.open.clear();
        }
    }

    /// Bytes that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.closed_bytes + self.open.len()
    }

    /// A copy for a reader; blocks that are closed are shared.
    pub(crate) fn copy(&self) -> Notes {
        let mut blocks = self.closed.clone();
        if !self.open.is_empty() {
            blocks.push(self.open.as_slice().into());
        }
        Notes { blocks, gaps: self.gaps.clone() }
    }

    /// For a checkpoint. They stay here, for readers, until [`Self::written`].
    pub(crate) fn take(&mut self) -> Notes {
        self.close();
        Notes { blocks: self.closed.clone(), gaps: self.gaps.clone() }
    }

    /// The first so many blocks are in a checkpoint that is durable, and its gaps with it.
    pub(crate) fn written(&mut self, blocks: usize) {
        for block in self.closed.drain(..blocks.min(self.closed.len())) {
            self.closed_bytes -= block.len();
        }
    }
}

impl Notes {
    /// All notes, in the order of the log.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Note<'_>> {
        self.blocks.iter().flat_map(|block| {
            let mut from = Reader::new(block);
            std::iter::from_fn(move || (!from.is_empty()).then(|| read(block, &mut from)))
        })
    }
}

fn read<'a>(block: &'a Arc<[u8]>, from: &mut Reader<'a>) -> Note<'a> {
    let (client, address, said) = (from.text(), from.text(), from.bytes());
    Note { client, address, said, block, end: block.len() - from.rest().len() }
}

impl Place {
    fn put(&self, out: &mut Vec<u8>) {
        varint::put(out, self.position.0);
        varint::put(out, self.at.0);
        varint::put(out, self.hint.0);
    }
}

impl Note<'_> {
    /// What it says. These bytes never left memory, so nothing is not to be expected.
    pub(crate) fn noted(&self) -> Option<Noted> {
        let mut from = Reader::new(self.said);
        let kind = from.byte();
        let (position, at, hint) = (Position(from.varint()), LogTime(from.varint()), Hint(from.varint()));
        if kind == IMAGE {
            let length = from.bytes().len();
            let end = self.end - from.rest().len();
            let noted = Slice { block: Arc::clone(self.block), place: end - length..end };
            return Some(Noted::Image(Image { position, at, length, noted: Some(noted) }));
        }
        let (event, change) = (from.varint() as u32, from.varint() as u32);
        let what = take_what(&mut from)?;
        Some(Noted::Entry(Entry { position, event, change, at, hint, what }))
    }
}
