//! Sessions of the pages: in memory, so a restart signs everybody out; known by the digest of a random id.

use std::collections::HashMap;
use std::time::Duration;

use cameo_auth::clock::Mono;
use cameo_auth::token::Digest;
use parking_lot::Mutex;
use zeroize::Zeroizing;

use crate::plane::{Problem, Rollout};

/// A session ends after this long without a request.
const IDLE: Duration = Duration::from_secs(30 * 60);
/// A session ends after this long in any case.
const LIFE: Duration = Duration::from_secs(12 * 60 * 60);
/// Sessions at a time; past it, the one that was used least recently ends.
const SESSIONS: usize = 1000;
/// Sessions of one user, in the same way: nobody signs others out by signing in.
const SESSIONS_OF_USER: usize = 20;

/// Sessions, by the digest of their id.
#[derive(Default)]
pub(crate) struct Sessions(Mutex<HashMap<[u8; 32], Session>>);

#[derive(Clone)]
struct Session {
    user: String,
    /// The user's record when the session began: a later one ends it.
    version: u64,
    csrf: Zeroizing<String>,
    flash: Option<Flash>,
    began: Mono,
    used: Mono,
}

/// Whether what brings a session along is a use of it, which keeps it from ending idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    /// Somebody does something.
    Acting,
    /// A page that was left open asks by itself.
    Watching,
}

/// What the next page of a session says, once.
#[derive(Clone)]
pub(crate) struct Flash {
    pub(crate) text: String,
    /// It did not work.
    pub(crate) error: bool,
    /// A new secret, to be shown once.
    pub(crate) secret: Option<Zeroizing<String>>,
    /// A change on its way to the nodes.
    pub(crate) rollout: Option<Rollout>,
}

impl Flash {
    /// A text alone.
    pub(crate) fn note(text: &str) -> Self {
        Self { text: text.to_owned(), error: false, secret: None, rollout: None }
    }

    /// What was done, and how it reaches the nodes.
    pub(crate) fn change(text: &str, rollout: Rollout) -> Self {
        Self { rollout: Some(rollout), ..Self::note(text) }
    }

    /// Why it was not done.
    pub(crate) fn problem(problem: &Problem) -> Self {
        Self { error: true, ..Self::note(&format!("Not done: {problem}.")) }
    }
}

/// What a session says.
#[derive(Clone)]
pub(crate) struct Signed {
    pub(crate) user: String,
    pub(crate) version: u64,
    /// What a form of the pages has to bring along.
    pub(crate) csrf: Zeroizing<String>,
}

fn key(id: &str) -> [u8; 32] {
    Digest::of(id.as_bytes()).bytes()
}

/// 256 random bits in hexadecimal digits.
fn random() -> Result<Zeroizing<String>, getrandom::Error> {
    let mut bytes = Zeroizing::new([0_u8; 32]);
    getrandom::fill(&mut *bytes)?;
    Ok(Zeroizing::new(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
}

impl Sessions {
    /// Begins one; returns its id, for the cookie.
    pub(crate) fn begin(&self, user: &str, version: u64, now: Mono) -> Result<Zeroizing<String>, getrandom::Error> {
        let (id, csrf) = (random()?, random()?);
        let mut sessions = self.0.lock();
        sessions.retain(|_, session| session.lives(now));
        let own = sessions.values().filter(|session| session.user == user).count();
        let among = |session: &Session| own < SESSIONS_OF_USER || session.user == user;
        if (own >= SESSIONS_OF_USER || sessions.len() >= SESSIONS)
            && let Some(least) =
                sessions.iter().filter(|(_, s)| among(s)).min_by_key(|(_, s)| s.used).map(|(id, _)| *id)
        {
            sessions.remove(&least);
        }
        let session = Session { user: user.to_owned(), version, csrf, flash: None, began: now, used: now };
        sessions.insert(key(&id), session);
        Ok(id)
    }

    /// The session of an id; used now, if somebody acts.
    pub(crate) fn find(&self, id: &str, presence: Presence, now: Mono) -> Option<Signed> {
        let mut sessions = self.0.lock();
        let session = sessions.get_mut(&key(id)).filter(|session| session.lives(now))?;
        if presence == Presence::Acting {
            session.used = now;
        }
        Some(Signed { user: session.user.clone(), version: session.version, csrf: session.csrf.clone() })
    }

    /// Leaves what the next page shall say.
    pub(crate) fn leave_flash(&self, id: &str, flash: Flash) {
        if let Some(session) = self.0.lock().get_mut(&key(id)) {
            session.flash = Some(flash);
        }
    }

    /// Takes what the page shall say.
    pub(crate) fn take_flash(&self, id: &str) -> Option<Flash> {
        self.0.lock().get_mut(&key(id))?.flash.take()
    }

    /// Ends one.
    pub(crate) fn end(&self, id: &str) {
        self.0.lock().remove(&key(id));
    }
}

impl Session {
    fn lives(&self, now: Mono) -> bool {
        now.since(self.used) < IDLE && now.since(self.began) < LIFE
    }
}

#[cfg(test)]
mod tests {
    use super::Presence::{Acting, Watching};
    use super::*;

    #[test]
    fn a_session_ends_when_idle_when_old_and_when_told() {
        let sessions = Sessions::default();
        let minutes = |n: u64| Mono(n * 60_000);
        let id = sessions.begin("ada", 1, minutes(0)).unwrap();
        assert_eq!(sessions.find(&id, Acting, minutes(29)).unwrap().user, "ada");
        assert!(sessions.find(&id, Acting, minutes(58)).is_some(), "used at 29");
        assert!(sessions.find(&id, Watching, minutes(87)).is_some(), "looking is no use");
        assert!(sessions.find(&id, Acting, minutes(88)).is_none(), "idle");
        let id = sessions.begin("ada", 1, minutes(0)).unwrap();
        assert!((0..720).step_by(20).all(|n| sessions.find(&id, Acting, minutes(n)).is_some()));
        assert!(sessions.find(&id, Acting, minutes(720)).is_none(), "twelve hours");
        let id = sessions.begin("ada", 1, minutes(0)).unwrap();
        sessions.end(&id);
        assert!(sessions.find(&id, Acting, minutes(1)).is_none() && sessions.find("", Acting, minutes(1)).is_none());
    }

    #[test]
    fn sessions_are_bounded() {
        let sessions = Sessions::default();
        let first = sessions.begin("ada", 1, Mono(0)).unwrap();
        let of_bob: Vec<_> = (1..=100).map(|n| sessions.begin("bob", 1, Mono(n)).unwrap()).collect();
        assert_eq!(sessions.0.lock().len(), 1 + SESSIONS_OF_USER, "ada is not signed out by bob");
        assert!(
            sessions.find(&of_bob[79], Watching, Mono(200)).is_none()
                && sessions.find(&of_bob[80], Watching, Mono(200)).is_some()
        );
        assert!(sessions.find(&first, Watching, Mono(200)).is_some());
        for n in 0..SESSIONS as u64 {
            sessions.begin(&format!("user{n}"), 1, Mono(300 + n)).unwrap();
        }
        assert_eq!(sessions.0.lock().len(), SESSIONS);
        assert!(sessions.find(&first, Acting, Mono(2000)).is_none());
    }
}
