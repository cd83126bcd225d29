//! The lease protocol: checked exhaustively ([`model`]), and its decisions one by one.

mod model;

use std::time::Duration;

use stateright::{Checker, HasDiscoveries, Model};

use super::*;
use model::{Bounds, NEVER, Weak};

/// Clocks at the edges of what is allowed, the control plane's fast and the nodes' slow: what endangers the promise.
const WORST: (&[u64], &[u64]) = (&[11], &[9]);
const EDGES: (&[u64], &[u64]) = (&[9, 11], &[9, 11]);
const ALL: (&[u64], &[u64]) = (&[9, 10, 11], &[9, 10, 11]);

/// As much as heartbeats and clocks say, and nothing else that may happen.
fn bounds(beats: &[&[u64]], (control, nodes): (&[u64], &[u64])) -> Bounds {
    Bounds {
        beats: beats.iter().map(|runs| runs.to_vec()).collect(),
        leaves: 0,
        restarts: 0,
        forgets: false,
        changes: false,
        rates: (control.to_vec(), nodes.to_vec()),
        goes_on: false,
        weak: Weak::Nothing,
    }
}

/// Walks through every state; a run of the tests prints how many there were.
fn check(bounds: Bounds) {
    let said = format!("{bounds:?}");
    let checker = bounds.checker().threads(2).spawn_bfs().join();
    println!("{} states, {} deep: {said}", checker.unique_state_count(), checker.max_depth());
    assert!(checker.is_done());
    checker.assert_properties();
}

#[test]
fn no_old_token_after_the_reply_whatever_the_clocks_do() {
    check(Bounds { changes: true, ..bounds(&[&[2]], ALL) });
}

#[test]
fn no_old_token_after_the_reply_when_nodes_leave_and_the_control_plane_restarts_and_forgets() {
    check(Bounds { changes: true, leaves: 1, restarts: 1, forgets: true, ..bounds(&[&[2]], EDGES) });
}

#[test]
fn no_old_token_after_the_reply_when_a_node_restarts_and_its_old_run_goes_on() {
    check(bounds(&[&[2, 1]], WORST));
}

#[test]
fn no_old_token_after_the_reply_at_two_nodes() {
    check(bounds(&[&[1, 1], &[1]], WORST));
}

#[test]
fn the_model_does_what_the_protocol_is_for() {
    let model = Bounds { leaves: 1, goes_on: true, ..bounds(&[&[2]], WORST) };
    let names: Vec<_> = model.properties().iter().map(|property| property.name).filter(|name| *name != NEVER).collect();
    let all = HasDiscoveries::AllOf(names.iter().copied().collect());
    let checker = model.checker().threads(2).finish_when(all).spawn_bfs().join();
    assert_eq!(names.len(), 5);
    for name in names {
        assert!(checker.discovery(name).is_some(), "never: {name}");
    }
}

