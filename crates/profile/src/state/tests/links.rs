//! Links between addresses (ADR 8): what every address reads afterwards, compared with a plain model, with one partition
//! instead of many, and through every order in which messages may come.

mod large;
mod model;
mod moments;
mod races;
mod world;

use proptest::prelude::*;

use super::*;
use crate::event::{Delivered, DropAlias, MessageBytes, Relay, Route, Unlink};
use crate::ids::partition_in;
use crate::position::PartitionCount;
use model::Model;
use world::{Seen, World};

fn one(seen: Option<&Seen>, name: &str) -> Option<String> {
    seen?.attributes.get(name).cloned()
}

#[test]
fn the_truth_table_of_a_login() {
    let mut world = World::new(16);
    world.visit(&["tnt:d"], &[("tier", "bronze"), ("city", "Köln")], None, &["shoes"]);
    world.update("tnt:d", &[("score", "1")], &[]);
    world.visit(&["tp:p"], &[("tier", "gold")], None, &["bags"]);
    let outcome = world.visit(&["tnt:d", "tp:p"], &[("page", "login")], None, &[]);
    assert!(matches!(outcome, Outcome::Forwarded(_)));
    world.settle();
    let person = world.read("tp:p").expect("the person");
    assert_eq!(world.read("tnt:d").as_ref(), Some(&person), "every address reads the same");
    let expected = [("tier", "gold"), ("city", "Köln"), ("score", "1"), ("page", "login")];
    assert_eq!(person.attributes, expected.map(|(n, v)| (n.to_owned(), v.to_owned())).into());
    assert_eq!((person.visits.0, person.home.as_str(), person.ids.as_slice()), (3, "tp:p", &["tnt:d".to_owned()][..]));
    // A visit with the old tntId alone goes to the person, and is newer than what the person had.
    world.visit(&["tnt:d"], &[("tier", "platinum")], None, &[]);
    world.settle();
    assert_eq!(one(world.read("tp:p").as_ref(), "tier").as_deref(), Some("platinum"));
    // Unlinked, the device has what it brought and did, and nothing of the person's; and the other way round.
    assert!(matches!(world.unlink("tnt:d"), Outcome::Forwarded(_)));
    world.settle();
    let (device, person) = (world.read("tnt:d").expect("device"), world.read("tp:p").expect("person"));
    let expected = [("tier", "platinum"), ("city", "Köln"), ("score", "1"), ("page", "login")];
    assert_eq!(device.attributes, expected.map(|(n, v)| (n.to_owned(), v.to_owned())).into());
    assert_eq!((device.visits.0, person.visits.0), (3, 1));
    assert_eq!(person.attributes, [("tier".to_owned(), "gold".to_owned())].into());
    assert_eq!((device.ids.len(), person.ids.len()), (0, 0));
}

#[test]
fn a_shared_device_follows_whoever_logged_in_last() {
    let mut world = World::new(16);
    world.visit(&["tnt:d", "tp:a"], &[("name", "Ann")], None, &[]);
    world.settle();
    world.visit(&["tnt:d", "tp:b"], &[("other", "1")], None, &[]);
    world.settle();
    world.visit(&["tnt:d"], &[("later", "2")], None, &[]);
    world.settle();
    let (ann, bob) = (world.read("tp:a").unwrap(), world.read("tp:b").unwrap());
    assert_eq!(world.read("tnt:d").as_ref(), Some(&bob));
    assert_eq!(ann.attributes, [("name".to_owned(), "Ann".to_owned())].into());
    assert_eq!((one(Some(&bob), "name"), one(Some(&bob), "later").as_deref()), (None, Some("2")));
    assert_eq!((ann.ids.len(), bob.ids.len()), (0, 1));
    // And back again: Ann's past on the device is still hers.
    world.visit(&["tnt:d", "tp:a"], &[], None, &[]);
    world.settle();
    assert_eq!(one(world.read("tnt:d").as_ref(), "name").as_deref(), Some("Ann"));
    assert_eq!(world.read("tp:b").unwrap().ids.len(), 0);
}

