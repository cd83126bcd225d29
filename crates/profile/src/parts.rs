//! What each linked address brought to a profile and did in it, kept apart so that a link can be undone.
//!
//! The first part is the home's own (an empty address); every other one belongs to an address that is, or was, linked to
//! it. Visits and categories stand in the profile for the whole and in each part for its own; attributes stand in one
//! list and name their part ([`crate::packed`]).
//!
//! ```text
//! part      address (length, text) · under (length, text) · epoch (varint) · flags u8 (0 left · 1 has visits · 2 has
//!           brought) · created_at, active_at (signed varints, relative to the profile's creation) · [visits, categories]
//!           [brought: count, epochs (varints)]; left out where that is the epoch alone
//! ```

use crate::affinity::{self, Entry};
use crate::limits::KEPT_CATEGORIES;
use crate::packed::{put_visits, read_visits};
use crate::session::Visits;
use crate::varint::{self, Reader};

const LEFT: u8 = 1;
const HAS_VISITS: u8 = 2;
const HAS_BROUGHT: u8 = 4;
/// Links of one address that are remembered to have brought something, the oldest forgotten first. Ours: nobody begins
/// anew so often before a profile ends.
const BROUGHT_KEPT: usize = 64;

/// One address's part of a profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part<'a> {
    /// Canonical text; empty for the home's own.
    pub(crate) address: &'a [u8],
    /// The linked address through which it is linked; empty when it is linked to the home itself.
    pub(crate) under: &'a [u8],
    /// Epoch of the alias that leads here.
    pub(crate) epoch: u64,
    /// Epochs of the aliases by which it brought a profile of its own: what it did before those links is of this profile.
    pub(crate) brought: Vec<u64>,
    /// The address itself follows another profile by now (see also [`crate::packed::Draft::is_here`]); what it did here stays.
    pub(crate) left: bool,
    pub(crate) created_at: u64,
    pub(crate) active_at: u64,
    pub(crate) visits: Option<Visits>,
    pub(crate) categories: Vec<Entry<'a>>,
}

impl<'a> Part<'a> {
    /// A part that begins at `now`.
    pub(crate) const fn new(address: &'a [u8], under: &'a [u8], epoch: u64, now: u64) -> Self {
        Self {
            address,
            under,
            epoch,
            brought: Vec::new(),
            left: false,
            created_at: now,
            active_at: now,
            visits: None,
            categories: Vec::new(),
        }
    }

    pub(crate) fn read(profile_created_at: u64, from: &mut Reader<'a>) -> Self {
        let (address, under, epoch) = (from.bytes(), from.bytes(), from.varint());
        let flags = from.byte();
        let created_at = profile_created_at.wrapping_add(from.signed() as u64);
        let active_at = profile_created_at.wrapping_add(from.signed() as u64);
        let (mut visits, mut categories) = (None, Vec::new());
        if flags & HAS_VISITS != 0 {
            (visits, categories) = read_visits(profile_created_at, from);
        }
        let mut brought = Vec::new();
        if flags & HAS_BROUGHT != 0 {
            for _ in 0..from.varint() {
                if from.is_bad() {
                    break;
                }
                brought.push(from.varint());
            }
        } else if !address.is_empty() {
            brought.push(epoch);
        }
        Self { address, under, epoch, brought, left: flags & LEFT != 0, created_at, active_at, visits, categories }
    }

    pub(crate) fn put(&self, profile_created_at: u64, out: &mut Vec<u8>) {
        varint::put_bytes(out, self.address);
        varint::put_bytes(out, self.under);
        varint::put(out, self.epoch);
        let has_visits = if self.visits.is_some() { HAS_VISITS } else { 0 };
        let has_brought = if self.address.is_empty() || self.brought == [self.epoch] { 0 } else { HAS_BROUGHT };
        out.push(u8::from(self.left) | has_visits | has_brought);
        varint::put_signed(out, self.created_at.wrapping_sub(profile_created_at) as i64);
        varint::put_signed(out, self.active_at.wrapping_sub(profile_created_at) as i64);
        if let Some(visits) = &self.visits {
            put_visits(out, profile_created_at, visits, &self.categories);
        }
        if has_brought != 0 {
            varint::put(out, self.brought.len() as u64);
            self.brought.iter().for_each(|epoch| varint::put(out, *epoch));
        }
    }

