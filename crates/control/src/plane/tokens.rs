//! Tokens of the profile API: made, listed, replaced, ended.

use cameo_auth::record::{
    ClientRecord, EXPIRY_SECONDS_DEFAULT, NewToken, PROFILE_API_TOKEN, Rotate, TokenId, TokenRecord,
};
use cameo_auth::token::SecretKind;
use cameo_auth::{Action, Scope, Secret};

use super::{Deed, Plane, Problem, Rollout};
use crate::principal::Principal;

/// A token as people see it.
#[derive(Clone, Debug)]
pub(crate) struct TokenView {
    pub(crate) record: TokenRecord,
    /// Minutes since 1970, if it ever was.
    pub(crate) last_used: Option<u32>,
    pub(crate) expired: bool,
    /// Seconds until it ends by itself.
    pub(crate) expires_in: u64,
}

/// A token with its secret, for the one reply that shows it.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) token: TokenView,
    pub(crate) secret: Secret,
    pub(crate) rollout: Rollout,
}

/// How a token shall be replaced.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rotation {
    pub(crate) grace_seconds: u64,
    pub(crate) expires_in: Option<u64>,
}

fn secret() -> Result<Secret, Problem> {
    Secret::generate(SecretKind::ProfileToken).map_err(|error| Problem::Unavailable(error.to_string()))
}

fn no_token(id: &TokenId) -> Problem {
    Problem::Missing(format!("token {:?}", crate::audit::text(&id.0)))
}

/// 16 random hexadecimal digits.
pub(super) fn random_id() -> Result<String, Problem> {
    getrandom::u64().map(|n| format!("{n:016x}")).map_err(|error| Problem::Unavailable(error.to_string()))
}

impl Plane {
    fn view_of(&self, record: &TokenRecord) -> TokenView {
        let now = self.unix_ms();
        let minute = self.0.view.read().used.get(&record.id).map(|used| used.minute).filter(|minute| *minute > 0);
        TokenView {
            record: record.clone(),
            last_used: minute,
            expired: !record.lives(now),
            expires_in: record.expires_ms.saturating_sub(now).div_ceil(1000),
        }
    }

    /// The tokens of a client, without a secret. That they were looked at goes into the audit log.
    pub(crate) async fn tokens(&self, by: &Principal, client: &str) -> Result<Vec<TokenView>, Problem> {
        let deed = Deed::of(Action::TokenList, Some(client));
        let record = self.client(by, Action::TokenList, client).await?;
        self.note(by, deed, Ok(None)).await;
        Ok(record.tokens.iter().map(|token| self.view_of(token)).collect())
    }

    /// Makes a token.
    pub(crate) async fn create_token(
        &self,
        by: &Principal,
        client: &str,
        name: String,
        scopes: Vec<Scope>,
        expires_in: Option<u64>,
    ) -> Result<Made, Problem> {
        let target = name.clone();
        let deed = Deed::of(Action::TokenCreate, Some(client)).on(&target);
        self.allow(by, deed).await?;
        let new = NewToken {
            name,
            scopes,
            expires_in_seconds: expires_in.unwrap_or(EXPIRY_SECONDS_DEFAULT),
            by: by.who.clone(),
        };
        let made = async {
            let (id, secret) = (TokenId(random_id()?), secret()?);
            let now = self.unix_ms();
            let changed =
                self.change(client, |record| Ok(record.create_token(id.clone(), &secret, new.clone(), now)?));
            let (record, revision) = changed.await?;
            self.made(&record, &id, secret, self.roll_out(client, revision))
        };
        self.noted(by, deed, None, made.await).await
    }

    fn made(&self, record: &ClientRecord, id: &TokenId, secret: Secret, rollout: Rollout) -> Result<Made, Problem> {
        let token = record.token(id).ok_or_else(|| no_token(id))?;
        Ok(Made { token: self.view_of(token), secret, rollout })
    }

