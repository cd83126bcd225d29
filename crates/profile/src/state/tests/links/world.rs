//! Several partitions with the courier between them, and no log: where histories of links are played.

use super::*;
use crate::state::{Touch, Touched};

/// What a message between partitions may have: a frame of the log with a relay of this one alone holds it.
const FITS: usize = 999_900;

/// Several partitions with the courier between them, and no log.
#[derive(Debug)]
pub(super) struct World {
    pub(super) states: Vec<PartitionState>,
    pub(super) now: u64,
    pub(super) completed: Vec<Completed>,
    /// What addresses were told to forget.
    pub(super) forgotten: Vec<Touched>,
}

/// What a reader sees of a profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) home: String,
    pub(super) ids: Vec<String>,
    pub(super) attributes: BTreeMap<String, String>,
    pub(super) visits: (u64, u64),
    pub(super) affinities: Vec<String>,
    pub(super) parts: Vec<(String, bool, u64)>,
}

impl World {
    pub(super) fn new(count: u32) -> Self {
        let count = PartitionCount::new(count).unwrap();
        let states = count.iter().map(|partition| PartitionState::new(partition, count)).collect();
        Self { states, now: T, completed: Vec::new(), forgotten: Vec::new() }
    }

    fn count(&self) -> PartitionCount {
        PartitionCount::new(self.states.len() as u32).unwrap()
    }

    fn partition(&self, address: &str) -> usize {
        partition_in("demo", address, self.count()).index()
    }

    pub(super) fn apply(&mut self, partition: usize, event: &Event<'_>) -> Outcome {
        let mut bytes = Vec::new();
        let event = through_bytes(event, &mut bytes);
        let state = &mut self.states[partition];
        let outcome = state.apply(LogTime(self.now), &event);
        self.completed.extend(state.completed().iter().cloned());
        let forgotten = state.touched().iter().filter(|touched| matches!(touched.what, Touch::Forgotten { .. }));
        self.forgotten.extend(forgotten.cloned());
        outcome
    }

    /// Carries one message of a pair of partitions, and says so to the sender.
    pub(super) fn carry(&mut self, from: usize, to: u16) {
        let heard = self.states[usize::from(to)].heard(from as u16);
        let (first, mut messages) = self.states[from].messages_after(to, heard);
        let message = messages.next().map(<[u8]>::to_vec);
        drop(messages);
        if let Some(message) = &message {
            assert!(message.len() <= FITS, "a message of {} bytes", message.len());
            let relay = Relay { from: from as u16, first, messages: vec![MessageBytes(message)] };
            self.apply(usize::from(to), &Event::Relay(relay));
        }
        let heard = self.states[usize::from(to)].heard(from as u16);
        self.apply(from, &Event::Delivered(Delivered { to, upto: heard }));
    }

    pub(super) fn pairs(&self) -> Vec<(usize, u16)> {
        let pairs = self
            .states
            .iter()
            .enumerate()
            .flat_map(|(from, state)| state.destinations().map(move |(to, _)| (from, to)).collect::<Vec<_>>());
        pairs.collect()
    }

    pub(super) fn settle(&mut self) {
        for _ in 0..100_000 {
            let Some(&(from, to)) = self.pairs().first() else { return };
            self.carry(from, to);
        }
        panic!("messages without end");
    }

    pub(super) fn visit(
        &mut self,
        ids: &[&str],
        set: &[(&str, &str)],
        event_id: Option<&str>,
        categories: &[&str],
    ) -> Outcome {
        let mut ids = ids.to_vec();
        ids.sort_by_key(|id| Address::from_canonical(id).height());
        let visit = Visit {
            client: "demo",
            home: ids[0],
            other_ids: ids[1..].to_vec(),
            event_id,
            session_id: Some("s"),
            profile: set.to_vec(),
            categories: categories.to_vec(),
            route: Route::Enter,
            ..Visit::default()
        };
        let partition = self.partition(ids[0]);
        self.apply(partition, &Event::Visit(visit))
    }

