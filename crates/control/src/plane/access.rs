//! Who is asking: name and password, admin key, or session.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use cameo_auth::Action;
use cameo_auth::clock::Mono;
use cameo_auth::token::{self, Digest, SecretKind};
use zeroize::Zeroizing;

use super::{Deed, Plane, Problem};
use crate::password;
use crate::principal::{Principal, Proof};
use crate::session::{Flash, Presence, Signed};

/// How long a name and password that were right need no argon2id again.
const PROVEN_FOR: Duration = Duration::from_secs(60);
/// Of how many pairs that is remembered.
const PROVEN_MAX: usize = 1000;

/// Seconds to wait when too many passwords are being checked.
const RETRY_QUEUE: u16 = 1;

/// What a caller brings along.
pub(crate) enum Credential {
    /// Name and password.
    Basic { name: String, password: Zeroizing<String> },
    /// An admin key.
    Key(Zeroizing<String>),
}

/// Why somebody is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotSignedIn {
    /// Name, password, key or session is not right. Which, is not said.
    Wrong,
    /// Too many failures: seconds to wait.
    Throttled(u16),
}

/// Pairs that were right a moment ago: digest of name, password and the user's version, by a key of this process. The
/// digest is a quick one, so without the key it would be something to guess passwords against.
pub(super) struct Proven {
    key: Zeroizing<[u8; 32]>,
    until: HashMap<[u8; 32], Mono>,
}

impl Proven {
    pub(super) fn new() -> Result<Self, getrandom::Error> {
        let mut key = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *key)?;
        Ok(Self { key, until: HashMap::new() })
    }

    fn pair(&self, name: &str, version: u64, password: &str) -> [u8; 32] {
        let parts = [&*self.key, name.as_bytes(), &[0], &version.to_be_bytes(), password.as_bytes()];
        Digest::of(&Zeroizing::new(parts.concat())).bytes()
    }

    fn has(&self, pair: &[u8; 32], now: Mono) -> bool {
        self.until.get(pair).is_some_and(|until| now < *until)
    }

    fn add(&mut self, pair: [u8; 32], now: Mono) {
        if self.until.len() >= PROVEN_MAX {
            self.until.retain(|_, until| now < *until);
        }
        if self.until.len() < PROVEN_MAX {
            self.until.insert(pair, now.after(PROVEN_FOR));
        }
    }
}

