//! Which snapshots are needed, and from where on the log is. A pure decision over a list.

use cameo_eventlog::{LogId, PartitionCount, Position};

use crate::store::Listed;

/// Snapshots of a partition that are kept: should the newest one turn out to be damaged, there is one more.
pub const GENERATIONS: usize = 2;

/// What a list of snapshots comes to, for one log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Per partition, newest first: what a partition can be loaded from.
    pub of: Vec<Vec<Listed>>,
}

impl Plan {
    /// Sorts what is listed. Snapshots of other logs do not count.
    #[must_use]
    pub fn new(log: LogId, partitions: PartitionCount, listed: Vec<Listed>) -> Self {
        let mut of = vec![Vec::new(); usize::from(partitions.get())];
        for one in listed.into_iter().filter(|one| one.name.log == log) {
            if let Some(of_it) = of.get_mut(one.name.partition.index()) {
                of_it.push(one);
            }
        }
        of.iter_mut().for_each(|of_it| of_it.sort_unstable_by_key(|one| std::cmp::Reverse(one.name.position)));
        Self { of }
    }

    /// With those alone of which this holds.
    #[must_use]
    pub fn only(mut self, holds: impl Fn(&Listed) -> bool) -> Self {
        self.of.iter_mut().for_each(|of_it| of_it.retain(&holds));
        self
    }

    /// Those that are not needed any more.
    pub fn outdated(&self) -> impl Iterator<Item = &Listed> {
        self.outdated_by(self)
    }

    /// Those that are not needed any more beside those of another plan, which is known to hold nothing but sound ones.
    pub fn outdated_by<'a>(&'a self, sound: &'a Self) -> impl Iterator<Item = &'a Listed> {
        let all = self.of.iter().zip(sound.floors());
        all.flat_map(|(of_it, floor)| {
            of_it.iter().filter(move |one| floor.is_some_and(|floor| one.name.position < floor))
        })
    }

    /// Per partition the position up to which the log is not needed; `None` while there are too few snapshots.
    pub fn floors(&self) -> impl Iterator<Item = Option<Position>> {
        self.of.iter().map(|of_it| of_it.get(GENERATIONS - 1).map(|one| one.name.position))
    }
}

#[cfg(test)]
mod tests {
    use cameo_eventlog::Partition;

    use super::*;
    use crate::Name;

    fn listed(log: u128, partition: u16, position: u64) -> Listed {
        let name = Name { partition: Partition(partition), position: Position(position), log: LogId(log) };
        Listed { name, at_ms: 1, bytes: 1 }
    }

    #[test]
    fn two_generations_are_kept_and_the_log_after_the_older_one() {
        let all = vec![
            listed(1, 0, 10),
            listed(1, 0, 30),
            listed(1, 0, 20),
            listed(1, 1, 7),
            listed(2, 1, 9),
            listed(2, 1, 8),
            listed(1, 5, 1),
        ];
        let plan = Plan::new(LogId(1), PartitionCount::new(3).unwrap(), all);
        assert_eq!(plan.outdated().collect::<Vec<_>>(), [&listed(1, 0, 10)]);
        assert_eq!(plan.floors().collect::<Vec<_>>(), [Some(Position(20)), None, None]);
        assert_eq!(plan.of[0][0], listed(1, 0, 30), "the newest first");
        assert_eq!(plan.of[1], [listed(1, 1, 7)], "of its own log alone");
    }

    #[test]
    fn what_is_not_sound_makes_nothing_outdated() {
        let all = [10, 20, 30, 40, 900, 901].map(|position| listed(1, 0, position));
        let plan = Plan::new(LogId(1), PartitionCount::new(1).unwrap(), all.to_vec());
        let sound = |upto: u64| plan.clone().only(|one| one.name.position <= Position(upto));
        assert_eq!(plan.outdated_by(&sound(30)).collect::<Vec<_>>(), [&listed(1, 0, 10)]);
        assert_eq!(sound(30).floors().collect::<Vec<_>>(), [Some(Position(20))]);
        assert_eq!(plan.outdated_by(&sound(10)).count(), 0, "one is too few");
        assert_eq!(sound(10).floors().collect::<Vec<_>>(), [None]);
    }
}
