//! What the log does when it is opened: reads the segments, tells a torn end from damage, cuts the one off and reports
//! the other.
//!
//! A group is only ever written after the one before it is durable (with [`crate::Durability::Fsync`]). So an
//! unreadable group with an intact one behind it was acknowledged and has been damaged: an error. An unreadable group
//! with nothing behind it, at the end of the last segment, is most likely an append that a crash interrupted: nobody was
//! told that it succeeded, and it is cut off. It may also be the last append of all, acknowledged and damaged by the disk
//! since: the bytes do not tell. Who has read further (a checkpoint) finds out, and says so.
//!
//! The newest [`VERIFIED_BYTES`] of segments are read whole; older ones only by header and length, as their readers
//! check every frame they hand out.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cameo_profile::{LogTime, Partition, PartitionCount, Position};

use super::disk::{DiskFile, Faults, sync_dir};
use super::group::{HEAD_BYTES, Head, MAGIC, Seed};
use super::meta::Meta;
use super::scan::{Bad, Group, ScanError, Scanner};
use super::segment::{self, SegmentHeader};
use super::view::Segment;
use crate::LogId;
use crate::error::{Damage, IoError, OpenError};

/// Sealed segments that are read whole at every start, in bytes, newest first. Ours: a second of a start.
const VERIFIED_BYTES: u64 = 1 << 30;
/// Bytes looked at in one go when searching past damage.
const WINDOW_BYTES: u64 = 1 << 20;

/// What is known of the log after reading it.
pub(super) struct Recovered {
    pub(super) segments: VecDeque<Arc<Segment>>,
    /// The last segment.
    pub(super) file: Arc<DiskFile>,
    /// Where its groups end, and where its last group starts.
    pub(super) end: u64,
    pub(super) last_group: Option<u64>,
    pub(super) state: Walk,
}

/// Where in the log a walk through its groups has got to.
pub(super) struct Walk {
    pub(super) next_seq: u64,
    pub(super) at: LogTime,
    pub(super) last: Vec<u64>,
}

impl Walk {
    fn at_start_of(header: &SegmentHeader) -> Self {
        Self { next_seq: header.first_seq, at: header.before, last: header.base.to_vec() }
    }

    /// Takes the next group, or says why it cannot be the next.
    fn step(&mut self, group: &Group) -> Result<(), String> {
        if group.seq != self.next_seq {
            return Err(format!("group {} stands where group {} belongs", group.seq, self.next_seq));
        }
        if group.at < self.at {
            return Err(format!("log time falls from {} to {}", self.at, group.at));
        }
        for entry in &group.entries {
            let Some(last) = self.last.get_mut(entry.partition.index()) else {
                return Err(format!("a frame of partition {}, which the log does not have", entry.partition));
            };
            if entry.position.0 != *last + 1 {
                return Err(format!(
                    "position {} of partition {} stands where {} belongs",
                    entry.position,
                    entry.partition,
                    *last + 1
                ));
            }
            *last += 1;
        }
        self.next_seq += 1;
        self.at = group.at;
        Ok(())
    }

    fn places(&self) -> Vec<(Partition, Position)> {
        let all = self.last.iter().enumerate().map(|(index, last)| (Partition(index as u16), Position(*last)));
        all.filter(|(_, position)| *position > Position::START).collect()
    }
}

/// The log in `dir`, which `meta` describes.
pub(super) fn recover(dir: &Path, meta: &Meta, faults: Option<&Faults>) -> Result<Recovered, OpenError> {
    let (id, partitions) = (meta.id, meta.partitions);
    let mut files = list(dir)?;
    drop_trimmed(dir, &mut files, meta.first_segment)?;
    drop_unborn(dir, &mut files, meta)?;
    // Gaps between are found by the headers.
    if files.first().is_none_or(|(number, _)| *number != meta.first_segment) {
        return Err(lost(dir, meta.first_segment));
    }
    if files.last().is_none_or(|(number, _)| *number < meta.last_segment) {
        return Err(lost(dir, meta.last_segment));
    }
    let mut segments: VecDeque<Arc<Segment>> = VecDeque::new();
    let mut sizes: Vec<(Arc<DiskFile>, u64)> = vec![];
    for (number, path) in files {
        let file = Arc::new(DiskFile::open(&path, faults.cloned()).map_err(IoError::at("open", &path))?);
        let size = file.len().map_err(IoError::at("read", &path))?;
        let header = read_header(&file, size, partitions)?;
        let before = segments.back().zip(sizes.last());
        if let Some(what) = misfit(&header, id, number, before.map(|(segment, (_, size))| (&segment.header, *size))) {
            return Err(damaged(&path, 0, what, &Walk::at_start_of(&header)));
        }
        segments.push_back(Arc::new(Segment { header, path }));
        sizes.push((file, size));
    }
    let (Some((file, size)), Some(active)) = (sizes.pop(), segments.back()) else {
        return Err(lost(dir, meta.last_segment));
    };
    verify_sealed(&segments, &sizes, Seed::of(id))?;
    let (end, last_group, state) = walk_last(active, &file, size, Seed::of(id))?;
    // What was read may still be only in the system's memory: make it durable before anybody builds on it.
    file.sync().map_err(IoError::at("sync", file.path()))?;
    sync_dir(dir).map_err(IoError::at("sync", dir))?;
    Ok(Recovered { segments, file, end, last_group, state })
}

