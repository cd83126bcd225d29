//! What a partition knows of its clients (tenants): a short number for each, and how long profiles live.
//!
//! A profile stores when it was last active, not when it ends, so that a changed lifetime counts at once for all.
//! To keep the end of a profile independent of the sweeper, past lifetimes are remembered while they can matter:
//! a profile that had ended under an older, shorter lifetime stays ended when the lifetime is raised.

use crate::limits::{LIFETIME_DAYS_DEFAULT, LIFETIME_DAYS_MAX};
use crate::time::{DAY_MS, LogTime};
use crate::varint;

/// One tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Client {
    pub(crate) code: Box<str>,
    /// Lifetimes in days with the log time from which each holds; the first holds since ever.
    lifetimes: Vec<(LogTime, u16)>,
}

impl Client {
    fn new(code: &str) -> Self {
        Self { code: code.into(), lifetimes: vec![(LogTime(0), LIFETIME_DAYS_DEFAULT)] }
    }

    /// Days that hold now.
    pub(crate) fn lifetime_days(&self) -> u16 {
        self.lifetimes.last().map_or(LIFETIME_DAYS_DEFAULT, |&(_, days)| days)
    }

    fn set_lifetime(&mut self, at: LogTime, days: u16) {
        let days = days.clamp(1, LIFETIME_DAYS_MAX);
        if days == self.lifetime_days() {
            return;
        }
        self.lifetimes.push((at, days));
        // What was active before a change older than the longest lifetime has ended under any of them.
        let horizon = at.0.saturating_sub(u64::from(LIFETIME_DAYS_MAX) * DAY_MS);
        let stale = self.lifetimes.iter().skip(1).take_while(|(from, _)| from.0 < horizon).count();
        self.lifetimes.drain(..stale);
    }

    /// When a profile that was last active at `active` ends, in ms since 1970, by all that is known now.
    #[inline]
    pub(crate) fn ends_at(&self, active: u64) -> u64 {
        let mut days = LIFETIME_DAYS_DEFAULT;
        for (i, &(from, changed)) in self.lifetimes.iter().enumerate() {
            let end = active + u64::from(days) * DAY_MS;
            if i > 0 && from.0 > active && end <= from.0 {
                return end;
            }
            days = changed;
        }
        active + u64::from(days) * DAY_MS
    }
}

/// All tenants of a partition, by number.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    all: Vec<Client>,
    pub(crate) changed: bool,
}

impl Clients {
    /// The number of a client that has data here.
    #[inline]
    pub(crate) fn find(&self, code: &str) -> Option<u32> {
        // A deployment has a handful of tenants, and most have one.
        self.all.iter().position(|client| &*client.code == code).map(|i| i as u32)
    }

    /// Finds or adds a client.
    pub(crate) fn intern(&mut self, code: &str) -> u32 {
        self.find(code).unwrap_or_else(|| {
            self.all.push(Client::new(code));
            self.changed = true;
            self.all.len() as u32 - 1
        })
    }

    /// All of them, with the lifetimes that were set up to a time; with none, as before any was set.
    pub(crate) fn as_of(&self, at: Option<LogTime>) -> Self {
        let as_of = |client: &Client| {
            let Some(at) = at else { return Client::new(&client.code) };
            let set = client.lifetimes.iter().skip(1).take_while(|(from, _)| *from <= at).count();
            Client { code: client.code.clone(), lifetimes: client.lifetimes[..=set].to_vec() }
        };
        Self { all: self.all.iter().map(as_of).collect(), changed: false }
    }

    pub(crate) fn get(&self, id: u32) -> Option<&Client> {
        self.all.get(id as usize)
    }

    pub(crate) fn set_lifetime(&mut self, id: u32, at: LogTime, days: u16) {
        if let Some(client) = self.all.get_mut(id as usize) {
            client.set_lifetime(at, days);
            self.changed = true;
        }
    }

    /// Layout: `count, then a client: code, count of lifetimes, then each: from (ms), days`.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        varint::put(&mut out, self.all.len() as u64);
        for client in &self.all {
            varint::put_bytes(&mut out, client.code.as_bytes());
            varint::put(&mut out, client.lifetimes.len() as u64);
            for &(from, days) in &client.lifetimes {
                varint::put(&mut out, from.0);
                varint::put(&mut out, u64::from(days));
            }
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut from = varint::Reader::new(bytes);
        let mut all = Vec::new();
        for _ in 0..from.varint() {
            let code = from.text().into();
            let mut lifetimes = Vec::new();
            for _ in 0..from.varint() {
                lifetimes.push((LogTime(from.varint()), u16::try_from(from.varint()).ok()?));
                if from.is_bad() {
                    return None;
                }
            }
            if from.is_bad() || lifetimes.is_empty() {
                return None;
            }
            all.push(Client { code, lifetimes });
        }
        from.is_empty().then_some(Self { all, changed: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = DAY_MS;

    #[test]
    fn a_changed_lifetime_counts_at_once_but_wakes_no_dead() {
        let mut client = Client::new("demo");
        assert_eq!(client.ends_at(DAY), 15 * DAY);
        client.set_lifetime(LogTime(20 * DAY), 90);
        assert_eq!(client.ends_at(DAY), 15 * DAY, "had ended before the change");
        assert_eq!(client.ends_at(10 * DAY), 100 * DAY, "was alive at the change");
        client.set_lifetime(LogTime(21 * DAY), 1);
        assert_eq!(client.ends_at(10 * DAY), 11 * DAY);
        assert_eq!(client.ends_at(21 * DAY), 22 * DAY);
        client.set_lifetime(LogTime(30 * DAY), 90);
        assert_eq!(client.ends_at(21 * DAY), 22 * DAY, "ended under the short lifetime");
        assert_eq!(client.ends_at(29 * DAY + 1), 119 * DAY + 1);
    }

    #[test]
    fn old_lifetimes_are_forgotten_only_when_they_cannot_matter() {
        let mut client = Client::new("demo");
        for day in 0..1000 {
            client.set_lifetime(LogTime(day * DAY), if day % 2 == 0 { 1 } else { 90 });
        }
        assert!(client.lifetimes.len() < 100);
        assert_eq!(client.ends_at(998 * DAY), 999 * DAY);
    }
}
