//! A stream's messages in order, from any place on, for ever.
//!
//! ```text
//! behind:    direct get after the cursor, batch by batch, until nothing is behind the last one
//! at the end: what the server republishes; a message that follows the cursor is delivered, a gap is filled by direct get.
//!             The last message may be the one that got lost (a new leader does not republish what it took as a
//!             follower): what publishes were answered is compared often, and the stream looked at every second
//! ```
//! Where entries replace each other (a key-value bucket), a gap cannot be told from what was replaced, nor a stream that goes
//! on from one that lost its end and has grown again: there the feed ends instead, and whoever reads begins anew.
//!
//! Nothing here depends on which server is asked, or on any state in one: a connection that moves, a leader that dies and
//! a message that is dropped are all the same case, a gap that is filled.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use futures_util::{FutureExt as _, StreamExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::connection::{Nats, Subscription};
use crate::direct::Stored;
use crate::stream::{Seen, StreamWatch};

/// Batches that wait for whoever reads.
const BATCHES: usize = 2;
/// Most messages and bytes that are taken together at the end of the stream.
const LIVE_BATCH: (usize, usize) = (256, 4 << 20);
/// Pause before a read that failed is tried again: the first, and the longest.
const AGAIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// How often the cursor is compared with what publishes were answered. Ours: a message that has not come after one or two
/// of these will not.
const COMPARE_EVERY: Duration = Duration::from_millis(100);
/// After how many comparisons a message that is known to be there has been missed, where that ends the feed: a busy machine
/// is late.
const LATE: u32 = 5;
/// For how long, and over how many looks, a stream must seem to have lost messages to be said to: a leader that was just
/// elected may know them and not have them in its store yet.
const SUSPICION: (Duration, u32) = (Duration::from_secs(10), 3);
/// Last messages whose time is remembered: a place that comes again with another time was given twice.
const REMEMBERED: usize = 4096;

/// Which messages, and where from.
#[derive(Clone, Debug)]
pub struct FeedOptions {
    /// The stream.
    pub stream: String,
    /// Subjects in it.
    pub filter: String,
    /// Where the server republishes them.
    pub tail: String,
    /// Everything after this sequence.
    pub after: u64,
    /// No sequence is ever left out: nothing is replaced, and nothing deleted but from the front. Where it is not so, the
    /// feed ends as soon as it has missed something ([`FeedError::Missed`]).
    pub contiguous: bool,
}

/// Why a feed has ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FeedError {
    /// What comes next was dropped from the front of the stream.
    #[error("stream {stream}: message {wanted} was trimmed away; it starts at {first}")]
    Trimmed {
        /// Which stream.
        stream: String,
        /// What would come next.
        wanted: u64,
        /// The first one there.
        first: u64,
    },
    /// The stream ends before what was read already.
    #[error("stream {stream} ends at message {last}, before {read} that was read already")]
    Ahead {
        /// Which stream.
        stream: String,
        /// What was read.
        read: u64,
        /// The last one there.
        last: u64,
    },
    /// A message was not heard, or the connection was lost, since the end of a stream was reached in which messages are
    /// replaced: whether what was read before still stands there cannot be told.
    #[error("stream {stream}: what came after message {read} may have been missed")]
    Missed {
        /// Which stream.
        stream: String,
        /// What was read.
        read: u64,
    },
    /// A place was given twice, or messages in the middle are gone.
    #[error("stream {stream}: {what}")]
    Rewritten {
        /// Which stream.
        stream: String,
        /// What is wrong, and where.
        what: String,
    },
}

/// A stream's messages in order. Dropped, it ends.
#[derive(Debug)]
pub struct Feed {
    batches: mpsc::Receiver<Result<Vec<Stored>, FeedError>>,
    ended: Option<FeedError>,
    task: JoinHandle<()>,
}

impl Feed {
    /// Begins to read. `stream` looks at the stream that is read.
    #[must_use]
    pub fn start(nats: Nats, stream: StreamWatch, options: FeedOptions) -> Self {
        let (sender, batches) = mpsc::channel(BATCHES);
        let created = stream.seen().info.created;
        let losses = nats.losses();
        let cursor = options.after;
        let reader = Reader {
            nats,
            stream,
            options,
            created,
            losses,
            at_end: false,
            cursor,
            sender,
            times: VecDeque::new(),
            before: (Instant::now(), cursor),
            suspected: None,
            pause: AGAIN.0,
        };
        Self { batches, ended: None, task: tokio::spawn(reader.run()) }
    }

