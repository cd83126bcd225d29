//! One suite that every backend of the log passes. A backend's tests implement [`Backend`] and call [`run_all`] on a
//! multi-threaded runtime; each case gets a log of its own.
//!
//! Failures are panics, with the name of the case before them.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use crate::frame::{AppenderId, FRAME_BYTES_MAX, Frame, FrameBuilder, HEADER_BYTES};
use crate::{
    AppendError, BATCH_BYTES, EventLog, Hint, LogReader, LogTime, Partition, PartitionCount, Position, ReadError,
    StoredFrame,
};

/// Makes logs for the suite.
pub trait Backend: Sync {
    /// What is tested.
    type Log: EventLog;

    /// A new, empty log.
    fn create(&self, case: &str, partitions: PartitionCount) -> impl Future<Output = Self::Log> + Send;

    /// The same log after a restart, or `None` when the backend forgets.
    fn reopen(&self, log: Self::Log) -> impl Future<Output = Option<Self::Log>> + Send;

    /// Whether positions of a partition have no gaps, as they are its own.
    const CONTIGUOUS: bool;
}

/// Runs every case.
pub async fn run_all<B: Backend>(backend: &B) {
    macro_rules! cases {
        ($($case:ident)*) => {$(
            eprintln!("case: {}", stringify!($case));
            $case(backend).await;
        )*};
    }
    cases! {
        empty order_and_positions from_any_position live_tail cancelled_reads partitions_apart concurrent_appenders
        large_frames unfit_frames log_time ahead by_position trim reopen
    }
}

fn count(n: u32) -> PartitionCount {
    PartitionCount::new(n).expect("the suite's own number of partitions is in range")
}

const P0: Partition = Partition(0);
const P1: Partition = Partition(1);

/// A frame with one event of so many bytes that says `n`.
fn frame(partition: Partition, n: u64, bytes: usize) -> (Partition, Bytes) {
    let mut builder = FrameBuilder::with_capacity(bytes);
    builder.push(|out| {
        out.extend_from_slice(&n.to_le_bytes());
        out.resize(out.len() + bytes.saturating_sub(8), n as u8);
    });
    (partition, builder.finish(AppenderId(7), partition, n, 0).0)
}

/// The number that [`frame`] put in.
fn number(stored: &StoredFrame) -> u64 {
    let frame = Frame::decode(&stored.bytes).expect("a stored frame is intact");
    assert_eq!(frame.header().partition, stored.partition);
    frame.header().counter
}

async fn append<L: EventLog>(log: &L, frames: Vec<(Partition, Bytes)>) -> Vec<Position> {
    let results = log.append(frames).await;
    results.into_iter().map(|result| result.expect("an append to a healthy log succeeds")).collect()
}

/// Reads until `count` frames are there.
async fn read<R: LogReader>(reader: &mut R, count: usize) -> Vec<StoredFrame> {
    let mut frames = vec![];
    while frames.len() < count {
        let batch = reader.next_batch().await.expect("a healthy log can be read");
        frames.extend(batch);
    }
    assert_eq!(frames.len(), count, "no more frames than were appended");
    frames
}

/// Polls once: whether the reader has nothing at the moment.
fn is_waiting<R: LogReader>(reader: &mut R) -> bool {
    let batch = pin!(reader.next_batch());
    batch.poll(&mut Context::from_waker(Waker::noop())).is_pending()
}

/// Nothing in it: positions, and a reader that waits.
pub async fn empty<B: Backend>(backend: &B) {
    let log = backend.create("empty", count(3)).await;
    assert_eq!(log.partitions(), count(3));
    for partition in log.partitions().iter() {
        assert_eq!(log.last(partition), Position::START);
        assert_eq!(log.first(partition), Position::START.next());
    }
    assert!(append(&log, vec![]).await.is_empty());
    assert!(is_waiting(&mut log.reader(vec![(P0, Position::START)])));
}

/// Positions rise in the order of appending, and readers see that order.
pub async fn order_and_positions<B: Backend>(backend: &B) {
    let log = backend.create("order", count(2)).await;
    let mut positions = vec![];
    for n in 0..10 {
        positions.extend(append(&log, vec![frame(P0, 2 * n + 1, 10), frame(P0, 2 * n + 2, 0)]).await);
    }
    assert!(positions.is_sorted_by(|a, b| a < b), "{positions:?}");
    if B::CONTIGUOUS {
        assert_eq!(positions, (1..=20).map(Position).collect::<Vec<_>>());
    }
    assert_eq!(log.last(P0), positions[19]);
    assert!(log.last(P1) == Position::START || !B::CONTIGUOUS);
    let frames = read(&mut log.reader(vec![(P0, Position::START)]), 20).await;
    assert_eq!(frames.iter().map(|frame| frame.position).collect::<Vec<_>>(), positions);
    assert_eq!(frames.iter().map(number).collect::<Vec<_>>(), (1..=20).collect::<Vec<_>>());
}