/// A segment that belongs to the log is not there.
fn lost(dir: &Path, number: u64) -> OpenError {
    let what = "it belongs to the log and is missing".to_owned();
    let file = segment::path(dir, number);
    OpenError::Damaged(Box::new(Damage { file, offset: 0, what, frames: vec![], exact: false }))
}

/// Whether a log can be created in `dir`: removes the empty segment of a creation that a crash interrupted.
pub(super) fn check_vacant(dir: &Path, partitions: PartitionCount) -> Result<(), OpenError> {
    for (number, path) in list(dir)? {
        let size = fs::metadata(&path).map_err(IoError::at("read", &path))?.len();
        if number > 1 || size > SegmentHeader::bytes(partitions) {
            let what = format!("is missing, but there are segments of a log beside it: {}", path.display());
            return Err(OpenError::BadMeta { file: dir.join(super::meta::FILE), what });
        }
        fs::remove_file(&path).map_err(IoError::at("remove", &path))?;
    }
    Ok(())
}

/// Removes what a trim had given up but not deleted when the process died.
fn drop_trimmed(dir: &Path, files: &mut Vec<(u64, PathBuf)>, first: u64) -> Result<(), OpenError> {
    let given_up = files.partition_point(|(number, _)| *number < first);
    for (_, path) in files.drain(..given_up) {
        fs::remove_file(&path).map_err(IoError::at("remove", &path))?;
    }
    if given_up > 0 {
        sync_dir(dir).map_err(IoError::at("sync", dir))?;
    }
    Ok(())
}

