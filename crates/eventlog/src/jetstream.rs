//! The log of a cluster: partitions as subjects of a few JetStream streams, a frame a message.
//!
//! ```text
//! stream CAMEO_LOG_{s}   subjects cameo.log.{s}.{p}   told again at cameo.tail.{s}.{p}     s = p mod streams
//! ```
//! A position is the message's sequence in its stream, so partitions of one stream share their positions, with gaps in
//! each. Every partition of a stream has one frame under way at most: a later one is not even sent before the earlier one
//! is known to stand, so that what fails leaves no hole. Streams do not wait for one another ([`EventLog::lanes`]).
//!
//! What the log is made of stands in the metadata of its streams; `P` and the number of streams are fixed with them.

mod end;
mod reader;
mod reappend;
mod recent;
mod ring;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cameo_nats::stream::{StreamInfo, StreamSpec, StreamWatch};
use cameo_nats::{Ack, Nats, Publish, PublishError};
use futures_util::{StreamExt as _, stream};
use parking_lot::Mutex;
use tokio::runtime::Handle;

use crate::clock::{Clock, Rising};
use crate::error::{AppendError, OpenError, ReadError, TrimError, unfit};
use crate::frame;
use crate::{EventLog, Hint, LogId, LogTime, Partition, PartitionCount, Position, StoredFrame, Trimmed};

pub use reader::JetStreamReader;
pub use reappend::{Missing, ReappendError};
pub use recent::RECENT_BYTES;

use ring::Ring;

/// How long an append is tried: longer than the election of a stream's leader, which was seen to take 4 to 5 s.
const APPEND_PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection is waited for before anything was sent: to another server it takes milliseconds.
const LINK_PATIENCE: Duration = Duration::from_secs(2);
/// How long a new leader may seem to lack what was stored.
const READY_PATIENCE: Duration = Duration::from_secs(3);
/// Pause before a stream is looked at again that nobody leads.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Frames of one lane under way at once.
const IN_FLIGHT: usize = 64;
/// How long NATS remembers a frame's id: far longer than it is ever sent again.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(600);

/// Streams of a new log. Ours: enough that one stalled leader leaves most of the log alone, few enough to cost nothing.
const STREAMS: u16 = 4;
/// P of a new log.
const PARTITIONS: u32 = 16;

const META_ID: &str = "cameo-log";
const META_PARTITIONS: &str = "cameo-partitions";
const META_STREAMS: &str = "cameo-streams";

/// What a new log shall be like.
#[derive(Clone, Debug)]
pub struct JetStreamOptions {
    /// First part of every subject; in capitals, of every stream.
    pub name: String,
    /// P; `None`: what the log has, or 16.
    pub partitions: Option<PartitionCount>,
    /// Servers that hold each frame, 1 to 5.
    pub replicas: usize,
    /// Most bytes of all streams together; -1: the disk's. A full log refuses, it forgets nothing.
    pub max_bytes: i64,
}

impl JetStreamOptions {
    /// Three replicas, the disk's size.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), partitions: None, replicas: 3, max_bytes: -1 }
    }
}

/// One stream of the log.
struct Stream {
    name: String,
    watch: StreamWatch,
    /// The highest sequence that an append was told or a reader has seen.
    last: AtomicU64,
    /// The first one held after our own trims.
    first: AtomicU64,
    /// At how many lost connections it was last looked whether it still has what it had (`end.rs`).
    looked: AtomicU64,
    /// When the first append began since one was last answered. A leader that has lost its quorum tells of its stream all the
    /// same, for a while.
    unanswered: Mutex<Option<Instant>>,
}

struct Inner {
    nats: Nats,
    /// First part of every subject.
    name: String,
    id: LogId,
    partitions: PartitionCount,
    streams: Box<[Stream]>,
    clock: Rising,
    /// Where readers run: whoever asks for one may be on a thread without a runtime.
    runtime: Handle,
    /// What is kept of each stream, should it lose it.
    recent: OnceLock<Box<[Ring]>>,
}

