//! A small file system in memory, so that a disk can be full. Needs [`crate::needs::TMPFS`].

use std::path::Path;
use std::process::Command;

/// A mounted file system; unmounted on drop. Drop it after the processes that use it.
#[derive(Debug)]
pub struct Tmpfs {
    dir: tempfile::TempDir,
}

impl Tmpfs {
    /// Mounts one of `megabytes`.
    ///
    /// # Panics
    /// When it cannot be mounted.
    #[must_use]
    pub fn mount(megabytes: u32) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let size = format!("size={megabytes}m");
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir.path()).status();
        assert!(status.is_ok_and(|s| s.success()), "mount -t tmpfs failed");
        Self { dir }
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Free bytes.
    ///
    /// # Panics
    /// When the file system is gone.
    #[must_use]
    pub fn free(&self) -> u64 {
        let stat = rustix::fs::statvfs(self.path()).expect("statvfs");
        stat.f_bavail * stat.f_frsize
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily: a process that was killed a moment ago may still hold a file.
        let _ = Command::new("umount").arg("-l").arg(self.dir.path()).status();
    }
}