    /// Remembers that something was brought by the alias of an epoch.
    pub(crate) fn bring(&mut self, epoch: u64) {
        if !self.brought.contains(&epoch) {
            self.brought.push(epoch);
            self.brought.drain(..self.brought.len().saturating_sub(BROUGHT_KEPT));
        }
    }

    /// Takes the visits of another one in.
    pub(crate) fn add_visits(&mut self, visits: Option<Visits>, categories: Vec<Entry<'a>>) {
        add_visits(&mut self.visits, &mut self.categories, visits, categories);
    }
}

/// Makes one of two pasts of one visitor: counts add up, the later session is the current one, points of a category add up.
///
/// The session that ended first has its points halved, as the other one began after it.
pub(crate) fn add_visits<'a>(
    visits: &mut Option<Visits>,
    categories: &mut Vec<Entry<'a>>,
    other: Option<Visits>,
    mut others: Vec<Entry<'a>>,
) {
    let Some(other) = other else { return };
    let Some(own) = visits else {
        (*visits, *categories) = (Some(other), others);
        return;
    };
    if own.session_last() < other.session_last() {
        if own.is_over(other.session_last()) {
            affinity::halve(categories);
        }
    } else if other.is_over(own.session_last()) {
        affinity::halve(&mut others);
    }
    *own = own.joined(&other);
    for (name, points) in others {
        match categories.iter_mut().find(|(held, _)| *held == name) {
            Some((_, held)) => *held = held.saturating_add(points),
            None => categories.push((name, points)),
        }
    }
    while categories.len() > KEPT_CATEGORIES {
        let lowest = categories.iter().map(|(_, points)| *points).min();
        let Some(at) = categories.iter().rposition(|(_, points)| Some(*points) == lowest) else { return };
        categories.remove(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::affinity::POINT;
    use crate::names::Name;
    use crate::time::MINUTE_MS as MIN;

    /// A part as it stands in checkpoints from before it was remembered by which links something came: by the one there is.
    #[test]
    fn a_part_without_what_was_brought_is_read_and_written_so_where_that_is_the_usual_thing() {
        let mut part = Part::new(b"tnt:d", b"", 7, 100);
        part.bring(7);
        let mut bytes = Vec::new();
        part.put(100, &mut bytes);
        assert_eq!(bytes, b"\x05tnt:d\x00\x07\x00\x00\x00");
        assert_eq!(Part::read(100, &mut Reader::new(&bytes)), part);
        (0..100).for_each(|epoch| part.bring(epoch));
        assert_eq!(part.brought, (36..100).collect::<Vec<_>>(), "the oldest are forgotten");
    }

    #[test]
    fn two_pasts_become_one() {
        let mut early = Visits::first(10 * MIN, Some("a"));
        early.visit(12 * MIN, Some("a"));
        let late = Visits::first(100 * MIN, Some("b"));
        for (first, second) in [(early, late), (late, early)] {
            let mut visits = Some(first);
            let mut categories = vec![(Name::Id(1), if first == early { 10 } else { 5 } * POINT)];
            let others =
                vec![(Name::Id(if first == early { 2 } else { 1 }), if first == early { 5 } else { 10 } * POINT)];
            if first == late {
                categories = vec![(Name::Id(2), 5 * POINT)];
            }
            add_visits(&mut visits, &mut categories, Some(second), others);
            let visits = visits.unwrap();
            assert_eq!((visits.visit_count, visits.session_count, visits.session_visits), (3, 2, 1));
            assert_eq!((visits.first_session_start, visits.last_visit), (10 * MIN, 100 * MIN));
            categories.sort_unstable();
            // The early session ended before the late one began.
            assert_eq!(categories, [(Name::Id(1), 5 * POINT), (Name::Id(2), 5 * POINT)]);
        }
    }
}
