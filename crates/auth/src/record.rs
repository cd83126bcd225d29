//! The record of a client: its settings and its tokens, in one entry of the bucket, so that one compare-and-set changes
//! both and no node can see the one without the other.
//!
//! Key `client.{code}`, a sealed JSON object ([`crate::seal`]). Times are ms since 1970 of the control plane's clock.
//! What changes it is here as pure functions; the control plane runs them and commits the result.

use cameo_profile::ClientCode;
use cameo_profile::limits::{LIFETIME_DAYS_DEFAULT, LIFETIME_DAYS_MAX};
use serde::{Deserialize, Serialize};

use crate::bucket::Key;
use crate::identity::IdentitySecret;
use crate::role::Scope;
use crate::token::{Digest, Secret};

#[cfg(test)]
mod tests;

/// Kind of the key.
pub const KIND: &str = "client";
/// Tokens of a client, ended ones that are still shown included. Ours.
pub const TOKENS_MAX: usize = 50;
/// Characters of a token's name.
pub const TOKEN_NAME_CHARS: usize = 100;
/// Shortest and longest life of a token, in seconds: an hour, a year.
pub const EXPIRY_SECONDS: std::ops::RangeInclusive<u64> = 3600..=365 * DAY_SECONDS;
/// Life of a token when none is named: 30 days.
pub const EXPIRY_SECONDS_DEFAULT: u64 = 30 * DAY_SECONDS;
/// Longest overlap of an old and a new secret: 7 days.
pub const GRACE_SECONDS_MAX: u64 = 7 * DAY_SECONDS;
/// Name of the one token that the compatible admin API makes (TARGET_API §5).
pub const PROFILE_API_TOKEN: &str = "profile_api";
/// Origins of a client.
pub const ORIGINS_MAX: usize = 50;
/// Characters of an origin.
pub const ORIGIN_CHARS: usize = 255;
/// Characters of an `imsOrgId`.
pub const ORG_CHARS: usize = 128;
/// Codes that would hide routes of our own.
pub const RESERVED_CODES: [&str; 12] =
    ["v1", "m2", "rest", "admin", "users", "clients", "cluster", "keys", "audit", "healthz", "readyz", "metrics"];

const DAY_SECONDS: u64 = 86_400;
/// How long an expired token is still listed.
const SHOWN_AFTER_END_MS: u64 = 30 * DAY_SECONDS * 1000;

/// Names a token without giving anything away.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenId(pub String);

/// A client, as the control plane has decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClientRecord {
    /// Its code in paths and queries.
    pub code: String,
    /// Rises by one with every change; a node takes no older one.
    pub version: u64,
    /// When it was created.
    pub created_ms: u64,
    /// Refuses everything while set.
    pub disabled: bool,
    /// The organisation that official SDKs name instead of a client.
    pub ims_org_id: Option<String>,
    /// Days without activity after which profiles are gone, 1–90.
    pub lifetime_days: u16,
    /// Origins whose pages may send visits from a browser.
    pub allowed_origins: Vec<String>,
    /// *Require Authentication*: the profile API needs a token.
    pub require_authentication: bool,
    /// Visits need a token as well. Not part of the compatible API.
    pub require_visit_tokens: bool,
    /// Tokens, oldest first.
    pub tokens: Vec<TokenRecord>,
    /// Visits over HTTP may name a thirdPartyId, ECID or customer id only with a signature ([`crate::identity`]).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub require_identity_signature: bool,
    /// What those are signed with: the present secret, and the one before while it is still good.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub identity_secrets: Vec<IdentitySecret>,
}

/// A token, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenRecord {
    /// Names it in requests and in the audit log.
    pub id: TokenId,
    /// For people; one of a kind among the tokens that live.
    pub name: String,
    /// What it opens.
    pub scopes: Vec<Scope>,
    /// SHA-256 of its secret.
    #[serde(with = "as_hex")]
    pub digest: Digest,
    /// Who made it, or replaced it last.
    pub created_by: String,
    /// When its present secret was made.
    pub created_ms: u64,
    /// When it ends by itself.
    pub expires_ms: u64,
    /// The secret before this one, while it is still good.
    pub grace: Option<Grace>,
}

/// An old secret that overlaps the new one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Grace {
    /// SHA-256 of the old secret.
    #[serde(with = "as_hex")]
    pub digest: Digest,
    /// When it ends.
    pub until_ms: u64,
}

mod as_hex {
    use crate::token::Digest;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(digest: &Digest, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&digest.to_hex())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Digest::from_hex(&text).ok_or_else(|| D::Error::custom("not 64 hexadecimal digits"))
    }
}

/// Why a change of a record is refused. Names the field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {reason}")]
pub struct Refused {
    /// As it stands in requests.
    pub field: &'static str,
    /// Goes on after the field's name.
    pub reason: String,
    /// Whether it is the state of the record that stands against it, not the request alone (409, not 400).
    pub conflict: bool,
}