#[test]
fn the_names_of_a_device_move_together_and_an_unknown_one_joins_the_person() {
    let mut world = World::new(16);
    world.visit(&["tnt:t", "ecid:e"], &[("a", "1")], None, &[]);
    world.settle();
    assert_eq!(world.read("tnt:t").unwrap().home, "ecid:e");
    world.visit(&["tnt:t", "tp:p"], &[("b", "2")], None, &[]);
    world.settle();
    for address in ["tnt:t", "ecid:e", "tp:p"] {
        let seen = world.read(address).unwrap();
        assert_eq!((seen.home.as_str(), seen.attributes.len(), seen.visits.0), ("tp:p", 2, 2), "{address}");
    }
    // Without a login, a new ECID of a device that the person has is the person's.
    world.visit(&["tnt:u", "tp:p"], &[], None, &[]);
    world.visit(&["tnt:u", "ecid:f"], &[("c", "3")], None, &[]);
    world.settle();
    assert_eq!(world.read("ecid:f").unwrap().home, "tp:p");
    assert_eq!(one(world.read("tp:p").as_ref(), "c").as_deref(), Some("3"));
    // So is one that comes in place of another, whichever of the two is higher, and nobody else's.
    for renewed in ["ecid:d", "ecid:g"] {
        world.visit(&["tnt:t", renewed], &[(renewed, "4")], None, &[]);
        world.settle();
        assert_eq!(world.read(renewed).unwrap().home, "tp:p", "{renewed}");
        assert_eq!(world.read("tnt:t"), world.read("tp:p"), "{renewed}");
        assert_eq!(one(world.read("tp:p").as_ref(), renewed).as_deref(), Some("4"));
    }
    // Also while nobody has logged in.
    for ids in [["tnt:x", "ecid:l"], ["tnt:x", "ecid:k"], ["tnt:x", "ecid:m"]] {
        world.visit(&ids, &[(ids[1], "5")], None, &[]);
        world.settle();
    }
    let device = world.read("tnt:x").unwrap();
    assert_eq!((device.home.as_str(), device.attributes.len(), device.visits.0), ("ecid:k", 3, 3));
    assert_eq!(device.ids, ["ecid:l", "ecid:m", "tnt:x"]);
    // The ECID goes, and what is linked through it.
    world.unlink("ecid:e");
    world.settle();
    let device = world.read("tnt:t").unwrap();
    assert_eq!((device.home.as_str(), device.attributes.len(), device.visits.0), ("ecid:e", 4, 4));
    assert_eq!(world.read("tp:p").unwrap().attributes.len(), 1);
}

#[test]
fn a_retry_counts_once_wherever_the_profile_has_gone() {
    let mut world = World::new(16);
    let visits = |world: &World, address: &str| world.read(address).map_or(0, |seen| seen.visits.0);
    world.visit(&["tnt:d"], &[], Some("one"), &[]);
    world.visit(&["tnt:d", "tp:p"], &[], Some("two"), &[]);
    world.settle();
    for _ in 0..3 {
        assert!(matches!(world.visit(&["tnt:d"], &[], Some("one"), &[]), Outcome::Forwarded(_)));
        world.visit(&["tnt:d", "tp:p"], &[], Some("two"), &[]);
        world.settle();
        let last = world.completed.last().unwrap();
        assert!(matches!(&last.outcome, Outcome::Visit(visit) if visit.duplicate) && &*last.home == "tp:p");
    }
    assert_eq!(visits(&world, "tp:p"), 2);
    world.visit(&["tnt:d", "tp:q"], &[], Some("three"), &[]);
    world.settle();
    world.visit(&["tnt:d", "tp:p"], &[], Some("two"), &[]);
    world.visit(&["tnt:d"], &[], Some("one"), &[]);
    world.settle();
    assert_eq!((visits(&world, "tp:p"), visits(&world, "tp:q")), (2, 1));
    assert_eq!(world.read("tnt:d").unwrap().home, "tp:q", "a retry of an old login is no login");
    // Its caller is told of whom he named, and not of who has the device by now.
    let told = |world: &World| world.completed.last().map(|done| done.home.to_string());
    world.visit(&["tnt:d", "tp:p"], &[], Some("two"), &[]);
    world.settle();
    assert_eq!(told(&world).as_deref(), Some("tp:p"));
    world.unlink("tnt:d");
    world.settle();
    world.visit(&["tnt:d", "tp:p"], &[], Some("two"), &[]);
    world.settle();
    assert_eq!(told(&world).as_deref(), Some("tp:p"));
}

