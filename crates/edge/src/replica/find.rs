//! Finding the profile that an address leads to (ADR 8): along its aliases to the home, through as many partitions as it
//! takes, each read by itself.

use std::time::Duration;

use cameo_eventlog::EventLog;
use cameo_profile::state::Lead;
use cameo_profile::view::ProfileRef;
use cameo_profile::{Address, AddressBuf, ClientCode, LogTime, Partition, PartitionState, limits};
use std::sync::atomic::Ordering;
use tokio::time::Instant;

use super::{Inner, Replica, SubmitError};

/// Aliases followed at most: as many as addresses can lead to one home. Most have one or two.
const HOPS: usize = limits::LINKED_ADDRESSES + 1;
/// How long a read waits for a profile that is between two partitions. Past it the caller is told to come again.
const MOVING_PATIENCE: Duration = Duration::from_secs(5);

/// Where an address leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trace {
    /// The address that its profile lives at, if there is one.
    pub(crate) home: AddressBuf,
    /// The address whose alias leads there, with its epoch; nothing when it is the home itself.
    pub(crate) by: Option<(AddressBuf, u64)>,
    /// Partitions that were passed, with the one that each alias leads to.
    ways: Vec<(Partition, Partition)>,
    end: End,
}

/// How following the aliases ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Home,
    Returning,
    Ended,
}

/// An address, its alias, and the home that holds it by that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    address: AddressBuf,
    epoch: u64,
    home: AddressBuf,
}

impl<L: EventLog> Inner<L> {
    fn look<R>(
        &self,
        partition: Partition,
        look: impl FnOnce(&PartitionState, LogTime) -> R,
    ) -> Result<R, SubmitError> {
        self.check(partition)?;
        let state = self.slots[partition.index()].state.read();
        Ok(look(&state.fold, self.log.now()))
    }

    fn trace(&self, client: &ClientCode, address: Address<'_>) -> Result<Trace, SubmitError> {
        let count = self.log.partitions();
        let mut trace = Trace { home: address.into(), by: None, ways: Vec::new(), end: End::Ended };
        let mut partition = address.partition(client, count);
        for _ in 0..HOPS {
            let lead = if self.slots[partition.index()].aliases.load(Ordering::Acquire) == 0 {
                self.check(partition)?;
                Lead::Home
            } else {
                let by = trace.by.as_ref().map(|(by, epoch)| (by.as_address(), *epoch));
                self.look(partition, |state, _| state.lead(client.as_str(), trace.home.as_address(), by))?
            };
            match lead {
                Lead::Home => trace.end = End::Home,
                Lead::Returning => trace.end = End::Returning,
                Lead::Ended => trace.end = End::Ended,
                Lead::Alias { to, epoch } => {
                    let to = AddressBuf::from(Address::from_canonical(&to));
                    let next = to.as_address().partition(client, count);
                    trace.ways.push((partition, next));
                    partition = next;
                    trace.by = Some((std::mem::replace(&mut trace.home, to), epoch));
                    continue;
                }
            }
            break;
        }
        Ok(trace)
    }

