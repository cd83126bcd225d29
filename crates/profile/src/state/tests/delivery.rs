//! What delivery calls add to a visit: an id made known without a visit, and parameters at times of their own.

use super::*;
use crate::event::DeliveryData;

fn apply(state: &mut PartitionState, at: u64, data: DeliveryData<'_>, visit: Visit<'_>) -> VisitOutcome {
    let visit = Visit { client: "demo", home: "tnt:a", delivery: Some(Box::new(data)), ..visit };
    match state.apply(LogTime(at), &through_bytes(&Event::Visit(visit), &mut Vec::new())) {
        Outcome::Visit(outcome) => outcome,
        other => panic!("{other:?}"),
    }
}

#[test]
fn notifications_set_values_as_of_their_own_time() {
    let mut state = PartitionState::default();
    visit_at(&mut state, T, "tnt:a", &[("plan", "held"), ("colour", "held")]);
    let timed = vec![(T - 1, "plan", "older"), (T + 5, "colour", "newer"), (T + 9_000, "ahead", "x"), (7, "old", "y")];
    let of_call = Visit { profile: vec![("colour", "call")], ..Visit::default() };
    apply(&mut state, T + 10, DeliveryData { uncounted: false, timed }, of_call);
    let value = |name| attribute(&state, "tnt:a", name, T + 10);
    // The call itself is at T + 10, after the notification.
    assert_eq!(value("colour").as_deref(), Some("call"));
    assert_eq!((value("plan").as_deref(), value("old").as_deref()), (Some("held"), Some("y")));
    let profile = state.profile("demo", Address::from_canonical("tnt:a"), LogTime(T + 10)).expect("there");
    let ahead = profile.attributes().find(|a| a.name == "ahead").map(|a| a.modified_at);
    assert_eq!(ahead, Some(T + 10), "no time is after the log's");
    assert_eq!(profile.visits().map(|v| v.visit_count), Some(2), "one call, one visit");
}

#[test]
fn an_id_is_made_known_without_a_visit() {
    let mut state = PartitionState::default();
    visit_at(&mut state, T, "tnt:a", &[]);
    let data = DeliveryData { uncounted: true, timed: Vec::new() };
    apply(&mut state, T + 31 * MINUTE_MS, data, Visit { other_ids: vec!["tnt:b"], ..Visit::default() });
    let now = LogTime(T + 31 * MINUTE_MS);
    let profile = state.profile("demo", Address::from_canonical("tnt:a"), now).expect("there");
    assert_eq!(profile.visits().map(|v| (v.visit_count, v.session_count)), Some((1, 1)));
    assert!(profile.ids().any(|id| id.as_str() == "tnt:b"));
}

#[test]
fn a_profile_that_is_full_takes_the_visit_and_says_that_it_took_nothing_else() {
    let mut state = PartitionState::default();
    let big = "x".repeat(limits::PROFILE_BYTES);
    let data = DeliveryData { uncounted: false, timed: vec![(T, "big", &big)] };
    let outcome = apply(&mut state, T, data, Visit { profile: vec![("small", "s")], ..Visit::default() });
    assert!(outcome.attributes_refused && outcome.created);
    assert_eq!(attribute(&state, "tnt:a", "small", T), None);
}
