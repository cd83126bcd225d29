//! Visits and sessions of one profile: counters, and the rule that tells one session from the next.
//!
//! A session is over after 30 minutes without a call with its sessionId (TARGET_API §1). So that two tabs, or events
//! that arrive late, do not start a session at every call, a profile remembers one other session beside the current
//! one while that has not been idle for long.

use xxhash_rust::xxh3::xxh3_64;

use crate::limits::SESSION_IDLE_MS;
use crate::varint::{self, Reader};

/// A session, by a hash of its id (0 = visits came without one) and its last call in ms since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Session {
    id: u64,
    last: u64,
}

/// What a profile knows of its visits. Times are event times in ms since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Visits {
    pub(crate) first_session_start: u64,
    pub(crate) last_visit: u64,
    pub(crate) visit_count: u64,
    pub(crate) session_count: u64,
    /// Visits in the current session.
    pub(crate) session_visits: u64,
    current: Session,
    other: Option<Session>,
}

fn hash_of(session_id: Option<&str>) -> u64 {
    // 0 is kept for "none".
    session_id.map_or(0, |id| xxh3_64(id.as_bytes()).max(1))
}

const fn alive(session: Session, time: u64) -> bool {
    session.last.abs_diff(time) < SESSION_IDLE_MS
}

impl Visits {
    /// The first visit of a profile.
    pub(crate) fn first(time: u64, session_id: Option<&str>) -> Self {
        Self {
            first_session_start: time,
            last_visit: time,
            visit_count: 1,
            session_count: 1,
            session_visits: 1,
            current: Session { id: hash_of(session_id), last: time },
            other: None,
        }
    }

    /// A further visit, early or late. Says whether a new session took the place of the current one, which is over.
    pub(crate) fn visit(&mut self, time: u64, session_id: Option<&str>) -> bool {
        self.first_session_start = self.first_session_start.min(time);
        self.last_visit = self.last_visit.max(time);
        self.visit_count += 1;
        let id = hash_of(session_id);
        if alive(self.current, time) && (id == self.current.id || session_id.is_none()) {
            self.current.last = self.current.last.max(time);
            self.session_visits += 1;
            return false;
        }
        if let Some(other) = &mut self.other
            && other.id == id
            && alive(*other, time)
        {
            other.last = other.last.max(time);
            return false;
        }
        self.session_count += 1;
        let fresh = Session { id, last: time };
        if time < self.current.last {
            self.other = Some(fresh);
            return false;
        }
        self.other = Some(self.current).filter(|s| alive(*s, time));
        self.current = fresh;
        self.session_visits = 1;
        true
    }

    /// Last call of the current session, ms since 1970.
    pub(crate) const fn session_last(&self) -> u64 {
        self.current.last
    }

    /// Both pasts as one: counts add up, the session with the later last call is the current one.
    pub(crate) fn joined(&self, other: &Self) -> Self {
        let (late, early) = if other.current.last > self.current.last { (other, self) } else { (self, other) };
        let beside = [late.other, Some(early.current), early.other].into_iter().flatten();
        let beside = beside.filter(|session| session.id != late.current.id && alive(*session, late.current.last));
        Self {
            first_session_start: self.first_session_start.min(other.first_session_start),
            last_visit: self.last_visit.max(other.last_visit),
            visit_count: self.visit_count + other.visit_count,
            session_count: self.session_count + other.session_count,
            session_visits: late.session_visits,
            current: late.current,
            other: beside.max_by_key(|session| session.last),
        }
    }

    /// Whether the current session has ended by `now`.
    pub(crate) const fn is_over(&self, now: u64) -> bool {
        now > self.current.last && !alive(self.current, now)
    }

    /// Layout, all times signed and relative to the profile's creation: `first, last visit, visits, sessions,
    /// visits in the session, current id (8 bytes), current last, has other (0|1) [, other id, other last]`.
    pub(crate) fn encode(&self, created_at: u64, out: &mut Vec<u8>) {
        let relative = |time: u64| time.wrapping_sub(created_at) as i64;
        varint::put_signed(out, relative(self.first_session_start));
        varint::put_signed(out, relative(self.last_visit));
        varint::put(out, self.visit_count);
        varint::put(out, self.session_count);
        varint::put(out, self.session_visits);
        out.extend_from_slice(&self.current.id.to_le_bytes());
        varint::put_signed(out, relative(self.current.last));
        match self.other {
            None => out.push(0),
            Some(other) => {
                out.push(1);
                out.extend_from_slice(&other.id.to_le_bytes());
                varint::put_signed(out, relative(other.last));
            }
        }
    }

    pub(crate) fn decode(created_at: u64, from: &mut Reader<'_>) -> Self {
        let time = |from: &mut Reader<'_>| created_at.wrapping_add(from.signed() as u64);
        let id = |from: &mut Reader<'_>| from.take(8).try_into().map_or(0, u64::from_le_bytes);
        Self {
            first_session_start: time(from),
            last_visit: time(from),
            visit_count: from.varint(),
            session_count: from.varint(),
            session_visits: from.varint(),
            current: Session { id: id(from), last: time(from) },
            other: (from.byte() == 1).then(|| Session { id: id(from), last: time(from) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::MINUTE_MS as MIN;

    /// Feeds (minute, session) pairs; returns (visits, sessions, visits in the current session).
    fn run(visits: &[(u64, Option<&str>)]) -> (u64, u64, u64) {
        let mut state = Visits::first(visits[0].0 * MIN, visits[0].1);
        for &(minute, session) in &visits[1..] {
            state.visit(minute * MIN, session);
        }
        (state.visit_count, state.session_count, state.session_visits)
    }

    #[test]
    fn sessions_by_the_truth_table() {
        let (a, b) = (Some("a"), Some("b"));
        for (what, visits, expected) in [
            ("one visit", &[(0, a)][..], (1, 1, 1)),
            ("same session", &[(0, a), (29, a), (58, a)], (3, 1, 3)),
            ("idle for 30 minutes", &[(0, a), (30, a)], (2, 2, 1)),
            ("a new sessionId", &[(0, a), (1, b)], (2, 2, 1)),
            ("two tabs", &[(0, a), (1, b), (2, a), (3, b), (4, a)], (5, 2, 2)),
            ("without ids the idle rule alone", &[(0, None), (29, None), (59, None)], (3, 2, 1)),
            ("no id joins the running session", &[(0, a), (5, None), (10, a)], (3, 1, 3)),
            ("a late visit of the running session", &[(10, a), (5, a)], (2, 1, 2)),
            ("late visits of an older session", &[(1000, a), (5, b), (6, b), (7, b)], (4, 2, 1)),
            ("late, without id", &[(1000, None), (5, None), (6, None)], (3, 2, 1)),
        ] {
            assert_eq!(run(visits), expected, "{what}");
        }
    }

    #[test]
    fn first_start_and_last_visit_ignore_the_order_of_arrival() {
        let mut state = Visits::first(50 * MIN, Some("a"));
        state.visit(10 * MIN, Some("b"));
        state.visit(90 * MIN, Some("c"));
        assert_eq!((state.first_session_start, state.last_visit), (10 * MIN, 90 * MIN));
        assert!(!state.is_over(119 * MIN) && state.is_over(120 * MIN) && !state.is_over(0));
    }
}
