//! Waiting for a state: the only place of the tests that sleeps, and only between two looks.

use std::time::{Duration, Instant};

/// Between two looks: short against everything waited for, long against the cost of a look.
const BETWEEN_LOOKS: Duration = Duration::from_millis(5);
/// Far above what anything takes on two busy cores; only a broken state waits this long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Looks until there is something, and returns it.
///
/// # Panics
/// When there is nothing within [`PATIENCE`]; `what` says what was waited for.
pub fn until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, look).unwrap_or_else(|| panic!("waited {} s in vain for: {what}", PATIENCE.as_secs()))
}

/// Looks until there is something or the time is over.
pub fn within<T>(time: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + time;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(BETWEEN_LOOKS);
    }
}

/// Lets time itself pass, where passing time is the very thing under test (a load of a chosen length, a slow sender).
pub fn pass(time: Duration) {
    std::thread::sleep(time);
}
