//! Worlds that begin again from snapshots that were taken of each partition at another moment.

use super::*;
use crate::state::{Agreed, Moments};

type Snapshot = Vec<(Vec<u8>, Vec<u8>)>;

/// People, of whom each has addresses of its own: a read of one never shows anything of another.
const PEOPLE: [[&str; 4]; 3] = [
    ["tnt:a", "ecid:a", "cust:crm:a", "tp:a"],
    ["tnt:b", "ecid:b", "cust:crm:b", "tp:b"],
    ["tnt:c", "ecid:c", "cust:crm:c", "tp:c"],
];

fn snapshots(world: &World) -> Vec<Snapshot> {
    world.states.iter().map(PartitionState::all_pairs).collect()
}

/// A world of these snapshots, in which partitions agree on what was said.
fn restored(snapshots: &[Snapshot], now: u64) -> (World, Agreed) {
    let mut world = World::new(snapshots.len() as u32);
    world.now = now;
    let mut moments = Moments::new(PartitionCount::new(snapshots.len() as u32).unwrap());
    for (state, pairs) in world.states.iter().zip(snapshots) {
        for (key, value) in pairs {
            if !moments.note(state.me, key, value).unwrap() {
                break;
            }
        }
    }
    let agreed = moments.agree();
    for (state, pairs) in world.states.iter_mut().zip(snapshots) {
        let kept = pairs.iter().filter(|(key, value)| agreed.keeps(state.me, key, value)).cloned();
        let mut pairs: Snapshot = kept.chain(agreed.numbers(state.me)).collect();
        pairs.sort();
        for (key, value) in &pairs {
            state.restore(key, value).unwrap();
        }
    }
    (world, agreed)
}

/// Links work, in every direction, and each address reads what its own person did.
fn works(world: &mut World) {
    world.settle();
    for (person, ids) in PEOPLE.iter().enumerate() {
        for id in ids {
            let seen = world.read(id);
            let others = seen.iter().flat_map(|seen| seen.attributes.keys()).find(|name| !is_of(name, person));
            assert_eq!(others, None, "{id} shows what another person did");
        }
        for id in ids {
            world.now += 1000;
            let (name, value) = (format!("{person} alone"), format!("{id} {}", world.now));
            world.visit(&[id], &[(&name, &value)], None, &[]);
            world.settle();
            assert_eq!(one(world.read(id).as_ref(), &name), Some(value), "a visit by {id} alone");
        }
        // The lower ones to the person first, so that each alias is made, or found, by itself.
        for id in &ids[..3] {
            world.now += 1000;
            let (name, value) = (format!("{person} together"), format!("{id} {}", world.now));
            world.visit(&[id, ids[3]], &[(&name, &value)], None, &[]);
            world.settle();
            let seen = world.read(ids[3]);
            assert_eq!(world.read(id), seen, "{id} and {}", ids[3]);
            assert_eq!(one(seen.as_ref(), &name), Some(value), "{id} and {}", ids[3]);
        }
        world.now += 1000;
        world.unlink(ids[0]);
        world.settle();
        // With nothing, where the person knows the device by a link that its own partition has no knowledge of.
        assert!(world.read(ids[0]).is_none_or(|seen| seen.home == ids[0]), "{} is still linked", ids[0]);
        world.visit(&[ids[0], ids[3]], &[], None, &[]);
        world.settle();
        assert!(world.read(ids[0]).is_some_and(|seen| seen.home == ids[3]), "{} is linked again", ids[0]);
    }
    for state in &world.states {
        assert!(state.aliases.iter().all(|alias| alias.target().is_some()), "a profile never came back");
    }
    world.restarted();
}

fn is_of(name: &str, person: usize) -> bool {
    name.starts_with(&person.to_string())
}

/// Snapshots of the later moment, but for some partitions.
fn mixed(earlier: &[Snapshot], later: &[Snapshot], is_earlier: impl Fn(usize) -> bool) -> Vec<Snapshot> {
    let pairs = earlier.iter().zip(later).enumerate();
    pairs.map(|(at, (earlier, later))| if is_earlier(at) { earlier.clone() } else { later.clone() }).collect()
}

fn place(world: &World, address: &str) -> usize {
    partition_in("demo", address, PartitionCount::new(world.states.len() as u32).unwrap()).index()
}

#[test]
fn a_receiver_of_an_earlier_moment_is_linked_to_again() {
    let mut world = World::new(16);
    world.visit(&["tnt:a"], &[("0 own", "1")], None, &[]);
    let earlier = snapshots(&world);
    world.visit(&["tnt:a", "tp:a"], &[], None, &[]);
    world.settle();
    let person = place(&world, "tp:a");
    assert_ne!(person, place(&world, "tnt:a"));
    let (mut again, agreed) = restored(&mixed(&earlier, &snapshots(&world), |at| at == person), world.now);
    assert!(agreed.is_lossy());
    // What the device had was under way, and is nowhere.
    assert_eq!((again.read("tnt:a"), again.read("tp:a")), (None, None));
    again.visit(&["tnt:a", "tp:a"], &[("0 login", "2")], None, &[]);
    again.settle();
    let seen = again.read("tp:a").expect("the person");
    assert_eq!((again.read("tnt:a").as_ref(), seen.attributes.len()), (Some(&seen), 1));
    works(&mut again);
}

