//! A ledger for tests: it folds in memory, at once, and does what a log can do at its worst.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use cameo_profile::state::{BatchHead, BatchPart};
use cameo_profile::{
    Address, AddressBuf, ClientCode, Event, Kind, LogTime, Outcome, Partition, PartitionCount, PartitionState, limits,
};
use parking_lot::Mutex;

use crate::ledger::{Folded, Known, Ledger, LedgerError, Question};

/// What happens to the next events with rows, and to those that close a batch; when the list is at its end all goes well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Applied,
    /// Refused, not stored.
    Refused,
    /// Refused, as there is no room for it.
    NoRoom,
    /// Stored and applied, but nobody is told.
    Unknown,
    /// Neither stored nor answered, and so are all that follow.
    Hangs,
}

/// What a NATS message holds, with room for its headers.
const REPLY_BYTES: usize = 1_000_000;

#[derive(Debug)]
pub(crate) struct Fake {
    states: Vec<Mutex<PartitionState>>,
    clock: AtomicU64,
    fates: Mutex<VecDeque<Fate>>,
    hangs: Arc<OnceLock<()>>,
}

impl Fake {
    pub(crate) fn new(partitions: u16) -> Arc<Self> {
        Arc::new(Self {
            states: (0..partitions).map(|_| Mutex::default()).collect(),
            clock: AtomicU64::new(1_800_000_000_000),
            fates: Mutex::default(),
            hangs: Arc::default(),
        })
    }

    pub(crate) fn fates(&self, fates: &[Fate]) {
        *self.fates.lock() = fates.iter().copied().collect();
    }

    pub(crate) fn hangs(&self) -> bool {
        self.hangs.get().is_some()
    }

    /// The log of a process that has been started again.
    pub(crate) fn revived(self: Arc<Self>) -> Arc<Self> {
        let mut fake = Arc::into_inner(self).expect("nobody else has it");
        fake.hangs = Arc::default();
        fake.fates = Mutex::default();
        Arc::new(fake)
    }

    pub(crate) fn pass(&self, ms: u64) {
        self.clock.fetch_add(ms, Ordering::Relaxed);
    }

    /// The value of one attribute of client `demo`.
    pub(crate) fn value(&self, kind: Kind<'_>, id: &str, name: &str) -> Option<String> {
        let address = AddressBuf::of(kind, id).expect("a good id");
        let address: Address<'_> = address.as_address();
        let partition = address.partition(&ClientCode::new("demo").expect("a good code"), self.partitions());
        let found = self.read(partition, |state, now| {
            let profile = state.profile("demo", address, now)?;
            profile.attributes().find(|attribute| attribute.name == name).map(|attribute| attribute.value.to_owned())
        });
        found.expect("the fake always reads")
    }

    /// The head of a batch of client `demo`.
    pub(crate) fn head_now(&self, batch: &str) -> Option<BatchHead> {
        match (Question::Head { batch: batch.into() }).look_up("demo", self) {
            Ok(Known::Head(head)) => head,
            other => panic!("{other:?}"),
        }
    }

    /// What the partitions counted for a batch of client `demo`.
    pub(crate) fn parts_now(&self, batch: &str) -> Vec<BatchPart> {
        match (Question::Parts { batch: batch.into() }).look_up("demo", self) {
            Ok(Known::Parts(parts)) => parts,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn profiles(&self) -> usize {
        self.states.iter().map(|state| state.lock().stats().profiles).sum()
    }

    fn apply(&self, partition: Partition, event: &Event<'_>) -> Outcome {
        let mut bytes = Vec::new();
        event.encode(&mut bytes);
        assert!(bytes.len() <= limits::EVENT_BYTES, "an event of {} bytes", bytes.len());
        let event = Event::decode(&bytes).expect("what was written is read");
        self.states[partition.index()].lock().apply(self.now(), &event)
    }

    fn fate(&self, event: &Event<'_>) -> Fate {
        match event {
            Event::BatchRows(_) | Event::BatchClosed(_) if self.hangs() => Fate::Hangs,
            Event::BatchRows(_) | Event::BatchClosed(_) => self.fates.lock().pop_front().unwrap_or(Fate::Applied),
            _ => Fate::Applied,
        }
    }
}

impl Ledger for Fake {
    fn partitions(&self) -> PartitionCount {
        PartitionCount::new(self.states.len() as u32).expect("a good number")
    }

    fn now(&self) -> LogTime {
        LogTime(self.clock.fetch_add(1, Ordering::Relaxed))
    }

    fn append(
        &self,
        partition: Partition,
        event: &Event<'_>,
    ) -> impl Future<Output = Result<Outcome, LedgerError>> + Send + 'static + use<> {
        let result = match self.fate(event) {
            Fate::Applied => Some(Ok(self.apply(partition, event))),
            Fate::Refused => Some(Err(LedgerError::Unavailable("as the test wants".into()))),
            Fate::NoRoom => Some(Err(LedgerError::StorageFull)),
            Fate::Unknown => {
                self.apply(partition, event);
                Some(Err(LedgerError::Unknown("as the test wants".into())))
            }
            Fate::Hangs => {
                self.hangs.get_or_init(|| ());
                None
            }
        };
        async move {
            match result {
                Some(result) => result,
                None => std::future::pending().await,
            }
        }
    }

    async fn ask(&self, client: &str, question: Question) -> Result<Known, LedgerError> {
        let known = question.look_up(client, self)?;
        // As between the nodes of a cluster.
        let bytes = rmp_serde::to_vec(&known).expect("plain data always encodes").len();
        assert!(bytes <= REPLY_BYTES, "an answer of {bytes} bytes");
        Ok(known)
    }
}

impl Folded for Fake {
    fn count(&self) -> PartitionCount {
        Ledger::partitions(self)
    }

    fn read<R>(
        &self,
        partition: Partition,
        read: impl FnOnce(&PartitionState, LogTime) -> R,
    ) -> Result<R, LedgerError> {
        Ok(read(&self.states[partition.index()].lock(), self.now()))
    }
}
