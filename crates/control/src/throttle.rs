//! Slows down guessing: so many failures by name and by address, then nothing for a while.
//!
//! A wrong name or password takes one from both budgets, which fill up again with time. An empty budget refuses without
//! looking at the password; so somebody who floods one name from afar can lock its owner out for that while, and the
//! address budget keeps a single place from doing it for long. Admin keys are not guessed and not throttled.

use std::collections::HashMap;
use std::time::Duration;

use cameo_auth::clock::Mono;
use parking_lot::Mutex;

/// Failures in a row that a name has.
const BY_NAME: Budget = Budget { most: 10, refill: Duration::from_secs(30) };
/// Failures in a row that an address has: many people may share one.
const BY_ADDRESS: Budget = Budget { most: 30, refill: Duration::from_secs(10) };
/// Names and addresses that are remembered, of each. Past it, those that have waited longest are forgotten first.
const REMEMBERED: usize = 10_000;

#[derive(Clone, Copy)]
struct Budget {
    most: u32,
    /// Time that gives one back.
    refill: Duration,
}

/// Counts failures.
#[derive(Default)]
pub(crate) struct Throttle {
    failed: Mutex<Failed>,
}

#[derive(Default)]
struct Failed {
    names: HashMap<String, Spent>,
    addresses: HashMap<String, Spent>,
}

#[derive(Clone, Copy)]
struct Spent {
    failures: u32,
    /// Up to when refills are counted.
    at: Mono,
}

impl Spent {
    fn now(mut self, budget: Budget, now: Mono) -> Self {
        let step = u64::try_from(budget.refill.as_millis()).unwrap_or(u64::MAX);
        let back = now.0.saturating_sub(self.at.0) / step;
        self.failures = self.failures.saturating_sub(u32::try_from(back).unwrap_or(u32::MAX));
        self.at = if self.failures == 0 { now } else { Mono(self.at.0 + back * step) };
        self
    }
}

impl Throttle {
    /// Whether an attempt may be looked at.
    ///
    /// # Errors
    /// Seconds to wait.
    pub(crate) fn admit(&self, name: &str, address: &str, now: Mono) -> Result<(), u16> {
        let failed = self.failed.lock();
        let wait = |spent: Option<&Spent>, budget: Budget| {
            let spent = spent?.now(budget, now);
            (spent.failures >= budget.most).then(|| spent.at.after(budget.refill).since(now))
        };
        let waits = [wait(failed.names.get(name), BY_NAME), wait(failed.addresses.get(address), BY_ADDRESS)];
        match waits.into_iter().flatten().max() {
            None => Ok(()),
            Some(wait) => Err(u16::try_from(wait.as_secs() + 1).unwrap_or(u16::MAX)),
        }
    }

    /// An attempt failed.
    pub(crate) fn failed(&self, name: &str, address: &str, now: Mono) {
        let mut failed = self.failed.lock();
        count(&mut failed.names, name, BY_NAME, now);
        count(&mut failed.addresses, address, BY_ADDRESS, now);
    }

    /// An attempt succeeded: the name's failures are forgiven, the address's are not.
    pub(crate) fn succeeded(&self, name: &str) {
        self.failed.lock().names.remove(name);
    }
}

fn count(map: &mut HashMap<String, Spent>, key: &str, budget: Budget, now: Mono) {
    if map.len() >= REMEMBERED && !map.contains_key(key) {
        map.retain(|_, spent| spent.now(budget, now).failures > 0);
        if map.len() >= REMEMBERED
            && let Some(oldest) = map.iter().min_by_key(|(_, spent)| spent.at).map(|(key, _)| key.clone())
        {
            map.remove(&oldest);
        }
    }
    let spent = map.entry(key.to_owned()).or_insert(Spent { failures: 0, at: now });
    *spent = spent.now(budget, now);
    spent.failures = (spent.failures + 1).min(budget.most);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guessing_a_name_stops_and_begins_again_slowly() {
        let throttle = Throttle::default();
        let now = Mono(1_000_000);
        for n in 0..10 {
            assert_eq!(throttle.admit("ada", &format!("10.0.0.{n}"), now), Ok(()));
            throttle.failed("ada", &format!("10.0.0.{n}"), now);
        }
        assert_eq!(throttle.admit("ada", "10.0.1.1", now), Err(31));
        assert_eq!(throttle.admit("bob", "10.0.1.1", now), Ok(()), "others are not concerned");
        let later = Mono(now.0 + 30_000);
        assert_eq!(throttle.admit("ada", "10.0.1.1", later), Ok(()), "one attempt came back");
        throttle.failed("ada", "10.0.1.1", later);
        assert!(throttle.admit("ada", "10.0.1.1", later).is_err());
        throttle.succeeded("ada");
        assert_eq!(throttle.admit("ada", "10.0.1.1", later), Ok(()));
    }

    #[test]
    fn guessing_from_one_address_stops_whatever_the_names() {
        let throttle = Throttle::default();
        for n in 0..30 {
            throttle.failed(&format!("user{n}"), "10.0.0.1", Mono(1));
        }
        assert_eq!(throttle.admit("ada", "10.0.0.1", Mono(1)), Err(11));
        throttle.succeeded("ada");
        assert!(throttle.admit("ada", "10.0.0.1", Mono(2)).is_err(), "one's own sign-in forgives no address");
    }

    #[test]
    fn a_flood_of_names_is_remembered_within_bounds() {
        let throttle = Throttle::default();
        for n in 0..REMEMBERED as u64 + 500 {
            throttle.failed(&format!("user{n}"), &format!("address{n}"), Mono(n));
        }
        let failed = throttle.failed.lock();
        assert!(failed.names.len() <= REMEMBERED && failed.addresses.len() <= REMEMBERED);
        assert!(failed.names.contains_key("user10499") && !failed.names.contains_key("user0"));
    }
}