#[test]
fn a_sender_of_an_earlier_moment_links_again_under_epochs_that_nobody_knows() {
    let mut world = World::new(16);
    world.visit(&["tnt:a"], &[("0 own", "1")], None, &[]);
    let earlier = snapshots(&world);
    // Several epochs are given, of which the last is known to the person.
    for _ in 0..3 {
        world.visit(&["tnt:a", "tp:a"], &[("0 login", "2")], None, &[]);
        world.settle();
        world.unlink("tnt:a");
        world.settle();
    }
    world.visit(&["tnt:a", "tp:a"], &[("0 login", "3")], None, &[]);
    world.settle();
    let device = place(&world, "tnt:a");
    let (mut again, agreed) = restored(&mixed(&earlier, &snapshots(&world), |at| at == device), world.now);
    assert!(agreed.is_lossy());
    assert_eq!(again.read("tnt:a").map(|seen| seen.home).as_deref(), Some("tnt:a"));
    assert_eq!(one(again.read("tp:a").as_ref(), "0 login").as_deref(), Some("3"));
    again.visit(&["tnt:a", "tp:a"], &[("0 login", "4")], None, &[]);
    again.settle();
    assert_eq!(one(again.read("tnt:a").as_ref(), "0 login").as_deref(), Some("4"));
    let told = again.completed.last().expect("an end").saga;
    assert!(world.completed.iter().all(|before| before.saga != told), "somebody may wait for the end of another walk");
    assert_eq!(again.read("tnt:a"), again.read("tp:a"));
    works(&mut again);
}

#[test]
fn an_address_whose_profile_will_never_come_back_begins_anew() {
    let mut world = World::new(16);
    world.visit(&["tnt:a", "tp:a"], &[("0 login", "1")], None, &[]);
    world.settle();
    world.unlink("tnt:a");
    let earlier = snapshots(&world);
    let device = place(&world, "tnt:a");
    world.settle();
    // It has been given back since, and the other partition knows that it was.
    let (mut again, _) = restored(&mixed(&earlier, &snapshots(&world), |at| at == device), world.now);
    again.settle();
    let lead = again.states[device].lead("demo", Address::from_canonical("tnt:a"), None);
    assert_eq!((lead, again.read("tnt:a")), (Lead::Home, None));
    works(&mut again);
}

#[test]
fn snapshots_of_one_moment_are_restored_as_they_are() {
    let mut world = World::new(16);
    for ids in PEOPLE {
        world.visit(&ids, &[], None, &[]);
        world.visit(&ids[..2], &[], None, &[]);
    }
    world.unlink("tnt:a");
    assert!(!world.pairs().is_empty());
    let (again, agreed) = restored(&snapshots(&world), world.now);
    assert!(!agreed.is_lossy());
    for (state, before) in again.states.iter().zip(&world.states) {
        assert_eq!(state.digest(LogTime(world.now)), before.digest(LogTime(world.now)));
    }
}

#[test]
fn a_message_that_was_heard_is_not_carried_again() {
    let mut world = World::new(16);
    world.visit(&["tnt:a", "tp:a"], &[("0 login", "1")], None, &[]);
    let earlier = snapshots(&world);
    world.settle();
    let device = place(&world, "tnt:a");
    let (mut again, agreed) = restored(&mixed(&earlier, &snapshots(&world), |at| at == device), world.now);
    assert!(!agreed.is_lossy());
    assert!(again.pairs().is_empty());
    assert_eq!(again.read("tnt:a").map(|seen| seen.visits.0), Some(1));
    works(&mut again);
}

#[test]
fn a_damaged_pair_is_told() {
    let mut moments = Moments::new(PartitionCount::new(2).unwrap());
    assert!(moments.note(Partition(0), &[1, b'm'], b"?").is_err());
    assert!(
        moments.note(Partition(0), &[1, b'o', 0, 1, 0, 0, 0, 0, 0, 0, 0, 1], b"").is_err(),
        "no counters before it"
    );
    assert!(moments.note(Partition(2), &[1, b'c'], b"").is_err(), "there is no such partition");
}

/// Something a person does, and how much of what waits is carried after it.
type Step = (usize, u8, Vec<u8>, u8);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec((0..3usize, 0..10u8, prop::collection::vec(0..4u8, 1..4), 0..4u8), 1..40)
}

fn take(world: &mut World, (person, what, ids, carried): &Step, number: usize) {
    world.now += 1000;
    let mut ids: Vec<_> = ids.iter().map(|id| PEOPLE[*person][usize::from(*id)]).collect();
    ids.sort_unstable();
    ids.dedup();
    let (name, value) = (format!("{person} {}", number % 4), number.to_string());
    match what {
        0 => drop(world.erase(ids[0])),
        1 | 2 => drop(world.unlink(ids[0])),
        3 => drop(world.update(ids[0], &[(&name, &value)], &[])),
        _ => drop(world.visit(&ids, &[(&name, &value)], None, &[])),
    }
    for at in 0..usize::from(*carried) {
        let pairs = world.pairs();
        if let Some(&(from, to)) = pairs.get((number + at) % pairs.len().max(1)) {
            world.carry(from, to);
        }
    }
}

proptest! {
    #![proptest_config(config())]

    /// Each partition's snapshot is of another moment of a history with messages under way.
    #[test]
    fn partitions_of_any_moments_link_again(
        steps in steps(),
        moments in prop::collection::vec(any::<prop::sample::Index>(), 8),
    ) {
        let mut world = World::new(8);
        let mut history = vec![snapshots(&world)];
        for (number, step) in steps.iter().enumerate() {
            take(&mut world, step, number);
            history.push(snapshots(&world));
        }
        let of = moments.iter().enumerate().map(|(at, moment)| moment.get(&history)[at].clone());
        let (mut again, _) = restored(&of.collect::<Vec<_>>(), world.now);
        works(&mut again);
    }
}
