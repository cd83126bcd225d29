//! Things done at once, while messages are on their way: the end is that of one after the other.

use super::world::World;
use super::*;

#[test]
fn a_row_for_a_profile_on_its_way_back_is_not_lost() {
    let mut world = World::new(16);
    world.visit(&["tnt:d", "tp:p"], &[("a", "1")], None, &[]);
    world.settle();
    world.unlink("tnt:d");
    let row = BatchRow { line: 2, id: "d", values: vec![Some("2")], removed: vec![] };
    let rows = BatchRows { client: "demo", batch: "demo-1-1", kind: "tnt", columns: vec!["b"], ..BatchRows::default() };
    let partition = partition_in("demo", "tnt:d", PartitionCount::new(16).unwrap()).index();
    world.apply(partition, &Event::BatchRows(BatchRows { rows: vec![row], occurred_at: world.now, ..rows }));
    world.settle();
    let device = world.read("tnt:d").unwrap();
    assert_eq!((one(Some(&device), "a").as_deref(), one(Some(&device), "b").as_deref()), (Some("1"), Some("2")));
    let part = world.states[partition].batch_part("demo", "demo-1-1").unwrap();
    assert_eq!((part.not_found, part.high_line), (0, 2));
}

#[test]
fn a_device_and_its_ecid_that_are_unlinked_at_once_both_have_their_own() {
    for order in [["tnt:d", "ecid:e"], ["ecid:e", "tnt:d"]] {
        let mut world = World::new(16);
        world.visit(&["ecid:e"], &[("e", "1")], None, &[]);
        world.visit(&["tnt:d", "ecid:e", "tp:p"], &[("a", "1")], None, &[]);
        world.visit(&["tp:p"], &[("p", "1")], None, &[]);
        world.settle();
        for address in order {
            assert!(matches!(world.unlink(address), Outcome::Forwarded(_)));
        }
        world.settle();
        let found = world.completed.iter().filter(|done| done.outcome == Outcome::Unlink { found: true }).count();
        assert_eq!(found, 2, "both were linked");
        for (address, name) in [("tnt:d", "a"), ("ecid:e", "e"), ("tp:p", "p")] {
            let seen = world.read(address).unwrap();
            let own = [(name.to_owned(), "1".to_owned())].into();
            assert_eq!((seen.home.as_str(), seen.ids.len(), seen.attributes), (address, 0, own), "{order:?}");
        }
    }
}

#[test]
fn what_comes_for_a_profile_on_its_way_back_waits_for_it() {
    let mut world = World::new(16);
    world.visit(&["tnt:d", "ecid:e", "tp:p"], &[("a", "1")], None, &["shoes"]);
    world.settle();
    world.unlink("ecid:e");
    let update =
        Update { client: "demo", address: "tnt:d", event_id: Some("u"), set: vec![("b", "2")], ..Update::default() };
    let partition = partition_in("demo", "tnt:d", PartitionCount::new(16).unwrap()).index();
    let send = |world: &mut World| {
        world.apply(partition, &Event::Update(Update { route: Route::Enter, ..update.clone() }));
        world.visit(&["tnt:d"], &[("c", "3")], Some("v"), &[]);
    };
    send(&mut world);
    // In between everything may be restarted, and told once more.
    world.restarted();
    send(&mut world);
    world.settle();
    let device = world.read("tnt:d").unwrap();
    assert_eq!((device.home.as_str(), device.visits), ("ecid:e", (2, 1)), "one session, as it was");
    assert_eq!(device.attributes.len(), 3, "{device:?}");
    assert_eq!(world.read("tp:p").map_or(0, |seen| seen.visits.0), 0);
    assert_eq!(world.states.iter().map(|state| state.links().outbox).sum::<usize>(), 0);
}

#[test]
fn a_visit_after_an_erasure_is_not_led_to_who_was_erased() {
    let mut world = World::new(16);
    world.visit(&["tnt:b", "tp:q"], &[("old", "1")], None, &[]);
    world.settle();
    world.erase("tp:q");
    // What the erasure has to say to the device is still on its way.
    world.visit(&["tnt:b", "ecid:e"], &[("new", "1")], None, &[]);
    world.settle();
    let device = world.read("tnt:b").unwrap();
    assert_eq!((device.home.as_str(), device.attributes.len(), device.visits.0), ("ecid:e", 1, 1));
    assert_eq!((world.read("ecid:e").as_ref(), world.read("tp:q")), (Some(&device), None));
}