/// Where the device led was looked up before, and whether it leads to whom the visit names after somebody's login.
#[test]
fn a_visit_that_was_sent_straight_to_somebody_it_does_not_name_goes_to_whom_it_names() {
    let mut world = World::new(16);
    for person in ["tp:p", "tp:q"] {
        world.visit(&["tnt:d", person], &[], None, &[]);
        world.settle();
    }
    let visit = Visit {
        client: "demo",
        home: "tp:q",
        via: "tnt:d",
        other_ids: vec!["tp:p"],
        profile: vec![("a", "1")],
        route: Route::Direct,
        ..Visit::default()
    };
    let partition = partition_in("demo", "tp:q", PartitionCount::new(16).unwrap()).index();
    assert!(matches!(world.apply(partition, &Event::Visit(visit)), Outcome::Forwarded(_)));
    world.settle();
    let (p, q) = (world.read("tp:p").unwrap(), world.read("tp:q").unwrap());
    assert_eq!((p.visits.0, q.visits.0, world.read("tnt:d").unwrap().home.as_str()), (2, 1, "tp:p"));
    assert_eq!((one(Some(&p), "a").as_deref(), one(Some(&q), "a")), (Some("1"), None));
}

#[test]
fn a_link_ends_with_its_home() {
    let mut world = World::new(16);
    world.visit(&["tnt:d", "tp:p"], &[("old", "1")], None, &[]);
    world.settle();
    world.now += 15 * DAY_MS;
    assert_eq!(world.read("tnt:d"), None);
    // The person comes back first: a new profile, to which nothing is linked.
    world.visit(&["tp:p"], &[("new", "1")], None, &[]);
    assert_eq!(world.read("tnt:d"), None);
    world.visit(&["tnt:d"], &[("own", "1")], None, &[]);
    world.settle();
    assert_eq!(world.read("tnt:d").unwrap().home, "tnt:d");
    assert_eq!(world.read("tp:p").unwrap().visits.0, 1);
    // An erased person takes the links along.
    world.visit(&["tnt:d", "tp:p"], &[], None, &[]);
    world.settle();
    world.erase("tnt:d");
    world.settle();
    assert_eq!((world.read("tnt:d"), world.read("tp:p")), (None, None));
    assert_eq!(world.states.iter().map(|state| state.links().aliases).sum::<usize>(), 0);
    assert!(matches!(world.update("tnt:d", &[("x", "y")], &[]), Outcome::Update(UpdateOutcome::NotFound)));
}

#[test]
fn many_devices_link_to_one_person_at_once_and_nothing_is_lost() {
    let mut world = World::new(16);
    let devices: Vec<_> = (0..200).map(|n| format!("tnt:d{n}")).collect();
    for (n, device) in devices.iter().enumerate() {
        world.visit(&[device], &[(&format!("of{n}"), "before"), ("same", "x")], None, &[]);
    }
    for (n, device) in devices.iter().enumerate() {
        world.visit(&[device, "tp:p"], &[(&format!("at{n}"), "login")], None, &[]);
    }
    world.settle();
    let person = world.read("tp:p").unwrap();
    assert_eq!((person.visits.0, person.attributes.len(), person.ids.len()), (400, 401, 200));
    for device in &devices {
        assert_eq!(world.read(device).as_ref(), Some(&person));
    }
    world.restarted();
    for device in &devices[1..] {
        world.unlink(device);
    }
    world.settle();
    let person = world.read("tp:p").unwrap();
    assert_eq!((person.visits.0, person.attributes.len(), person.ids.len()), (2, 3, 1));
    assert_eq!(world.read("tnt:d7").unwrap().attributes.len(), 3);
}

