//! Reading a profile: everything a reply shows, as of one moment, borrowed from the partition.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::affinity::{Entry, POINT};
use crate::client::Client;
use crate::ids::Address;
use crate::names::Names;
use crate::packed::{Attribute, Draft, Head};
use crate::session::Visits;
use crate::time::{DAY_MS, LogTime};

/// A profile that exists at `now`.
#[derive(Clone, Debug)]
pub struct ProfileRef<'a> {
    names: &'a Names,
    address: Address<'a>,
    draft: Draft<'a>,
    ends_at: u64,
    now: u64,
}

/// One attribute that a caller or a visit has set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttributeRef<'a> {
    /// Bare name.
    pub name: &'a str,
    /// Value, always text.
    pub value: &'a str,
    /// Event time of the value, ms since 1970.
    pub modified_at: u64,
}

/// What one address brought to a profile and did in it.
#[derive(Clone, Debug)]
pub struct Contribution<'a> {
    /// Whose it is; of the first one it is the home.
    pub address: Address<'a>,
    /// The address through which it is linked, if not to the home itself.
    pub under: Option<Address<'a>>,
    /// It follows another profile by now; what it did stays.
    pub left: bool,
    /// Since when it is here, log time in ms since 1970.
    pub since: u64,
    /// Its last activity here, log time in ms since 1970.
    pub active_at: u64,
    /// Its visits, if it had any here.
    pub visits: Option<VisitStats>,
    /// Categories of its visits and their points as of now, best first.
    pub affinities: Vec<(&'a str, f64)>,
    /// The attributes that it set, in the order they were first set.
    pub attributes: Vec<Contributed<'a>>,
}

/// An attribute that one address set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contributed<'a> {
    /// The value as it was set.
    pub attribute: AttributeRef<'a>,
    /// The profile shows another one's value of this name, or that it was removed.
    pub shadowed: bool,
}

fn address_of(bytes: &[u8]) -> Address<'_> {
    Address::from_canonical(std::str::from_utf8(bytes).unwrap_or_default())
}

fn stats(visits: &Visits) -> VisitStats {
    VisitStats {
        visit_count: visits.visit_count,
        session_count: visits.session_count,
        first_session_start: visits.first_session_start,
        last_visit: visits.last_visit,
        session_visits: visits.session_visits,
    }
}

/// Counters and times of a profile's visits. Times are event times in ms since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VisitStats {
    /// Visits counted.
    pub visit_count: u64,
    /// Sessions counted.
    pub session_count: u64,
    /// The earliest visit.
    pub first_session_start: u64,
    /// The latest visit.
    pub last_visit: u64,
    /// Visits in the current (latest) session.
    pub session_visits: u64,
}

impl<'a> ProfileRef<'a> {
    pub(crate) fn new(names: &'a Names, client: &Client, head: &Head<'a>, now: LogTime) -> Self {
        Self {
            names,
            address: Address::from_canonical(std::str::from_utf8(head.address).unwrap_or_default()),
            draft: head.draft(),
            ends_at: client.ends_at(head.active_at),
            now: now.0,
        }
    }