/// The log of a cluster. Cheap to clone.
#[derive(Clone)]
pub struct JetStreamLog(Arc<Inner>);

/// What the metadata of a stream say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Meta {
    id: LogId,
    partitions: PartitionCount,
    streams: u16,
}

impl Meta {
    fn new(partitions: PartitionCount) -> Result<Self, OpenError> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|_| bad("", "cannot be named: the system has no randomness"))?;
        let streams = STREAMS.min(partitions.get());
        Ok(Self { id: LogId(u128::from_le_bytes(id)), partitions, streams })
    }

    fn read(stream: &str, info: &StreamInfo) -> Result<Self, OpenError> {
        let text = |name| info.metadata.get(name).map(String::as_str);
        let read = || {
            Some(Self {
                id: LogId(u128::from_str_radix(text(META_ID)?, 16).ok()?),
                partitions: PartitionCount::new(text(META_PARTITIONS)?.parse().ok()?).ok()?,
                streams: text(META_STREAMS)?.parse().ok().filter(|streams| *streams > 0)?,
            })
        };
        read().ok_or_else(|| bad(stream, "has no description of a log in its metadata"))
    }

    fn write(self) -> BTreeMap<String, String> {
        let pairs = [
            (META_ID, self.id.to_string()),
            (META_PARTITIONS, self.partitions.get().to_string()),
            (META_STREAMS, self.streams.to_string()),
        ];
        pairs.map(|(name, value)| (name.to_owned(), value)).into()
    }
}

fn bad(stream: &str, what: impl Into<String>) -> OpenError {
    OpenError::BadStream { stream: stream.to_owned(), what: what.into() }
}

fn stream_name(name: &str, stream: u16) -> String {
    format!("{}_LOG_{stream}", name.to_uppercase())
}

impl JetStreamLog {
    /// Makes the streams that are not there yet. Whoever may do that does it; nodes only open the log.
    ///
    /// # Errors
    /// When they cannot be made, or are there with another number of partitions.
    pub async fn create(nats: &Nats, options: &JetStreamOptions) -> Result<(), OpenError> {
        let partitions = options.partitions.map_or_else(|| PartitionCount::new(PARTITIONS), Ok);
        let wanted = Meta::new(partitions.map_err(|error| bad(&options.name, error.to_string()))?)?;
        // The first stream decides: whoever makes it names the log.
        let mut meta = wanted;
        let mut stream = 0;
        while stream < meta.streams {
            let name = stream_name(&options.name, stream);
            let subjects = format!("{}.log.{stream}.*", options.name);
            let spec = StreamSpec {
                republish: Some((subjects.clone(), format!("{}.tail.{stream}.{{{{wildcard(1)}}}}", options.name))),
                subjects: vec![subjects],
                replicas: options.replicas,
                max_bytes: if options.max_bytes < 0 { -1 } else { options.max_bytes / i64::from(meta.streams) },
                max_messages: -1,
                per_subject: -1,
                duplicate_window: DUPLICATE_WINDOW,
                work_queue: false,
                metadata: meta.write(),
                name,
            };
            let found = Meta::read(&spec.name, &nats.ensure_stream(&spec).await?)?;
            if stream == 0 {
                meta = found;
            } else if found != meta {
                return Err(bad(&spec.name, "belongs to another log than the first stream"));
            }
            stream += 1;
        }
        match options.partitions {
            Some(asked) if asked != meta.partitions => Err(bad(
                &stream_name(&options.name, 0),
                format!(
                    "was made with {} partitions, not {}; that cannot be changed",
                    meta.partitions.get(),
                    asked.get()
                ),
            )),
            _ => Ok(()),
        }
    }