#[test]
fn the_model_finds_what_a_weaker_protocol_breaks() {
    let one = || Bounds { restarts: 1, forgets: true, ..bounds(&[&[1]], WORST) };
    let two = || bounds(&[&[2]], WORST);
    let weaker = [
        (Weak::NoDrift, one()),
        (Weak::FromReturn, one()),
        (Weak::BeforeRead, one()),
        (Weak::StateFirst, two()),
        (Weak::SameKey, bounds(&[&[1, 1]], WORST)),
        (Weak::OnCommit, one()),
        (Weak::AnyBeat, two()),
        (Weak::LeaveKeeps, Bounds { leaves: 1, ..two() }),
        (Weak::ForgetsEarly, one()),
        (Weak::SweepsUnread, Bounds { forgets: true, ..two() }),
        (Weak::NodeBehind, Bounds { changes: true, ..two() }),
        (Weak::ControlBehind, two()),
    ];
    for (weak, bounds) in weaker {
        let checker = Bounds { weak, ..bounds }.checker().threads(2).spawn_bfs().join();
        assert!(checker.discovery(NEVER).is_some(), "{weak:?} is as good as the protocol, says the model");
    }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn run(name: &str) -> NodeRun {
    NodeRun { node: name.into(), run: "1".into() }
}

fn beat(name: &str, applied: u64) -> Beat {
    Beat { run: run(name), applied: Revision(applied), epoch: None, lease: ms(900), left: false }
}

#[test]
fn a_lapse_outlasts_the_lease_of_a_slow_clock_on_a_fast_one() {
    for lease in LEASE_SECONDS.map(|seconds| seconds * 1000) {
        // In exact thousandths: the lease on a clock 10 % slow takes lease / 0.9; a clock 10 % fast shows 1.1 times that.
        let shown = lease * 1100 / 900;
        assert!(lapse(ms(lease)) > ms(shown + 1) && lapse(ms(lease)) < ms(shown + 5), "{lease}");
    }
    assert_eq!(lapse(Duration::MAX), ms(u64::MAX / 90 + 1) + MARGIN);
}

#[test]
fn a_lease_runs_from_the_sending_and_is_earned_where_the_watch_has_caught_up() {
    let mut lease = NodeLease::new(ms(100));
    assert!(!holds(lease.until(), Mono(0)));
    let (first, second) = (lease.sending(Mono(1000)), lease.sending(Mono(1050)));
    lease.came_back(first);
    assert_eq!(lease.until(), Mono(0));
    lease.caught_up();
    assert_eq!(lease.until(), Mono(1100));
    assert!(holds(lease.until(), Mono(1099)) && !holds(lease.until(), Mono(1100)));
    // The first comes again, and one that was never sent: neither earns anything.
    for number in [first, 77] {
        let mut lease = lease.clone();
        lease.came_back(number);
        lease.caught_up();
        assert_eq!(lease.until(), Mono(1100));
    }
    lease.came_back(second);
    lease.give_up();
    lease.caught_up();
    assert_eq!(lease.until(), Mono(0));
    // Heartbeats that never come back are kept in a bounded number; the newest of them count.
    let numbers: Vec<_> = (0..1000).map(|at| lease.sending(Mono(2000 + at))).collect();
    assert_eq!(lease.outstanding.len(), OUTSTANDING_MAX);
    lease.came_back(numbers[0]);
    lease.caught_up();
    assert_eq!(lease.until(), Mono(0));
    lease.came_back(numbers[999]);
    lease.caught_up();
    assert_eq!(lease.until(), Mono(3099));
}

#[test]
fn a_change_is_confirmed_node_by_node() {
    let mut roster = Roster::default();
    for name in ["a", "b", "c", "d"] {
        roster.heard(beat(name, 3), Mono(5000));
    }
    roster.read_to(Revision(8), false);
    assert_eq!((roster.read(), roster.confirm(Revision(7), Mono(5100))), (Revision(0), None));
    roster.read_to(Revision(6), true);
    assert_eq!(roster.confirm(Revision(7), Mono(5100)), None);
    roster.heard(beat("d", 7), Mono(5090));
    roster.read_to(Revision(8), true);
    let mut confirmation = roster.confirm(Revision(7), Mono(5100)).unwrap();
    assert_eq!((confirmation.revision(), confirmation.is_done()), (Revision(7), false));
    roster.heard(beat("a", 7), Mono(5110));
    roster.heard(Beat { left: true, ..beat("b", 3) }, Mono(5115));
    // It is heard, but says nothing of the change: it is waited for no longer than if it had been silent.
    roster.heard(beat("c", 6), Mono(5118));
    confirmation.look(&roster, Mono(5120));
    assert!(!confirmation.is_done());
    confirmation.look(&roster, Mono(6101));
    assert!(!confirmation.is_done());
    confirmation.look(&roster, Mono(6102));
    assert!(confirmation.is_done());
    let how: Vec<_> = confirmation.nodes().map(|(run, how)| (run.to_string(), how.unwrap())).collect();
    let expected = [
        ("a.1", How::Reported { after: ms(20) }),
        ("b.1", How::Left { after: ms(20) }),
        ("c.1", How::Lapsed { after: ms(1002) }),
        ("d.1", How::Reported { after: ms(0) }),
    ];
    assert_eq!(how, expected.map(|(run, how)| (run.to_owned(), how)));
}

#[test]
fn what_was_applied_of_another_history_confirms_nothing() {
    let epoch = |name: &str| Epoch(name.into());
    let of = |name: &str, applied, history: &str| Beat { epoch: Some(epoch(history)), ..beat(name, applied) };
    let mut roster = Roster::default();
    roster.begin_anew(epoch("one"));
    roster.heard(beat("a", 3), Mono(1000));
    roster.read_to(Revision(5), true);
    assert_eq!(roster.confirm(Revision(4), Mono(1000)), None, "the history has no name yet");
    roster.begun(epoch("one"), Revision(6), Mono(1000));
    roster.read_to(Revision(6), true);
    for name in ["a", "b"] {
        roster.heard(of(name, 100, "one"), Mono(5000));
    }
    roster.read_to(Revision(100), true);
    let mut before = roster.confirm(Revision(101), Mono(5000));
    assert_eq!(before, None);
    roster.read_to(Revision(101), true);
    before = roster.confirm(Revision(101), Mono(5000));
    assert!(!before.as_ref().unwrap().is_done());

    // The bucket ends at 90 again.
    assert_eq!(roster.begin_anew(epoch("two")), Revision(101));
    roster.heard(of("a", 100, "one"), Mono(5100));
    roster.begun(epoch("one"), Revision(6), Mono(5100));
    roster.read_to(Revision(95), true);
    assert_eq!(roster.confirm(Revision(95), Mono(5100)), None, "no name was read that was written since");
    let mut before = before.unwrap();
    before.look(&roster, Mono(99_000));
    assert!(!before.stands(&roster) && !before.is_done(), "time alone proves nothing of nodes that may go on");
    roster.begun(epoch("two"), Revision(97), Mono(5200));
    roster.heard(of("a", 100, "one"), Mono(5200));
    roster.read_to(Revision(98), true);
    assert_eq!(roster.confirm(Revision(101), Mono(5000)), None, "a change of before is in what was read by then");
    let mut confirmation = roster.confirm(Revision(95), Mono(5100)).unwrap();
    assert_eq!((confirmation.revision(), confirmation.is_done()), (Revision(95), false));
    roster.heard(of("a", 96, "two"), Mono(5210));
    confirmation.look(&roster, Mono(5210));
    assert!(confirmation.nodes().all(|(_, how)| how.is_none()), "it has the record's place, and not yet the name's");
    roster.heard(of("a", 97, "two"), Mono(5220));
    confirmation.look(&roster, Mono(5220));
    let how: Vec<_> = confirmation.nodes().map(|(run, how)| (run.to_string(), how)).collect();
    assert_eq!(how, [("a.1".into(), Some(How::Reported { after: ms(20) })), ("b.1".into(), None)]);
    // From where the name was read on: what it had proven before may be lost.
    confirmation.look(&roster, Mono(5200).after(lapse(ms(900)) - ms(1)));
    assert!(!confirmation.is_done());
    confirmation.look(&roster, Mono(5200).after(lapse(ms(900))));
    assert!(confirmation.is_done());
}

#[test]
fn the_silent_are_forgotten_after_the_longest_lease_they_named() {
    let mut roster = Roster::default();
    roster.heard(Beat { lease: ms(9000), ..beat("a", 1) }, Mono(1000));
    roster.heard(beat("a", 1), Mono(2000));
    let over = Mono(2000).after(lapse(ms(9000)));
    assert!(!roster.is_silent(&run("a"), Mono(over.0 - 1)) && roster.is_silent(&run("a"), over));
    assert!(roster.is_silent(&run("b"), Mono(0)));
    assert_eq!(roster.forget_silent(ms(50), Mono(over.0 + 49)), []);
    assert_eq!(roster.forget_silent(ms(50), Mono(over.0 + 50)), [run("a")]);
    roster.read_to(Revision(1), true);
    assert!(roster.confirm(Revision(1), over).unwrap().is_done());
}

#[test]
fn several_heartbeats_fit_into_every_lease() {
    for seconds in LEASE_SECONDS {
        let lease = Duration::from_secs(seconds);
        let every = heartbeat_every(lease);
        assert!(every * 3 < lease && every <= Duration::from_secs(1) && !every.is_zero(), "{seconds} s: {every:?}");
    }
}
