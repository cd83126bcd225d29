//! Where an event goes: into the partition of the lowest address it names, or straight home when its links are made already
//! and no retry will have to be known again (ADR 8).

use cameo_eventlog::EventLog;
use cameo_profile::event::Route;
use cameo_profile::{AddressBuf, ClientCode, Partition, PartitionCount};

use crate::replica::{Replica, SubmitError};

/// A chosen way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) partition: Partition,
    pub(crate) route: Route,
    /// The address at which it enters, or with [`Route::Direct`] the home.
    pub(crate) at: AddressBuf,
}

/// Chooses the way of an event that names `addresses`, lowest first. With an event id it always enters at the lowest: its
/// retry will do the same, wherever the profile is by then.
pub(crate) fn choose<L: EventLog>(
    replica: &Replica<L>,
    client: &ClientCode,
    addresses: &[AddressBuf],
    has_event_id: bool,
) -> Result<Option<Way>, SubmitError> {
    let Some(lowest) = addresses.first() else { return Ok(None) };
    if !has_event_id && let Some(home) = home_of_all(replica, client, addresses)? {
        let partition = home.as_address().partition(client, replica.partitions());
        return Ok(Some(Way { partition, route: Route::Direct, at: home }));
    }
    let way = Way::entering(client, lowest, replica.partitions());
    if addresses.len() > 1 || replica.trace(client, lowest.as_address())?.by.is_some() {
        replica.takes_links(way.partition)?;
    }
    Ok(Some(way))
}

/// As [`choose`], for an event that names one address. One whose profile is on its way back is waited for: an update makes none.
pub(crate) async fn choose_one<L: EventLog>(
    replica: &Replica<L>,
    client: &ClientCode,
    address: &AddressBuf,
    has_event_id: bool,
) -> Result<Way, SubmitError> {
    replica.settled(client, address.as_address()).await?;
    let chosen = choose(replica, client, std::slice::from_ref(address), has_event_id)?;
    Ok(chosen.unwrap_or_else(|| Way::entering(client, address, replica.partitions())))
}

impl Way {
    /// Into the partition of the lowest address that is named.
    pub(crate) fn entering(client: &ClientCode, lowest: &AddressBuf, count: PartitionCount) -> Self {
        let partition = lowest.as_address().partition(client, count);
        Self { partition, route: Route::Enter, at: lowest.clone() }
    }

    /// What the event says of the lowest address it named, when it does not stand there.
    pub(crate) fn via<'a>(&self, lowest: &'a AddressBuf) -> &'a str {
        if self.route == Route::Direct { lowest.as_address().as_str() } else { "" }
    }
}

/// The home that all addresses lead to already, each by way of the next, so that a walk would change nothing; nothing when the
/// lowest is a home itself.
fn home_of_all<L: EventLog>(
    replica: &Replica<L>,
    client: &ClientCode,
    addresses: &[AddressBuf],
) -> Result<Option<AddressBuf>, SubmitError> {
    let Some((lowest, others)) = addresses.split_first() else { return Ok(None) };
    let trace = replica.trace(client, lowest.as_address())?;
    if trace.by.is_none() || !replica.is_live(client, &trace)? {
        return Ok(None);
    }
    let is_device = |address: &AddressBuf| address.as_address().parts().0.is_device();
    let mut at = lowest.clone();
    for next in others {
        while at != *next {
            let Some(to) = replica.alias(client, at.as_address())? else { return Ok(None) };
            // Through the other names of its device, but through nobody else (`link` in the fold).
            if to != *next && (!is_device(&to) || is_device(next)) {
                return Ok(None);
            }
            at = to;
        }
    }
    Ok(Some(trace.home))
}
