//! Persons with very many addresses and attributes: what does not fit comes in pieces or is let go by rule, and costs no more
//! than its size.

use std::time::{Duration, Instant};

use super::world::World;
use super::*;

/// What the laziest machine may take for a step that would take minutes if it looked at every pair of attributes.
const PATIENCE: Duration = Duration::from_secs(20);

/// Long ids, of characters that take four bytes each.
fn wide(kind: &str, n: usize, characters: usize) -> String {
    format!("{kind}:{}{n:04}", "\u{1F600}".repeat(characters - 4))
}

/// The world looks at the size of each message that it carries.
#[test]
fn a_login_of_somebody_with_a_thousand_long_ids_fits_into_messages() {
    let mut world = World::new(16);
    let person = ["ecid:e", "cust:crm:c"];
    for (login, id) in [("tp:a", person[0]), ("tp:old", person[1])] {
        world.visit(&[id, login], &[], None, &[]);
        world.settle();
    }
    for n in 0..1000 {
        world.now += 1;
        world.visit(&[&wide("tnt", n, 128), person[0]], &[], None, &[]);
        world.visit(&[&wide("cust:crm", n, 250), person[1]], &[], None, &[]);
        world.settle();
    }
    world.visit(&[person[0], person[1], "tp:new"], &[("a", "1")], None, &[]);
    world.settle();
    for id in [person[0], person[1], "tp:new", &wide("tnt", 999, 128), &wide("cust:crm", 999, 250)] {
        let seen = world.read(id).unwrap_or_else(|| panic!("{id} reads nothing"));
        assert_eq!((seen.home.as_str(), one(Some(&seen), "a").as_deref()), ("tp:new", Some("1")), "{id}");
    }
}

#[test]
fn a_long_way_of_long_ids_is_cut_before_it_fills_a_message() {
    let mut world = World::new(16);
    // The smaller text is the higher one.
    let ids: Vec<_> = (0..120).map(|n| format!("cust:crm:{:03}{}", 500 - n, "\u{1F600}".repeat(250))).collect();
    for pair in ids.windows(2) {
        world.visit(&[&pair[0], &pair[1]], &[], None, &[]);
        world.settle();
    }
    world.visit(&[&ids[0]], &[("a", "1")], None, &[]);
    world.settle();
    assert_eq!(one(world.read(&ids[0]).as_ref(), "a").as_deref(), Some("1"));
}

/// Names so long that a profile takes several messages.
fn long_name(n: usize) -> String {
    format!("{}{n}", "n".repeat(120))
}

#[test]
fn what_comes_in_pieces_shows_what_was_shown_before() {
    let mut world = World::new(16);
    for device in ["tnt:1", "tnt:2"] {
        world.visit(&[device, "ecid:e"], &[], None, &[]);
        world.settle();
        for n in 0..600 {
            world.now += 1;
            world.update(device, &[(&long_name(n), &format!("{device}-{}", "v".repeat(40)))], &[]);
            world.settle();
        }
    }
    let before = world.read("ecid:e").unwrap().attributes;
    assert!(before.values().all(|value| value.starts_with("tnt:2")), "the later one wins");
    world.visit(&["ecid:e", "tp:p"], &[], None, &[]);
    world.settle();
    assert_eq!(world.read("tp:p").unwrap().attributes, before);
    // A person who has values shows them all the same.
    world.visit(&["tp:q"], &[(&long_name(599), "own")], None, &[]);
    world.unlink("ecid:e");
    world.settle();
    world.visit(&["ecid:e", "tp:q"], &[], None, &[]);
    world.settle();
    let shown = world.read("tp:q").unwrap().attributes;
    assert_eq!((shown.len(), shown[&long_name(599)].as_str()), (600, "own"));
}

