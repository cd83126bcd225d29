//! Reading history: what is known of a profile, the frames that its entries name, and the profile as it read earlier.
//! Everything here may block its thread on the disk or on the log; it is called where that is allowed.

use std::borrow::Cow;

use cameo_eventlog::frame::Frame;
use cameo_eventlog::{EventLog, LogTime, Partition, Position, ReadError};
use cameo_profile::event::ClientSettings;
use cameo_profile::state::{AliasTo, ELSEWHERE, Touch, carried};
use cameo_profile::view::ProfileRef;
use cameo_profile::{Address, ClientCode, Event, PartitionState, Replay, limits};
use tokio::runtime::Handle;

use super::alias::{Led, current};
use super::store::{self, Held, IndexError};
use super::{Entry, Image, What};
use crate::replica::{Replica, SubmitError};

/// Why history cannot be told at the moment.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HistoryError {
    /// The partition has stopped.
    #[error(transparent)]
    Stopped(#[from] SubmitError),
    /// The index cannot be read.
    #[error("the index of history cannot be read")]
    Index(#[from] IndexError),
    /// The index is being opened anew after a failure.
    #[error("the index of history is not available while checkpoints cannot be written")]
    Closed,
    /// A frame cannot be read.
    #[error("the log cannot be read")]
    Log(#[from] ReadError),
    /// A frame does not hold what the index says.
    #[error("partition {partition} position {position} does not hold what the index of history says: {what}")]
    Disagrees {
        /// Where.
        partition: Partition,
        /// Where.
        position: Position,
        /// How.
        what: String,
    },
}

/// What is known of a profile at a moment.
#[derive(Debug)]
pub(crate) struct Recorded {
    pub(crate) partition: Partition,
    pub(crate) held: Held,
    /// The first position that the log holds.
    first: Position,
}

/// What came of asking for an earlier moment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum AsOf<R> {
    /// The profile as it read.
    Found(R),
    /// There was none.
    None,
    /// What led to it is not in the log any more. It can be told from this time on, if from any.
    TooEarly(Option<LogTime>),
}

/// The frames of entries, each read once as long as the next entry is of the same one.
pub(crate) struct Frames<'a, L> {
    log: &'a L,
    runtime: Handle,
    last: Option<(Partition, Position, Frame)>,
}

impl<'a, L: EventLog> Frames<'a, L> {
    pub(crate) const fn new(log: &'a L, runtime: Handle) -> Self {
        Self { log, runtime, last: None }
    }

    /// Calls `read` with the event of an entry; `None` when the log has trimmed it.
    pub(crate) fn event<R>(
        &mut self,
        partition: Partition,
        entry: &Entry,
        read: impl FnOnce(&Event<'_>) -> R,
    ) -> Result<Option<R>, HistoryError> {
        // Its image is kept, and where it stands in the log is not.
        if entry.came().is_some_and(|came| came.message == ELSEWHERE) {
            return Ok(None);
        }
        let position = entry.position;
        let disagrees = |what: String| HistoryError::Disagrees { partition, position, what };
        if self.last.as_ref().is_none_or(|last| (last.0, last.1) != (partition, position)) {
            let stored = match self.runtime.block_on(self.log.frame(partition, position, entry.hint)) {
                Err(ReadError::Trimmed { .. }) => return Ok(None),
                stored => stored?,
            };
            let frame = Frame::decode(&stored.bytes).map_err(|error| disagrees(error.to_string()))?;
            self.last = Some((partition, position, frame));
        }
        let bytes = self.last.as_ref().and_then(|(_, _, frame)| frame.events().nth(entry.event as usize));
        let bytes = bytes.ok_or_else(|| disagrees(format!("there is no event {}", entry.event)))?;
        let event = Event::decode(bytes).map_err(|error| disagrees(error.to_string()))?;
        let done = match (entry.came().map_or(0, |came| came.message), &event) {
            (0, event) => Some(read(event)),
            (message, Event::Relay(relay)) => carried(relay, message, read),
            _ => None,
        };
        done.map(Some).ok_or_else(|| disagrees("no event came with its message".into()))
    }
}

impl Recorded {
    /// Of an index whose log begins at a position.
    pub(super) const fn new(partition: Partition, held: Held, first: Position) -> Self {
        Self { partition, held, first }
    }