impl Refused {
    fn bad(field: &'static str, reason: impl Into<String>) -> Self {
        Self { field, reason: reason.into(), conflict: false }
    }

    fn conflict(field: &'static str, reason: impl Into<String>) -> Self {
        Self { field, reason: reason.into(), conflict: true }
    }
}

/// What a new token shall be.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// For people, 1–100 characters.
    pub name: String,
    /// At least one.
    pub scopes: Vec<Scope>,
    /// 1 hour to 1 year.
    pub expires_in_seconds: u64,
    /// Who asks.
    pub by: String,
}

/// How a token is replaced.
#[derive(Clone, Debug)]
pub struct Rotate {
    /// How long the old secret stays good, at most 7 days. With 0 it dies now, and so does one whose grace still runs.
    pub grace_seconds: u64,
    /// Life of the new secret; by default as long as that of the old one was.
    pub expires_in_seconds: Option<u64>,
    /// Who asks.
    pub by: String,
}

impl ClientRecord {
    /// A new client, with authentication off, as the vendor has it.
    ///
    /// # Errors
    /// When the code is reserved.
    pub fn new(code: &ClientCode, now_ms: u64) -> Result<Self, Refused> {
        if RESERVED_CODES.contains(&code.as_str()) {
            return Err(Refused::bad("code", "is reserved for routes of the server"));
        }
        Ok(Self {
            code: code.as_str().to_owned(),
            version: 1,
            created_ms: now_ms,
            disabled: false,
            ims_org_id: None,
            lifetime_days: LIFETIME_DAYS_DEFAULT,
            allowed_origins: Vec::new(),
            require_authentication: false,
            require_visit_tokens: false,
            tokens: Vec::new(),
            require_identity_signature: false,
            identity_secrets: Vec::new(),
        })
    }

    /// The entry that holds it.
    ///
    /// # Panics
    /// Never: the characters of a client's code are a key's.
    #[must_use]
    pub fn key(code: &ClientCode) -> Key {
        #[expect(clippy::expect_used, reason = "the characters of a code are a subset of those of a key")]
        Key::new(format!("{KIND}.{code}")).expect("a client's key")
    }

    /// Checks the settings after they were changed.
    ///
    /// # Errors
    /// Names the first field that breaks its rule.
    pub fn check_settings(&self) -> Result<(), Refused> {
        if !(1..=LIFETIME_DAYS_MAX).contains(&self.lifetime_days) {
            let reason = format!("is 1 to {LIFETIME_DAYS_MAX} days, not {}", self.lifetime_days);
            return Err(Refused::bad("lifetimeDays", reason));
        }
        if let Some(org) = &self.ims_org_id
            && (org.is_empty() || org.len() > ORG_CHARS || !org.bytes().all(|b| b.is_ascii_graphic()))
        {
            return Err(Refused::bad("imsOrgId", format!("is 1 to {ORG_CHARS} printable characters without a space")));
        }
        if self.require_identity_signature && self.identity_secrets.is_empty() {
            let reason = "needs a secret to sign with: make one first (`cameo identity rotate`)";
            return Err(Refused::conflict("requireIdentitySignature", reason));
        }
        if self.allowed_origins.len() > ORIGINS_MAX {
            return Err(Refused::bad("allowedOrigins", format!("are at most {ORIGINS_MAX}")));
        }
        match self.allowed_origins.iter().find(|origin| !is_origin(origin)) {
            Some(_) => Err(Refused::bad("allowedOrigins", "must each look like https://www.example.com or be *")),
            None => Ok(()),
        }
    }

    /// The token of an id.
    #[must_use]
    pub fn token(&self, id: &TokenId) -> Option<&TokenRecord> {
        self.tokens.iter().find(|token| token.id == *id)
    }

    /// Adds a token with this secret.
    ///
    /// # Errors
    /// Names the field that breaks its rule.
    pub fn create_token(&mut self, id: TokenId, secret: &Secret, new: NewToken, now_ms: u64) -> Result<(), Refused> {
        self.forget_ended(now_ms);
        let characters = new.name.chars().count();
        if characters == 0 || characters > TOKEN_NAME_CHARS || new.name.chars().any(char::is_control) {
            let reason = format!("has 1 to {TOKEN_NAME_CHARS} characters, none of them a control character");
            return Err(Refused::bad("name", reason));
        }
        if self.tokens.iter().any(|token| token.name == new.name && token.lives(now_ms)) {
            return Err(Refused::conflict("name", "is that of a token that is still good; rotate or revoke that one"));
        }
        if self.tokens.len() >= TOKENS_MAX {
            let reason = format!("are at most {TOKENS_MAX} of a client; revoke one that is not used");
            return Err(Refused::conflict("tokens", reason));
        }
        let mut scopes = new.scopes;
        scopes.sort_unstable();
        scopes.dedup();
        if scopes.is_empty() {
            return Err(Refused::bad("scopes", "must name at least one"));
        }
        let expires_ms = expiry(new.expires_in_seconds, now_ms)?;
        self.tokens.push(TokenRecord {
            id,
            name: new.name,
            scopes,
            digest: secret.digest(),
            created_by: new.by,
            created_ms: now_ms,
            expires_ms,
            grace: None,
        });
        Ok(())
    }