/// A reader starts after any position and gets exactly the rest.
pub async fn from_any_position<B: Backend>(backend: &B) {
    let log = backend.create("any-position", count(2)).await;
    let mut positions = vec![Position::START];
    for n in 0..6 {
        let group = vec![frame(P0, 2 * n + 1, 100), frame(P1, n + 1, 100), frame(P0, 2 * n + 2, 100)];
        let placed = append(&log, group).await;
        positions.extend([placed[0], placed[2]]);
    }
    for (after, position) in positions.iter().enumerate() {
        let mut reader = log.reader(vec![(P0, *position)]);
        let frames = read(&mut reader, 12 - after).await;
        assert_eq!(frames.iter().map(number).collect::<Vec<_>>(), (after as u64 + 1..=12).collect::<Vec<_>>());
        assert!(is_waiting(&mut reader));
    }
}

/// A waiting reader is woken by an append, again and again.
pub async fn live_tail<B: Backend>(backend: &B) {
    let log = Arc::new(backend.create("live", count(2)).await);
    let mut reader = log.reader(vec![(P0, Position::START), (P1, Position::START)]);
    assert!(is_waiting(&mut reader));
    let writer = {
        let log = Arc::clone(&log);
        tokio::spawn(async move {
            for n in 1..=50 {
                append(&*log, vec![frame(Partition(n as u16 % 2), n, 30)]).await;
                tokio::task::yield_now().await;
            }
        })
    };
    let frames = read(&mut reader, 50).await;
    writer.await.expect("the writer does not panic");
    let mut numbers: Vec<_> = frames.iter().map(number).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=50).collect::<Vec<_>>());
}

/// Dropping a read, before or after there is something, loses nothing.
pub async fn cancelled_reads<B: Backend>(backend: &B) {
    let log = backend.create("cancelled", count(1)).await;
    let mut reader = log.reader(vec![(P0, Position::START)]);
    let mut seen = vec![];
    for n in 1..=20 {
        {
            let mut dropped = pin!(reader.next_batch());
            let polled = dropped.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert!(polled.is_pending(), "nothing is there yet");
            append(&log, vec![frame(P0, n, 10)]).await;
        }
        let mut batch = pin!(reader.next_batch());
        match batch.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(frames) => seen.extend(frames.expect("a healthy log can be read").iter().map(number)),
            Poll::Pending => seen.extend(batch.await.expect("a healthy log can be read").iter().map(number)),
        }
    }
    assert_eq!(seen, (1..=20).collect::<Vec<_>>());
}

/// A reader gets the partitions it asked for, each in order, and no others.
pub async fn partitions_apart<B: Backend>(backend: &B) {
    let log = backend.create("apart", count(40)).await;
    for n in 1..=5 {
        append(&log, log.partitions().iter().map(|partition| frame(partition, n, 20)).collect()).await;
    }
    let odd: Vec<_> = log.partitions().iter().filter(|p| p.0 % 2 == 1).map(|p| (p, Position::START)).collect();
    let frames = read(&mut log.reader(odd.clone()), 100).await;
    for (partition, _) in odd {
        let of_it: Vec<_> = frames.iter().filter(|frame| frame.partition == partition).map(number).collect();
        assert_eq!(of_it, [1, 2, 3, 4, 5]);
    }
    let unknown = log.reader(vec![(Partition(40), Position::START)]).next_batch().await;
    assert!(matches!(unknown, Err(ReadError::NoSuchPartition { .. })), "{unknown:?}");
}

/// Any number of appenders at once: each frame once, each appender's frames in its order.
pub async fn concurrent_appenders<B: Backend>(backend: &B) {
    const APPENDERS: u64 = 8;
    const EACH: u64 = 50;
    let log = Arc::new(backend.create("concurrent", count(2)).await);
    let appenders: Vec<_> = (0..APPENDERS)
        .map(|appender| {
            let log = Arc::clone(&log);
            tokio::spawn(async move {
                for n in 0..EACH {
                    append(&*log, vec![frame(P0, appender * 1000 + n + 1, 50)]).await;
                }
            })
        })
        .collect();
    for appender in appenders {
        appender.await.expect("no appender panics");
    }
    let frames = read(&mut log.reader(vec![(P0, Position::START)]), (APPENDERS * EACH) as usize).await;
    assert!(frames.is_sorted_by(|a, b| a.position < b.position));
    for appender in 0..APPENDERS {
        let of_it: Vec<_> = frames.iter().map(number).filter(|n| n / 1000 == appender).collect();
        assert_eq!(of_it, (1..=EACH).map(|n| appender * 1000 + n).collect::<Vec<_>>());
    }
}