    /// The next messages: at least one; waits for them. Cancel-safe.
    ///
    /// # Errors
    /// Why it has ended, then and at every further call.
    pub async fn next(&mut self) -> Result<Vec<Stored>, FeedError> {
        if let Some(ended) = &self.ended {
            return Err(ended.clone());
        }
        match self.batches.recv().await {
            Some(Err(error)) => {
                self.ended = Some(error.clone());
                Err(error)
            }
            Some(batch) => batch,
            // The task ends without a word only when the runtime does.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Why the task stops.
enum Stop {
    /// Nobody reads any more.
    Unread,
    Failed(FeedError),
}

impl From<FeedError> for Stop {
    fn from(error: FeedError) -> Self {
        Self::Failed(error)
    }
}

/// How far a fill came.
enum Filled {
    /// Nothing was behind the last message.
    End,
    /// Nobody answered.
    Failed,
}

struct Reader {
    nats: Nats,
    stream: StreamWatch,
    options: FeedOptions,
    /// When the stream was made that is read.
    created: String,
    /// How many connections had been lost when it began.
    losses: u64,
    /// The end of the stream was reached once.
    at_end: bool,
    /// The last sequence that was delivered.
    cursor: u64,
    sender: mpsc::Sender<Result<Vec<Stored>, FeedError>>,
    /// When the last ones were stored, by rising sequence.
    times: VecDeque<(u64, u64)>,
    /// A moment, and what was read by then: a look that was begun afterwards must have it.
    before: (Instant, u64),
    /// Since when, and for how many looks, the stream seems to have lost something.
    suspected: Option<(Instant, u32)>,
    pause: Duration,
}

impl Reader {
    async fn run(mut self) {
        match self.follow().await {
            Ok(never) => match never {},
            Err(Stop::Unread) => {}
            Err(Stop::Failed(error)) => {
                // Nobody may be reading any more.
                let _ = self.sender.send(Err(error)).await;
            }
        }
    }

    async fn follow(&mut self) -> Result<std::convert::Infallible, Stop> {
        // What is far behind is read first: the end of the stream would only pile up meanwhile.
        self.fill_for_sure().await?;
        let mut tail = loop {
            let tail = self.nats.subscribe(&self.options.tail, None).await;
            match tail {
                // Not before the server knows of it: else what it republishes in between would be missed.
                Ok(tail) if self.nats.flush().await.is_ok() => break tail,
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "cannot follow the end of a stream"),
            }
            self.wait().await?;
        };
        self.fill_for_sure().await?;
        self.at_end = true;
        let mut compare = tokio::time::interval(COMPARE_EVERY);
        compare.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut compared, mut late) = (self.cursor, 0);
        loop {
            tokio::select! {
                biased;
                message = tail.0.next() => match message.and_then(Stored::read) {
                    Some(first) => self.live(first, &mut tail).await?,
                    // A foreign message at our subject, or the client has been closed.
                    None => self.wait().await?,
                },
                seen = self.stream.next() => {
                    self.suspect(&seen)?;
                    // Told of nothing that follows: the last message may have been lost on its way here.
                    if !self.options.contiguous {
                        // It may still be on its way here; if it is not, the next comparisons tell.
                        self.stream.tell(seen.info.last);
                    } else if seen.info.last > self.cursor {
                        self.fill().await?;
                    }
                }
                _ = compare.tick() => {
                    self.check_connection()?;
                    late = if compared == self.cursor && self.stream.told() > self.cursor { late + 1 } else { 0 };
                    if late >= if self.options.contiguous { 1 } else { LATE } {
                        self.fill().await?;
                    }
                    compared = self.cursor;
                }
                () = self.sender.closed() => return Err(Stop::Unread),
            }
        }
    }

    /// Delivers what the end of the stream has ready, or fills the gap before it.
    async fn live(&mut self, first: Stored, tail: &mut Subscription) -> Result<(), Stop> {
        self.check_connection()?;
        let (mut batch, mut bytes) = (Vec::new(), 0);
        let mut next = Some(first);
        while let Some(mut message) = next {
            if message.seq <= self.cursor {
                self.check_again(&message)?;
            } else if message.seq == self.cursor + 1 {
                // Without a gap: everything up to here has been delivered.
                message.last = true;
                bytes += message.payload.len();
                self.take(&message);
                batch.push(message);
            } else {
                self.deliver(std::mem::take(&mut batch)).await?;
                // What is missing, and this one after it. When nobody answers, the next message or look tries again.
                return self.fill().await.map(drop);
            }
            if batch.len() >= LIVE_BATCH.0 || bytes >= LIVE_BATCH.1 {
                break;
            }
            next = tail.0.next().now_or_never().flatten().and_then(Stored::read);
        }
        self.deliver(batch).await
    }

    /// A look at the stream: is it still the one, and does it have what was read?
    fn suspect(&mut self, seen: &Seen) -> Result<(), Stop> {
        let info = &seen.info;
        let same = info.created == self.created;
        // What has come since the look was begun may not be in it: under load, or by a slow network, it hardly ever is.
        let (moment, read) = std::mem::replace(&mut self.before, (Instant::now(), self.cursor));
        if same && seen.at < moment {
            return Ok(());
        }
        if same && info.last >= read {
            self.suspected = None;
            return Ok(());
        }
        let (since, looks) = self.suspected.get_or_insert((Instant::now(), 0));
        *looks += 1;
        if since.elapsed() < SUSPICION.0 || *looks < SUSPICION.1 {
            return Ok(());
        }
        let stream = self.options.stream.clone();
        if same {
            return Err(FeedError::Ahead { stream, read, last: info.last }.into());
        }
        let what = format!("it was made at {}, and now there is one of {}", self.created, info.created);
        Err(FeedError::Rewritten { stream, what }.into())
    }

    /// Reads until nothing is behind the last message, as long as it takes.
    async fn fill_for_sure(&mut self) -> Result<(), Stop> {
        while matches!(self.fill().await?, Filled::Failed) {
            self.wait().await?;
        }
        Ok(())
    }

    /// Reads what is behind the cursor.
    async fn fill(&mut self) -> Result<Filled, Stop> {
        loop {
            self.check_connection()?;
            let batch = self.nats.direct_batch(&self.options.stream, &self.options.filter, self.cursor + 1).await;
            let batch = match batch {
                Ok(batch) => batch,
                Err(error) => {
                    tracing::debug!(stream = self.options.stream, %error, "a stream could not be read; trying again");
                    return Ok(Filled::Failed);
                }
            };
            let Some(end) = batch.last() else {
                // Also when the front of the stream was dropped up to its end.
                let info = self.stream.seen().info;
                if self.options.contiguous && info.created == self.created && info.first > self.cursor + 1 {
                    return Err(self.trimmed(info.first));
                }
                return Ok(Filled::End);
            };
            self.pause = AGAIN.0;
            let done = end.last;
            if self.at_end && !self.options.contiguous {
                return Err(self.missed());
            }
            if self.options.contiguous {
                let follows = |(n, message): (u64, &Stored)| message.seq == self.cursor + 1 + n;
                if !(0..).zip(&batch).all(follows) {
                    return self.hole(&batch).await;
                }
            }
            for message in &batch {
                self.take(message);
            }
            self.deliver(batch).await?;
            if done {
                return Ok(Filled::End);
            }
        }
    }

    /// What should follow does not: it was trimmed, or the replica that was asked has lost it.
    async fn hole(&mut self, batch: &[Stored]) -> Result<Filled, Stop> {
        let info = match self.nats.stream_info(&self.options.stream).await {
            Ok(Some(info)) if info.created == self.created => info,
            _ => return Ok(Filled::Failed),
        };
        if info.first > self.cursor + 1 {
            return Err(self.trimmed(info.first));
        }
        // The leader has the last word on it.
        match self.nats.at(&self.options.stream, self.cursor + 1).await {
            Ok(Some(_)) | Err(_) => {
                let found: Vec<_> = batch.iter().take(3).map(|message| message.seq).collect();
                tracing::warn!(
                    stream = self.options.stream,
                    expected = self.cursor + 1,
                    ?found,
                    "a replica of the stream lacks messages that its leader has; asking again"
                );
                Ok(Filled::Failed)
            }
            Ok(None) => {
                let what = format!("message {} is gone from its middle", self.cursor + 1);
                Err(FeedError::Rewritten { stream: self.options.stream.clone(), what }.into())
            }
        }
    }

    /// What was not heard while there was no connection may have been anything, also the same places anew.
    fn check_connection(&self) -> Result<(), Stop> {
        if self.options.contiguous || self.nats.losses() == self.losses { Ok(()) } else { Err(self.missed()) }
    }

    fn missed(&self) -> Stop {
        FeedError::Missed { stream: self.options.stream.clone(), read: self.cursor }.into()
    }

    fn trimmed(&self, first: u64) -> Stop {
        FeedError::Trimmed { stream: self.options.stream.clone(), wanted: self.cursor + 1, first }.into()
    }

    fn take(&mut self, message: &Stored) {
        self.cursor = message.seq;
        if self.times.len() == REMEMBERED {
            self.times.pop_front();
        }
        self.times.push_back((message.seq, message.at_ns));
    }

    /// A message that has been delivered comes again: the same one?
    fn check_again(&self, message: &Stored) -> Result<(), Stop> {
        let known = self.times.binary_search_by_key(&message.seq, |(seq, _)| *seq);
        let same = match known.ok().and_then(|at| self.times.get(at)) {
            Some((_, at_ns)) => *at_ns == message.at_ns,
            // It had been replaced when this place was read. Then it is older than what was read last.
            None if !self.options.contiguous => self.times.back().is_none_or(|(_, newest)| message.at_ns <= *newest),
            None => true,
        };
        if same {
            return Ok(());
        }
        let what = format!("place {} was given twice: acknowledged messages were lost", message.seq);
        Err(FeedError::Rewritten { stream: self.options.stream.clone(), what }.into())
    }

    async fn deliver(&self, batch: Vec<Stored>) -> Result<(), Stop> {
        if batch.is_empty() {
            return Ok(());
        }
        self.sender.send(Ok(batch)).await.map_err(|_| Stop::Unread)
    }

    /// Some time, after which a read is tried again; a stream that is gone for good ends the feed all the same.
    async fn wait(&mut self) -> Result<(), Stop> {
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(AGAIN.1);
        match self.stream.news() {
            Some(seen) => self.suspect(&seen),
            None => Ok(()),
        }
    }
}
