//! Promises of the fold: determinism through any checkpoint, what expiry means, last writer wins, batches and limits.

use std::collections::BTreeMap;

use proptest::prelude::*;

mod delivery;

use super::*;
use crate::event::{BatchClosed, BatchOpened, BatchRow, BatchRows, ClientSettings, Erase, Event, Update, Visit};
use crate::limits;
use crate::time::{DAY_MS, MINUTE_MS};

mod links;

const T: u64 = 1_790_000_000_000;

/// An event with its strings owned, so that generated histories can be kept and shrunk.
#[derive(Clone, Debug)]
enum Step {
    Visit {
        visitor: u8,
        session: Option<u8>,
        event_id: Option<u8>,
        ago: u64,
        set: Vec<(u8, String)>,
        categories: Vec<u8>,
    },
    Update {
        visitor: u8,
        event_id: Option<u8>,
        ago: u64,
        set: Vec<(u8, String)>,
        unset: Vec<u8>,
    },
    Erase {
        visitor: u8,
    },
    Rows {
        batch: u8,
        create: bool,
        first_line: u32,
        visitors: Vec<u8>,
    },
    Open {
        batch: u8,
        key: Option<u8>,
    },
    Close {
        batch: u8,
    },
    Settings {
        days: u16,
    },
}

fn apply(state: &mut PartitionState, at: u64, step: &Step) -> Outcome {
    let name = |n: &u8| format!("attribute{n}");
    let event_text = |id: &Option<u8>| id.map(|id| format!("e{id}"));
    match step {
        Step::Visit { visitor, session, event_id, ago, set, categories } => {
            let (home, session, event_id) =
                (format!("tnt:v{visitor}"), session.map(|s| format!("s{s}")), event_text(event_id));
            let set: Vec<_> = set.iter().map(|(n, v)| (name(n), v.as_str())).collect();
            let categories: Vec<_> = categories.iter().map(|c| format!("c{c}")).collect();
            let visit = Visit {
                client: "demo",
                home: &home,
                event_id: event_id.as_deref(),
                occurred_at: (*ago > 0).then(|| at - ago),
                session_id: session.as_deref(),
                profile: set.iter().map(|(n, v)| (n.as_str(), *v)).collect(),
                categories: categories.iter().map(String::as_str).collect(),
                ..Visit::default()
            };
            state.apply(LogTime(at), &through_bytes(&Event::Visit(visit), &mut Vec::new()))
        }
        Step::Update { visitor, event_id, ago, set, unset } => {
            let (address, event_id) = (format!("tnt:v{visitor}"), event_text(event_id));
            let set: Vec<_> = set.iter().map(|(n, v)| (name(n), v.as_str())).collect();
            let unset: Vec<_> = unset.iter().map(name).collect();
            let update = Update {
                client: "demo",
                address: &address,
                event_id: event_id.as_deref(),
                occurred_at: (*ago > 0).then(|| at - ago),
                set: set.iter().map(|(n, v)| (n.as_str(), *v)).collect(),
                unset: unset.iter().map(String::as_str).collect(),
                ..Update::default()
            };
            state.apply(LogTime(at), &through_bytes(&Event::Update(update), &mut Vec::new()))
        }
        Step::Erase { visitor } => state.apply(
            LogTime(at),
            &Event::Erase(Erase { client: "demo", address: &format!("tnt:v{visitor}"), ..Erase::default() }),
        ),
        Step::Rows { batch, create, first_line, visitors } => {
            let ids: Vec<_> = visitors.iter().map(|v| format!("v{v}")).collect();
            let rows = ids.iter().zip(*first_line..).map(|(id, line)| BatchRow {
                line,
                id,
                values: vec![Some("x"), None, (line % 2 == 0).then_some("y")],
                removed: if line % 3 == 0 { vec![1] } else { vec![] },
            });
            let batch = format!("b{batch}");
            let columns = vec!["attribute0", "attribute1", "attribute2"];
            let event = BatchRows {
                client: "demo",
                batch: &batch,
                kind: "tnt",
                create: *create,
                occurred_at: at,
                columns,
                rows: rows.collect(),
                ..BatchRows::default()
            };
            state.apply(LogTime(at), &through_bytes(&Event::BatchRows(event), &mut Vec::new()))
        }
        Step::Open { batch, key } => {
            let (batch, key) = (format!("b{batch}"), key.map(|k| format!("k{k}")));
            let event = BatchOpened {
                client: "demo",
                batch: &batch,
                idempotency_key: key.as_deref(),
                ..BatchOpened::default()
            };
            state.apply(LogTime(at), &through_bytes(&Event::BatchOpened(event), &mut Vec::new()))
        }
        Step::Close { batch } => {
            let batch = format!("b{batch}");
            let event = BatchClosed { client: "demo", batch: &batch, updated: 3, created: 1, not_found: 1, failed: 1 };
            state.apply(LogTime(at), &through_bytes(&Event::BatchClosed(event), &mut Vec::new()))
        }
        Step::Settings { days } => {
            let event = ClientSettings { client: "demo", lifetime_days: *days };
            state.apply(LogTime(at), &Event::ClientSettings(event))
        }
    }
}

