//! What a node knows of all clients at a moment: their settings, and their tokens by digest. Never changed; a change of a
//! record makes a new one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use cameo_profile::ClientCode;

use crate::bucket::{Change, Revision};
use crate::record::{self, ClientRecord, TokenId};
use crate::role::Scope;
use crate::seal::{Unsealed, Verifying};
use crate::token::Digest;

#[cfg(test)]
mod tests;

/// A client as nodes see it.
#[derive(Debug)]
pub struct Client {
    /// Its code.
    pub code: ClientCode,
    /// What the control plane has decided.
    pub record: ClientRecord,
    secrets: Vec<Known>,
}

/// A secret that is good until it ends.
#[derive(Debug)]
struct Known {
    digest: Digest,
    token: TokenId,
    name: Arc<str>,
    scopes: u8,
    until_ms: u64,
    used: Arc<LastUsed>,
}

/// When a token was last used, to the minute. Written by requests without a lock.
#[derive(Debug, Default)]
pub struct LastUsed(AtomicU32);

impl LastUsed {
    fn touch(&self, now_ms: u64) {
        let minute = u32::try_from(now_ms / 60_000).unwrap_or(u32::MAX);
        // A line that many cores read is written once a minute.
        if self.0.load(Ordering::Relaxed) < minute {
            self.0.fetch_max(minute, Ordering::Relaxed);
        }
    }

    /// Minutes since 1970; 0 when never.
    #[must_use]
    pub fn minute(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a secret that was presented turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Good for what was asked.
    Good,
    /// Unknown, or revoked: there is no difference once a token is gone.
    Unknown,
    /// It has ended by itself.
    Expired,
    /// It opens other things.
    WrongScope,
}

/// Everything, at a moment.
#[derive(Debug, Default)]
pub struct AuthState {
    clients: BTreeMap<Box<str>, Arc<Client>>,
    /// First bytes of the digests, for a look-up that compares few digests.
    by_digest: HashMap<u64, Vec<(Arc<Client>, usize)>>,
    used: BTreeMap<TokenId, Arc<LastUsed>>,
    revision: Revision,
}

/// Why a change of a client's record was not taken. The node must not decide on anything from then on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the record {key} at revision {revision} is not taken: {reason}")]
pub struct NotTaken {
    /// Which.
    pub key: String,
    /// Where.
    pub revision: Revision,
    /// Why.
    pub reason: String,
}

impl AuthState {
    /// The client of a code.
    #[must_use]
    pub fn client(&self, code: &str) -> Option<&Arc<Client>> {
        self.clients.get(code)
    }

    /// All clients, by code.
    pub fn clients(&self) -> impl Iterator<Item = &Arc<Client>> {
        self.clients.values()
    }

    /// Where the last change of a client's record was.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Judges a secret by its digest, for a client.
    #[must_use]
    pub fn judge(&self, client: &str, digest: &Digest, scope: Scope, now_ms: u64) -> Verdict {
        let Some(known) = self.known(client, digest) else { return Verdict::Unknown };
        if now_ms >= known.until_ms {
            return Verdict::Expired;
        }
        if known.scopes & bit(scope) == 0 {
            return Verdict::WrongScope;
        }
        known.used.touch(now_ms);
        Verdict::Good
    }

    /// What the token of a digest is called.
    #[must_use]
    pub fn name_of(&self, client: &str, digest: &Digest) -> Option<Arc<str>> {
        self.known(client, digest).map(|known| Arc::clone(&known.name))
    }

    fn known(&self, client: &str, digest: &Digest) -> Option<&Known> {
        let candidates = self.by_digest.get(&digest.bucket()).map_or(&[][..], Vec::as_slice);
        let mut known = candidates.iter().map(|(client, at)| (client, &client.secrets[*at]));
        // Another client's token is unknown here.
        let found = known.find(|(owner, known)| known.digest == *digest && owner.code.as_str() == client);
        found.map(|(_, known)| known)
    }