    pub(super) fn update(&mut self, address: &str, set: &[(&str, &str)], unset: &[&str]) -> Outcome {
        let update = Update {
            client: "demo",
            address,
            set: set.to_vec(),
            unset: unset.to_vec(),
            route: Route::Enter,
            ..Update::default()
        };
        self.apply(self.partition(address), &Event::Update(update))
    }

    pub(super) fn erase(&mut self, address: &str) -> Outcome {
        self.apply(self.partition(address), &Event::Erase(Erase { client: "demo", address, by: None }))
    }

    pub(super) fn unlink(&mut self, address: &str) -> Outcome {
        let partition = self.partition(address);
        let epoch = self.epoch(address);
        self.apply(partition, &Event::Unlink(Unlink { client: "demo", address, epoch, by: None }))
    }

    /// The epoch of the alias of an address.
    pub(super) fn epoch(&self, address: &str) -> u64 {
        match self.states[self.partition(address)].lead("demo", Address::from_canonical(address), None) {
            Lead::Alias { epoch, .. } => epoch,
            Lead::Home | Lead::Returning | Lead::Ended => 0,
        }
    }

    /// By which links an address was told to forget what it had brought; nothing when it was told nothing.
    pub(super) fn told_to_forget(&self, address: &str) -> Option<Vec<u64>> {
        let of_it = self.forgotten.iter().filter(|touched| &*touched.address == address);
        of_it.fold(None, |all, touched| match &touched.what {
            Touch::Forgotten { brought, .. } => Some([all.unwrap_or_default(), brought.clone()].concat()),
            _ => all,
        })
    }

    /// Carries all that is under way, of all pairs in an order of its own for each turn.
    pub(super) fn settle_in_turn(&mut self, turn: usize) {
        for step in 0.. {
            let pairs = self.pairs();
            let Some(&(from, to)) = pairs.get((turn * 7 + step * (turn % 5 + 1)) % pairs.len().max(1)) else { return };
            self.carry(from, to);
        }
    }

    pub(super) fn read(&self, address: &str) -> Option<Seen> {
        let (mut at, mut by) = (address.to_owned(), None::<(String, u64)>);
        loop {
            let state = &self.states[self.partition(&at)];
            let from = by.as_ref().map(|(by, epoch)| (Address::from_canonical(by), *epoch));
            match state.lead("demo", Address::from_canonical(&at), from) {
                Lead::Alias { to, epoch } => by = Some((std::mem::replace(&mut at, to.into()), epoch)),
                Lead::Returning | Lead::Ended => return None,
                Lead::Home => {
                    let (home, now) = (Address::from_canonical(&at), LogTime(self.now));
                    let profile = match &by {
                        Some((below, epoch)) => {
                            state.profile_by("demo", home, Address::from_canonical(below), Some(*epoch), now)
                        }
                        None => state.profile("demo", home, now),
                    };
                    return profile.map(|profile| seen(&profile));
                }
            }
        }
    }

    /// Each partition goes through a checkpoint.
    pub(super) fn restarted(&mut self) {
        for state in &mut self.states {
            let mut fresh = PartitionState::new(state.me, state.count);
            for (key, value) in state.all_pairs() {
                fresh.restore(&key, &value).unwrap();
            }
            assert_eq!(fresh.digest(LogTime(self.now)), state.digest(LogTime(self.now)));
            *state = fresh;
        }
    }
}

fn seen(profile: &ProfileRef<'_>) -> Seen {
    let mut ids: Vec<_> = profile.ids().skip(1).map(|id| id.as_str().to_owned()).collect();
    ids.sort();
    let stats = profile.visits();
    let mut parts: Vec<_> = profile
        .contributions()
        .iter()
        .map(|part| (part.address.as_str().to_owned(), part.left, part.visits.map_or(0, |visits| visits.visit_count)))
        .collect();
    parts.sort();
    Seen {
        home: profile.home().as_str().to_owned(),
        ids,
        attributes: profile.attributes().map(|a| (a.name.to_owned(), a.value.to_owned())).collect(),
        visits: stats.map_or((0, 0), |stats| (stats.visit_count, stats.session_count)),
        affinities: profile.affinities().iter().map(|(name, points)| format!("{name} {points}")).collect(),
        parts,
    }
}