    /// Replaces the secret of a token. At most one old secret stays good: a grace that still runs ends.
    ///
    /// # Errors
    /// Names the field that breaks its rule; `token` when there is none of that id.
    pub fn rotate_token(&mut self, id: &TokenId, secret: &Secret, how: Rotate, now_ms: u64) -> Result<(), Refused> {
        if how.grace_seconds > GRACE_SECONDS_MAX {
            return Err(Refused::bad("graceSeconds", format!("is 0 to {GRACE_SECONDS_MAX} (7 days)")));
        }
        let named = |name: &str| self.tokens.iter().any(|t| t.id != *id && t.name == name && t.lives(now_ms));
        if self.token(id).is_some_and(|token| !token.lives(now_ms) && named(&token.name)) {
            let reason = "has expired, and another one has its name by now; rotate that one";
            return Err(Refused::conflict("token", reason));
        }
        let token = self.tokens.iter_mut().find(|token| token.id == *id);
        let token = token.ok_or_else(|| Refused::conflict("token", "is not there (any more)"))?;
        let life_seconds = token.expires_ms.saturating_sub(token.created_ms) / 1000;
        let expires_ms = expiry(how.expires_in_seconds.unwrap_or(life_seconds), now_ms)?;
        // An old secret never outlives what it was given.
        let until_ms = token.expires_ms.min(now_ms.saturating_add(how.grace_seconds * 1000));
        token.grace = (until_ms > now_ms).then_some(Grace { digest: token.digest, until_ms });
        token.digest = secret.digest();
        token.created_ms = now_ms;
        token.created_by = how.by;
        token.expires_ms = expires_ms;
        Ok(())
    }

    /// Ends the grace of a token's old secret now. Says whether one was running.
    pub fn end_grace(&mut self, id: &TokenId) -> bool {
        let token = self.tokens.iter_mut().find(|token| token.id == *id);
        token.is_some_and(|token| token.grace.take().is_some())
    }

    /// Ends a token, and an old secret of it with it. Says whether it was there.
    pub fn revoke_token(&mut self, id: &TokenId) -> bool {
        let before = self.tokens.len();
        self.tokens.retain(|token| token.id != *id);
        self.tokens.len() < before
    }

    /// Takes a new secret for signatures of ids. The one before ends, now or after a grace of at most 7 days; one before that
    /// ends now.
    ///
    /// # Errors
    /// When the grace is too long.
    pub fn rotate_identity_secret(&mut self, fresh: IdentitySecret, grace_seconds: u64) -> Result<(), Refused> {
        if grace_seconds > GRACE_SECONDS_MAX {
            return Err(Refused::bad("graceSeconds", format!("is 0 to {GRACE_SECONDS_MAX} (7 days)")));
        }
        let until_ms = fresh.created_ms.saturating_add(grace_seconds * 1000);
        self.identity_secrets.retain(|secret| grace_seconds > 0 && secret.until_ms.is_none());
        self.identity_secrets.iter_mut().for_each(|secret| secret.until_ms = Some(until_ms));
        self.identity_secrets.insert(0, fresh);
        Ok(())
    }

    fn forget_ended(&mut self, now_ms: u64) {
        self.tokens.retain(|token| token.expires_ms.saturating_add(SHOWN_AFTER_END_MS) > now_ms);
    }
}

impl TokenRecord {
    /// Whether it has not expired.
    #[must_use]
    pub fn lives(&self, now_ms: u64) -> bool {
        now_ms < self.expires_ms
    }
}

fn expiry(seconds: u64, now_ms: u64) -> Result<u64, Refused> {
    if !EXPIRY_SECONDS.contains(&seconds) {
        let (least, most) = (EXPIRY_SECONDS.start(), EXPIRY_SECONDS.end());
        let reason = format!("is {least} (1 hour) to {most} (1 year), not {seconds}");
        return Err(Refused::bad("expiresIn", reason));
    }
    Ok(now_ms.saturating_add(seconds * 1000))
}

/// `scheme://host[:port]` as browsers send it, or `*`.
fn is_origin(text: &str) -> bool {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | ':' | '[' | ']');
    text == "*" || text.len() <= ORIGIN_CHARS && host.is_some_and(|host| !host.is_empty() && host.chars().all(plain))
}