/// The largest frames, more of them than fit into one batch, and batches within their bound.
pub async fn large_frames<B: Backend>(backend: &B) {
    let log = backend.create("large", count(2)).await;
    let event = FRAME_BYTES_MAX - HEADER_BYTES - 4;
    let group: Vec<_> = (1..=20).map(|n| frame(P0, n, event)).collect();
    assert_eq!(group[0].1.len(), FRAME_BYTES_MAX);
    append(&log, group).await;
    let mut reader = log.reader(vec![(P0, Position::START)]);
    let mut numbers = vec![];
    while numbers.len() < 20 {
        let batch = reader.next_batch().await.expect("a healthy log can be read");
        let bytes: usize = batch.iter().map(|frame| frame.bytes.len()).sum();
        assert!(bytes <= BATCH_BYTES || batch.len() == 1, "a batch of {bytes} bytes");
        numbers.extend(batch.iter().map(number));
    }
    assert_eq!(numbers, (1..=20).collect::<Vec<_>>());
}

/// What no log can take is refused, and nothing of its group is written.
pub async fn unfit_frames<B: Backend>(backend: &B) {
    let log = backend.create("unfit", count(2)).await;
    let large = (P0, frame(P0, 1, FRAME_BYTES_MAX).1);
    let elsewhere = (P0, frame(P1, 1, 10).1);
    let rubbish = (P0, Bytes::from_static(b"rubbish"));
    for unfit in [large, elsewhere, rubbish, frame(Partition(2), 1, 10)] {
        let results = log.append(vec![frame(P0, 1, 10), unfit]).await;
        assert!(results.iter().all(|result| matches!(result, Err(AppendError::Unavailable(_)))), "{results:?}");
    }
    assert_eq!(log.last(P0), Position::START);
}

/// Log time never falls, over appends and `now`.
pub async fn log_time<B: Backend>(backend: &B) {
    let log = backend.create("time", count(2)).await;
    let mut before = log.now();
    for n in 1..=20 {
        append(&log, vec![frame(Partition(n as u16 % 2), n, 10)]).await;
        let now = log.now();
        assert!(now >= before);
        before = now;
    }
    let frames = read(&mut log.reader(vec![(P0, Position::START), (P1, Position::START)]), 20).await;
    for partition in [P0, P1] {
        assert!(frames.iter().filter(|frame| frame.partition == partition).is_sorted_by_key(|frame| frame.at));
    }
    assert!(frames.iter().all(|frame| frame.at > LogTime(0) && frame.at <= before));
}

/// A reader that claims to have read more than there is gets an error that names the place, for ever: also when the log
/// grows past that place while the reader waits to be told. A log that lacks what was read may refuse to grow.
pub async fn ahead<B: Backend>(backend: &B) {
    let log = backend.create("ahead", count(2)).await;
    let last = append(&log, vec![frame(P1, 1, 10)]).await[0];
    let asked = last.next();
    let grow = async |from: u64| {
        for result in log.append((from..from + 3).map(|n| frame(P1, n, 10)).collect()).await {
            assert!(matches!(result, Ok(_) | Err(AppendError::Unavailable(_))), "{result:?}");
        }
    };
    let mut reader = log.reader(vec![(P0, Position::START), (P1, asked)]);
    let mut told = {
        let mut first = pin!(reader.next_batch());
        match first.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(told) => told,
            Poll::Pending => {
                grow(2).await;
                first.await
            }
        }
    };
    for n in 0..2 {
        match told {
            Err(ReadError::Ahead { partition: P1, asked: named, last: found, .. }) => {
                assert_eq!((named, found), (asked, last));
            }
            other => panic!("{other:?}"),
        }
        grow(5 + 3 * n).await;
        told = reader.next_batch().await;
    }
}

