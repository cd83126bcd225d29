//! Faults of the embedded log: torn ends, changed bytes, failing files, a full disk, a second process.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::disk::{Fault, Op};
use super::*;
use crate::error::ReadError;
use crate::frame::{AppenderId, FrameBuilder};
use crate::{LogReader, StoredFrame};

mod damage;
mod failures;
mod format;

const P0: Partition = Partition(0);
const P1: Partition = Partition(1);

fn options(dir: &Path) -> EmbeddedOptions {
    EmbeddedOptions { partitions: Some(PartitionCount::new(2).unwrap()), ..EmbeddedOptions::new(dir) }
}

fn open(dir: &Path) -> EmbeddedLog {
    EmbeddedLog::open(options(dir)).unwrap()
}

fn frame(partition: Partition, n: u64, bytes: usize) -> (Partition, Bytes) {
    let mut builder = FrameBuilder::with_capacity(bytes);
    builder.push(|out| out.resize(out.len() + bytes, n as u8));
    (partition, builder.finish(AppenderId(1), partition, n, 0).0)
}

fn append(log: &EmbeddedLog, frames: &[(Partition, Bytes)]) -> Result<Vec<Position>, AppendError> {
    log.append_now(frames).into_iter().collect()
}

/// What a reader of both partitions sees, up to the end of the log.
fn read_all(log: &EmbeddedLog) -> Result<Vec<StoredFrame>, ReadError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let from = [P0, P1].map(|partition| (partition, Position(log.first(partition).0 - 1)));
    let mut reader = log.reader(from.to_vec());
    let wanted: u64 = [P0, P1].iter().map(|p| log.last(*p).next().0 - log.first(*p).0).sum();
    let mut frames = vec![];
    while (frames.len() as u64) < wanted {
        frames.extend(runtime.block_on(reader.next_batch())?);
    }
    Ok(frames)
}

fn places(frames: &[StoredFrame]) -> Vec<(u16, u64)> {
    frames.iter().map(|frame| (frame.partition.0, frame.position.0)).collect()
}

fn segment_file(dir: &Path, number: u64) -> PathBuf {
    segment::path(dir, number)
}

/// Where the groups of a segment start, and where the last one ends.
fn group_starts(dir: &Path, number: u64) -> Vec<u64> {
    let meta = meta::read(dir).unwrap().unwrap();
    let file = disk::DiskFile::open(&segment_file(dir, number), None).unwrap();
    let size = file.len().unwrap();
    let mut scanner = scan::Scanner::new(Arc::new(file), Seed::of(meta.id), SegmentHeader::bytes(meta.partitions));
    let mut starts = vec![scanner.offset()];
    while let Ok(Some(_)) = scanner.next(size, |_| true) {
        starts.push(scanner.offset());
    }
    starts
}

#[test]
fn a_second_process_is_kept_out() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let error = EmbeddedLog::open(options(dir.path())).map(drop).unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    drop(log);
    open(dir.path());
}

#[test]
fn the_number_of_partitions_is_fixed() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path());
    let other = EmbeddedOptions { partitions: PartitionCount::new(3).ok(), ..options(dir.path()) };
    let error = EmbeddedLog::open(other).map(drop).unwrap_err().to_string();
    assert!(error.ends_with("was created with 2 partitions, not 3; that cannot be changed"), "{error}");
    let any = EmbeddedOptions { partitions: None, ..options(dir.path()) };
    assert_eq!(EmbeddedLog::open(any).unwrap().partitions().get(), 2);
}

#[test]
fn log_time_does_not_follow_a_clock_that_goes_back() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(5000);
    let log = EmbeddedLog::open(EmbeddedOptions { clock: clock.clone(), ..options(dir.path()) }).unwrap();
    append(&log, &[frame(P0, 1, 1)]).unwrap();
    clock.set(4000);
    append(&log, &[frame(P0, 2, 1)]).unwrap();
    assert_eq!(log.now(), LogTime(5000));
    drop(log);
    let log = EmbeddedLog::open(EmbeddedOptions { clock: clock.clone(), ..options(dir.path()) }).unwrap();
    append(&log, &[frame(P0, 3, 1)]).unwrap();
    clock.set(6000);
    append(&log, &[frame(P0, 4, 1)]).unwrap();
    let times: Vec<_> = read_all(&log).unwrap().iter().map(|frame| frame.at.ms()).collect();
    assert_eq!(times, [5000, 5000, 5000, 6000]);
}

#[test]
fn a_reader_crosses_from_disk_to_memory_and_over_segments() {
    let dir = tempfile::tempdir().unwrap();
    let small = EmbeddedOptions { segment_bytes: 4000, tail_bytes: 2000, ..options(dir.path()) };
    let log = EmbeddedLog::open(small).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut reader = log.reader(vec![(P0, Position::START)]);
    let (mut seen, mut n) = (vec![], 0);
    // Falls behind by different amounts before every read.
    for behind in [1, 3, 40, 2, 100, 1, 10] {
        for _ in 0..behind {
            n += 1;
            append(&log, &[frame(P1, n, 50), frame(P0, n, 100)]).unwrap();
        }
        while seen.len() < n as usize {
            seen.extend(runtime.block_on(reader.next_batch()).unwrap());
        }
    }
    assert_eq!(places(&seen), (1..=n).map(|n| (0, n)).collect::<Vec<_>>());
    assert!(fs::read_dir(dir.path()).unwrap().count() > 5, "it has rolled");
}

#[test]
fn a_reader_overtaken_by_a_trim_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let small = EmbeddedOptions { segment_bytes: 1, tail_bytes: 0, ..options(dir.path()) };
    let log = EmbeddedLog::open(small.clone()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut reader = log.reader(vec![(P0, Position::START)]);
    for n in 1..=10 {
        append(&log, &[frame(P0, n, 100)]).unwrap();
    }
    assert_eq!(places(&runtime.block_on(reader.next_batch()).unwrap()), [(0, 1)]);
    let trimmed = runtime.block_on(log.trim(&[(P0, Position(5))], LogTime(u64::MAX))).unwrap();
    assert_eq!(trimmed.segments, 5);
    assert!(trimmed.bytes > 500);
    assert_eq!(log.first(P0), Position(6));
    let error = runtime.block_on(reader.next_batch()).unwrap_err();
    assert_eq!(error.to_string(), "partition 0 position 2 was trimmed away; the log starts at 6");
    assert_eq!(places(&read_all(&log).unwrap()), (6..=10).map(|n| (0, n)).collect::<Vec<_>>());

    // As if the process had died between giving segments up and deleting them.
    drop(log);
    fs::copy(segment_file(dir.path(), 6), segment_file(dir.path(), 5)).unwrap();
    let log = EmbeddedLog::open(small).unwrap();
    assert!(!segment_file(dir.path(), 5).exists());
    assert_eq!((log.first(P0), log.last(P0)), (Position(6), Position(10)));
}
