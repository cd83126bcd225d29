//! Where log time comes from: a wall clock, made to never fall. The only place of this crate that reads one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use cameo_profile::LogTime;

/// Milliseconds since 1970 from the system, or from a test's own hand.
#[derive(Clone, Default)]
pub struct Clock(Option<Arc<AtomicU64>>);

impl Clock {
    /// The clock of the system.
    #[must_use]
    pub const fn system() -> Self {
        Self(None)
    }

    /// A clock that stands still until [`Self::set`].
    #[must_use]
    pub fn manual(at_ms: u64) -> Self {
        Self(Some(Arc::new(AtomicU64::new(at_ms))))
    }

    /// Moves a manual clock, also backwards; the system's clock takes no orders.
    pub fn set(&self, at_ms: u64) {
        if let Some(cell) = &self.0 {
            cell.store(at_ms, Ordering::SeqCst);
        }
    }

    fn read_ms(&self) -> u64 {
        match &self.0 {
            Some(cell) => cell.load(Ordering::SeqCst),
            None => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
            }
        }
    }
}

/// A clock that never falls: the highest time it has seen, or the clock's.
pub(crate) struct Rising {
    clock: Clock,
    highest_ms: AtomicU64,
}

impl Rising {
    pub(crate) fn new(clock: Clock, at_least: LogTime) -> Self {
        Self { clock, highest_ms: AtomicU64::new(at_least.ms()) }
    }

    pub(crate) fn now(&self) -> LogTime {
        let now_ms = self.clock.read_ms();
        let before_ms = self.highest_ms.fetch_max(now_ms, Ordering::AcqRel);
        LogTime(now_ms.max(before_ms))
    }

    /// A time that stands in the log.
    pub(crate) fn seen(&self, at: LogTime) {
        self.highest_ms.fetch_max(at.ms(), Ordering::AcqRel);
    }
}