#[test]
fn a_profile_that_is_larger_than_a_message_arrives_whole() {
    let mut world = World::new(16);
    world.visit(&["tnt:d"], &[], None, &[]);
    let long = "n".repeat(120);
    for n in 0..990 {
        // Names are interned in the profile, and written out in messages.
        world.update("tnt:d", &[(&format!("{long}{n}"), &"v".repeat(40))], &[]);
    }
    assert_eq!(world.read("tnt:d").unwrap().attributes.len(), 990);
    for person in ["tp:p", "tp:q"] {
        world.visit(&["tnt:d", person], &[], None, &[]);
        world.settle();
        world.unlink("tnt:d");
        world.settle();
        let seen = world.read("tnt:d").unwrap();
        assert_eq!((seen.home.as_str(), seen.attributes.len()), ("tnt:d", 990), "{person}");
    }
}

#[test]
fn the_end_of_a_walk_is_told_when_all_of_it_is_there() {
    let mut world = World::new(16);
    world.visit(&["tnt:d"], &[], None, &[]);
    let long = "n".repeat(120);
    for n in 0..990 {
        world.update("tnt:d", &[(&format!("{long}{n}"), &"v".repeat(400))], &[]);
    }
    let until_told = |world: &mut World| {
        let before = world.completed.len();
        while world.completed.len() == before {
            let &(from, to) = world.pairs().first().expect("something is under way");
            world.carry(from, to);
        }
    };
    let held = world.read("tnt:d").unwrap().attributes.len();
    world.visit(&["tnt:d", "tp:p"], &[], None, &[]);
    until_told(&mut world);
    assert_eq!(world.read("tp:p").unwrap().attributes.len(), held);
    world.unlink("tnt:d");
    until_told(&mut world);
    assert_eq!(world.read("tnt:d").unwrap().attributes.len(), held);
}

#[test]
fn what_left_by_itself_does_not_come_back_with_another() {
    let mut world = World::new(16);
    for ids in [
        ["tnt:1", "ecid:1", "tp:a"],
        ["tnt:2", "ecid:1", "tp:b"],
        ["tnt:1", "ecid:2", "tp:b"],
        ["tnt:2", "ecid:1", "tp:a"],
    ] {
        world.visit(&ids, &[], None, &[]);
        world.settle();
    }
    assert_eq!(world.read("tnt:1").unwrap().home, "tp:b");
    assert_eq!(world.read("tp:a").unwrap().ids, ["ecid:1", "tnt:2"]);
    // One that follows another is known to the home that the other moved to.
    world.visit(&["ecid:1", "tp:c"], &[], None, &[]);
    world.settle();
    assert_eq!(world.read("tp:c").unwrap().ids, ["ecid:1", "tnt:2"]);
    for address in ["tnt:2", "ecid:1"] {
        world.unlink(address);
        world.settle();
    }
    assert!(world.read("ecid:1").unwrap().ids.is_empty());
}

#[test]
fn past_the_limit_of_addresses_the_idlest_is_let_go_and_its_past_stays() {
    let mut world = World::new(4);
    let over = limits::LINKED_ADDRESSES + 5;
    for n in 0..over {
        world.now += 1;
        world.visit(&[&format!("tnt:d{n}"), "tp:p"], &[], None, &[]);
        world.settle();
    }
    let person = world.read("tp:p").unwrap();
    assert_eq!((person.visits.0, person.ids.len()), (over as u64, limits::LINKED_ADDRESSES - 1));
    assert_eq!(world.read("tnt:d0"), None);
    world.visit(&["tnt:d0"], &[], None, &[]);
    world.settle();
    assert_eq!(world.read("tnt:d0").unwrap().home, "tnt:d0");
}