    /// When each token was last used here.
    pub fn used(&self) -> impl Iterator<Item = (&TokenId, &LastUsed)> {
        self.used.iter().map(|(id, used)| (id, &**used))
    }

    /// Whether a token is known.
    pub(crate) fn holds(&self, id: &TokenId) -> bool {
        self.used.contains_key(id)
    }

    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn fixed(records: Vec<ClientRecord>) -> Self {
        let none = Self::default();
        let clients = records.into_iter().filter_map(|record| {
            let code = ClientCode::new(&record.code).ok()?;
            Some((record.code.clone().into(), Arc::new(none.client_of(code, record))))
        });
        Self::of(clients.collect(), Revision(1))
    }

    /// This state with a change of a client's record applied.
    ///
    /// # Errors
    /// When it is a client's record and not the control plane's, older than what is known, or gone.
    pub fn with(&self, change: &Change, key: &Verifying) -> Result<Self, NotTaken> {
        let mut clients = self.clients.clone();
        let code = change.key.name_of(record::KIND).unwrap_or_default();
        let client = self.read(code, change, key).map_err(|reason| NotTaken {
            key: change.key.to_string(),
            revision: change.revision,
            reason,
        })?;
        clients.insert(code.into(), Arc::new(client));
        Ok(Self::of(clients, change.revision))
    }

    /// Whether a change concerns what is held here.
    #[must_use]
    pub fn concerns(change: &Change) -> bool {
        change.key.name_of(record::KIND).is_some()
    }

    fn read(&self, code: &str, change: &Change, key: &Verifying) -> Result<Client, String> {
        let Some(value) = &change.value else {
            // Clients are disabled, never deleted: a deletion is somebody else's doing.
            return Err("it was deleted, and only the control plane changes records".into());
        };
        let record: ClientRecord = key.open(&change.key, value).map_err(|error| match error {
            Unsealed::Signature => {
                format!("{error}; is --control-key that of this control plane? It prints it at start")
            }
            _ => error.to_string(),
        })?;
        let code = ClientCode::new(code).map_err(|error| error.to_string())?;
        if record.code != code.as_str() {
            return Err("it names another client than its key".into());
        }
        if let Some(held) = self.clients.get(code.as_str())
            && record.version < held.record.version
        {
            return Err(format!("its version {} is older than {}", record.version, held.record.version));
        }
        Ok(self.client_of(code, record))
    }

    fn client_of(&self, code: ClientCode, record: ClientRecord) -> Client {
        let mut secrets = Vec::new();
        for token in &record.tokens {
            let used = self.used.get(&token.id).cloned().unwrap_or_default();
            let name: Arc<str> = token.name.as_str().into();
            let scopes = token.scopes.iter().fold(0, |bits, scope| bits | bit(*scope));
            let mut add = |digest, until_ms| {
                let (token, name) = (token.id.clone(), Arc::clone(&name));
                secrets.push(Known { digest, token, name, scopes, until_ms, used: Arc::clone(&used) });
            };
            add(token.digest, token.expires_ms);
            if let Some(grace) = &token.grace {
                add(grace.digest, grace.until_ms);
            }
        }
        Client { code, record, secrets }
    }

    fn of(clients: BTreeMap<Box<str>, Arc<Client>>, revision: Revision) -> Self {
        let mut by_digest: HashMap<u64, Vec<_>> = HashMap::new();
        let mut used = BTreeMap::new();
        for client in clients.values() {
            for (at, known) in client.secrets.iter().enumerate() {
                by_digest.entry(known.digest.bucket()).or_default().push((Arc::clone(client), at));
                used.insert(known.token.clone(), Arc::clone(&known.used));
            }
        }
        Self { clients, by_digest, used, revision }
    }
}

const fn bit(scope: Scope) -> u8 {
    match scope {
        Scope::ProfileRead => 1,
        Scope::ProfileWrite => 2,
        Scope::BulkWrite => 4,
        Scope::VisitsWrite => 8,
    }
}
