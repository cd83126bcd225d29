//! A partition of a new log begins with what a snapshot of another log has: for operators whose log is lost.

use std::path::PathBuf;

use cameo_eventlog::EventLog;
use cameo_profile::Position;
use cameo_snapshot::Reader;

use super::checkpoint::{Checkpoint, CheckpointError, LoadError};

/// Loads a snapshot into the checkpoint of a log in which nothing was stored yet; returns how many profiles it has.
/// Blocks.
///
/// # Errors
/// When the snapshot is damaged, or the checkpoint cannot be written.
pub fn restore_partition<L: EventLog>(
    checkpoint_dir: PathBuf,
    log: &L,
    snapshot: &mut Reader,
) -> Result<usize, LoadError> {
    let (checkpoint, _) = Checkpoint::open(checkpoint_dir, log)?;
    let folded = checkpoint.load(snapshot, Position::START)?;
    let unwritable = |source| CheckpointError::Database { dir: checkpoint.dir().to_owned(), source };
    checkpoint.persist().map_err(unwritable)?;
    Ok(folded.fold.stats().profiles)
}
