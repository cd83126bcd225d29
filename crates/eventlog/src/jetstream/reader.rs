//! Reading: one feed for each stream that has a partition which is wanted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cameo_nats::{Feed, FeedError, FeedOptions, Stored};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::end::{self, End};
use super::recent::Kept;
use super::{Inner, reappend};
use crate::error::ReadError;
use crate::{Hint, LogReader, LogTime, Partition, PartitionCount, Position, StoredFrame};

/// For how long a stream must end before what was read already, to be said to have lost it: a leader that was just
/// elected may not have everything in its store yet.
const AHEAD_PATIENCE: Duration = Duration::from_secs(10);
/// Pause between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// How often what is kept of a stream is synced: after a power cut of every server at once, as much is missing.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// Frames of one stream, and up to where it was read.
struct Read {
    stream: usize,
    frames: Vec<StoredFrame>,
    upto: Position,
}

/// Why a reader has ended: said at every further call.
enum Ended {
    Trimmed { partition: Partition, wanted: Position, first: Position },
    Ahead { partition: Partition, asked: Position, last: Position, stream: String },
    Rewritten(String),
    NoSuchPartition { partition: Partition, count: PartitionCount },
}

impl Ended {
    fn say(&self) -> ReadError {
        match *self {
            Self::Trimmed { partition, wanted, first } => ReadError::Trimmed { partition, wanted, first },
            Self::Ahead { partition, asked, last, ref stream } => {
                ReadError::Ahead { partition, asked, last, place: stream.into() }
            }
            Self::Rewritten(ref what) => ReadError::Rewritten(what.clone()),
            Self::NoSuchPartition { partition, count } => ReadError::NoSuchPartition { partition, count },
        }
    }
}

/// Reader of a [`super::JetStreamLog`].
pub struct JetStreamReader {
    batches: mpsc::Receiver<Result<Read, Ended>>,
    /// Wanted partitions, by stream.
    wanted: BTreeMap<usize, Vec<Partition>>,
    passed: BTreeMap<usize, Position>,
    ended: Option<Ended>,
    tasks: Vec<JoinHandle<()>>,
}

/// One stream's part of a reader.
struct Part {
    log: Arc<Inner>,
    stream: usize,
    /// After which position each partition is wanted, and the time of its last frame.
    wanted: BTreeMap<Partition, (Position, LogTime)>,
    sender: mpsc::Sender<Result<Read, Ended>>,
}

impl JetStreamReader {
    pub(super) fn start(log: &Arc<Inner>, from: Vec<(Partition, Position)>) -> Self {
        let mut parts: BTreeMap<usize, BTreeMap<Partition, (Position, LogTime)>> = BTreeMap::new();
        let unknown = from.iter().map(|(partition, _)| *partition).find(|p| p.0 >= log.partitions.get());
        for (partition, after) in from {
            parts.entry(log.stream_of(partition)).or_default().insert(partition, (after, LogTime(0)));
        }
        let (sender, batches) = mpsc::channel(parts.len().max(1));
        let wanted = parts.iter().map(|(stream, of_it)| (*stream, of_it.keys().copied().collect())).collect();
        let mut reader = Self { batches, wanted, passed: BTreeMap::new(), ended: None, tasks: Vec::new() };
        if let Some(partition) = unknown {
            // There is room for one.
            let _ = sender.try_send(Err(Ended::NoSuchPartition { partition, count: log.partitions }));
            return reader;
        }
        for (stream, wanted) in parts {
            // Now, and not when the task comes to it: nothing is appended in between to a stream that has less.
            log.streams[stream].had(wanted.values().map(|(after, _)| *after).max().unwrap_or_default());
            let part = Part { log: Arc::clone(log), stream, wanted, sender: sender.clone() };
            reader.tasks.push(log.runtime.spawn(part.run()));
        }
        reader
    }
}

impl Drop for JetStreamReader {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl LogReader for JetStreamReader {
    async fn next_batch(&mut self) -> Result<Vec<StoredFrame>, ReadError> {
        if let Some(ended) = &self.ended {
            return Err(ended.say());
        }
        match self.batches.recv().await {
            Some(Ok(read)) => {
                self.passed.insert(read.stream, read.upto);
                Ok(read.frames)
            }
            Some(Err(ended)) => {
                let error = ended.say();
                self.ended = Some(ended);
                Err(error)
            }
            // The tasks end with an error, or with the runtime.
            None => std::future::pending().await,
        }
    }

    fn passed(&mut self) -> Vec<(Partition, Position)> {
        let passed = std::mem::take(&mut self.passed);
        let of_stream = |(stream, upto)| {
            let partitions = self.wanted.get(&stream).map(Vec::as_slice).unwrap_or_default();
            partitions.iter().map(move |partition| (*partition, upto))
        };
        passed.into_iter().flat_map(of_stream).collect()
    }
}

impl Part {
    async fn run(mut self) {
        if let Err(error) = self.follow().await {
            // The reader may have gone.
            let _ = self.sender.send(Err(error)).await;
        }
    }