#[test]
fn an_alias_is_dropped_when_it_leads_to_nothing_and_only_then() {
    let mut world = World::new(16);
    world.visit(&["tnt:d", "tp:p"], &[("a", "1")], None, &[]);
    world.settle();
    let partition = partition_in("demo", "tnt:d", PartitionCount::new(16).unwrap()).index();
    let epoch = |world: &World| match world.states[partition].lead("demo", Address::from_canonical("tnt:d"), None) {
        Lead::Alias { epoch, .. } => Some(epoch),
        _ => None,
    };
    let linked = epoch(&world).expect("an alias");
    let look = |world: &mut World, epoch| {
        world.apply(partition, &Event::DropAlias(DropAlias { client: "demo", address: "tnt:d", epoch }));
        world.settle();
    };
    look(&mut world, linked);
    assert_eq!((epoch(&world), world.read("tnt:d").unwrap().home.as_str()), (Some(linked), "tp:p"));
    world.now += 15 * DAY_MS;
    // Seen by a node whose word was about another alias.
    look(&mut world, linked + 1);
    assert_eq!(epoch(&world), Some(linked));
    look(&mut world, linked);
    assert_eq!((epoch(&world), world.read("tnt:d")), (None, None));
}

#[test]
fn a_chain_that_is_too_long_to_walk_is_cut_and_what_is_applied_is_seen() {
    let mut world = World::new(16);
    // The smaller text is the higher one.
    let ids: Vec<_> = (0..300).map(|n| format!("cust:crm:{:03}", 500 - n)).collect();
    for pair in ids.windows(2) {
        world.visit(&[&pair[0], &pair[1]], &[], None, &[]);
        world.settle();
    }
    let (lowest, highest) = (&ids[0], &ids[299]);
    let person = world.read(highest).unwrap();
    assert_eq!((person.visits.0, person.ids.len()), (299, 299));
    assert_eq!(world.read(lowest).as_ref(), Some(&person));
    for value in ["1", "2"] {
        world.visit(&[lowest], &[("a", value)], None, &[]);
        world.settle();
        assert_eq!(one(world.read(lowest).as_ref(), "a").as_deref(), Some(value));
    }
    world.update(lowest, &[("b", "3")], &[]);
    world.settle();
    let below = world.read(lowest).unwrap();
    assert_eq!((one(Some(&below), "b").as_deref(), below.visits.0), (Some("3"), 2));
    assert_eq!(world.read(&ids[100]).as_ref(), Some(&below));
    assert_eq!(world.read(highest).unwrap().visits.0, 299);
    world.restarted();
}

/// One thing that happens.
#[derive(Clone, Debug)]
enum Deed {
    Visit { ids: Vec<u8>, set: Vec<u8>, event_id: Option<u8>, category: Option<u8> },
    Update { id: u8, set: Vec<u8>, unset: Option<u8> },
    Unlink { id: u8 },
    Erase { id: u8 },
    Wait { days: u8 },
    Restart,
}

/// Addresses of a small world: some of each kind, so that they meet often.
const ADDRESSES: [&str; 11] =
    ["tnt:a", "tnt:b", "tnt:c", "tnt:d", "ecid:a", "ecid:b", "cust:crm:a", "cust:crm:b", "tp:a", "tp:b", "tp:c"];

