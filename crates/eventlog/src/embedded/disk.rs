//! The file operations the log writes with, in one place, so that tests can make any of them fail. No log knowledge.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

/// What is about to happen to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Create,
    Write(usize),
    Sync,
    Truncate,
    FreeSpace,
}

/// An operation that is made to fail, after so many bytes of it were written.
pub(super) struct Fault {
    pub(super) written: usize,
    pub(super) error: io::Error,
}

/// Asked before every operation; a test's hand in the file system.
pub(super) type Faults = Arc<dyn Fn(Op) -> Option<Fault> + Send + Sync>;

/// A file that is written at chosen offsets.
pub(super) struct DiskFile {
    file: File,
    path: PathBuf,
    faults: Option<Faults>,
}

impl DiskFile {
    /// A new, empty file; one that is in the way is emptied.
    pub(super) fn create(path: &Path, faults: Option<Faults>) -> io::Result<Self> {
        if let Some(fault) = faults.as_ref().and_then(|faults| faults(Op::Create)) {
            return Err(fault.error);
        }
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        Ok(Self { file, path: path.to_owned(), faults })
    }

    pub(super) fn open(path: &Path, faults: Option<Faults>) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Self { file, path: path.to_owned(), faults })
    }

    /// To read only: writing to it fails.
    pub(super) fn open_to_read(path: &Path) -> io::Result<Self> {
        Ok(Self { file: File::open(path)?, path: path.to_owned(), faults: None })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    pub(super) fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(bytes, offset)
    }

    /// Writes all of it; after an error any prefix of it may be there.
    pub(super) fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if let Some(fault) = self.fault(Op::Write(bytes.len())) {
            self.file.write_all_at(&bytes[..fault.written.min(bytes.len())], offset)?;
            return Err(fault.error);
        }
        self.file.write_all_at(bytes, offset)
    }

    /// Data and size are durable when it returns.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.fault(Op::Sync).map_or_else(|| self.file.sync_data(), |fault| Err(fault.error))
    }

    pub(super) fn truncate(&self, length: u64) -> io::Result<()> {
        self.fault(Op::Truncate).map_or_else(|| self.file.set_len(length), |fault| Err(fault.error))
    }

    /// Free bytes for ordinary users, and the size, of the file system that holds this file.
    pub(super) fn free_space(&self) -> io::Result<(u64, u64)> {
        if let Some(fault) = self.fault(Op::FreeSpace) {
            // An injected shortage, not a failure to ask.
            return Ok((fault.written as u64, u64::MAX));
        }
        let stat = rustix::fs::fstatvfs(&self.file)?;
        Ok((stat.f_bavail.saturating_mul(stat.f_frsize), stat.f_blocks.saturating_mul(stat.f_frsize)))
    }

    fn fault(&self, op: Op) -> Option<Fault> {
        self.faults.as_ref().and_then(|faults| faults(op))
    }
}

/// Makes names created in, renamed in or removed from a directory durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Whether an error means that there is no room, as opposed to anything else.
pub(super) fn is_full(error: &io::Error) -> bool {
    // EFBIG: a limit on file size, which is also "no room for this".
    let full = [Errno::NOSPC, Errno::DQUOT, Errno::FBIG];
    error.raw_os_error().is_some_and(|code| full.iter().any(|errno| errno.raw_os_error() == code))
}