/// What the log hands to the fold is what was encoded.
fn through_bytes<'a>(event: &Event<'_>, bytes: &'a mut Vec<u8>) -> Event<'a> {
    event.encode(bytes);
    Event::decode(bytes).expect("decodes")
}

fn step() -> impl Strategy<Value = Step> {
    let set = || prop::collection::vec((0..6u8, "[a-zé]{0,12}"), 0..4);
    prop_oneof![
        6 => (0..6u8, proptest::option::of(0..3u8), proptest::option::of(0..20u8), 0..3 * DAY_MS, set(), prop::collection::vec(0..8u8, 0..4))
            .prop_map(|(visitor, session, event_id, ago, set, categories)| Step::Visit { visitor, session, event_id, ago, set, categories }),
        3 => (0..6u8, proptest::option::of(0..20u8), 0..3 * DAY_MS, set(), prop::collection::vec(0..6u8, 0..3))
            .prop_map(|(visitor, event_id, ago, set, unset)| Step::Update { visitor, event_id, ago, set, unset }),
        1 => (0..6u8).prop_map(|visitor| Step::Erase { visitor }),
        2 => (0..3u8, any::<bool>(), 1..30u32, prop::collection::vec(0..8u8, 1..6))
            .prop_map(|(batch, create, first_line, visitors)| Step::Rows { batch, create, first_line, visitors }),
        1 => (0..3u8, proptest::option::of(0..2u8)).prop_map(|(batch, key)| Step::Open { batch, key }),
        1 => (0..3u8).prop_map(|batch| Step::Close { batch }),
        1 => (1..90u16).prop_map(|days| Step::Settings { days }),
    ]
}

/// A history: steps and the milliseconds before each.
fn history() -> impl Strategy<Value = Vec<(u64, Step)>> {
    let gap = prop_oneof![5 => 0..MINUTE_MS, 2 => 0..2 * 60 * MINUTE_MS, 1 => 0..40 * DAY_MS];
    prop::collection::vec((gap, step()), 1..60)
}

/// A checkpoint store: what fjall is to a replica.
#[derive(Default)]
struct Store(BTreeMap<Vec<u8>, Vec<u8>>);

impl Store {
    fn save(&mut self, changes: Changes) {
        for key in changes.deletes {
            self.0.remove(&key);
        }
        self.0.extend(changes.puts);
    }