fn deed(kinds: std::ops::Range<u8>, event_ids: u8) -> impl Strategy<Value = Deed> {
    let id = kinds.prop_map(|id| id % ADDRESSES.len() as u8).boxed();
    let ids = prop::collection::vec(id.clone(), 1..4);
    let set = || prop::collection::vec(0..4u8, 0..3);
    prop_oneof![
        8 => (ids, set(), prop::option::weighted(0.4, 0..event_ids), prop::option::of(0..4u8))
            .prop_map(|(ids, set, event_id, category)| Deed::Visit { ids, set, event_id, category }),
        3 => (id.clone(), set(), prop::option::of(0..4u8)).prop_map(|(id, set, unset)| Deed::Update { id, set, unset }),
        2 => id.clone().prop_map(|id| Deed::Unlink { id }),
        1 => id.prop_map(|id| Deed::Erase { id }),
        1 => (0..9u8).prop_map(|days| Deed::Wait { days }),
        1 => Just(Deed::Restart),
    ]
}

/// Ids of one visit: at most one of each kind but customer ids, as the API takes them.
fn ids_of(ids: &[u8]) -> Vec<&'static str> {
    let mut chosen: Vec<&'static str> = Vec::new();
    for id in ids {
        let address = ADDRESSES[usize::from(*id)];
        let kind = |a: &str| a.split(':').next().unwrap_or_default().to_owned();
        if !chosen.iter().any(|held| *held == address || kind(held) == kind(address) && kind(held) != "cust") {
            chosen.push(address);
        }
    }
    chosen
}

fn run(world: &mut World, deed: &Deed, number: usize) {
    world.now += 1000;
    let value = format!("v{number}");
    let names = |set: &[u8]| {
        let mut names: Vec<_> = set.iter().map(|n| format!("n{n}")).collect();
        names.sort();
        names.dedup();
        names
    };
    match deed {
        Deed::Visit { ids, set, event_id, category } => {
            let names = names(set);
            let set: Vec<_> = names.iter().map(|name| (name.as_str(), value.as_str())).collect();
            // Partitions forget an id when they next remember one, so no retry is to be that late.
            let event_id = event_id.map(|id| format!("e{id} of day {}", world.now / DAY_MS));
            let category = category.map(|c| format!("c{c}"));
            let categories: Vec<_> = category.iter().map(String::as_str).collect();
            world.visit(&ids_of(ids), &set, event_id.as_deref(), &categories);
        }
        Deed::Update { id, set, unset } => {
            let names = names(set);
            let set: Vec<_> = names.iter().map(|name| (name.as_str(), value.as_str())).collect();
            let unset: Vec<_> = unset.iter().map(|n| format!("u{n}")).collect();
            let unset: Vec<_> = unset.iter().map(String::as_str).collect();
            world.update(ADDRESSES[usize::from(*id)], &set, &unset);
        }
        Deed::Unlink { id } => {
            world.unlink(ADDRESSES[usize::from(*id)]);
        }
        Deed::Erase { id } => {
            world.erase(ADDRESSES[usize::from(*id)]);
        }
        Deed::Wait { days } => world.now += u64::from(*days) * DAY_MS,
        Deed::Restart => world.restarted(),
    }
}

/// The same histories every time; PROPTEST_CASES asks for more, and others.
fn config() -> ProptestConfig {
    let asked = ProptestConfig::default();
    if std::env::var_os("PROPTEST_CASES").is_some() {
        return asked;
    }
    ProptestConfig { cases: 800, rng_seed: proptest::test_runner::RngSeed::Fixed(1), ..asked }
}

fn all_seen(world: &World) -> Vec<Option<Seen>> {
    ADDRESSES.iter().map(|address| world.read(address)).collect()
}