    /// Since when the history is whole; `None` when it is from the beginning.
    pub(crate) fn whole_since(&self) -> Option<LogTime> {
        let trimmed = self.held.entries.iter().take_while(|entry| entry.position < self.first).last();
        let gap = self.held.gaps.iter().map(|gap| LogTime(gap.upto_ms)).max();
        trimmed.map(|entry| entry.at).max(self.held.floor.map(|floor| floor.at)).max(gap)
    }

    /// Entries that the log still has, oldest first.
    pub(crate) fn entries(&self) -> &[Entry] {
        let trimmed = self.held.entries.partition_point(|entry| entry.position < self.first);
        &self.held.entries[trimmed..]
    }

    /// What a replay up to a time begins with, an image or nothing, and what follows it.
    fn base(&self, time: LogTime) -> Option<(Option<&Image>, &[Entry])> {
        let entries = &self.held.entries;
        let end = entries.partition_point(|entry| entry.at <= time);
        // Nothing that happened after `position`, up to the time, may be missing.
        let whole_after = |position: Position| {
            self.held.floor.is_none_or(|floor| floor.position <= position)
                && !self.held.gaps.iter().any(|gap| gap.upto > position.0 && gap.after_ms <= time.0)
                && entries[..end].iter().all(|entry| entry.position <= position || entry.position >= self.first)
        };
        let after =
            |position: Position| &entries[entries[..end].partition_point(|entry| entry.position <= position)..end];
        let can_follow = |entries: &[Entry]| !entries.iter().any(Entry::is_whole);
        let image = self.held.images.iter().rfind(|image| image.at <= time && whole_after(image.position));
        if let Some(image) = image {
            let after = after(image.position);
            return can_follow(after).then_some((Some(image).filter(|image| image.length > 0), after));
        }
        let born = entries[..end]
            .iter()
            .rposition(|entry| entry.is_birth() && whole_after(Position(entry.position.0.saturating_sub(1))));
        let (base, follow) = match born {
            Some(born) => Some((None, &entries[born..end])),
            // A state that came from another log has a gap without positions.
            None => (whole_after(Position::START) && self.held.gaps.iter().all(|gap| gap.after_ms > time.0))
                .then_some((None, &entries[..end])),
        }?;
        can_follow(follow).then_some((base, follow))
    }

    /// The first time after this one from which on everything can be told.
    fn earliest(&self, time: LogTime) -> Option<LogTime> {
        let images = self.held.images.iter().map(|image| image.at);
        let entries = self.held.entries.iter().map(|entry| entry.at);
        let mut times: Vec<_> = images.chain(entries).filter(|at| *at > time).collect();
        times.sort_unstable();
        times.dedup();
        // As it is now can always be told, from the last event on.
        let last = times.last().copied().or_else(|| self.whole_since());
        times.into_iter().rev().take_while(|at| self.base(*at).is_some()).last().or(last)
    }
}

impl<L: EventLog> Replica<L> {
    /// What is known of the profile that lives at an address.
    pub(crate) fn recorded(&self, partition: Partition, client: &str, address: &str) -> Result<Recorded, HistoryError> {
        self.recorded_with(partition, client, address, |_| ()).map(|(recorded, ())| recorded)
    }

    /// As [`Self::recorded`], with something read from the partition at the same moment.
    pub(super) fn recorded_with<R>(
        &self,
        partition: Partition,
        client: &str,
        address: &str,
        read: impl FnOnce(&PartitionState) -> R,
    ) -> Result<(Recorded, R), HistoryError> {
        // Notes first: what leaves them is in the index before.
        let (notes, read) = self.noted(partition, read)?;
        let index = self.index().ok_or(HistoryError::Closed)?;
        let held = store::held(&index, partition, (client, address), &notes, true)?;
        Ok((Recorded { partition, held, first: self.log().first(partition) }, read))
    }