    fn load(&self) -> PartitionState {
        let mut state = PartitionState::default();
        for (key, value) in &self.0 {
            state.restore(key, value).expect("what was saved restores");
        }
        state
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Checkpoints, lost checkpoints, restarts and sweeps at any point change nothing that anybody can see.
    #[test]
    fn any_checkpoint_and_resume_point_gives_the_same_state(history in history(), marks in prop::collection::vec(0..6u8, 60)) {
        let mut plain = PartitionState::default();
        let mut resumed = PartitionState::default();
        let mut store = Store::default();
        let (mut at, mut after_save) = (T, Vec::new());
        for ((gap, step), mark) in history.iter().zip(marks) {
            at += gap;
            prop_assert_eq!(apply(&mut plain, at, step), apply(&mut resumed, at, step));
            after_save.push((at, step));
            match mark {
                0 => {
                    store.save(resumed.take_changes());
                    after_save.clear();
                }
                1 => {
                    let changes = resumed.take_changes();
                    resumed.put_back(changes);
                }
                2 => {
                    resumed = store.load();
                    for (at, step) in &after_save {
                        apply(&mut resumed, *at, step);
                    }
                }
                3 => {
                    resumed.sweep(LogTime(at), 2);
                }
                _ => {}
            }
            prop_assert_eq!(plain.digest(LogTime(at)), resumed.digest(LogTime(at)));
        }
        store.save(resumed.take_changes());
        prop_assert_eq!(plain.digest(LogTime(at)), store.load().digest(LogTime(at)));
        let bytes: usize = resumed.profiles.iter().map(Packed::len).sum();
        prop_assert_eq!(bytes, resumed.bytes);
    }

    /// Events of different visitors commute; a visitor's attributes depend on event times, not on the order of arrival.
    #[test]
    fn a_late_value_never_overwrites_a_newer_one(mut values in prop::collection::vec((1..1000u64, "[a-z]{1,5}"), 1..12)) {
        values.sort();
        values.dedup_by_key(|(ago, _)| *ago);
        let newest = values[0].1.clone();
        let (mut forward, mut backward) = (PartitionState::default(), PartitionState::default());
        for (state, order) in [(&mut forward, values.clone()), (&mut backward, values.iter().rev().cloned().collect())] {
            for (ago, value) in order {
                let step = Step::Visit { visitor: 1, session: None, event_id: None, ago, set: vec![(0, value)], categories: vec![] };
                apply(state, T, &step);
            }
            prop_assert_eq!(&attribute(state, "tnt:v1", "attribute0", T).expect("held"), &newest);
        }
    }
}

fn attribute(state: &PartitionState, address: &str, name: &str, now: u64) -> Option<String> {
    let profile = state.profile("demo", Address::from_canonical(address), LogTime(now))?;
    profile.attributes().find(|a| a.name == name).map(|a| a.value.to_owned())
}

fn visit_at(state: &mut PartitionState, at: u64, home: &str, set: &[(&str, &str)]) -> VisitOutcome {
    let visit = Visit { client: "demo", home, profile: set.to_vec(), ..Visit::default() };
    match state.apply(LogTime(at), &Event::Visit(visit)) {
        Outcome::Visit(outcome) => outcome,
        other => panic!("{other:?}"),
    }
}

fn update_at(
    state: &mut PartitionState,
    at: u64,
    set: &[(&str, &str)],
    unset: &[&str],
    occurred_at: Option<u64>,
) -> UpdateOutcome {
    let update = Update {
        client: "demo",
        address: "tnt:a",
        event_id: None,
        occurred_at,
        set: set.to_vec(),
        unset: unset.to_vec(),
        ..Update::default()
    };
    match state.apply(LogTime(at), &Event::Update(update)) {
        Outcome::Update(outcome) => outcome,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_has_ended_is_gone_at_the_millisecond_and_comes_back_empty() {
    let end = T + 14 * DAY_MS;
    for sweep in [false, true] {
        let mut state = PartitionState::default();
        assert!(visit_at(&mut state, T, "tnt:a", &[("tier", "gold")]).created);
        assert!(attribute(&state, "tnt:a", "tier", end - 1).is_some());
        assert!(state.profile("demo", Address::from_canonical("tnt:a"), LogTime(end)).is_none());
        assert_eq!(state.sweep(LogTime(end - 1), 10), 0);
        if sweep {
            assert_eq!(state.sweep(LogTime(end), 10), 1);
            assert_eq!(state.stats().profiles, 0);
        }
        assert_eq!(update_at(&mut state, end, &[("x", "y")], &[], None), UpdateOutcome::NotFound);
        assert!(visit_at(&mut state, end, "tnt:a", &[]).created);
        assert_eq!(attribute(&state, "tnt:a", "tier", end), None, "nothing of the old profile comes back");
    }
}

#[test]
fn activity_renews_the_lifetime() {
    let mut state = PartitionState::default();
    visit_at(&mut state, T, "tnt:a", &[("tier", "gold")]);
    visit_at(&mut state, T + 13 * DAY_MS, "tnt:a", &[]);
    assert_eq!(attribute(&state, "tnt:a", "tier", T + 26 * DAY_MS).as_deref(), Some("gold"));
}

#[test]
fn a_removed_attribute_stays_removed_for_late_events() {
    let mut state = PartitionState::default();
    visit_at(&mut state, T, "tnt:a", &[("tier", "gold"), ("city", "Lyon")]);
    assert_eq!(update_at(&mut state, T + 10, &[], &["tier", "never"], None), UpdateOutcome::Updated);
    assert_eq!(
        update_at(&mut state, T + 20, &[("tier", "late"), ("never", "late")], &[], Some(T + 5)),
        UpdateOutcome::Updated
    );
    assert_eq!(attribute(&state, "tnt:a", "tier", T + 20), None);
    assert_eq!(attribute(&state, "tnt:a", "never", T + 20), None);
    assert_eq!(attribute(&state, "tnt:a", "city", T + 20).as_deref(), Some("Lyon"));
    update_at(&mut state, T + 30, &[("tier", "new")], &[], None);
    assert_eq!(attribute(&state, "tnt:a", "tier", T + 30).as_deref(), Some("new"));
}

#[test]
fn a_time_in_the_future_counts_as_now() {
    let mut state = PartitionState::default();
    visit_at(&mut state, T, "tnt:a", &[]);
    update_at(&mut state, T, &[("x", "ahead")], &[], Some(T + DAY_MS));
    update_at(&mut state, T + 1, &[("x", "after")], &[], None);
    assert_eq!(attribute(&state, "tnt:a", "x", T + 1).as_deref(), Some("after"));
}

#[test]
fn a_retried_event_counts_once_and_tells_the_made_up_id_again() {
    let mut state = PartitionState::default();
    let mut send = |home: &str, generated| {
        let visit = Visit { client: "demo", home, generated, event_id: Some("e1"), ..Visit::default() };
        state.apply(LogTime(T), &Event::Visit(visit))
    };
    assert!(matches!(send("tnt:first", true), Outcome::Visit(VisitOutcome { duplicate: false, .. })));
    let Outcome::Visit(again) = send("tnt:second", true) else { panic!("a visit") };
    assert_eq!((again.duplicate, again.first_tnt_id.as_deref()), (true, Some("first")));
    assert!(matches!(send("tnt:named", false), Outcome::Visit(VisitOutcome { duplicate: false, .. })));
    assert!(matches!(send("tnt:named", false), Outcome::Visit(VisitOutcome { duplicate: true, .. })));
    let now = LogTime(T);
    assert!(state.profile("demo", Address::from_canonical("tnt:second"), now).is_none());
    let named = state.profile("demo", Address::from_canonical("tnt:named"), now).and_then(|p| p.visits());
    assert_eq!(named.map(|v| v.visit_count), Some(1));
}

#[test]
fn event_ids_are_forgotten_after_the_window() {
    let mut state = PartitionState::default();
    let mut send = |at| {
        let visit = Visit { client: "demo", home: "tnt:a", event_id: Some("e"), ..Visit::default() };
        matches!(state.apply(LogTime(at), &Event::Visit(visit)), Outcome::Visit(VisitOutcome { duplicate: true, .. }))
    };
    assert!(!send(T));
    assert!(send(T + limits::EVENT_ID_WINDOW_MS));
    let other = Visit { client: "demo", home: "tnt:b", event_id: Some("f"), ..Visit::default() };
    state.apply(LogTime(T + limits::EVENT_ID_WINDOW_MS), &Event::Visit(other));
    assert_eq!(state.stats().event_ids, 1);
}

#[test]
fn a_profile_has_limits_and_a_refused_change_leaves_no_trace() {
    let mut state = PartitionState::default();
    visit_at(&mut state, T, "tnt:a", &[("keep", "me")]);
    let big = "x".repeat(40_000);
    assert_eq!(update_at(&mut state, T, &[("one", &big)], &[], None), UpdateOutcome::Updated);
    assert_eq!(update_at(&mut state, T, &[("two", &big), ("small", "s")], &[], None), UpdateOutcome::TooLarge);
    assert_eq!(attribute(&state, "tnt:a", "small", T), None);
    let outcome = visit_at(&mut state, T + 1, "tnt:a", &[("two", &big)]);
    assert!(outcome.attributes_refused && !outcome.created);
    let profile = state.profile("demo", Address::from_canonical("tnt:a"), LogTime(T + 1)).expect("there");
    assert_eq!(profile.visits().map(|v| v.visit_count), Some(2), "the visit itself counts");
    assert_eq!(update_at(&mut state, T + 2, &[], &["one"], None), UpdateOutcome::Updated);
    assert_eq!(update_at(&mut state, T + 3, &[("two", &big)], &[], None), UpdateOutcome::Updated);
    let names: Vec<_> = (0..=limits::ATTRIBUTES).map(|i| format!("n{i}")).collect();
    let many: Vec<_> = names.iter().map(|name| (name.as_str(), "v")).collect();
    assert_eq!(update_at(&mut state, T + 4, &many, &[], None), UpdateOutcome::TooLarge);
}

#[test]
fn names_past_the_table_still_work() {
    let mut state = PartitionState::default();
    let names: Vec<_> = (0..limits::INTERNED_NAMES + 10).map(|i| format!("name{i}")).collect();
    for name in &names {
        visit_at(&mut state, T, "tnt:a", &[("x", "y")]);
        update_at(&mut state, T, &[(name, "v")], &[], None);
        update_at(&mut state, T, &[], &[name], None);
    }
    let last = names.last().expect("some");
    update_at(&mut state, T + 1, &[(last, "held")], &[], None);
    assert_eq!(attribute(&state, "tnt:a", last, T + 1).as_deref(), Some("held"));
    assert_eq!(state.stats().names, limits::INTERNED_NAMES);
}

#[test]
fn rows_count_once_and_only_in_rising_order() {
    let mut state = PartitionState::default();
    visit_at(&mut state, T, "tnt:v1", &[]);
    let rows =
        |first_line, create, visitors: &[u8]| Step::Rows { batch: 1, create, first_line, visitors: visitors.to_vec() };
    apply(&mut state, T, &rows(2, false, &[1, 9]));
    apply(&mut state, T, &rows(2, false, &[1, 9, 1]));
    apply(&mut state, T, &rows(9, true, &[9]));
    let part = state.batch_part("demo", "b1").expect("counted");
    assert_eq!((part.updated, part.created, part.not_found, part.high_line), (3, 1, 1, 9));
    assert_eq!(part.consumed(), 4);
}

#[test]
fn rows_that_do_not_follow_are_not_applied() {
    let mut state = PartitionState::default();
    let mut send = |after, line| {
        let row = BatchRow { line, id: "v1", values: vec![Some("x")], removed: vec![] };
        let event = BatchRows {
            client: "demo",
            batch: "b",
            kind: "tnt",
            create: true,
            after,
            columns: vec!["a"],
            rows: vec![row],
            ..BatchRows::default()
        };
        state.apply(LogTime(T), &Event::BatchRows(event))
    };
    assert_eq!(send(0, 2), Outcome::BatchRows { follow: true });
    assert_eq!(send(5, 9), Outcome::BatchRows { follow: false }, "lines 3 to 5 were lost");
    assert_eq!(send(2, 5), Outcome::BatchRows { follow: true });
    assert_eq!(send(5, 9), Outcome::BatchRows { follow: true });
    assert_eq!(send(2, 5), Outcome::BatchRows { follow: true }, "seen before");
    assert_eq!(state.batch_part("demo", "b").map(|part| part.consumed()), Some(3));
}

#[test]
fn two_uploads_with_one_key_meet() {
    let mut state = PartitionState::default();
    let opened = Outcome::BatchOpened(BatchOpenedOutcome::Opened);
    assert_eq!(apply(&mut state, T, &Step::Open { batch: 1, key: Some(7) }), opened);
    assert_eq!(apply(&mut state, T, &Step::Open { batch: 1, key: Some(7) }), opened, "the same event again");
    let taken = BatchOpenedOutcome::KeyTaken { batch: "b1".into(), digest: [0; 16] };
    assert_eq!(apply(&mut state, T, &Step::Open { batch: 2, key: Some(7) }), Outcome::BatchOpened(taken));
    assert!(state.batch_head("demo", "b2").is_none());
    assert_eq!(state.batch_head_by_key("demo", "k7").map(|head| &*head.batch), Some("b1"));
}

#[test]
fn rubbish_in_a_checkpoint_is_named() {
    let mut state = PartitionState::default();
    assert_eq!(state.restore(&[9, b'p'], b""), Err(RestoreError::Version(9)));
    let error = state.restore(&[1, b'p', 0, 0, 0, 0, b'x'], b"rubbish").expect_err("not a profile");
    assert!(error.to_string().contains("\\x01p"), "{error}");
}

#[test]
fn the_documented_system_attributes() {
    let mut state = PartitionState::default();
    for day in [0, 2, 4] {
        visit_at(&mut state, T + day * DAY_MS, "tnt:a", &[]);
    }
    let now = LogTime(T + 5 * DAY_MS);
    let profile = state.profile("demo", Address::from_canonical("tnt:a"), now).expect("there");
    let mut seen = BTreeMap::new();
    profile.system_attributes(|name, value, _| {
        seen.insert(name, value.to_owned());
    });
    let expected = [
        ("averageDaysBetweenVisits", "2".to_owned()),
        ("daysSinceLastVisit", "1".to_owned()),
        ("firstSessionStart", T.to_string()),
        ("isFirstSession", "false".to_owned()),
        ("isNewSession", "true".to_owned()),
        ("lastVisit", (T + 4 * DAY_MS).to_string()),
        ("sessionCount", "3".to_owned()),
        ("visitCount", "3".to_owned()),
    ];
    assert_eq!(seen, BTreeMap::from(expected));
}

#[test]
fn five_attributes_fit_180_bytes() {
    let mut state = PartitionState::default();
    let columns = vec!["tier", "country", "lastPurchase", "score", "segment"];
    for i in 0..20_000u32 {
        let id = format!("crm-{i:08}");
        let values = ["silver", "fr", "2026-11-23T10:00:00Z", "99999", "seg/500"].map(Some).to_vec();
        let row = BatchRow { line: i + 2, id: &id, values, removed: vec![] };
        let event = BatchRows {
            client: "demo",
            batch: "b",
            kind: "tp",
            create: true,
            occurred_at: T,
            columns: columns.clone(),
            rows: vec![row],
            ..BatchRows::default()
        };
        state.apply(LogTime(T + u64::from(i)), &Event::BatchRows(event));
    }
    let stats = state.stats();
    assert!(
        stats.bytes / stats.profiles <= 160,
        "{} bytes a profile, before the allocator",
        stats.bytes / stats.profiles
    );
}