    async fn follow(&mut self) -> Result<(), Ended> {
        let log = Arc::clone(&self.log);
        let mut checked = log.nats.losses();
        self.check_end().await?;
        let stream = &log.streams[self.stream];
        let after = self.wanted.values().map(|(after, _)| *after).min().unwrap_or_default();
        let options = FeedOptions {
            stream: stream.name.clone(),
            filter: format!("{}.log.{}.*", log.name, self.stream),
            tail: format!("{}.tail.{}.*", log.name, self.stream),
            after: after.0,
            contiguous: true,
        };
        let ring = log.recent.get().map(|rings| &rings[self.stream]);
        let mut feed = Feed::start(log.nats.clone(), stream.watch.clone(), options);
        let mut synced = Instant::now();
        loop {
            // Looked at every second also when nothing comes.
            let messages = match ring {
                None => feed.next().await,
                Some(ring) => match tokio::time::timeout(SYNC_EVERY, feed.next()).await {
                    Ok(messages) => messages,
                    Err(_) => {
                        ring.sync();
                        synced = Instant::now();
                        continue;
                    }
                },
            };
            let messages = messages.map_err(|error| self.say(error))?;
            if let Some(ring) = ring {
                // The stream may have lost its end and gone on while nobody here was looking.
                let losses = log.nats.losses();
                if losses != checked {
                    self.check_end().await?;
                    checked = losses;
                }
                ring.keep(messages.iter().map(Kept::of).collect()).await;
                if synced.elapsed() >= SYNC_EVERY {
                    ring.sync();
                    synced = Instant::now();
                }
            }
            let Some(upto) = messages.last().map(|message| Position(message.seq)) else { continue };
            stream.last.fetch_max(upto.0, Ordering::AcqRel);
            let mut frames = Vec::with_capacity(messages.len());
            for message in messages {
                frames.extend(self.frame(message)?);
            }
            if self.sender.send(Ok(Read { stream: self.stream, frames, upto })).await.is_err() {
                return Ok(());
            }
        }
    }

    /// What was read must be there. The feed begins at the partition that is furthest behind, and would not notice.
    async fn check_end(&self) -> Result<(), Ended> {
        let Some((partition, (asked, _))) = self.wanted.iter().max_by_key(|(_, (after, _))| *after) else {
            return Ok(());
        };
        let name = &self.log.streams[self.stream].name;
        // What is kept was read too, though no checkpoint may have it.
        let kept = self.log.recent.get().and_then(|recent| recent[self.stream].newest());
        let (partition, asked) = (*partition, kept.map_or(*asked, |kept| kept.position.max(*asked)));
        let (mut since, mut short) = (None, None);
        loop {
            let ended = match self.log.end(self.stream, asked).await {
                // One that is gone the feed will notice.
                Ok(End::Gone) => return Ok(()),
                Ok(End::Whole) => match short {
                    Some(ms) if kept.is_none_or(|kept| kept.position < asked) => {
                        match self.log.is_later(self.stream, asked, ms).await {
                            Ok(false) => return Ok(()),
                            Ok(true) => Some(Ended::Rewritten(end::later(name, asked))),
                            Err(_) => None,
                        }
                    }
                    _ => return Ok(()),
                },
                Ok(End::Short { last, at_ms }) => {
                    short = short.or((at_ms > 0).then_some(at_ms));
                    Some(Ended::Ahead { partition, asked, last: Position(last), stream: name.clone() })
                }
                Ok(End::Other(position)) => Some(Ended::Rewritten(end::other(name, position))),
                // Nobody can say.
                Err(_) => None,
            };
            if let Some(ended) = ended
                && since.get_or_insert_with(Instant::now).elapsed() >= AHEAD_PATIENCE
            {
                return Err(ended);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// A message as a frame; `None` when nobody wants it.
    fn frame(&mut self, message: Stored) -> Result<Option<StoredFrame>, Ended> {
        let partition = message.subject.rsplit('.').next().and_then(|text| text.parse().ok()).map(Partition);
        let Some(partition) = partition.filter(|p| p.0 < self.log.partitions.get()) else {
            return Err(Ended::Rewritten(format!("message {} is of {}", message.seq, message.subject)));
        };
        let Some((after, at)) = self.wanted.get_mut(&partition) else { return Ok(None) };
        let position = Position(message.seq);
        // The leaders of a stream have clocks of their own; log time does not fall.
        *at = (*at).max(reappend::time(&message));
        self.log.clock.seen(*at);
        let frame = StoredFrame { partition, position, at: *at, hint: Hint::default(), bytes: message.payload };
        Ok((position > *after).then_some(frame))
    }

    fn say(&self, error: FeedError) -> Ended {
        let first = self.wanted.iter().min_by_key(|(_, (after, _))| *after);
        let partition = first.map_or(Partition(0), |(partition, _)| *partition);
        match error {
            FeedError::Trimmed { wanted, first, .. } => {
                Ended::Trimmed { partition, wanted: Position(wanted), first: Position(first) }
            }
            FeedError::Ahead { stream, read, last } => {
                Ended::Ahead { partition, asked: Position(read), last: Position(last), stream }
            }
            // Of the log nothing is left out: what is missed is read.
            error @ (FeedError::Rewritten { .. } | FeedError::Missed { .. }) => Ended::Rewritten(error.to_string()),
        }
    }
}

impl Kept {
    fn of(message: &Stored) -> Self {
        Self { position: Position(message.seq), at: reappend::time(message), bytes: message.payload.clone() }
    }
}