/// What stands for an address when failures are counted: of IPv6, the network that one household or machine has whole.
fn place(from: &str) -> String {
    match from.parse() {
        Ok(IpAddr::V6(address)) if address.to_ipv4_mapped().is_none() => {
            let [a, b, c, d, ..] = address.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
        _ => from.to_owned(),
    }
}

impl Plane {
    /// Who brings this along.
    pub(crate) async fn principal(&self, credential: Credential, from: IpAddr) -> Result<Principal, NotSignedIn> {
        match credential {
            Credential::Key(text) => {
                let digest = token::digest_of(SecretKind::AdminKey, text.as_bytes());
                let found = digest.ok().and_then(|digest| self.key_of(&digest, from));
                found.ok_or(NotSignedIn::Wrong)
            }
            Credential::Basic { name, password } => {
                if let Err(why) = self.check_password(&name, password, &from.to_string()).await {
                    self.note_failure(&name, from, why).await;
                    return Err(why);
                }
                self.user(&name, Proof::Basic, from).ok_or(NotSignedIn::Wrong)
            }
        }
    }

    fn user(&self, name: &str, proof: Proof, from: IpAddr) -> Option<Principal> {
        let view = self.0.view.read();
        let user = view.users.get(name)?;
        Some(Principal { who: user.name.clone(), grants: user.roles.clone(), proof, from: from.to_string() })
    }

    pub(super) async fn check_password(
        &self,
        name: &str,
        password: Zeroizing<String>,
        from: &str,
    ) -> Result<(), NotSignedIn> {
        let now = self.0.config.clock.mono();
        let held = self.0.view.read().users.get(name).map(|user| (user.password.clone(), user.version));
        let proof = {
            let proven = self.0.proven.lock();
            let proof = held.as_ref().map(|(_, version)| proven.pair(name, *version, &password));
            if proof.is_some_and(|proof| proven.has(&proof, now)) {
                return Ok(());
            }
            proof
        };
        let Some(_queued) = password::queue() else { return Err(NotSignedIn::Throttled(RETRY_QUEUE)) };
        let address = place(from);
        self.0.throttle.admit(name, &address, now).map_err(NotSignedIn::Throttled)?;
        // Counted before the look, so that attempts side by side cannot all slip through.
        self.0.throttle.failed(name, &address, now);
        if !password::verify(password, held.map(|(hashed, _)| hashed)).await {
            metrics::counter!("cameo_sign_in_failed_total").increment(1);
            return Err(NotSignedIn::Wrong);
        }
        self.0.throttle.succeeded(name);
        if let Some(proof) = proof {
            self.0.proven.lock().add(proof, now);
        }
        Ok(())
    }

    /// Signs somebody in to the pages; returns the id for the cookie. Failures go into the audit log.
    pub(crate) async fn sign_in(
        &self,
        name: &str,
        password: Zeroizing<String>,
        from: IpAddr,
    ) -> Result<Zeroizing<String>, NotSignedIn> {
        let checked = self.check_password(name, password, &from.to_string()).await;
        let version = self.0.view.read().users.get(name).map(|user| user.version);
        let begun = match (checked, version) {
            (Err(why), _) => Err(why),
            (Ok(()), None) => Err(NotSignedIn::Wrong),
            (Ok(()), Some(version)) => {
                let now = self.0.config.clock.mono();
                self.0.sessions.begin(name, version, now).map_err(|_| NotSignedIn::Wrong)
            }
        };
        match &begun {
            Err(why) => self.note_failure(name, from, *why).await,
            Ok(_) => {
                if let Some(user) = self.user(name, Proof::Session, from) {
                    self.note(&user, Deed::of(Action::SignIn, None), Ok(None)).await;
                }
            }
        }
        begun
    }

    /// A wrong password goes into the audit log; attempts that were not even looked at would only flood it.
    async fn note_failure(&self, name: &str, from: IpAddr, why: NotSignedIn) {
        if why == NotSignedIn::Wrong {
            let (who, from) = (crate::audit::text(name), from.to_string());
            let stranger = Principal { who, grants: Vec::new(), proof: Proof::Basic, from };
            let problem = Problem::Conflict("name or password is wrong".into());
            self.note(&stranger, Deed::of(Action::SignIn, None), Err(&problem)).await;
        }
    }

    /// Who a session's cookie stands for, and what its forms have to bring along.
    pub(crate) fn session(&self, id: &str, presence: Presence, from: IpAddr) -> Option<(Principal, Signed)> {
        let signed = self.0.sessions.find(id, presence, self.0.config.clock.mono())?;
        let version = self.0.view.read().users.get(&signed.user).map(|user| user.version);
        if version != Some(signed.version) {
            self.0.sessions.end(id);
            return None;
        }
        Some((self.user(&signed.user, Proof::Session, from)?, signed))
    }

    /// Whether a session has not ended yet.
    pub(crate) fn is_signed_in(&self, id: &str) -> bool {
        let signed = self.0.sessions.find(id, Presence::Watching, self.0.config.clock.mono());
        signed.is_some_and(|signed| {
            self.0.view.read().users.get(&signed.user).is_some_and(|user| user.version == signed.version)
        })
    }

    /// Leaves what the next page of a session shall say.
    pub(crate) fn leave_flash(&self, id: &str, flash: Flash) {
        self.0.sessions.leave_flash(id, flash);
    }

    /// Takes what a page of a session shall say.
    pub(crate) fn take_flash(&self, id: &str) -> Option<Flash> {
        self.0.sessions.take_flash(id)
    }

    /// Ends a session.
    pub(crate) fn sign_out(&self, id: &str) {
        self.0.sessions.end(id);
    }
}
