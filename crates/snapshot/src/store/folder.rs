//! Snapshots as files of one folder.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::{Listed, Put, StoreError};
use crate::Name;

/// What stands behind the name of a file that is not whole yet.
const UNFINISHED: &str = "new";

/// A folder.
#[derive(Clone, Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// This one; it is made with the first snapshot.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self(dir.into())
    }

    fn path(&self, name: &Name) -> PathBuf {
        self.0.join(name.to_string())
    }

    pub(super) fn list(&self) -> Result<Vec<Listed>, StoreError> {
        let entries = match fs::read_dir(&self.0) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(StoreError::at("list", &self.0))?,
        };
        let mut listed = Vec::new();
        for entry in entries {
            let entry = entry.map_err(StoreError::at("list", &self.0))?;
            let Some(name) = entry.file_name().to_str().and_then(Name::parse) else { continue };
            let meta = match entry.metadata() {
                // Removed since it was listed.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                meta => meta.map_err(StoreError::at("look at", &entry.path()))?,
            };
            let at = meta.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
            listed.push(Listed { name, at_ms: at.as_millis() as u64, bytes: meta.len() });
        }
        Ok(listed)
    }

    pub(super) fn put(&self, name: &Name, file: &Path) -> Result<Put, StoreError> {
        fs::create_dir_all(&self.0).map_err(StoreError::at("create", &self.0))?;
        let path = self.path(name);
        if path.exists() {
            return Ok(Put::ThereAlready);
        }
        let unfinished = path.with_added_extension(UNFINISHED);
        let write = || {
            fs::copy(file, &unfinished)?;
            File::open(&unfinished)?.sync_all()?;
            fs::rename(&unfinished, &path)?;
            File::open(&self.0)?.sync_all()
        };
        write().map_err(StoreError::at("write", &path))?;
        Ok(Put::Stored)
    }

    pub(super) fn get(&self, name: &Name, into: &Path) -> Result<(), StoreError> {
        let path = self.path(name);
        fs::copy(&path, into).map_err(StoreError::at("copy", &path)).map(drop)
    }

    pub(super) fn remove(&self, name: &Name) -> Result<(), StoreError> {
        let path = self.path(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(StoreError::at("remove", &path)),
        }
    }
}
