//! Secrets that a client's servers sign ids of persons with: made, replaced, ended (`cameo_auth::identity`).

use cameo_auth::record::ClientRecord;
use cameo_auth::token::SecretKind;
use cameo_auth::{Action, IdentitySecret, Secret};

use super::{Deed, Plane, Problem, Rollout};
use crate::principal::Principal;

/// What the audit log calls them.
const TARGET: &str = "identity secret";

impl Plane {
    /// Makes a secret; the one before ends, now or after a grace.
    pub(crate) async fn rotate_identity_secret(
        &self,
        by: &Principal,
        client: &str,
        grace_seconds: u64,
    ) -> Result<(ClientRecord, Secret, Rollout), Problem> {
        let deed = Deed::of(Action::TokenRotate, Some(client)).on(TARGET);
        self.allow(by, deed).await?;
        let made = async {
            let secret = Secret::generate(SecretKind::IdentitySecret)
                .map_err(|error| Problem::Unavailable(error.to_string()))?;
            let now = self.unix_ms();
            let changed = self.change(client, |record| {
                let fresh = IdentitySecret::new(&secret, &by.who, now);
                Ok(record.rotate_identity_secret(fresh, grace_seconds)?)
            });
            let (record, revision) = changed.await?;
            Ok((record, secret, self.roll_out(client, revision)))
        };
        self.noted(by, deed, Some(format!("graceSeconds={grace_seconds}")), made.await).await
    }
}