proptest! {
    #![proptest_config(config())]

    /// With one partition every walk is a single step, so that is the serial outcome.
    #[test]
    fn many_partitions_read_as_one(deeds in prop::collection::vec(deed(0..11, 6), 1..40)) {
        let (mut many, mut single) = (World::new(16), World::new(1));
        for (number, deed) in deeds.iter().enumerate() {
            run(&mut many, deed, number);
            many.settle();
            run(&mut single, deed, number);
            prop_assert_eq!(all_seen(&many), all_seen(&single), "after {:?}", deed);
        }
        prop_assert_eq!(many.completed.len(), single.completed.len());
    }

    /// Devices and persons, against a model that shares no code with the fold.
    #[test]
    fn devices_and_persons_read_as_the_model_says(
        deeds in prop::collection::vec(deed(0..8, 200).prop_map(to_devices_and_persons), 1..40)
    ) {
        let (mut world, mut model) = (World::new(16), Model::default());
        for (number, deed) in deeds.iter().enumerate() {
            run(&mut world, deed, number);
            world.settle();
            model.run(deed, number, world.now);
            for address in ADDRESSES {
                let seen = world.read(address).map(|seen| (seen.home, seen.attributes, seen.visits.0));
                prop_assert_eq!(seen, model.read(address), "{} after {:?}", address, deed);
            }
        }
    }

    /// Messages of any pairs in any order, some more than once, while more happens: nothing is lost or counted twice, and in
    /// the end every alias leads to a home that holds it.
    #[test]
    fn whatever_the_order_nothing_is_lost(
        deeds in prop::collection::vec(deed(0..11, 200), 1..40),
        order in prop::collection::vec(any::<prop::sample::Index>(), 0..200),
        repeats in any::<u64>(),
    ) {
        let mut world = World::new(16);
        let (mut order, mut visits) = (order.into_iter(), 0);
        for (number, deed) in deeds.iter().enumerate() {
            // Nothing is erased or ends here, so that what comes in can be counted.
            if matches!(deed, Deed::Erase { .. } | Deed::Wait { .. }) {
                continue;
            }
            if let Deed::Visit { ids, set, category, .. } = deed {
                visits += 1;
                run(&mut world, &Deed::Visit { ids: ids.clone(), set: set.clone(), event_id: None, category: *category }, number);
            } else {
                run(&mut world, deed, number);
            }
            for index in order.by_ref().take(3) {
                let pairs = world.pairs();
                if !pairs.is_empty() {
                    let &(from, to) = index.get(&pairs);
                    if repeats >> (number % 64) & 1 == 1 {
                        repeat(&mut world, from, to);
                    }
                    world.carry(from, to);
                }
            }
        }
        world.settle();
        let mut counted = 0;
        for state in &world.states {
            for packed in &state.profiles {
                counted += packed.head().draft().visits.map_or(0, |visits| visits.visit_count);
            }
            for alias in state.aliases.iter() {
                prop_assert!(alias.target().is_some(), "a profile never came back");
                prop_assert!(world.read(alias.key().1).is_some(), "{} leads nowhere", alias.key().1);
            }
        }
        prop_assert_eq!(counted, visits);
        world.restarted();
    }
}

/// A relay of everything that waits, which is then not said to have arrived: it comes once more later.
fn repeat(world: &mut World, from: usize, to: u16) {
    let (first, messages) = world.states[from].messages_after(to, 0);
    let messages: Vec<_> = messages.map(<[u8]>::to_vec).collect();
    let messages = messages.iter().map(|message| MessageBytes(message)).collect();
    world.apply(usize::from(to), &Event::Relay(Relay { from: from as u16, first, messages }));
}

/// The model knows devices and persons only.
fn to_devices_and_persons(deed: Deed) -> Deed {
    let map = |id: u8| match id {
        0..4 => id,
        _ => 8 + id % 3,
    };
    match deed {
        Deed::Visit { ids, set, category, .. } => {
            Deed::Visit { ids: ids.into_iter().map(map).collect(), set, event_id: None, category }
        }
        Deed::Update { id, set, unset } => Deed::Update { id: map(id), set, unset },
        Deed::Unlink { id } => Deed::Unlink { id: map(id) },
        Deed::Erase { id } => Deed::Erase { id: map(id) },
        other => other,
    }
}
