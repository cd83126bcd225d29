//! What is kept of a stream (`recent.rs`), for tasks: its files are written on threads that may block. It is a convenience, and
//! a disk that hangs must not cost a node its lease for it, or hold up what is read for longer than a moment. What comes while
//! a write hangs is left out, and seen to be missing by its position.

#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::recent::{Kept, Newest, Recent};
use crate::LogId;

/// How long a write is waited for. Ours: a busy disk is not that slow, and a visit waits for so long once.
const WRITE_PATIENCE: Duration = Duration::from_secs(1);

/// The frames of one stream.
pub(super) struct Ring {
    stream: usize,
    /// Only ever locked on a thread that may block.
    recent: Arc<Mutex<Recent>>,
    /// The newest frame that was read, whether or not it could be kept.
    newest: Mutex<Option<Newest>>,
    /// One write at a time, in their order; no other waits behind one that hangs.
    writing: Arc<Semaphore>,
    syncing: Arc<Semaphore>,
    /// A write has taken longer than is waited for, and has not ended.
    hangs: AtomicBool,
    /// Frames that came meanwhile.
    left_out: AtomicU64,
}

impl Ring {
    /// What an earlier run has left. Blocks.
    pub(super) fn open(dir: &Path, log: LogId, stream: usize) -> io::Result<Self> {
        let recent = Recent::open(dir, log, stream)?;
        let newest = Mutex::new(recent.newest());
        let (writing, syncing) = (Arc::new(Semaphore::new(1)), Arc::new(Semaphore::new(1)));
        let (hangs, left_out) = (AtomicBool::new(false), AtomicU64::new(0));
        Ok(Self { stream, recent: Arc::new(Mutex::new(recent)), newest, writing, syncing, hangs, left_out })
    }

    /// The newest frame that was read.
    pub(super) fn newest(&self) -> Option<Newest> {
        *self.newest.lock()
    }

    /// Keeps frames, and returns when they are written, or will not be for a while.
    pub(super) async fn keep(&self, frames: Vec<Kept>) {
        let Some(last) = frames.last().map(Newest::of) else { return };
        {
            let mut newest = self.newest.lock();
            *newest = newest.filter(|newest| newest.position >= last.position).or(Some(last));
        }
        let patience = if self.hangs.load(Ordering::Acquire) { Duration::ZERO } else { WRITE_PATIENCE };
        let turn = tokio::time::timeout(patience, Arc::clone(&self.writing).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else {
            self.left_out.fetch_add(frames.len() as u64, Ordering::Relaxed);
            return self.hang();
        };
        if self.hangs.swap(false, Ordering::AcqRel) {
            let frames = self.left_out.swap(0, Ordering::Relaxed);
            tracing::info!(stream = self.stream, frames.left_out = frames, "the disk answers; frames are kept again");
        }
        let recent = Arc::clone(&self.recent);
        let written = spawn_blocking(move || {
            recent.lock().push(&frames);
            drop(turn);
        });
        if tokio::time::timeout(WRITE_PATIENCE, written).await.is_err() {
            self.hang();
        }
    }

    fn hang(&self) {
        if !self.hangs.swap(true, Ordering::AcqRel) {
            tracing::warn!(
                stream = self.stream,
                "the disk hangs; what is read until it answers is not kept, and this node cannot help should NATS lose it"
            );
        }
    }

    /// Has what was kept so far synced, and what is too old dropped; does not wait for it, nor begin while the last one goes on.
    pub(super) fn sync(&self) {
        let Ok(turn) = Arc::clone(&self.syncing).try_acquire_owned() else { return };
        let recent = Arc::clone(&self.recent);
        spawn_blocking(move || {
            let unsynced = {
                let mut recent = recent.lock();
                recent.prune();
                recent.unsynced()
            };
            if let Some(file) = unsynced {
                // A disk that does not sync says so at the next write.
                let _ = file.sync_data();
            }
            drop(turn);
        });
    }
}