    /// The address it lives at.
    #[must_use]
    pub const fn home(&self) -> Address<'a> {
        self.address
    }

    /// All addresses that lead to it, home first.
    pub fn ids(&self) -> impl Iterator<Item = Address<'a>> + '_ {
        let parts = self.draft.parts.iter().zip(self.draft.here()).skip(1);
        let linked = parts.filter(|(_, is_here)| *is_here).map(|(part, _)| part.address);
        let remembered = self.draft.ids.iter().copied().filter(|id| self.draft.parts.iter().all(|p| p.address != *id));
        std::iter::once(self.address).chain(linked.chain(remembered).map(address_of))
    }

    /// All addresses that were linked to it, those that have left among them.
    pub fn linked(&self) -> impl Iterator<Item = Address<'a>> + '_ {
        self.draft.parts.iter().skip(1).map(|part| address_of(part.address))
    }

    /// What each address brought and did, the home's own part first. Where nothing was ever linked, that is all of it.
    #[must_use]
    pub fn contributions(&self) -> Vec<Contribution<'_>> {
        let draft = &self.draft;
        let hidden = draft.hidden();
        // One pass for all parts: a person may have a thousand of them, and the partition is locked meanwhile.
        let mut brought: Vec<(bool, Vec<_>)> = vec![Default::default(); draft.parts.len().max(1)];
        // An address may have brought a value and set another one afterwards: the one that ranks higher is its own.
        let mut best: BTreeMap<_, &Attribute<'_>> = BTreeMap::new();
        for attribute in &draft.attributes {
            let held = best.entry((attribute.part, attribute.name)).or_insert(attribute);
            if held.rank() < attribute.rank() {
                *held = attribute;
            }
        }
        for (at, attribute) in draft.attributes.iter().enumerate() {
            let Some((did, brought)) = brought.get_mut(attribute.part as usize) else { continue };
            *did = true;
            if best.get(&(attribute.part, attribute.name)).is_some_and(|best| best.rank() != attribute.rank()) {
                continue;
            }
            let shadowed = hidden.get(at).copied().unwrap_or_default();
            brought.extend(self.attribute(attribute).map(|attribute| Contributed { attribute, shadowed }));
        }
        if draft.parts.is_empty() {
            let whole = Contribution {
                address: self.address,
                under: None,
                left: false,
                since: draft.created_at,
                active_at: draft.active_at,
                visits: self.visits(),
                affinities: self.affinities(),
                attributes: brought.pop().unwrap_or_default().1,
            };
            return vec![whole];
        }
        let each = draft.parts.iter().zip(draft.here()).zip(brought).enumerate();
        let each = each.filter_map(|(index, ((part, here), (did, attributes)))| {
            // One that left without having done anything is kept for its epoch alone.
            (index == 0 || part.visits.is_some() || here || did).then(|| Contribution {
                address: if index == 0 { self.address } else { address_of(part.address) },
                under: (!part.under.is_empty()).then(|| address_of(part.under)),
                left: !here,
                since: part.created_at,
                active_at: part.active_at,
                visits: part.visits.as_ref().map(stats),
                affinities: self.points(part.visits.as_ref(), &part.categories),
                attributes,
            })
        });
        each.collect()
    }

    /// Log time of its creation, ms since 1970.
    #[must_use]
    pub const fn created_at(&self) -> u64 {
        self.draft.created_at
    }

    /// Log time of the last change, ms since 1970.
    #[must_use]
    pub const fn modified_at(&self) -> u64 {
        self.draft.modified_at
    }

    /// When it ends unless something happens before, ms since 1970.
    #[must_use]
    pub const fn expires_at(&self) -> u64 {
        self.ends_at
    }

    /// What callers and visits have set, in the order it was first set.
    pub fn attributes(&self) -> impl Iterator<Item = AttributeRef<'_>> {
        self.draft.shown().filter_map(|attribute| self.attribute(attribute))
    }

    fn attribute(&self, attribute: &Attribute<'a>) -> Option<AttributeRef<'_>> {
        Some(AttributeRef {
            name: self.names.text(attribute.name),
            value: std::str::from_utf8(attribute.value?).unwrap_or_default(),
            modified_at: attribute.time,
        })
    }

    /// Categories and their points as of now, best first (TARGET_API §6).
    #[must_use]
    pub fn affinities(&self) -> Vec<(&str, f64)> {
        self.points(self.draft.visits.as_ref(), &self.draft.categories)
    }

    fn points(&self, visits: Option<&Visits>, categories: &[Entry<'a>]) -> Vec<(&str, f64)> {
        let over = visits.is_some_and(|visits| visits.is_over(self.now));
        let scale = f64::from(POINT) * if over { 2.0 } else { 1.0 };
        let mut entries = categories.to_vec();
        entries.sort_by_key(|&(_, points)| std::cmp::Reverse(points));
        entries.iter().map(|&(name, points)| (self.names.text(name), f64::from(points) / scale)).collect()
    }

    /// Counters, if it was ever visited.
    #[must_use]
    pub fn visits(&self) -> Option<VisitStats> {
        self.draft.visits.as_ref().map(stats)
    }

    /// The attributes that nobody sets (TARGET_API §6), each with its text and the time it last changed. A profile
    /// that was never visited has none.
    ///
    /// `averageDaysBetweenVisits` is the time from the first visit to the last over the gaps between visits, in days
    /// with up to two decimals, `0` for one visit; `daysSinceLastVisit` counts whole days up to now.
    pub fn system_attributes(&self, mut each: impl FnMut(&'static str, &str, u64)) {
        let Some(stats) = self.visits() else { return };
        let (first, last) = (stats.first_session_start, stats.last_visit);
        let mut text = String::with_capacity(64);
        let mut number = |name, value: u64, at| {
            text.clear();
            let _ = write!(text, "{value}");
            each(name, &text, at);
        };
        number("firstSessionStart", first, first);
        number("lastVisit", last, last);
        number("visitCount", stats.visit_count, last);
        number("sessionCount", stats.session_count, last);
        number("daysSinceLastVisit", self.now.saturating_sub(last) / DAY_MS, last);
        let gaps = stats.visit_count.saturating_sub(1).max(1) as f64;
        each("averageDaysBetweenVisits", &decimal((last - first) as f64 / gaps / DAY_MS as f64), last);
        let is = |yes| if yes { "true" } else { "false" };
        each("isFirstSession", is(stats.session_count == 1), last);
        each("isNewSession", is(stats.session_visits == 1), last);
        if self.draft.categories.is_empty() {
            return;
        }
        let affinities = self.affinities();
        text.clear();
        for (i, (category, _)) in affinities.iter().enumerate() {
            if i > 0 {
                text.push(',');
            }
            text.push_str(category);
        }
        each("user.categoryAffinities", &text, last);
        each("user.categoryAffinity", affinities.first().map_or("", |(category, _)| category), last);
    }
}

/// Up to two decimals, none that say nothing.
fn decimal(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::decimal;

    #[test]
    fn decimals() {
        for (value, text) in [(0.0, "0"), (10.0, "10"), (2.5, "2.5"), (0.333_333, "0.33"), (100.0, "100")] {
            assert_eq!(decimal(value), text);
        }
    }
}