    /// Makes the one token of the compatible admin API, or replaces it: the one before is dead when this is confirmed.
    pub(crate) async fn generate(&self, by: &Principal, client: &str) -> Result<Made, Problem> {
        let deed = Deed::of(Action::TokenCreate, Some(client)).on(PROFILE_API_TOKEN);
        self.allow(by, deed).await?;
        let made = async {
            let (fresh, secret) = (TokenId(random_id()?), secret()?);
            let now = self.unix_ms();
            let mut id = fresh.clone();
            let changed = self.change(client, |record| {
                let new = NewToken {
                    name: PROFILE_API_TOKEN.into(),
                    scopes: Scope::PROFILE_API.into(),
                    expires_in_seconds: EXPIRY_SECONDS_DEFAULT,
                    by: by.who.clone(),
                };
                let held = profile_api(record).map(|token| token.id.clone());
                // One that was made natively under the name, after an older one had expired, is replaced as well.
                record.tokens.retain(|token| token.name != PROFILE_API_TOKEN || Some(&token.id) == held.as_ref());
                match held {
                    None => {
                        id = fresh.clone();
                        record.create_token(fresh.clone(), &secret, new, now)?;
                    }
                    Some(held) => {
                        let how = Rotate {
                            grace_seconds: 0,
                            expires_in_seconds: Some(EXPIRY_SECONDS_DEFAULT),
                            by: by.who.clone(),
                        };
                        record.rotate_token(&held, &secret, how, now)?;
                        // It may have been made natively with others.
                        let held_token = record.tokens.iter_mut().find(|token| token.id == held);
                        held_token.into_iter().for_each(|token| token.scopes = Scope::PROFILE_API.into());
                        id = held;
                    }
                }
                Ok(())
            });
            let (record, revision) = changed.await?;
            self.made(&record, &id, secret, self.roll_out(client, revision))
        };
        self.noted(by, deed, Some("generated".into()), made.await).await
    }

    /// The one token of the compatible admin API, without its secret.
    pub(crate) async fn generated(&self, by: &Principal, client: &str) -> Result<Option<TokenView>, Problem> {
        let tokens = self.tokens(by, client).await?;
        Ok(tokens.into_iter().find(|token| token.record.name == PROFILE_API_TOKEN))
    }

    /// Replaces the secret of a token.
    pub(crate) async fn rotate_token(
        &self,
        by: &Principal,
        client: &str,
        id: &TokenId,
        rotation: Rotation,
    ) -> Result<Made, Problem> {
        let deed = Deed::of(Action::TokenRotate, Some(client)).on(&id.0);
        self.allow(by, deed).await?;
        let made = async {
            let secret = secret()?;
            let now = self.unix_ms();
            let changed = self.change(client, |record| {
                if record.token(id).is_none() {
                    return Err(no_token(id));
                }
                let how = Rotate {
                    grace_seconds: rotation.grace_seconds,
                    expires_in_seconds: rotation.expires_in,
                    by: by.who.clone(),
                };
                Ok(record.rotate_token(id, &secret, how, now)?)
            });
            let (record, revision) = changed.await?;
            self.made(&record, id, secret, self.roll_out(client, revision))
        };
        let detail = format!("graceSeconds={}", rotation.grace_seconds);
        self.noted(by, deed, Some(detail), made.await).await
    }

    /// Ends the old secret of a token whose grace still runs.
    pub(crate) async fn kill_grace(&self, by: &Principal, client: &str, id: &TokenId) -> Result<Rollout, Problem> {
        let deed = Deed::of(Action::TokenRevoke, Some(client)).on(&id.0);
        self.allow(by, deed).await?;
        let changed = self.change(client, |record| match record.token(id) {
            None => Err(no_token(id)),
            Some(token) if token.grace.is_none() => {
                Err(Problem::Conflict("no old secret of this token is still good".into()))
            }
            Some(_) => {
                record.end_grace(id);
                Ok(())
            }
        });
        let rollout = changed.await.map(|(_, revision)| self.roll_out(client, revision));
        self.noted(by, deed, Some("the old secret ends now".into()), rollout).await
    }

    /// Ends a token, and an old secret of it with it.
    pub(crate) async fn revoke_token(&self, by: &Principal, client: &str, id: &TokenId) -> Result<Rollout, Problem> {
        let deed = Deed::of(Action::TokenRevoke, Some(client)).on(&id.0);
        self.allow(by, deed).await?;
        let changed = self.change(client, |record| if record.revoke_token(id) { Ok(()) } else { Err(no_token(id)) });
        let rollout = changed.await.map(|(_, revision)| self.roll_out(client, revision));
        self.noted(by, deed, None, rollout).await
    }
}

fn profile_api(record: &ClientRecord) -> Option<&TokenRecord> {
    record.tokens.iter().find(|token| token.name == PROFILE_API_TOKEN)
}
