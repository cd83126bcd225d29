//! Visits that the log did not take, on their way into the outage spool.

use std::sync::Arc;

use cameo_eventlog::EventLog;
use cameo_profile::ClientCode;
use cameo_profile::event::Visit;

use super::{App, Became, Sent, Way, with_event};
use crate::replica::{Answer, SubmitError};
use crate::spool::{New, Spool, Spooled};

/// What a made-up event id begins with.
const MADE_UP: &str = "spool-";

/// Puts into the spool what may go there: what the log certainly has not, and what it may have, if it names an event id.
pub(super) async fn fall_back<L: EventLog>(
    app: &App<L>,
    spool: &Arc<Spool>,
    client: &ClientCode,
    sent: &[Sent<'_>],
    answers: Vec<Result<Answer, SubmitError>>,
    now_ms: u64,
) -> Vec<Result<Became, SubmitError>> {
    let taken: Vec<_> = sent.iter().filter_map(|sent| Some((sent.placed.as_ref()?, sent.visit.as_ref()?))).collect();
    let (mut slots, mut news) = (Vec::new(), Vec::new());
    for (slot, (answer, (placed, (visit, way)))) in answers.iter().zip(taken).enumerate() {
        match answer {
            Err(SubmitError::Unavailable(_) | SubmitError::Elsewhere(_)) => {}
            // Without an id of its own a second copy would count.
            Err(SubmitError::Unknown(_)) if visit.event_id().is_some() => {}
            _ => continue,
        }
        // The log has it, perhaps, or what another node appended of the same event: it is not heard from.
        let in_doubt = *way != Way::Behind;
        let made_up = match visit.event_id() {
            Some(_) => None,
            None => match made_up() {
                Some(id) => Some(id),
                None => continue,
            },
        };
        // It has an event id from here on, so it goes as those do.
        let entering = placed.entering(client, app.replica.partitions());
        // A partition that has stopped takes nothing until the node starts again, if it ever does.
        if [placed, &entering].iter().any(|placed| app.replica.has_stopped(placed.way.partition)) {
            continue;
        }
        let placed = entering;
        let mut encoded = Vec::with_capacity(512);
        let with = Some((made_up.as_deref().unwrap_or_default(), now_ms));
        with_event(client, visit, &placed, with, |event| event.encode(&mut encoded));
        slots.push((slot, made_up));
        news.push(New { partition: placed.way.partition, encoded, in_doubt });
    }
    let mut became: Vec<_> = answers.into_iter().map(|answer| answer.map(Became::Applied)).collect();
    if news.is_empty() {
        return became;
    }
    let replica = Arc::clone(&app.replica);
    let seen =
        move |partition, visit: &Visit<'_>| replica.read(partition, |state, _| state.has_seen(visit)).unwrap_or(false);
    for ((slot, made_up), put) in slots.into_iter().zip(spool.put(news, seen).await) {
        // Refused, it is answered as without a spool.
        if let Ok(Spooled { first_tnt_id }) = put {
            became[slot] = Ok(Became::Spooled { event_id: made_up, first_tnt_id });
        }
    }
    became
}

/// An event id that nobody else has; none when the system has no randomness.
fn made_up() -> Option<String> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).ok()?;
    Some(format!("{MADE_UP}{:032x}", u128::from_le_bytes(random)))
}