    /// Reads the profile at the end of a trace, if it holds the address by which the trace came, and `asked`.
    fn read_at<R>(
        &self,
        client: &ClientCode,
        trace: &Trace,
        asked: Option<Address<'_>>,
        read: impl FnOnce(&ProfileRef<'_>) -> R,
    ) -> Result<Option<R>, SubmitError> {
        if trace.end != End::Home {
            return Ok(None);
        }
        let (home, code) = (trace.home.as_address(), client.as_str());
        self.look(home.partition(client, self.log.partitions()), |state, now| {
            let Some((by, epoch)) = &trace.by else {
                return state.profile(code, home, now).map(|profile| read(&profile));
            };
            let asked = asked.filter(|asked| *asked != by.as_address());
            if asked.is_some_and(|asked| state.profile_by(code, home, asked, None, now).is_none()) {
                return None;
            }
            state.profile_by(code, home, by.as_address(), Some(*epoch), now).map(|profile| read(&profile))
        })
    }

    /// Whether an alias seems to lead to nothing.
    pub(super) fn seems_ended(&self, client: &ClientCode, address: Address<'_>) -> bool {
        let Ok(trace) = self.trace(client, address) else { return false };
        trace.end != End::Returning && matches!(self.read_at(client, &trace, None, |_| ()), Ok(None))
    }

    /// Waits until something is so that follows from what has been applied; not for ever.
    async fn seen(&self, is_so: impl Fn() -> bool) {
        let deadline = Instant::now() + MOVING_PATIENCE;
        loop {
            let mut applied = std::pin::pin!(self.applied.notified());
            applied.as_mut().enable();
            if is_so() || tokio::time::timeout_at(deadline, applied).await.is_err() {
                return;
            }
        }
    }

    /// What this node has yet to apply on the ways of a trace.
    fn under_way(&self, trace: &Trace) -> Result<Vec<Pending>, SubmitError> {
        let mut under_way = Vec::new();
        for &(from, to) in &trace.ways {
            // Also what has been delivered, as far as the log goes: this node may have read less of one partition.
            let said = self.look(from, |state, _| state.said(to.0))?;
            let heard = self.look(to, |state, _| state.heard(from.0))?;
            match heard.cmp(&said) {
                std::cmp::Ordering::Less => under_way.push(Pending::Message { from, to, number: said }),
                std::cmp::Ordering::Equal => {}
                std::cmp::Ordering::Greater => under_way.push(Pending::Sender { from, to, number: heard }),
            }
        }
        Ok(under_way)
    }

    fn has_arrived(&self, pending: &Pending) -> Result<bool, SubmitError> {
        match *pending {
            Pending::Message { from, to, number } => self.look(to, |state, _| state.heard(from.0) >= number),
            Pending::Sender { from, to, number } => self.look(from, |state, _| state.said(to.0) >= number),
        }
    }
}

/// Something that this node has not applied yet.
enum Pending {
    /// The receiver has not heard the message of this number.
    Message { from: Partition, to: Partition, number: u64 },
    /// The receiver has heard it, and of the sender this node has read less than that it was said.
    Sender { from: Partition, to: Partition, number: u64 },
}

impl<L: EventLog> Replica<L> {
    /// Reads the profile that an address leads to; nothing when there is none. Waits for one that is on its way.
    ///
    /// # Errors
    /// When a partition has stopped, or the profile has been on its way for long.
    pub async fn profile<R>(
        &self,
        client: &ClientCode,
        address: Address<'_>,
        read: impl FnOnce(&ProfileRef<'_>) -> R,
    ) -> Result<Option<R>, SubmitError> {
        let inner = &*self.inner;
        let deadline = Instant::now() + MOVING_PATIENCE;
        let (mut read, mut before) = (Some(read), None);
        loop {
            let trace = inner.trace(client, address)?;
            // Each partition is looked at by itself: the home may have given the address back since it was traced. One that is
            // seen twice to lead there does, whether or not the home has a part of its own for it.
            let asked = (before.as_ref() != Some(&trace)).then_some(address);
            let found = inner.read_at(client, &trace, asked, |profile| read.take().map(|read| read(profile)))?;
            if let Some(found) = found {
                return Ok(found);
            }
            let is_returning = trace.end == End::Returning;
            let under_way = inner.under_way(&trace)?;
            if !is_returning && under_way.is_empty() {
                // It may have moved in between, and then the way is another.
                if before.as_ref() == Some(&trace) {
                    return Ok(None);
                }
                before = Some(trace);
                continue;
            }
            // What is under way now may be what was looked for; what comes later is not.
            let arrived = || -> Result<bool, SubmitError> {
                for pending in &under_way {
                    if !inner.has_arrived(pending)? {
                        return Ok(false);
                    }
                }
                Ok(!is_returning || inner.trace(client, address)?.end != End::Returning)
            };
            loop {
                let mut applied = std::pin::pin!(inner.applied.notified());
                applied.as_mut().enable();
                if arrived()? {
                    break;
                }
                if tokio::time::timeout_at(deadline, applied).await.is_err() {
                    let text = "the profile is being moved to another address; try again in a moment";
                    return Err(SubmitError::Unavailable(text.into()));
                }
            }
        }
    }

    /// Where an address leads, for an event that is to be sent there.
    pub(crate) fn trace(&self, client: &ClientCode, address: Address<'_>) -> Result<Trace, SubmitError> {
        self.inner.trace(client, address)
    }

    /// Waits while the profile of an address is on its way back to it.
    pub(crate) async fn settled(&self, client: &ClientCode, address: Address<'_>) -> Result<(), SubmitError> {
        if self.inner.trace(client, address)?.end == End::Returning {
            self.profile(client, address, |_| ()).await?;
        }
        Ok(())
    }

    /// Where the addresses of a visit are linked before it links them, perhaps, to others.
    pub(crate) fn held(&self, client: &ClientCode, addresses: &[AddressBuf]) -> Result<Vec<Held>, SubmitError> {
        let mut held = Vec::new();
        for address in addresses {
            let trace = self.inner.trace(client, address.as_address())?;
            let own = self.alias_epoch(client, address.as_address())?.map(|epoch| (address.clone(), epoch));
            for (address, epoch) in own.into_iter().chain(trace.by) {
                held.push(Held { address, epoch, home: trace.home.clone() });
            }
        }
        Ok(held)
    }

    /// Waits until addresses that have been linked elsewhere since are gone from where they were: whoever was told of the
    /// one sees the other. Gives up after a while; the link holds.
    pub(crate) async fn let_go(&self, client: &ClientCode, held: &[Held]) {
        let inner = &*self.inner;
        let is_left = |held: &Held| -> Result<bool, SubmitError> {
            if self.alias_epoch(client, held.address.as_address())? == Some(held.epoch) {
                return Ok(true);
            }
            let (home, address) = (held.home.as_address(), held.address.as_address());
            inner.look(home.partition(client, self.partitions()), |state, now| {
                state.profile_by(client.as_str(), home, address, Some(held.epoch), now).is_none()
            })
        };
        // Where a partition has stopped, nothing more will be seen.
        inner.seen(|| held.iter().all(|held| is_left(held).unwrap_or(true))).await;
    }

    /// Waits until addresses whose profile has been erased lead nowhere: whoever was told of the one begins anew with the others.
    pub(crate) async fn freed(&self, client: &ClientCode, held: &[Held]) {
        let is_free = |held: &Held| {
            Ok::<_, SubmitError>(self.alias_epoch(client, held.address.as_address())? != Some(held.epoch))
        };
        self.inner.seen(|| held.iter().all(|held| is_free(held).unwrap_or(true))).await;
    }

    /// Whether a profile lives where a trace ends, and holds the address by which it got there.
    pub(crate) fn is_live(&self, client: &ClientCode, trace: &Trace) -> Result<bool, SubmitError> {
        Ok(self.inner.read_at(client, trace, None, |_| ())?.is_some())
    }

    /// Whether a partition has room for another event that goes on to others.
    ///
    /// # Errors
    /// When it has not, or has stopped.
    pub fn takes_links(&self, partition: Partition) -> Result<(), SubmitError> {
        let waiting = self.inner.look(partition, |state, _| state.links().outbox)?;
        if waiting < limits::OUTBOX_MESSAGES { Ok(()) } else { Err(SubmitError::Busy) }
    }

    /// Where an address's own alias leads, if it has one.
    pub(crate) fn alias(&self, client: &ClientCode, address: Address<'_>) -> Result<Option<AddressBuf>, SubmitError> {
        let partition = address.partition(client, self.partitions());
        let lead = self.inner.look(partition, |state, _| state.lead(client.as_str(), address, None))?;
        Ok(match lead {
            Lead::Alias { to, .. } => Some(Address::from_canonical(&to).into()),
            Lead::Home | Lead::Returning | Lead::Ended => None,
        })
    }

    /// The epoch of an address's alias, if it has one that leads somewhere.
    pub(crate) fn alias_epoch(&self, client: &ClientCode, address: Address<'_>) -> Result<Option<u64>, SubmitError> {
        let partition = address.partition(client, self.partitions());
        let lead = self.inner.look(partition, |state, _| state.lead(client.as_str(), address, None))?;
        Ok(match lead {
            Lead::Alias { epoch, .. } => Some(epoch),
            Lead::Home | Lead::Returning | Lead::Ended => None,
        })
    }
}