fn list(dir: &Path) -> Result<Vec<(u64, PathBuf)>, OpenError> {
    let mut files = vec![];
    for entry in fs::read_dir(dir).map_err(IoError::at("list", dir))? {
        let path = entry.map_err(IoError::at("list", dir))?.path();
        if let Some(number) = segment::number(&path) {
            files.push((number, path));
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// Removes a last segment that was being created when the process died: it has no complete header, so no group.
fn drop_unborn(dir: &Path, files: &mut Vec<(u64, PathBuf)>, meta: &Meta) -> Result<(), OpenError> {
    let Some((_, path)) = files.last().filter(|(number, _)| *number > meta.last_segment) else { return Ok(()) };
    let file = DiskFile::open(path, None).map_err(IoError::at("open", path))?;
    let size = file.len().map_err(IoError::at("read", path))?;
    if size > SegmentHeader::bytes(meta.partitions) || read_header(&file, size, meta.partitions).is_ok() {
        return Ok(());
    }
    tracing::warn!(eventlog.file = %path.display(), "removed a segment of the log whose creation a crash interrupted");
    fs::remove_file(path).map_err(IoError::at("remove", path))?;
    sync_dir(dir).map_err(IoError::at("sync", dir))?;
    files.pop();
    Ok(())
}

fn read_header(file: &DiskFile, size: u64, partitions: PartitionCount) -> Result<SegmentHeader, OpenError> {
    let mut bytes = vec![0; SegmentHeader::bytes(partitions).min(size) as usize];
    file.read_at(&mut bytes, 0).map_err(IoError::at("read", file.path()))?;
    SegmentHeader::decode(&bytes).map_err(|what| {
        let (file, what) = (file.path().to_owned(), what.to_owned());
        OpenError::Damaged(Box::new(Damage { file, offset: 0, what, frames: vec![], exact: false }))
    })
}

/// Why a segment cannot follow the one before it.
fn misfit(header: &SegmentHeader, id: LogId, number: u64, before: Option<(&SegmentHeader, u64)>) -> Option<String> {
    if header.log != id {
        return Some(format!("it belongs to the log {}, not to {id}", header.log));
    }
    if header.number != number {
        return Some(format!("it is segment {} by its header", header.number));
    }
    let (before, size) = before?;
    if before.number + 1 != number {
        return Some(format!("the segment before it, number {}, is missing", number - 1));
    }
    if header.previous_bytes != size {
        let name = before.number;
        return Some(format!("segment {name} before it had {} bytes; now it has {size}", header.previous_bytes));
    }
    None
}

/// Reads the newest sealed segments whole.
fn verify_sealed(
    segments: &VecDeque<Arc<Segment>>,
    sizes: &[(Arc<DiskFile>, u64)],
    seed: Seed,
) -> Result<(), OpenError> {
    let mut left = VERIFIED_BYTES;
    let newest = sizes.iter().rev().take_while(|(_, size)| {
        let fits = left >= *size;
        left = left.saturating_sub(*size);
        fits
    });
    for at in sizes.len() - newest.count()..sizes.len() {
        let (segment, next, (file, size)) = (&segments[at], &segments[at + 1], &sizes[at]);
        let mut walk = Walk::at_start_of(&segment.header);
        let mut scanner = Scanner::new(Arc::clone(file), seed, SegmentHeader::bytes_for(segment.header.base.len()));
        loop {
            match scanner.next(*size, |_| true) {
                Ok(None) => break,
                Ok(Some(group)) => {
                    walk.step(&group).map_err(|what| damaged(&segment.path, group.start, what, &walk))?;
                }
                Err(ScanError::Io(error)) => return Err(IoError::at("read", &segment.path)(error).into()),
                Err(ScanError::Bad(bad)) => return Err(damaged_by(&segment.path, bad, &walk)),
            }
        }
        if walk.next_seq != next.header.first_seq || walk.last != *next.header.base {
            let what = "it does not go on where the segment before it ends".to_owned();
            return Err(damaged(&next.path, 0, what, &walk));
        }
    }
    Ok(())
}

/// Reads the last segment whole and cuts off its torn end, if it has one.
fn walk_last(
    segment: &Segment,
    file: &Arc<DiskFile>,
    size: u64,
    seed: Seed,
) -> Result<(u64, Option<u64>, Walk), OpenError> {
    let path = &segment.path;
    let mut walk = Walk::at_start_of(&segment.header);
    let mut scanner = Scanner::new(Arc::clone(file), seed, SegmentHeader::bytes_for(segment.header.base.len()));
    let mut last_group = None;
    loop {
        match scanner.next(size, |_| true) {
            Ok(None) => break,
            Ok(Some(group)) => {
                walk.step(&group).map_err(|what| damaged(path, group.start, what, &walk))?;
                last_group = Some(group.start);
            }
            Err(ScanError::Io(error)) => return Err(IoError::at("read", path)(error).into()),
            Err(ScanError::Bad(bad)) => {
                match end_at(file, bad.start, size, seed, walk.next_seq).map_err(IoError::at("read", path))? {
                    End::Clean => {}
                    End::Damaged => return Err(damaged_by(path, bad, &walk)),
                    End::Torn => {
                        warn_torn(path, size, &bad);
                        file.truncate(bad.start).map_err(IoError::at("shorten", path))?;
                    }
                }
                break;
            }
        }
    }
    Ok((scanner.offset(), last_group, walk))
}

fn warn_torn(path: &Path, size: u64, bad: &Bad) {
    let mut partitions: Vec<u16> = bad.frames.iter().map(|(partition, _)| partition.0).collect();
    partitions.dedup();
    tracing::warn!(
        eventlog.file = %path.display(),
        eventlog.offset_bytes = bad.start,
        eventlog.cut_bytes = size - bad.start,
        eventlog.partitions = ?partitions,
        reason = %bad.what,
        "cut off the torn end of the log: an append that a crash interrupted, and that was not acknowledged unless the \
         disk itself has lost what it had confirmed"
    );
}

/// What stands where the next group should.
enum End {
    /// Only zeros: space laid out ahead.
    Clean,
    /// Remains of one append.
    Torn,
    /// An intact group of this log stands further on.
    Damaged,
}

fn end_at(file: &DiskFile, start: u64, size: u64, seed: Seed, expected_seq: u64) -> Result<End, std::io::Error> {
    let mut zeros = true;
    let mut at = start;
    while at < size {
        // Windows overlap, so that a header across their border is found.
        let mut window = vec![0; (WINDOW_BYTES + HEAD_BYTES as u64).min(size - at) as usize];
        file.read_at(&mut window, at)?;
        zeros &= window.iter().all(|byte| *byte == 0);
        // The group at `start` itself is unreadable even if its header is not.
        let skip = usize::from(at == start);
        for head in window[skip..].windows(HEAD_BYTES).filter_map(|bytes| bytes.first_chunk()) {
            if head[..4] == MAGIC && Head::decode(head, seed).is_ok_and(|head| head.seq >= expected_seq) {
                return Ok(End::Damaged);
            }
        }
        at += WINDOW_BYTES;
    }
    Ok(if zeros { End::Clean } else { End::Torn })
}

fn damaged(file: &Path, offset: u64, what: String, walk: &Walk) -> OpenError {
    OpenError::Damaged(Box::new(Damage { file: file.to_owned(), offset, what, frames: walk.places(), exact: false }))
}

fn damaged_by(file: &Path, bad: Bad, walk: &Walk) -> OpenError {
    if bad.frames.is_empty() {
        return damaged(file, bad.offset, bad.what, walk);
    }
    let Bad { offset, what, frames, .. } = bad;
    OpenError::Damaged(Box::new(Damage { file: file.to_owned(), offset, what, frames, exact: true }))
}
