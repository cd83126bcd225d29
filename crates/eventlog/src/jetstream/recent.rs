//! What was read of a log lately, kept on the node's own disk, so that a stream which lost its end can be given it back
//! (`reappend.rs`). It is no second log: nothing is ever read from here but for that.
//!
//! ```text
//! DIR/{stream}-{first sequence}   a piece: "CMRC", version u16, stream u16, log id u128; then records
//! record                          XXH3-64 of the rest u64, sequence u64, log time u64, length u32, the frame
//! ```
//! Integers are little-endian. Sequences of a piece follow one another, and so do those of its pieces, unless something
//! could not be written. A record that is cut off or damaged ends what is read of its piece.

#[cfg(test)]
pub(super) mod tests;

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use crate::frame::{self, FRAME_BYTES_MAX};
use crate::{LogId, LogTime, Position};

/// Bytes kept of each stream at most. Ours: minutes of a busy log, and a few streams of it fit any disk.
pub const RECENT_BYTES: u64 = 64 << 20;
/// Bytes of a piece: what is dropped at once.
const PIECE_BYTES: u64 = RECENT_BYTES / 8;
/// What nobody has written to for longer goes: erased profiles are not to stay here for longer than in the log.
const RECENT_AGE: Duration = Duration::from_secs(24 * 60 * 60);
/// A piece takes nothing more when it is older: else little by little would keep all of it.
const PIECE_AGE: Duration = Duration::from_secs(60 * 60);

/// Pause after a write that failed: a full disk gets no better by trying harder.
const AGAIN: Duration = Duration::from_secs(1);

const MAGIC: [u8; 4] = *b"CMRC";
const VERSION: u16 = 1;
const HEAD_BYTES: usize = 24;
const RECORD_BYTES: usize = 28;

/// A frame as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) position: Position,
    pub(super) at: LogTime,
    pub(super) bytes: Bytes,
}

/// The newest frame that is kept: where it stood, and what tells it from any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Newest {
    pub(super) position: Position,
    sum: u64,
}

impl Newest {
    pub(super) fn of(kept: &Kept) -> Self {
        Self { position: kept.position, sum: xxh3_64(&kept.bytes) }
    }

    /// Whether these are its bytes.
    pub(super) fn is(&self, bytes: &[u8]) -> bool {
        self.sum == xxh3_64(bytes)
    }
}

struct Piece {
    path: PathBuf,
    bytes: u64,
}

/// The frames of one stream.
pub(super) struct Recent {
    dir: PathBuf,
    log: LogId,
    stream: usize,
    pieces: VecDeque<Piece>,
    /// The newest piece, while it takes more, and since when it does.
    open: Option<(Arc<File>, Instant)>,
    newest: Option<Newest>,
    /// When the last write failed, if it did; that is said once.
    failed: Option<Instant>,
}

fn head(log: LogId, stream: usize) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[..4].copy_from_slice(&MAGIC);
    head[4..6].copy_from_slice(&VERSION.to_le_bytes());
    head[6..8].copy_from_slice(&(stream as u16).to_le_bytes());
    head[8..].copy_from_slice(&log.0.to_le_bytes());
    head
}

fn record(kept: &Kept) -> Vec<u8> {
    let mut rest = Vec::with_capacity(RECORD_BYTES + kept.bytes.len());
    rest.extend_from_slice(&[0; 8]);
    rest.extend_from_slice(&kept.position.0.to_le_bytes());
    rest.extend_from_slice(&kept.at.0.to_le_bytes());
    rest.extend_from_slice(&(kept.bytes.len() as u32).to_le_bytes());
    rest.extend_from_slice(&kept.bytes);
    let sum = xxh3_64(&rest[8..]);
    rest[..8].copy_from_slice(&sum.to_le_bytes());
    rest
}

/// The next record, and how long it is; `None` where nothing intact follows.
fn parse(bytes: &Bytes, from: usize) -> Option<(Kept, usize)> {
    let rest = bytes.get(from..)?;
    let (head, body) = rest.split_first_chunk::<RECORD_BYTES>()?;
    let word = |at: usize| head[at..at + 8].try_into().map(u64::from_le_bytes);
    let length = u32::from_le_bytes(head[24..28].try_into().ok()?) as usize;
    if length > FRAME_BYTES_MAX || body.len() < length || word(0).ok()? != xxh3_64(&rest[8..RECORD_BYTES + length]) {
        return None;
    }
    let frame = bytes.slice(from + RECORD_BYTES..from + RECORD_BYTES + length);
    frame::check(&frame).ok()?;
    let kept = Kept { position: Position(word(8).ok()?), at: LogTime(word(16).ok()?), bytes: frame };
    Some((kept, RECORD_BYTES + length))
}

/// What is intact of a piece: its records, each with where it ends in the file. `None` when it is of another log or stream.
fn read_piece(path: &Path, log: LogId, stream: usize) -> io::Result<Option<Vec<(Kept, usize)>>> {
    let mut bytes = Vec::new();
    // Twice: a running edge writes on, and no file is larger than a piece and a frame.
    File::open(path)?.take(2 * PIECE_BYTES).read_to_end(&mut bytes)?;
    let bytes = Bytes::from(bytes);
    if bytes.get(..HEAD_BYTES) != Some(&head(log, stream)) {
        return Ok(None);
    }
    let (mut kept, mut at) = (Vec::new(), HEAD_BYTES);
    while let Some((one, length)) = parse(&bytes, at) {
        at += length;
        kept.push((one, at));
    }
    Ok(Some(kept))
}

