//! `log.json`, which says what log a directory holds and which segments belong to it, and the lock that keeps a second
//! process out. No frames here.
//!
//! The file is replaced as a whole, before segments are trimmed and after one was started. So a segment that is missing
//! at either end was lost, and the log says so.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use cameo_profile::PartitionCount;
use serde::{Deserialize, Serialize};

use super::disk::sync_dir;
use crate::error::{IoError, OpenError};
use crate::{LogId, LogTime};

pub(super) const FILE: &str = "log.json";
const LOCK: &str = "lock";
/// Version of the directory as a whole; each kind of file has its own besides.
const FORMAT_VERSION: u32 = 1;

/// As it stands in the file. Field names are part of the format.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredMeta {
    format_version: u32,
    log_id: String,
    partitions: u32,
    created_at_ms: u64,
    first_segment: u64,
    last_segment: u64,
}

/// What log this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) id: LogId,
    pub(super) partitions: PartitionCount,
    pub(super) created_at: LogTime,
    /// Segments before it were trimmed.
    pub(super) first_segment: u64,
    /// It exists, and so may the one after it.
    pub(super) last_segment: u64,
}

/// Reads what log `dir` holds; `None` when it holds none.
pub(super) fn read(dir: &Path) -> Result<Option<Meta>, OpenError> {
    let file = dir.join(FILE);
    let text = match fs::read(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(IoError::at("read", &file)(error).into()),
    };
    let bad = |what: String| OpenError::BadMeta { file: file.clone(), what };
    let stored: StoredMeta =
        serde_json::from_slice(&text).map_err(|error| bad(format!("is not the description of a log: {error}")))?;
    if stored.format_version != FORMAT_VERSION {
        return Err(bad(format!(
            "has format version {}; this release knows version {FORMAT_VERSION}",
            stored.format_version
        )));
    }
    let id = u128::from_str_radix(&stored.log_id, 16).map_err(|_| bad("has a logId that is not hexadecimal".into()))?;
    let partitions = PartitionCount::new(stored.partitions).map_err(|error| bad(format!("is wrong: {error}")))?;
    Ok(Some(Meta {
        id: LogId(id),
        partitions,
        created_at: LogTime(stored.created_at_ms),
        first_segment: stored.first_segment,
        last_segment: stored.last_segment,
    }))
}

/// Replaces the description, all or nothing.
pub(super) fn save(dir: &Path, meta: &Meta) -> io::Result<()> {
    let stored = StoredMeta {
        format_version: FORMAT_VERSION,
        log_id: meta.id.to_string(),
        partitions: u32::from(meta.partitions.get()),
        created_at_ms: meta.created_at.ms(),
        first_segment: meta.first_segment,
        last_segment: meta.last_segment,
    };
    let draft = dir.join("log.json.new");
    let mut out = File::create(&draft)?;
    out.write_all(&serde_json::to_vec_pretty(&stored)?)?;
    out.write_all(b"\n")?;
    out.sync_all()?;
    fs::rename(&draft, dir.join(FILE))?;
    sync_dir(dir)
}

/// Creates the directory and takes its lock; it is free again when the file is dropped, however the process ends.
pub(super) fn lock(dir: &Path) -> Result<File, OpenError> {
    if !dir.exists() {
        fs::create_dir_all(dir).map_err(IoError::at("create", dir))?;
        if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sync_dir(parent).map_err(IoError::at("sync", parent))?;
        }
    }
    let path: PathBuf = dir.join(LOCK);
    let file =
        File::options().create(true).truncate(false).write(true).open(&path).map_err(IoError::at("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse { dir: dir.to_owned() }),
        Err(TryLockError::Error(error)) => Err(IoError::at("lock", &path)(error).into()),
    }
}