/// Any frame is found by its position, whatever the hint; what stands nowhere is said to.
pub async fn by_position<B: Backend>(backend: &B) {
    let log = backend.create("by-position", count(3)).await;
    for n in 0..20 {
        let group = vec![frame(P0, 2 * n + 1, 20_000), frame(P1, n + 1, 10), frame(P0, 2 * n + 2, 50)];
        append(&log, group).await;
    }
    let all = read(&mut log.reader(vec![(P0, Position::START), (P1, Position::START)]), 60).await;
    let found = found_again(&log, &all).await;
    for partition in [P0, P1, Partition(2)] {
        let nowhere = log.last(partition).next();
        for position in [Position::START, nowhere, Position(u64::MAX)] {
            let error = log.frame(partition, position, Hint::default()).await;
            assert!(matches!(error, Err(ReadError::NoFrame { .. })), "{position} {error:?}");
        }
    }
    if !B::CONTIGUOUS {
        // Partitions 0 and 1 may share positions: then one has no frame where the other has.
        let shared: Vec<_> = all.iter().map(|frame| (frame.partition, frame.position)).collect();
        for (partition, position) in shared {
            let other = if partition == P0 { P1 } else { P0 };
            let held = all.iter().any(|frame| (frame.partition, frame.position) == (other, position));
            assert_eq!(log.frame(other, position, Hint::default()).await.is_ok(), held);
        }
    }
    let none = log.frame(Partition(3), Position(1), Hint::default()).await;
    assert!(matches!(none, Err(ReadError::NoSuchPartition { .. })), "{none:?}");
    let Some(log) = backend.reopen(log).await else { return };
    assert_eq!(found_again(&log, &all).await, found);
}

/// Asks for each frame by its own hint, by none and by that of another.
async fn found_again<L: EventLog>(log: &L, all: &[StoredFrame]) -> usize {
    for (n, frame) in all.iter().enumerate() {
        let other = all[(n + 7) % all.len()].hint;
        for hint in [frame.hint, Hint::default(), other, Hint(u64::MAX), Hint(frame.hint.0 ^ 1)] {
            let found = log.frame(frame.partition, frame.position, hint).await;
            let found = found.unwrap_or_else(|error| panic!("{} {hint:?}: {error}", frame.position));
            assert_eq!((found.position, &found.bytes), (frame.position, &frame.bytes));
            assert!(found.at <= frame.at && found.hint == frame.hint);
        }
    }
    all.len()
}

/// A trim drops no more than it may, what is left can be read, what is gone is said to be.
pub async fn trim<B: Backend>(backend: &B) {
    let log = backend.create("trim", count(2)).await;
    let mut positions = vec![];
    for n in 1..=40 {
        positions.push(append(&log, vec![frame(P0, n, 20_000), frame(P1, n, 10)]).await);
    }
    let future = LogTime(u64::MAX);
    let upto = [(P0, positions[20][0]), (P1, positions[30][1])];
    log.trim(&upto, LogTime(1)).await.expect("a trim of nothing succeeds");
    assert_eq!(log.first(P0), Position(1), "nothing is as old as that");
    log.trim(&upto[..1], future).await.expect("a trim succeeds");
    assert_eq!(log.first(P1), Position(1), "a partition that is not named keeps everything");
    log.trim(&upto, future).await.expect("a trim succeeds");
    for (partition, position) in upto {
        let first = log.first(partition);
        assert!(first <= position.next(), "{first} is past {position}");
        let mut reader = log.reader(vec![(partition, position)]);
        let left = positions.iter().filter(|of| of[partition.index()] > position).count();
        let left = read(&mut reader, left).await;
        found_again(&log, &left).await;
        if first > Position::START.next() {
            let gone = log.reader(vec![(partition, Position::START)]).next_batch().await;
            assert!(matches!(gone, Err(ReadError::Trimmed { .. })), "{gone:?}");
            let gone = log.frame(partition, Position(first.0 - 1), Hint::default()).await;
            assert!(matches!(gone, Err(ReadError::Trimmed { .. })), "{gone:?}");
        }
    }
    assert!(log.last(P0) == positions[39][0] || !B::CONTIGUOUS);
    let next = append(&log, vec![frame(P0, 41, 10)]).await;
    assert!(next[0] > positions[39][0]);
}

/// After a restart the log is the same one, with everything in it, and goes on.
pub async fn reopen<B: Backend>(backend: &B) {
    let log = backend.create("reopen", count(3)).await;
    let id = log.id();
    append(&log, (1..=10).map(|n| frame(P0, n, 5000)).collect()).await;
    append(&log, vec![frame(P1, 1, 10)]).await;
    let (last, now) = (log.last(P0), log.now());
    let Some(log) = backend.reopen(log).await else { return };
    assert_eq!((log.id(), log.partitions(), log.last(P0)), (id, count(3), last));
    assert!(log.now() >= now || !B::CONTIGUOUS);
    let frames = read(&mut log.reader(vec![(P0, Position::START)]), 10).await;
    assert_eq!(frames.iter().map(number).collect::<Vec<_>>(), (1..=10).collect::<Vec<_>>());
    assert!(append(&log, vec![frame(P0, 11, 10)]).await[0] > last);
    let Some(log) = backend.reopen(log).await else { return };
    read(&mut log.reader(vec![(P0, Position::START)]), 11).await;
}
