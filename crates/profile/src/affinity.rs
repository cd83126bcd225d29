//! Category affinity: five categories at most, with points (TARGET_API §6).
//!
//! The very first category gets 10 points; every category viewed after it 5; a new one takes 1 from every other; a
//! sixth drops the lowest of the five; when a session ends all are halved. Points are kept in 1/1024, so halving is
//! exact for ten sessions and the order never depends on rounding before that. Among equals the one viewed last is
//! better. Points do not fall below zero.

use crate::limits::KEPT_CATEGORIES;
use crate::names::Name;

/// One point.
pub(crate) const POINT: u32 = 1024;

/// A category and its points in 1/1024.
pub(crate) type Entry<'a> = (Name<'a>, u32);

/// Counts a view of `category`. `entries` stand in the order of their last view, latest first.
pub(crate) fn view<'a>(entries: &mut Vec<Entry<'a>>, category: Name<'a>) {
    if entries.is_empty() {
        entries.push((category, 10 * POINT));
        return;
    }
    if let Some(at) = entries.iter().position(|(name, _)| *name == category) {
        let (name, points) = entries.remove(at);
        entries.insert(0, (name, points.saturating_add(5 * POINT)));
        return;
    }
    for (_, points) in entries.iter_mut() {
        *points = points.saturating_sub(POINT);
    }
    if entries.len() >= KEPT_CATEGORIES {
        let lowest = entries.iter().map(|(_, points)| *points).min();
        if let Some(at) = entries.iter().rposition(|(_, points)| Some(*points) == lowest) {
            entries.remove(at);
        }
    }
    entries.insert(0, (category, 5 * POINT));
}

/// A session has ended.
pub(crate) fn halve(entries: &mut [Entry<'_>]) {
    for (_, points) in entries {
        *points /= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Views categories (numbers), `0` ends the session; best first with points.
    fn run(views: &[u32]) -> Vec<(u32, f64)> {
        let mut entries = Vec::new();
        for &category in views {
            if category == 0 { halve(&mut entries) } else { view(&mut entries, Name::Id(category)) }
        }
        entries.sort_by_key(|(_, points)| std::cmp::Reverse(*points));
        entries
            .iter()
            .map(|(name, points)| {
                let Name::Id(id) = name else { panic!("interned") };
                (*id, f64::from(*points) / f64::from(POINT))
            })
            .collect()
    }

    #[test]
    fn truth_table() {
        let (mens, accessories, jewelry) = (1, 2, 3);
        for (what, views, expected) in [
            (
                "the documented example",
                &[mens, accessories, jewelry, accessories][..],
                &[(2, 9.0), (1, 8.0), (3, 5.0)][..],
            ),
            ("the first alone", &[1], &[(1, 10.0)]),
            ("the first again", &[1, 1], &[(1, 15.0)]),
            ("halved at the end of a session", &[1, 2, 0], &[(1, 4.5), (2, 2.5)]),
            ("a new one in a later session gets 5", &[1, 0, 2], &[(2, 5.0), (1, 4.0)]),
            ("a sixth drops the lowest", &[1, 2, 3, 4, 5, 6], &[(6, 5.0), (1, 5.0), (5, 4.0), (4, 3.0), (3, 2.0)]),
            ("equals: the latest first", &[1, 0, 2, 2, 1], &[(2, 10.0), (1, 9.0)]),
        ] {
            assert_eq!(run(views), expected, "{what}");
        }
    }
}
