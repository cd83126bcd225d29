//! The two clocks of a node: one that only goes forward, for leases; one that people read, for expiry.

use std::fmt;
use std::time::Duration;

/// A moment of this machine's monotonic clock, in ms since an arbitrary start. Two machines' moments do not compare.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mono(pub u64);

impl Mono {
    /// So much later.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long ago `earlier` was; nothing if it is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// Where time comes from; tests bring their own.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Monotonic, and counting while the machine sleeps: a lease must not outlive a suspended laptop.
    fn mono(&self) -> Mono;
    /// Milliseconds since 1970, as set by people and NTP.
    fn unix_ms(&self) -> u64;
}

/// The system's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn mono(&self) -> Mono {
        // CLOCK_MONOTONIC, which `Instant` reads, stands still during suspend on Linux; CLOCK_BOOTTIME does not.
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let ms = now.tv_sec.saturating_mul(1000).saturating_add(now.tv_nsec / 1_000_000);
        Mono(u64::try_from(ms).unwrap_or(0))
    }

    fn unix_ms(&self) -> u64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}
