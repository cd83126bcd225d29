//! Where snapshots are held: a folder, or the NATS object store of a cluster.

mod folder;
mod nats;
#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;

use cameo_nats::object::ObjectError;

use crate::Name;

pub use folder::Folder;
pub use nats::Objects;

/// A snapshot that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Which.
    pub name: Name,
    /// Since when it is there, milliseconds since 1970.
    pub at_ms: u64,
    /// Bytes of its file.
    pub bytes: u64,
}

/// What became of a snapshot that was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It is there now.
    Stored,
    /// Another one of this name was there already, which is as good.
    ThereAlready,
}

/// Why a store does not do what it is asked to.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The folder cannot be used.
    #[error("cannot {doing} {path}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The object store cannot be used.
    #[error(transparent)]
    Objects(#[from] ObjectError),
}

impl StoreError {
    /// For `map_err`.
    fn at(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.display().to_string();
        move |source| Self::Io { doing, path, source }
    }
}

/// Holds snapshots. Cheap to clone.
#[derive(Clone, Debug)]
pub enum Store {
    /// Files of this machine.
    Folder(Folder),
    /// Objects in NATS.
    Objects(Objects),
}

impl Store {
    /// What is there, whole.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn list(&self) -> Result<Vec<Listed>, StoreError> {
        match self {
            Self::Folder(folder) => folder.list(),
            Self::Objects(objects) => objects.list().await,
        }
    }

    /// Puts the snapshot in a file into the store.
    ///
    /// # Errors
    /// When the store cannot be used; the snapshot is not listed then, unless nobody can say.
    pub async fn put(&self, name: &Name, file: &Path) -> Result<Put, StoreError> {
        match self {
            Self::Folder(folder) => folder.put(name, file),
            Self::Objects(objects) => objects.put(name, file).await,
        }
    }

    /// Copies a snapshot into a file, as it is in the store: [`crate::Reader::open`] says whether it is intact.
    ///
    /// # Errors
    /// When it is not there, or comes out of the store with other bytes than it went in.
    pub async fn get(&self, name: &Name, into: &Path) -> Result<(), StoreError> {
        match self {
            Self::Folder(folder) => folder.get(name, into),
            Self::Objects(objects) => objects.get(name, into).await,
        }
    }

    /// Takes a snapshot out; one that is not there is no error.
    ///
    /// # Errors
    /// When the store cannot be used, or this user may not.
    pub async fn remove(&self, name: &Name) -> Result<(), StoreError> {
        match self {
            Self::Folder(folder) => folder.remove(name),
            Self::Objects(objects) => objects.remove(name).await,
        }
    }
}