/// Files of a stream, by rising first sequence.
fn list(dir: &Path, stream: usize) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let parsed = name.to_str().and_then(|name| name.split_once('-'));
        if let Some((of, first)) = parsed
            && of.parse() == Ok(stream)
            && let Ok(first) = first.parse()
        {
            found.push((first, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// All that is kept of a stream, by rising positions.
pub(super) fn read(dir: &Path, log: LogId, stream: usize) -> io::Result<Vec<Kept>> {
    let mut all = Vec::new();
    for (_, path) in list(dir, stream)? {
        match read_piece(&path, log, stream) {
            Ok(kept) => all.extend(kept.unwrap_or_default().into_iter().map(|(kept, _)| kept)),
            // The node that writes here has dropped it meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

impl Recent {
    /// What an earlier run has left; files of another log go.
    pub(super) fn open(dir: &Path, log: LogId, stream: usize) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let (dir, pieces) = (dir.to_owned(), VecDeque::new());
        let mut recent = Self { dir, log, stream, pieces, open: None, newest: None, failed: None };
        for (_, path) in list(&recent.dir, stream)? {
            match read_piece(&path, log, stream)? {
                Some(kept) if !kept.is_empty() => {
                    recent.newest = kept.last().map(|(kept, _)| Newest::of(kept));
                    let bytes = fs::metadata(&path)?.len();
                    recent.pieces.push_back(Piece { path, bytes });
                }
                _ => fs::remove_file(&path)?,
            }
        }
        recent.prune();
        Ok(recent)
    }

    /// The newest frame that is kept.
    pub(super) fn newest(&self) -> Option<Newest> {
        self.newest
    }

    /// Keeps frames, and drops what is too old or too much. What cannot be written is not kept, and said. What is read once
    /// more stays as it was kept: it is all there is, should the stream turn out to be another one.
    pub(super) fn push<'k>(&mut self, frames: impl IntoIterator<Item = &'k Kept>) {
        for kept in frames {
            let is_kept = self.newest.is_some_and(|newest| kept.position <= newest.position);
            if is_kept || self.failed.is_some_and(|since| since.elapsed() < AGAIN) {
                continue;
            }
            match self.write(kept) {
                Ok(()) => {
                    if self.failed.take().is_some() {
                        tracing::info!(stream = self.stream, "frames are kept again");
                    }
                }
                Err(error) => {
                    self.abandon();
                    if self.failed.replace(Instant::now()).is_none() {
                        let dir = self.dir.display().to_string();
                        tracing::warn!(%error, dir, "frames cannot be kept; should NATS lose them, this node cannot help");
                    }
                }
            }
        }
    }

    fn write(&mut self, kept: &Kept) -> io::Result<()> {
        let follows = self.newest.is_some_and(|newest| newest.position.next() == kept.position);
        let full = self.pieces.back().is_none_or(|piece| piece.bytes >= PIECE_BYTES);
        let old = self.open.as_ref().is_none_or(|(_, since)| since.elapsed() >= PIECE_AGE);
        if !follows || full || old {
            self.begin(kept.position)?;
        }
        if let (Some((file, _)), Some(piece)) = (&self.open, self.pieces.back_mut()) {
            let record = record(kept);
            (&**file).write_all(&record)?;
            piece.bytes += record.len() as u64;
            self.newest = Some(Newest::of(kept));
        }
        Ok(())
    }

    fn begin(&mut self, first: Position) -> io::Result<()> {
        if let Some((file, _)) = self.open.take() {
            file.sync_data()?;
        }
        let path = self.dir.join(format!("{}-{:020}", self.stream, first.0));
        let file = File::create(&path)?;
        self.pieces.retain(|piece| piece.path != path);
        // Before anything is written, so that it goes again when nothing can be.
        self.pieces.push_back(Piece { path, bytes: HEAD_BYTES as u64 });
        (&file).write_all(&head(self.log, self.stream))?;
        self.open = Some((Arc::new(file), Instant::now()));
        self.prune();
        Ok(())
    }

    /// After a write that failed: what comes next begins a piece of its own, and one without a record goes. A part of a record
    /// stays where it is, and ends its piece.
    fn abandon(&mut self) {
        self.open = None;
        if let Some(empty) = self.pieces.pop_back_if(|piece| piece.bytes <= HEAD_BYTES as u64) {
            // It is looked at again at the next start.
            let _ = fs::remove_file(&empty.path);
        }
    }

    /// Drops what is too much, or too old.
    pub(super) fn prune(&mut self) {
        let now = SystemTime::now();
        let is_old = |piece: &Piece| {
            let written = fs::metadata(&piece.path).and_then(|meta| meta.modified());
            written.is_ok_and(|written| now.duration_since(written).is_ok_and(|age| age >= RECENT_AGE))
        };
        let mut bytes: u64 = self.pieces.iter().map(|piece| piece.bytes).sum();
        while let Some(piece) = self.pieces.front().filter(|piece| bytes > RECENT_BYTES || is_old(piece)) {
            bytes -= piece.bytes;
            // It is looked at again at the next start.
            let _ = fs::remove_file(&piece.path);
            self.pieces.pop_front();
        }
        if self.pieces.is_empty() {
            (self.open, self.newest) = (None, None);
        }
    }

    /// What has to be synced so that a power cut leaves what was kept so far.
    pub(super) fn unsynced(&self) -> Option<Arc<File>> {
        self.open.as_ref().map(|(file, _)| Arc::clone(file))
    }
}