    /// The profile that an address led to at a time that is past, as it read right after the last event that the log had
    /// taken by then.
    pub(crate) fn as_of<R>(
        &self,
        runtime: Handle,
        client: &ClientCode,
        address: Address<'_>,
        time: LogTime,
        render: impl FnOnce(&ProfileRef<'_>) -> R,
    ) -> Result<AsOf<R>, HistoryError> {
        // The address whose alias led on, and what is known of it.
        let mut by: Option<(AliasTo, Recorded)> = None;
        let mut home = Box::<str>::from(address.as_str());
        for _ in 0..limits::WALK_STEPS {
            let partition = Address::from_canonical(&home).partition(client, self.log().partitions());
            let (recorded, (live, now)) = self.recorded_with(partition, client.as_str(), &home, |state| {
                (state.image(client.as_str(), &home), current(state, client.as_str(), &home))
            })?;
            match recorded.led(time, now.as_ref()) {
                Led::Unknown(since) => return Ok(AsOf::TooEarly(Some(since).max(recorded.earliest(time)))),
                Led::Home => {
                    return self.home_as_of(runtime, &recorded, live.as_deref(), (client, &home), time, |profile| {
                        let led = by.as_ref().is_none_or(|(by, _)| profile.holds(&by.address, by.epoch, time));
                        profile.profile(time).filter(|_| led).map(|profile| render(&profile))
                    });
                }
                Led::To(next) => {
                    if by.as_ref().is_some_and(|(by, below)| !recorded.knew(below, by, time)) {
                        break;
                    }
                    by = Some((AliasTo { address: home, epoch: next.epoch }, recorded));
                    home = next.address;
                }
            }
        }
        Ok(AsOf::None)
    }

    /// The profile that lived at an address.
    fn home_as_of<R>(
        &self,
        runtime: Handle,
        recorded: &Recorded,
        live: Option<&[u8]>,
        (client, home): (&ClientCode, &str),
        time: LogTime,
        render: impl FnOnce(&Replay) -> Option<R>,
    ) -> Result<AsOf<R>, HistoryError> {
        let (partition, client) = (recorded.partition, client.as_str());
        let unchanged = recorded.held.entries.last().is_none_or(|last| last.at <= time)
            && recorded.held.gaps.iter().all(|gap| gap.upto_ms <= time.0);
        let too_early = || Ok(AsOf::TooEarly(recorded.earliest(time)));
        let (image, entries) = match live.filter(|_| unchanged) {
            Some(live) => (Some(Cow::Borrowed(live)), &[][..]),
            None => match recorded.base(time) {
                None => return too_early(),
                Some((None, entries)) => (None, entries),
                Some((Some(image), entries)) => {
                    let index = self.index().ok_or(HistoryError::Closed)?;
                    match store::image(&index, partition, (client, home), image)? {
                        Some(bytes) => (Some(Cow::Owned(bytes)), entries),
                        // Let go meanwhile.
                        None => return too_early(),
                    }
                }
            },
        };
        let image = image.as_deref();
        let settings = self.recorded(partition, client, "")?.held;
        let settled = settings.gaps.iter().map(|gap| LogTime(gap.upto_ms)).max();
        let (_, replay) = self.noted(partition, |state| state.replay(client, home, settled, image))?;
        // Nothing of this client was ever here.
        let Some(mut replay) = replay else { return Ok(AsOf::None) };
        let settings = settings.entries.iter().filter(|entry| entry.at <= time && Some(entry.at) > settled);
        let mut all: Vec<_> = settings.chain(entries).collect();
        all.sort_by_key(|entry| entry.order());
        let mut frames = Frames::new(self.log(), runtime);
        for entry in all {
            let line = match &entry.what {
                What::Settings(lifetime_days) => {
                    replay.settle(entry.at, &ClientSettings { client, lifetime_days: *lifetime_days });
                    continue;
                }
                What::Touched(Touch::Visit { .. } | Touch::Update { .. }) => None,
                What::Touched(Touch::Row { line, .. }) => Some(*line),
                // It changed an alias alone.
                What::Touched(_) => continue,
            };
            let folded = frames.event(partition, entry, |event| {
                replay.apply(entry.at, event, line, entry.came());
            })?;
            if folded.is_none() {
                // Trimmed meanwhile.
                return Ok(AsOf::TooEarly(recorded.earliest(entry.at)));
            }
        }
        Ok(render(&replay).map_or(AsOf::None, AsOf::Found))
    }
}