    /// Makes a log in which nothing was ever stored begin after a position, so that nobody takes it for one without a past.
    ///
    /// # Errors
    /// When something was stored in it, or this user may not.
    pub async fn begin_after(&self, position: Position) -> Result<(), OpenError> {
        for stream in &self.0.streams {
            let info = self.0.nats.stream_info(&stream.name).await?;
            let last = info.map_or(0, |info| info.last);
            if last > 0 {
                return Err(bad(&stream.name, format!("has had {last} messages already; it must be new")));
            }
        }
        for stream in &self.0.streams {
            self.0.nats.purge_before(&stream.name, position.next().0).await?;
            let info = self.0.nats.stream_info(&stream.name).await?;
            let (first, last) = info.map_or((0, 0), |info| (info.first, info.last));
            if (first, last) != (position.next().0, position.0) {
                return Err(bad(&stream.name, format!("does not begin after {position}: it holds {first} to {last}")));
            }
            stream.first.fetch_max(first, Ordering::AcqRel);
            stream.last.fetch_max(last, Ordering::AcqRel);
        }
        Ok(())
    }

    /// Whether nothing was ever stored in it.
    ///
    /// # Errors
    /// When NATS cannot be asked.
    pub async fn is_new(&self) -> Result<bool, OpenError> {
        for stream in &self.0.streams {
            if self.0.nats.stream_info(&stream.name).await?.is_some_and(|info| info.last > 0) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether a partition has frames, or had some that were trimmed away meanwhile, or may have had.
    ///
    /// # Errors
    /// When NATS cannot be asked.
    pub async fn has_frames(&self, partition: Partition) -> Result<bool, OpenError> {
        if self.first(partition) > Position(1) {
            return Ok(true);
        }
        let number = self.0.stream_of(partition);
        let subject = format!("{}.log.{number}.{partition}", self.0.name);
        Ok(self.0.nats.last_of(&self.0.streams[number].name, &subject).await?.is_some())
    }

    /// Opens a log whose streams are all there; `None` when one is not there yet.
    ///
    /// # Errors
    /// When NATS cannot be asked, or the streams are no log's.
    pub async fn open(nats: &Nats, name: &str) -> Result<Option<Self>, OpenError> {
        let (mut streams, mut meta) = (Vec::new(), None::<Meta>);
        while meta.is_none_or(|meta| streams.len() < usize::from(meta.streams)) {
            let stream = stream_name(name, u16::try_from(streams.len()).unwrap_or(u16::MAX));
            let Some(info) = nats.stream_info(&stream).await? else { return Ok(None) };
            let found = Meta::read(&stream, &info)?;
            if *meta.get_or_insert(found) != found {
                return Err(bad(&stream, "belongs to another log than the first stream"));
            }
            streams.push(Stream {
                last: AtomicU64::new(info.last),
                first: AtomicU64::new(info.first),
                looked: AtomicU64::new(nats.losses()),
                unanswered: Mutex::default(),
                watch: StreamWatch::start(nats.clone(), stream.clone(), info),
                name: stream,
            });
        }
        let Some(meta) = meta else { return Ok(None) };
        Ok(Some(Self(Arc::new(Inner {
            nats: nats.clone(),
            name: name.to_owned(),
            id: meta.id,
            partitions: meta.partitions,
            streams: streams.into(),
            clock: Rising::new(Clock::system(), LogTime(0)),
            runtime: Handle::current(),
            recent: OnceLock::new(),
        }))))
    }

    /// The streams that hold it.
    pub fn streams(&self) -> impl Iterator<Item = &str> {
        self.0.streams.iter().map(|stream| stream.name.as_str())
    }

    /// Keeps what readers read from now on in a directory, [`RECENT_BYTES`] of each stream: should NATS lose the end of a
    /// stream, it can be appended again ([`Self::missing`]). A stream that has less than is kept here, or something else in
    /// its place, is not read, and nothing is appended to it.
    ///
    /// # Errors
    /// When the directory cannot be used.
    pub fn keep_recent(&self, dir: &Path) -> io::Result<()> {
        let open = |(n, stream): (usize, &Stream)| {
            let ring = Ring::open(dir, self.0.id, n)?;
            if let Some(newest) = ring.newest() {
                stream.had(newest.position);
                // Also when it goes that far: what stands there may be something else.
                stream.distrust();
            }
            Ok(ring)
        };
        let recent = self.0.streams.iter().enumerate().map(open).collect::<io::Result<_>>()?;
        // A second directory would not be written to; the first is.
        let _ = self.0.recent.set(recent);
        Ok(())
    }
}

impl Inner {
    fn stream_of(&self, partition: Partition) -> usize {
        partition.index() % self.streams.len()
    }

    /// One frame after the other; the first that fails ends it.
    async fn append_in_order(&self, partition: Partition, frames: Vec<Bytes>) -> Vec<Result<Position, AppendError>> {
        let stream = self.stream_of(partition);
        let subject = format!("{}.log.{stream}.{partition}", self.name);
        let mut results = Vec::with_capacity(frames.len());
        for bytes in frames {
            if results.last().is_some_and(Result::is_err) {
                results.push(Err(AppendError::Unavailable("the frame before it was not stored".into())));
                continue;
            }
            let Ok((header, ..)) = frame::check(&bytes) else { continue };
            // The same for every attempt, and for no other frame.
            let id = format!("{}.{partition}.{}", header.appender, header.counter);
            let publish = Publish { subject: subject.clone(), id, expected: None, headers: vec![], payload: bytes };
            self.streams[stream].unanswered.lock().get_or_insert_with(Instant::now);
            let stored = self.publish(stream, &publish).await;
            if matches!(stored, Ok(_) | Err(PublishError::Full(_))) {
                *self.streams[stream].unanswered.lock() = None;
            }
            results.push(match stored {
                Ok(ack) => {
                    self.streams[stream].last.fetch_max(ack.seq, Ordering::AcqRel);
                    self.streams[stream].watch.tell(ack.seq);
                    Ok(Position(ack.seq))
                }
                Err(PublishError::Full(_)) => Err(AppendError::StorageFull),
                Err(PublishError::Unavailable(why)) => Err(AppendError::Unavailable(why.into())),
                Err(error @ (PublishError::Unknown(_) | PublishError::Conflict { .. })) => {
                    Err(AppendError::Unknown(error.to_string().into()))
                }
            });
        }
        results
    }

    /// Publishes, and looks before the first attempt, and on every new connection, whether the stream still has all it had:
    /// what went into a stream that has lost its end could never be brought into order with what it lost.
    async fn publish(&self, number: usize, publish: &Publish) -> Result<Ack, PublishError> {
        let stream = &self.streams[number];
        let end = Instant::now() + APPEND_PATIENCE;
        let mut repeated = false;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let unsure = |why: String| {
                if repeated { PublishError::Unknown(why) } else { PublishError::Unavailable(why) }
            };
            if left.is_zero() {
                return Err(unsure("the connection to NATS was lost again and again".into()));
            }
            let losses = self.nats.losses();
            let patience = if repeated { left } else { left.min(LINK_PATIENCE) };
            if tokio::time::timeout(patience, self.nats.up()).await.is_err() {
                return Err(unsure("there is no connection to NATS".into()));
            }
            let looked = stream.looked.load(Ordering::Acquire);
            if looked != losses {
                match tokio::time::timeout(left, self.look(number)).await {
                    // Unless more was learnt of it meanwhile.
                    Ok(Ok(None)) => {
                        let _ = stream.looked.compare_exchange(looked, losses, Ordering::AcqRel, Ordering::Relaxed);
                    }
                    Ok(Ok(Some(lost)))
                        if end.saturating_duration_since(Instant::now()) < APPEND_PATIENCE - READY_PATIENCE =>
                    {
                        return Err(unsure(lost));
                    }
                    // Its leader may not be ready, nobody may lead it, or the connection is lost again.
                    Ok(Ok(Some(_)) | Err(_)) | Err(_) => {
                        tokio::time::sleep(LOOK_AGAIN.min(left)).await;
                        continue;
                    }
                }
            }
            tokio::select! {
                biased;
                stored = self.nats.publish(publish, left) => return match stored {
                    Err(PublishError::Unavailable(why)) => Err(unsure(why)),
                    Err(PublishError::Full(why)) if repeated => Err(PublishError::Unknown(why)),
                    Err(PublishError::Conflict { .. }) if repeated => Err(PublishError::Conflict { repeated }),
                    stored => stored,
                },
                () = self.nats.lost_since(losses) => repeated = true,
            }
        }
    }

    /// The last message before a sequence that is older than a time: what lies at or before it is too.
    async fn older(&self, stream: &Stream, upto: u64, than: LogTime) -> Result<u64, TrimError> {
        let first = stream.watch.seen().info.first.max(stream.first.load(Ordering::Acquire));
        // Everything before `low` is older, nothing from `high` on is known to be.
        let (mut low, mut high) = (first, upto + 1);
        while low < high {
            let middle = low.midpoint(high);
            match self.nats.at(&stream.name, middle).await? {
                Some(message) if message.at_ms() >= than.ms() => high = middle,
                _ => low = middle + 1,
            }
        }
        Ok(low - 1)
    }
}

impl EventLog for JetStreamLog {
    type Reader = JetStreamReader;

