//! History follows links: what is told of an earlier moment by any address is what was read by it then, and a history has
//! what belongs to the person it is of.

use std::collections::BTreeSet;

use cameo_profile::PartitionState;
use cameo_profile::event::{Route, Unlink};
use cameo_profile::state::{Lead, Touch};
use serde_json::Value;

use super::*;
use crate::history::Entry;
use crate::history::read::Frames;

const LINKED: [&str; 7] = ["tnt:a", "tnt:b", "ecid:1", "ecid:2", "cust:crm:7", "tp:p", "tp:q"];
const PARTITIONS: u32 = 4;

/// How a profile is found and reads.
#[derive(Clone, Debug)]
struct Look {
    /// The addresses by which it was found, the one that it lives at last.
    way: Vec<String>,
    /// All that were ever linked to it.
    linked: Vec<String>,
    text: String,
}

impl Look {
    fn home(&self) -> &str {
        self.way.last().unwrap()
    }
}

fn demo() -> ClientCode {
    ClientCode::new("demo").unwrap()
}

impl Rig {
    fn partition(&self, address: &str) -> Partition {
        Address::from_canonical(address).partition(&demo(), self.replica().partitions())
    }

    /// Appends events, each to its partition, and waits until nothing is on its way.
    fn settle(&mut self, events: &[(Partition, Event<'_>)]) -> LogTime {
        self.later(1);
        let mut call = self.replica().start_call(events.len());
        events.iter().for_each(|(partition, event)| call.add(*partition, event, None));
        self.runtime.block_on(call.wait()).into_iter().for_each(|answer| drop(answer.unwrap()));
        let waits = |partition| self.replica().read(partition, |state, _| state.links().outbox).unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        while self.replica().partitions().iter().any(|partition| waits(partition) > 0) {
            assert!(std::time::Instant::now() < deadline, "messages do not arrive");
            std::thread::yield_now();
        }
        LogTime(self.now_ms)
    }

    /// What a reader sees now.
    fn look(&self, address: &str) -> Option<Look> {
        let client = demo();
        let read = |profile: &ProfileRef<'_>| {
            (profile.linked().map(|id| id.as_str().to_owned()).collect::<Vec<_>>(), text(profile))
        };
        let profile = self.replica().profile(&client, Address::from_canonical(address), read);
        let (linked, text) = self.runtime.block_on(profile).unwrap()?;
        let mut way = vec![address.to_owned()];
        let next = |address: &str| {
            let lead = |state: &PartitionState, _| state.lead("demo", Address::from_canonical(address), None);
            match self.replica().read(self.partition(address), lead).unwrap() {
                Lead::Alias { to, .. } => Some(to.into_string()),
                _ => None,
            }
        };
        while let Some(to) = next(way.last().unwrap()) {
            way.push(to);
        }
        Some(Look { way, linked, text })
    }

    fn visit(&mut self, ids: &[&str], value: &str) -> LogTime {
        let (home, others) = ids.split_first().unwrap();
        let visit =
            Visit { client: "demo", home, profile: vec![("a", value)], route: Route::Enter, ..Visit::default() };
        let visit = Visit { other_ids: others.to_vec(), ..visit };
        self.settle(&[(self.partition(home), Event::Visit(visit))])
    }

    fn unlink(&mut self, address: &str) -> LogTime {
        let epoch = self.replica().alias_epoch(&demo(), Address::from_canonical(address)).unwrap().unwrap();
        self.settle(&[(self.partition(address), Event::Unlink(Unlink { client: "demo", address, epoch, by: None }))])
    }

    fn erase(&mut self, address: &str) -> LogTime {
        let erase = Erase { client: "demo", address, ..Erase::default() };
        self.settle(&[(self.partition(address), Event::Erase(erase))])
    }

    /// The history by an address, the oldest first, as `type`, what it says, and by which address it came.
    fn told(&self, address: &str) -> Vec<String> {
        let home = self.replica().trace(&demo(), Address::from_canonical(address)).unwrap().home;
        let timeline = self.replica().timeline(&demo(), home.as_address()).unwrap();
        let mut frames = Frames::new(self.replica().log(), self.runtime.handle().clone());
        let (mut entries, mut after) = (Vec::new(), None);
        loop {
            let (page, next) = timeline.page(&mut frames, 2, after).unwrap();
            entries.extend(page);
            after = next;
            if after.is_none() {
                break;
            }
        }
        entries.reverse();
        let text = |entry: &Value| {
            let of = |value: &Value| value.as_str().map_or(String::new(), |text| format!(" {text}"));
            let via = entry["via"].as_str().map_or(String::new(), |via| format!(" by {via}"));
            let kind = entry["type"].as_str().unwrap();
            format!("{kind}{}{}{via}", of(&entry["profile"]["a"]), of(&entry["address"]))
        };
        entries.iter().map(text).collect()
    }
}

/// What is done in one step.
#[derive(Clone, Debug)]
enum Step {
    Visit { ids: Vec<usize>, event_id: Option<u8>, value: u8, direct: bool },
    Update { who: usize, value: u8, unset: bool, direct: bool },
    Row { who: usize, value: u8, create: bool },
    Unlink { who: usize },
    Erase { who: usize },
    Settings { days: u16 },
}

#[derive(Clone, Debug)]
struct Moment {
    after_ms: u64,
    step: Step,
    /// A visit that is made before the step, an erasure, has come to its end.
    at_once: Option<Step>,
    then: Then,
}

fn step() -> impl Strategy<Value = Step> {
    let who = || 0..LINKED.len();
    // In rising order, as addresses are: devices, then persons.
    let ids = prop::sample::subsequence((0..LINKED.len()).collect::<Vec<_>>(), 1..4);
    prop_oneof![
        10 => (ids, prop::option::weighted(0.4, 0..6u8), 0..4u8, any::<bool>())
            .prop_map(|(ids, event_id, value, direct)| Step::Visit { ids, event_id, value, direct }),
        3 => (who(), 0..4u8, any::<bool>(), any::<bool>())
            .prop_map(|(who, value, unset, direct)| Step::Update { who, value, unset, direct }),
        2 => (who(), 0..4u8, any::<bool>()).prop_map(|(who, value, create)| Step::Row { who, value, create }),
        2 => who().prop_map(|who| Step::Unlink { who }),
        1 => who().prop_map(|who| Step::Erase { who }),
        1 => (5..40u16).prop_map(|days| Step::Settings { days }),
    ]
}

fn moment() -> impl Strategy<Value = Moment> {
    let after_ms = prop_oneof![8 => 1..60_000u64, 2 => DAY..12 * DAY, 1 => 20 * DAY..21 * DAY];
    let then =
        prop_oneof![9 => Just(Then::Nothing), 1 => Just(Then::Restart), 1 => Just(Then::Save), 1 => Just(Then::Kill)];
    let visit = (0..LINKED.len(), 0..LINKED.len(), 0..4u8).prop_map(|(one, other, value)| {
        let ids = BTreeSet::from([one, other]).into_iter().collect();
        Step::Visit { ids, event_id: None, value, direct: false }
    });
    let at_once = prop::option::weighted(0.5, visit);
    (after_ms, step(), at_once, then).prop_map(|(after_ms, step, at_once, then)| {
        let at_once = at_once.filter(|_| matches!(step, Step::Erase { .. }));
        Moment { after_ms, step, at_once, then }
    })
}

/// Where an edge sends an event that names one address: home, and by which address; nothing when no profile lives there.
fn direct(rig: &Rig, address: &str) -> Option<String> {
    let trace = rig.replica().trace(&demo(), Address::from_canonical(address)).unwrap();
    let is_live = rig.replica().is_live(&demo(), &trace).unwrap();
    is_live.then(|| trace.home.as_address().as_str().to_owned())
}

/// Runs a step as an event, in each partition that it is for.
fn with_event(rig: &Rig, step: &Step, serial: usize, then: &mut dyn FnMut(Partition, &Event<'_>)) {
    match step {
        Step::Visit { ids, event_id, value, direct: wants } => {
            let value = value.to_string();
            let event_id = event_id.map(|id| format!("e{id}"));
            let ids: Vec<_> = ids.iter().map(|&id| LINKED[id]).collect();
            let home = if *wants && ids.len() == 1 && event_id.is_none() { direct(rig, ids[0]) } else { None };
            let mut visit = Visit { client: "demo", home: ids[0], route: Route::Enter, ..Visit::default() };
            visit.profile = vec![("a", &value)];
            visit.categories = vec![&value];
            visit.session_id = Some(&value);
            visit.event_id = event_id.as_deref();
            visit.other_ids = ids[1..].to_vec();
            if let Some(home) = &home {
                (visit.home, visit.route, visit.via) = (home, Route::Direct, ids[0]);
            }
            then(rig.partition(visit.home), &Event::Visit(visit));
        }
        Step::Update { who, value, unset, direct: wants } => {
            let value = value.to_string();
            let set = vec![("b", &*value)];
            let mut update =
                Update { client: "demo", address: LINKED[*who], set, route: Route::Enter, ..Update::default() };
            update.unset = if *unset { vec!["a"] } else { vec![] };
            let home = if *wants { direct(rig, LINKED[*who]) } else { None };
            if let Some(home) = &home {
                (update.address, update.route, update.via) = (home, Route::Direct, LINKED[*who]);
            }
            then(rig.partition(update.address), &Event::Update(update));
        }
        Step::Row { who, value, create } => {
            let (value, batch) = (value.to_string(), format!("demo-1-{serial}"));
            let (kind, id) = LINKED[*who].split_once(':').unwrap();
            if kind != "tnt" && kind != "tp" {
                return;
            }
            let row = |line| BatchRow { line, id, values: vec![Some(&*value), None], removed: vec![1] };
            let rows = BatchRows { client: "demo", batch: &batch, kind, create: *create, ..BatchRows::default() };
            let rows = BatchRows { columns: vec!["c", "b"], rows: vec![row(2), row(5)], occurred_at: NOW, ..rows };
            then(rig.partition(LINKED[*who]), &Event::BatchRows(rows));
        }
        Step::Unlink { who } => {
            let address = LINKED[*who];
            if let Some(epoch) = rig.replica().alias_epoch(&demo(), Address::from_canonical(address)).unwrap() {
                let unlink = Unlink { client: "demo", address, epoch, by: None };
                then(rig.partition(address), &Event::Unlink(unlink));
            }
        }
        Step::Erase { who } => {
            let erase = Erase { client: "demo", address: LINKED[*who], ..Erase::default() };
            then(rig.partition(LINKED[*who]), &Event::Erase(erase));
        }
        Step::Settings { days } => {
            let settings = Event::ClientSettings(ClientSettings { client: "demo", lifetime_days: *days });
            rig.replica().partitions().iter().for_each(|partition| then(partition, &settings));
        }
    }
}

/// Steps that happen at once: nothing waits for what another one has to say.
fn run(rig: &mut Rig, steps: &[&Step], serial: usize) {
    let mut encoded: Vec<(Partition, Vec<u8>)> = Vec::new();
    for (n, step) in steps.iter().enumerate() {
        with_event(rig, step, serial * 10 + n, &mut |partition, event| {
            let mut bytes = Vec::new();
            event.encode(&mut bytes);
            encoded.push((partition, bytes));
        });
    }
    let events: Vec<_> = encoded.iter().map(|(partition, bytes)| (*partition, Event::decode(bytes).unwrap())).collect();
    rig.settle(&events);
}

proptest! {
    // Each case opens some databases.
    #![proptest_config(ProptestConfig::with_cases(30))]

    #[test]
    fn by_any_address_every_moment_is_told_as_it_was(moments in prop::collection::vec(moment(), 1..40)) {
        let mut rig = Rig::of(PARTITIONS);
        let mut saved = rig.save();
        let mut seen: Vec<(LogTime, [Option<Look>; LINKED.len()])> = Vec::new();
        let mut erased = [LogTime(0); LINKED.len()];
        let mut touched = erased;
        let mut known_since = LogTime(0);
        // What an address had brought to somebody who was erased.
        let mut brought: BTreeSet<(usize, LogTime)> = BTreeSet::new();
        for (serial, moment) in moments.iter().enumerate() {
            rig.later(moment.after_ms);
            // What has ended meanwhile reads so, although nothing has happened.
            let before = LINKED.map(|id| rig.look(id));
            seen.push((LogTime(rig.now_ms), before.clone()));
            let steps: Vec<_> = std::iter::once(&moment.step).chain(&moment.at_once).collect();
            for step in &steps {
                let Step::Erase { who } = step else { continue };
                let at = LogTime(rig.now_ms + 1);
                // What leads elsewhere by what happens at once may not be erased with it, or something else is.
                let is_home = before[*who].as_ref().is_some_and(|look| look.home() == LINKED[*who]);
                if steps.len() > 1 && !is_home {
                    continue;
                }
                let Some(erased_one) = &before[*who] else {
                    erased[*who] = at;
                    continue;
                };
                for (id, address) in LINKED.iter().enumerate() {
                    let is_of_it = before[id].as_ref().map(Look::home) == Some(erased_one.home());
                    let is_listed = erased_one.linked.iter().any(|listed| listed == address);
                    if erased_one.home() == *address {
                        erased[id] = at;
                        continue;
                    }
                    if is_of_it || is_listed {
                        touched[id] = at;
                    }
                    // It went from where it was on its own straight there, if anywhere, and has been there ever since.
                    let own = |look: &Look| [*address, erased_one.home()].contains(&look.home());
                    let looks = seen.iter().rev().map(|(at, looks)| (*at, looks[id].as_ref()));
                    let looks = looks.take_while(|(at, _)| *at >= known_since);
                    let looks = looks.take_while(|(_, look)| is_of_it && is_listed && look.is_some_and(own));
                    brought.extend(looks.map(|(at, _)| (id, at)));
                }
            }
            if steps.len() > 1 {
                // What the other one has done by then may be erased with it, and which way it went is not seen.
                known_since = LogTime(rig.now_ms + 1);
                touched = [known_since; LINKED.len()];
            }
            run(&mut rig, &steps, serial);
            seen.push((LogTime(rig.now_ms), LINKED.map(|id| rig.look(id))));
            match moment.then {
                Then::Nothing => {}
                Then::Restart => rig.restart(),
                Then::Save => saved = rig.save(),
                Then::Kill => rig.kill(&saved),
            }
        }
        let before = |times: &[LogTime; LINKED.len()], address: &str, at: LogTime| {
            LINKED.iter().zip(times).any(|(id, time)| *id == address && at < *time)
        };
        for (at, profiles) in &seen {
            for (number, (id, profile)) in LINKED.iter().zip(profiles).enumerate() {
                let told = rig.as_of(id, *at);
                // Nothing from before an erasure is ever told again, nor to whom an erased address led.
                let by = |times| profile.as_ref().is_some_and(|look| look.way.iter().any(|way| before(times, way, *at)));
                let known = profile.as_ref().filter(|_| !by(&erased) && !brought.contains(&(number, *at)));
                let expected = known.map_or(AsOf::None, |look| AsOf::Found(look.text.clone()));
                let may_be_gone = told == AsOf::None && by(&touched);
                prop_assert!(told == expected || may_be_gone, "{} at {}: {:?}, not {:?}", id, at, told, expected);
            }
        }
    }
}

#[test]
fn a_login_takes_along_what_was_done_before_and_history_says_by_whom() {
    let mut rig = Rig::of(PARTITIONS);
    rig.visit(&["tnt:a"], "1");
    rig.visit(&["tnt:b"], "2");
    rig.visit(&["tp:p"], "3");
    rig.visit(&["tnt:a", "tp:p"], "4");
    rig.visit(&["tnt:b", "tp:p"], "5");
    rig.visit(&["tnt:b"], "6");
    let whole = [
        "visit 1 by tnt:a",
        "visit 2 by tnt:b",
        "visit 3",
        "link tnt:a",
        "visit 4 by tnt:a",
        "link tnt:b",
        "visit 5 by tnt:b",
        "visit 6 by tnt:b",
    ];
    for address in ["tp:p", "tnt:a", "tnt:b"] {
        assert_eq!(rig.told(address), whole, "{address}");
    }
    rig.restart();
    assert_eq!(rig.told("tnt:a"), whole);
    // Whoever is unlinked goes with what it had, and the other one has it no more.
    rig.unlink("tnt:b");
    assert_eq!(rig.told("tnt:b"), ["visit 2", "return"]);
    assert_eq!(
        rig.told("tp:p"),
        [
            "visit 1 by tnt:a",
            "visit 3",
            "link tnt:a",
            "visit 4 by tnt:a",
            "link tnt:b",
            "visit 5 by tnt:b",
            "visit 6 by tnt:b",
            "unlink tnt:b"
        ]
    );
    // Linked once more it is all there again.
    rig.visit(&["tnt:b", "tp:p"], "7");
    assert_eq!(rig.told("tp:p").len(), 12);
    assert_eq!(rig.told("tp:p")[1], "visit 2 by tnt:b");
}

#[test]
fn a_shared_device_shows_nothing_of_one_person_to_the_next() {
    let mut rig = Rig::of(PARTITIONS);
    rig.visit(&["tnt:a", "ecid:1"], "1");
    rig.visit(&["tnt:a"], "2");
    let first = rig.visit(&["ecid:1", "tp:p"], "3");
    rig.visit(&["ecid:1", "tp:q"], "4");
    let second = rig.visit(&["tnt:a"], "5");
    let of_p = ["visit 1 by tnt:a", "visit 2 by tnt:a", "link ecid:1", "visit 3 by ecid:1", "leave ecid:1"];
    let of_q = ["link ecid:1", "visit 4 by ecid:1", "visit 5 by tnt:a"];
    let without_link =
        |told: Vec<String>| told.into_iter().filter(|line| !line.starts_with("link tnt:a")).collect::<Vec<_>>();
    assert_eq!(without_link(rig.told("tp:p")), of_p);
    for address in ["tp:q", "ecid:1", "tnt:a"] {
        assert_eq!(without_link(rig.told(address)), of_q, "{address}");
    }
    // An earlier moment is that of the person the device followed then.
    let home = |told: AsOf<String>| match told {
        AsOf::Found(text) => serde_json::from_str::<Value>(&text).unwrap()["ids"]["thirdPartyId"].clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(home(rig.as_of("tnt:a", first)), "p");
    assert_eq!(home(rig.as_of("tnt:a", second)), "q");
    // Unlinked from the second it is on its own, without what it had brought to the first.
    rig.unlink("ecid:1");
    assert_eq!(without_link(rig.told("ecid:1")), ["return"]);
}

#[test]
fn an_erasure_takes_along_what_every_address_had_brought() {
    let mut rig = Rig::of(PARTITIONS);
    let alone = rig.visit(&["tnt:a"], "1");
    rig.visit(&["tnt:b"], "2");
    let linked = rig.visit(&["tnt:a", "tp:p"], "3");
    rig.visit(&["tnt:b", "tp:p"], "4");
    rig.restart();
    rig.erase("tnt:a");
    for _ in 0..2 {
        for address in ["tnt:a", "tnt:b", "tp:p"] {
            assert_eq!(rig.told(address), Vec::<String>::new(), "{address}");
            assert_eq!(rig.as_of(address, alone), AsOf::None);
            assert_eq!(rig.as_of(address, linked), AsOf::None);
        }
        rig.restart();
    }
    let index = rig.replica().index().unwrap();
    let is_theirs =
        |key: &[u8]| [&b"tnt:a"[..], b"tnt:b", b"tp:p"].iter().any(|id| key.windows(id.len()).any(|w| w == *id));
    let left: Vec<_> = index.iter().map(|pair| pair.key().unwrap()).filter(|key| is_theirs(key)).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn an_erasure_takes_along_what_a_device_had_brought_that_follows_somebody_else_by_now() {
    let mut rig = Rig::of(PARTITIONS);
    let alone = rig.visit(&["tnt:a", "ecid:1"], "1");
    rig.visit(&["ecid:1", "tp:p"], "2");
    rig.unlink("ecid:1");
    let again = rig.visit(&["tnt:a"], "3");
    rig.restart();
    let with_p = rig.visit(&["ecid:1", "tp:p"], "4");
    let with_q = rig.visit(&["ecid:1", "tp:q"], "5");
    let of_q = rig.told("tp:q");
    assert!(matches!(rig.as_of("tnt:a", alone), AsOf::Found(_)) && matches!(rig.as_of("tnt:a", again), AsOf::Found(_)));
    rig.erase("tp:p");
    for _ in 0..3 {
        for address in ["tnt:a", "ecid:1", "tp:p"] {
            for at in [alone, again, with_p] {
                assert_eq!(rig.as_of(address, at), AsOf::None, "{address} at {at}");
            }
        }
        assert!(matches!(rig.as_of("tnt:a", with_q), AsOf::Found(_)));
        assert_eq!(rig.told("tnt:a"), of_q);
        rig.restart();
    }
    let of_device = rig.replica().recorded(rig.partition("ecid:1"), "demo", "ecid:1").unwrap().held;
    let brought = |entry: &Entry| matches!(entry.touch(), Some(Touch::Visit { .. } | Touch::GivenBack));
    assert!(!of_device.entries.iter().any(brought), "{of_device:?}");
    assert!(of_device.images.iter().all(|image| image.length == 0), "{of_device:?}");
}

#[test]
fn an_erasure_takes_nothing_along_that_a_device_had_brought_to_somebody_else() {
    for chain in [&["tnt:a"][..], &["tnt:a", "ecid:1"]] {
        let mut rig = Rig::of(PARTITIONS);
        let alone = rig.visit(&["tnt:a"], "1");
        rig.visit(chain, "2");
        let login = |rig: &mut Rig, person, value| rig.visit(&[chain, &[person]].concat(), value);
        let with_p = login(&mut rig, "tp:p", "3");
        rig.restart();
        let with_q = login(&mut rig, "tp:q", "4");
        let of_p = rig.told("tp:p");
        assert!(of_p.contains(&"visit 1 by tnt:a".to_owned()), "{of_p:?}");
        rig.erase("tnt:a");
        for _ in 0..2 {
            assert_eq!(rig.told("tp:p"), of_p);
            for address in ["tnt:a", "tp:p"] {
                assert!(matches!(rig.as_of(address, with_p), AsOf::Found(_)), "{address}");
            }
            assert!(matches!(rig.as_of("tnt:a", alone), AsOf::Found(_)));
            for address in ["tnt:a", "tp:q"] {
                assert_eq!(rig.as_of(address, with_q), AsOf::None, "{address}");
                assert_eq!(rig.told(address), Vec::<String>::new(), "{address}");
            }
            rig.restart();
        }
        // Nor is any trace left of who was erased.
        for address in chain {
            let held = rig.replica().recorded(rig.partition(address), "demo", address).unwrap().held;
            assert!(!format!("{held:?}").contains("tp:q"), "{held:?}");
        }
    }
}

#[test]
fn an_erasure_takes_along_what_a_device_had_brought_that_came_back_to_the_person() {
    let mut rig = Rig::of(PARTITIONS);
    let alone = rig.visit(&["tnt:a"], "1");
    rig.visit(&["tnt:a", "tp:p"], "2");
    let with_q = rig.visit(&["tnt:a", "tp:q"], "3");
    rig.visit(&["tnt:a", "tp:p"], "4");
    let of_q = rig.told("tp:q");
    rig.erase("tp:p");
    for _ in 0..2 {
        assert_eq!(rig.as_of("tnt:a", alone), AsOf::None);
        assert!(matches!(rig.as_of("tnt:a", with_q), AsOf::Found(_)));
        assert_eq!(rig.told("tp:q"), of_q);
        rig.restart();
    }
}

#[test]
fn an_erasure_takes_along_what_a_device_had_brought_that_is_just_leaving() {
    let mut rig = Rig::of(PARTITIONS);
    let alone = rig.visit(&["tnt:a"], "1");
    rig.visit(&["tnt:a", "tp:p"], "2");
    let ids = |person| Visit {
        client: "demo",
        home: "tnt:a",
        other_ids: vec![person],
        route: Route::Enter,
        ..Visit::default()
    };
    let erase = Event::Erase(Erase { client: "demo", address: "tp:p", ..Erase::default() });
    let at = [("tnt:a", Event::Visit(ids("tp:q"))), ("tp:p", erase)];
    rig.settle(&at.map(|(address, event)| (rig.partition(address), event)));
    for _ in 0..2 {
        assert_eq!(rig.as_of("tnt:a", alone), AsOf::None);
        assert_eq!(rig.look("tnt:a").as_ref().map(Look::home), Some("tp:q"));
        rig.restart();
    }
}