#[test]
fn what_is_given_back_in_pieces_has_each_name_once() {
    let mut world = World::new(16);
    world.visit(&["tnt:1", "tp:p"], &[], None, &[]);
    world.settle();
    for n in 0..900 {
        world.update("tnt:1", &[(&long_name(n), &"d".repeat(40))], &[]);
        world.settle();
    }
    world.unlink("tnt:1");
    // Set while it is on its way back.
    world.now += 1;
    for n in 0..900 {
        world.visit(&["tnt:1"], &[(&long_name(n), "meanwhile")], None, &[]);
    }
    world.settle();
    let partition = partition_in("demo", "tnt:1", PartitionCount::new(16).unwrap()).index();
    let profile =
        world.states[partition].profile("demo", Address::from_canonical("tnt:1"), LogTime(world.now)).unwrap();
    let names: Vec<_> = profile.attributes().map(|held| held.name.to_owned()).collect();
    let distinct: std::collections::BTreeSet<_> = names.iter().collect();
    assert_eq!((names.len(), distinct.len()), (900, 900));
    assert!(profile.attributes().all(|held| held.value == "meanwhile"), "the later one wins");
}

#[test]
fn an_ecid_is_as_busy_as_its_devices() {
    let mut world = World::new(4);
    world.visit(&["ecid:e", "tp:p"], &[], None, &[]);
    world.settle();
    let device = |n: usize| format!("tnt:{n:032}");
    for n in 0..1010 {
        world.now += 1000;
        world.visit(&[&device(n), "ecid:e"], &[], None, &[]);
        world.settle();
        let home = world.read(&device(n)).map(|seen| seen.home);
        assert_eq!(home.as_deref(), Some("tp:p"), "device {n}");
    }
    assert_eq!(world.read("ecid:e").map(|seen| seen.home).as_deref(), Some("tp:p"));
    assert_eq!(world.read(&device(0)), None, "the idlest was let go");
}

#[test]
fn a_link_to_a_person_who_has_everything_takes_no_longer_than_others() {
    let mut world = World::new(1);
    let names: Vec<_> = (0..1000).map(|n| format!("p{n}")).collect();
    let mut longest = Duration::ZERO;
    let mut link = |world: &mut World, ids: &[&str], set: &[(&str, &str)]| {
        world.now += 1000;
        let began = Instant::now();
        world.visit(ids, set, None, &[]);
        longest = longest.max(began.elapsed());
    };
    for d in 0..70 {
        let device = format!("tnt:d{d}");
        for some in names.chunks(50) {
            let set: Vec<_> = some.iter().map(|name| (name.as_str(), "x")).collect();
            link(&mut world, &[&device], &set);
        }
        link(&mut world, &[&device, "ecid:e"], &[]);
    }
    // Up to what a message may say of them; then past it, and past it again.
    let long = |d: usize| format!("tnt:{}{d:04}", "n".repeat(124));
    for d in 0..720 {
        link(&mut world, &[&long(d), "tp:p"], &[]);
    }
    link(&mut world, &["ecid:e", "tp:p"], &[]);
    for d in 720..730 {
        link(&mut world, &[&long(d), "tp:p"], &[]);
    }
    let began = Instant::now();
    world.unlink("ecid:e");
    longest = longest.max(began.elapsed());
    assert!(longest < PATIENCE, "{longest:?}");
    assert_eq!(world.read("ecid:e").unwrap().attributes.len(), 1000);
}

#[test]
fn a_person_with_a_thousand_addresses_is_read_and_taken_apart_without_looking_at_every_pair() {
    let mut world = World::new(1);
    for ecid in ["ecid:1", "ecid:2"] {
        world.visit(&[ecid, "tp:p"], &[], None, &[]);
        for n in 0..490 {
            world.now += 1;
            world.visit(&[&format!("tnt:{}-{n:032}", &ecid[5..]), ecid], &[], None, &[]);
        }
    }
    let began = Instant::now();
    for _ in 0..2000 {
        let state = &world.states[0];
        let profile = state.profile("demo", Address::from_canonical("tp:p"), LogTime(world.now)).unwrap();
        assert_eq!(profile.ids().count(), 983);
    }
    assert!(began.elapsed() < PATIENCE, "reads: {:?}", began.elapsed());
    let began = Instant::now();
    for _ in 0..20 {
        world.now += 1000;
        world.unlink("ecid:1");
        assert_eq!(world.read("ecid:1").unwrap().ids.len(), 490);
        world.visit(&["ecid:1", "tp:p"], &[], None, &[]);
    }
    assert!(began.elapsed() < PATIENCE, "unlinks: {:?}", began.elapsed());
    assert_eq!(world.read("tp:p").unwrap().ids.len(), 982);
}