    fn id(&self) -> LogId {
        self.0.id
    }

    fn partitions(&self) -> PartitionCount {
        self.0.partitions
    }

    fn now(&self) -> LogTime {
        self.0.clock.now()
    }

    fn last(&self, partition: Partition) -> Position {
        let stream = &self.0.streams[self.0.stream_of(partition)];
        Position(stream.last.load(Ordering::Acquire).max(stream.watch.seen().info.last))
    }

    fn first(&self, partition: Partition) -> Position {
        let stream = &self.0.streams[self.0.stream_of(partition)];
        Position(stream.first.load(Ordering::Acquire).max(stream.watch.seen().info.first))
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn lanes(&self) -> usize {
        self.0.streams.len()
    }

    fn lane(&self, partition: Partition) -> usize {
        self.0.stream_of(partition)
    }

    fn behind(&self, read: &[(Partition, Position)]) -> u64 {
        // Positions of a stream are shared: the partition that is furthest behind tells for all of it.
        let mut behind = vec![0; self.lanes()];
        for (partition, position) in read {
            let lane = &mut behind[self.lane(*partition)];
            *lane = u64::max(*lane, self.last(*partition).0.saturating_sub(position.0));
        }
        behind.into_iter().sum()
    }

    fn silence(&self) -> Duration {
        self.0.streams.iter().map(|stream| stream.watch.seen().at.elapsed()).max().unwrap_or_default()
    }

    fn silence_of(&self, partition: Partition) -> Duration {
        self.0.streams[self.0.stream_of(partition)].watch.seen().at.elapsed()
    }

    fn unanswered(&self, partition: Partition) -> Duration {
        let stream = &self.0.streams[self.0.stream_of(partition)];
        stream.unanswered.lock().map(|since| since.elapsed()).unwrap_or_default()
    }

    async fn append(&self, frames: Vec<(Partition, Bytes)>) -> Vec<Result<Position, AppendError>> {
        if let Some(what) = unfit(&frames, self.0.partitions) {
            return vec![Err(AppendError::Unavailable(what.into())); frames.len()];
        }
        let count = frames.len();
        let mut by_partition: BTreeMap<Partition, (Vec<usize>, Vec<Bytes>)> = BTreeMap::new();
        for (n, (partition, bytes)) in frames.into_iter().enumerate() {
            let of_it = by_partition.entry(partition).or_default();
            of_it.0.push(n);
            of_it.1.push(bytes);
        }
        let appends = by_partition.into_iter().map(|(partition, (places, frames))| {
            let inner = Arc::clone(&self.0);
            async move { (places, inner.append_in_order(partition, frames).await) }
        });
        let mut appends = stream::iter(appends).buffer_unordered(IN_FLIGHT);
        let mut results = vec![Err(AppendError::Unavailable("the frame was not sent".into())); count];
        while let Some((places, placed)) = appends.next().await {
            for (place, result) in places.into_iter().zip(placed) {
                results[place] = result;
            }
        }
        results
    }

    fn reader(&self, from: Vec<(Partition, Position)>) -> JetStreamReader {
        JetStreamReader::start(&self.0, from)
    }

    async fn frame(&self, partition: Partition, position: Position, _: Hint) -> Result<StoredFrame, ReadError> {
        let count = self.0.partitions;
        if partition.0 >= count.get() {
            return Err(ReadError::NoSuchPartition { partition, count });
        }
        let number = self.0.stream_of(partition);
        let stream = &self.0.streams[number];
        let (first, last) = (self.first(partition), self.last(partition));
        if position != Position::START && position < first {
            return Err(ReadError::Trimmed { partition, wanted: position, first });
        }
        // What was read of the stream may be ahead of what its watch has seen; positions beyond both are asked for too.
        let subject = format!("{}.log.{number}.{partition}", self.0.name);
        let message = match self.0.nats.direct_at(&stream.name, position.0).await {
            Ok(Some(message)) => Some(message),
            // The replica that was asked may be behind; the leader is not.
            Ok(None) | Err(_) if position.0 > 0 => self.0.nats.at(&stream.name, position.0).await?,
            _ => None,
        };
        match message {
            Some(message) if message.subject == subject => {
                let at = reappend::time(&message);
                Ok(StoredFrame { partition, position, at, hint: Hint::default(), bytes: message.payload })
            }
            Some(_) => Err(ReadError::NoFrame { partition, position }),
            // Nothing stands there, and what is behind it was told: it went with a trim that is not known here yet.
            None if position != Position::START && position < last => {
                let info = self.0.nats.stream_info(&stream.name).await?;
                match info.map(|info| Position(info.first)) {
                    Some(first) if position < first => {
                        stream.first.fetch_max(first.0, Ordering::AcqRel);
                        Err(ReadError::Trimmed { partition, wanted: position, first })
                    }
                    _ => Err(ReadError::NoFrame { partition, position }),
                }
            }
            None => Err(ReadError::NoFrame { partition, position }),
        }
    }

    async fn trim(&self, upto: &[(Partition, Position)], older_than: LogTime) -> Result<Trimmed, TrimError> {
        let mut trimmed = Trimmed::default();
        for (n, stream) in self.0.streams.iter().enumerate() {
            let of_it = |partition: &Partition| self.0.stream_of(*partition) == n;
            let named = |partition: Partition| upto.iter().find(|(named, _)| *named == partition);
            // What one of its partitions still needs, all of it needs.
            let ends: Option<Vec<_>> =
                self.0.partitions.iter().filter(of_it).map(|p| named(p).map(|(_, end)| end.0)).collect();
            let Some(end) = ends.and_then(|ends| ends.into_iter().min()) else { continue };
            let before = stream.watch.seen().info;
            let end = self.0.older(stream, end.min(before.last.max(stream.last.load(Ordering::Acquire))), older_than);
            let end = end.await?;
            if end < before.first.max(stream.first.load(Ordering::Acquire)) {
                continue;
            }
            self.0.nats.purge_before(&stream.name, end + 1).await?;
            stream.first.fetch_max(end + 1, Ordering::AcqRel);
            let after = self.0.nats.stream_info(&stream.name).await?;
            let bytes = before.bytes.saturating_sub(after.map_or(0, |info| info.bytes));
            trimmed = Trimmed { segments: trimmed.segments + 1, bytes: trimmed.bytes + bytes };
        }
        Ok(trimmed)
    }
}
