//! Which profiles an event touched, from the event and what the fold made of it. The one place that knows.

use cameo_profile::state::{UpdateOutcome, VisitOutcome};
use cameo_profile::{Address, Event, LogTime, Outcome, PartitionState};

use super::What;

/// What has to be known from before the event.
pub(crate) struct Before {
    high_line: u32,
}

impl Before {
    pub(crate) fn of(state: &PartitionState, event: &Event<'_>) -> Self {
        let part = match event {
            Event::BatchRows(rows) => state.batch_part(rows.client, rows.batch),
            _ => None,
        };
        Self { high_line: part.map_or(0, |part| part.high_line) }
    }
}

/// Calls `each` with the address of every profile that changed, and what was done to it.
pub(crate) fn each(
    state: &PartitionState,
    at: LogTime,
    event: &Event<'_>,
    outcome: &Outcome,
    before: &Before,
    mut each: impl FnMut(&str, What),
) {
    match (event, outcome) {
        (Event::Visit(event), Outcome::Visit(VisitOutcome { duplicate: false, created, .. })) => {
            each(event.home, if *created { What::FirstVisit } else { What::Visit });
        }
        (Event::Update(event), Outcome::Update(UpdateOutcome::Updated)) => each(event.address, What::Update),
        (Event::ClientSettings(event), _) => each("", What::Settings(event.lifetime_days)),
        // Also when there is no profile any more: its history may be there.
        (Event::Erase(event), _) => each(event.address, What::Erased),
        (Event::BatchRows(event), Outcome::BatchRows { follow: true }) => {
            for row in event.rows.iter().filter(|row| row.line > before.high_line) {
                let address = [event.kind, ":", row.id].concat();
                let changed = state
                    .profile(event.client, Address::from_canonical(&address), at)
                    .is_some_and(|profile| profile.modified_at() == at.0);
                if changed {
                    each(&address, What::Row(row.line));
                }
            }
        }
        _ => {}
    }
}