/// The first visit goes by way of the customer id, which it finds once the device has moved on.
#[test]
fn a_login_holds_though_a_visit_before_it_is_still_on_its_way() {
    // Whatever arrives first: messages of one pair of partitions keep their order.
    for turn in 0..40_usize {
        let mut world = World::new(16);
        world.visit(&["tnt:b", "ecid:f", "cust:crm:c"], &[], None, &[]);
        world.settle();
        world.visit(&["tnt:b", "ecid:e"], &[("first", "1")], Some("1"), &[]);
        world.visit(&["tnt:b", "ecid:e", "tp:q"], &[("login", "1")], Some("2"), &[]);
        world.settle_in_turn(turn);
        let device = world.read("tnt:b").unwrap();
        assert_eq!((device.home.as_str(), one(Some(&device), "login").as_deref()), ("tp:q", Some("1")), "{turn}");
    }
}

/// Whichever comes first, what was done on the device is the device's.
#[test]
fn a_visit_with_a_new_ecid_stays_with_the_device_that_is_unlinked_meanwhile() {
    for turn in 0..60_usize {
        let mut world = World::new(16);
        world.visit(&["tnt:b", "tp:q"], &[("a", "1")], None, &[]);
        world.settle();
        world.visit(&["tnt:b", "ecid:e"], &[("b", "1")], Some("1"), &[]);
        for step in 0..turn % 6 {
            let pairs = world.pairs();
            let Some(&(from, to)) = pairs.get((turn + step) % pairs.len().max(1)) else { break };
            world.carry(from, to);
        }
        world.unlink("tnt:b");
        world.settle_in_turn(turn);
        let device = world.read("tnt:b").unwrap();
        assert_eq!((device.attributes.len(), device.visits.0), (2, 2), "{turn}: {device:?}");
        let person = world.read("tp:q").unwrap();
        assert!(person.attributes.is_empty() && person.visits.0 == 0, "{turn}: {person:?}");
    }
}

/// Whatever has become of the device meanwhile.
#[test]
fn what_a_device_had_brought_is_forgotten_also_when_the_erasure_meets_it_elsewhere() {
    for turn in 0..60_usize {
        let mut world = World::new(16);
        world.visit(&["tnt:a"], &[("a", "1")], None, &[]);
        world.visit(&["tnt:a", "tp:p"], &[], None, &[]);
        world.settle();
        let brought = world.epoch("tnt:a");
        world.visit(&["tnt:a", "tp:q"], &[], None, &[]);
        for step in 0..turn % 3 {
            let pairs = world.pairs();
            let Some(&(from, to)) = pairs.get((turn + step) % pairs.len().max(1)) else { break };
            world.carry(from, to);
        }
        world.erase("tp:p");
        world.settle_in_turn(turn);
        assert_eq!(world.told_to_forget("tnt:a"), Some(vec![brought]), "{turn}");
        assert_eq!(world.read("tnt:a").map(|seen| seen.home).as_deref(), Some("tp:q"), "{turn}");
    }
    for turn in 0..60_usize {
        let mut world = World::new(16);
        world.visit(&["tnt:a"], &[("a", "1")], None, &[]);
        world.visit(&["tnt:a", "ecid:e"], &[], None, &[]);
        world.settle();
        world.visit(&["ecid:e", "tp:p"], &[], None, &[]);
        world.settle();
        let (device, ecid) = (world.epoch("tnt:a"), world.epoch("ecid:e"));
        world.erase("tp:p");
        // It finds nobody, and is back before the erasure arrives.
        world.visit(&["tnt:a"], &[("a", "2")], None, &[]);
        world.settle_in_turn(turn);
        assert_eq!(world.told_to_forget("tnt:a"), Some(vec![device]), "{turn}");
        assert_eq!(world.told_to_forget("ecid:e"), Some(vec![ecid]), "{turn}");
    }
}

#[test]
fn what_a_device_had_brought_to_one_person_is_not_forgotten_with_another() {
    for chain in [&["tnt:a"][..], &["tnt:a", "ecid:e"]] {
        let mut world = World::new(16);
        chain.iter().for_each(|address| drop(world.visit(&[address], &[], None, &[])));
        let login = |world: &mut World, person| {
            world.visit(&[chain, &[person]].concat(), &[], None, &[]);
            world.settle();
            chain.iter().map(|address| world.epoch(address)).collect::<Vec<_>>()
        };
        let first = login(&mut world, "tp:p");
        login(&mut world, "tp:q");
        world.erase("tp:q");
        world.settle();
        for address in chain {
            assert_eq!(world.told_to_forget(address), Some(vec![]), "{address}");
        }
        // Nothing of its own came in between, so the first link is all that has brought something.
        for person in ["tp:p", "tp:r", "tp:p"] {
            world.visit(&[chain, &[person]].concat(), &[], None, &[]);
            world.settle();
            world.restarted();
        }
        world.erase("tp:p");
        world.settle();
        for (address, first) in chain.iter().zip(first) {
            assert!(world.told_to_forget(address).unwrap().contains(&first), "{address}");
        }
    }
}
