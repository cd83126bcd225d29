//! Which client a delivery call is about. Guard, CORS and handler ask the same function, so that none of them can read a
//! request otherwise than the others.
//!
//! Calls name their client, as everywhere; the official SDKs name an organisation instead (`imsOrgId`, TARGET_API §1).

use std::sync::Arc;

use cameo_http::{Refusal, query};

use crate::state::{AuthState, Client};

impl AuthState {
    /// The client that the query of a delivery call names by `client`, or by the organisation that is set for it. Where
    /// there is one client only, and no organisation is set for it, it answers for any.
    ///
    /// # Errors
    /// When it names none, or one that is not here.
    pub fn named_by(&self, query: Option<&str>) -> Result<&Arc<Client>, Refusal> {
        let pairs = query::pairs(query.unwrap_or_default().as_bytes())?;
        if let Some(code) = query::one(&pairs, "client")?.filter(|code| !code.is_empty()) {
            return self.client(code).ok_or_else(|| Refusal::unknown_client(code));
        }
        let refused = |field: &'static str, text: &'static str| {
            Err(Refusal { field: Some(field.into()), ..Refusal::new(400, text) })
        };
        let Some(org) = query::one(&pairs, "imsOrgId")?.filter(|org| !org.is_empty()) else {
            return refused(
                "client",
                "the parameter client is missing: name the client, or its organisation by imsOrgId",
            );
        };
        if let Some(client) = self.clients().find(|client| client.record.ims_org_id.as_deref() == Some(org)) {
            return Ok(client);
        }
        let mut enabled = self.clients().filter(|client| !client.record.disabled);
        match (enabled.next(), enabled.next()) {
            (Some(only), None) if only.record.ims_org_id.is_none() => Ok(only),
            (Some(_), None) => refused("imsOrgId", "imsOrgId is not that of the client here: name the client instead"),
            _ => refused(
                "imsOrgId",
                "no client has this imsOrgId, and there is more than one or none at all: name the client, or set imsOrgId \
                 in its settings",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::ClientRecord;
    use cameo_profile::ClientCode;

    fn record(code: &str, org: Option<&str>) -> ClientRecord {
        let record = ClientRecord::new(&ClientCode::new(code).unwrap(), 1).unwrap();
        ClientRecord { ims_org_id: org.map(str::to_owned), ..record }
    }

    #[test]
    fn by_client_by_organisation_or_because_there_is_only_one() {
        let one = || vec![record("demo", None)];
        let set = || vec![record("demo", Some("A@AdobeOrg"))];
        let two = || vec![record("demo", Some("A@AdobeOrg")), record("shop", None)];
        let off = || vec![record("demo", None), ClientRecord { disabled: true, ..record("shop", Some("B@AdobeOrg")) }];
        for (records, query, found) in [
            (one(), "client=demo", Ok("demo")),
            (one(), "client=demo&imsOrgId=any", Ok("demo")),
            (one(), "imsOrgId=any", Ok("demo")),
            (one(), "client=nobody", Err(404)),
            (one(), "client=&imsOrgId=any", Ok("demo")),
            (one(), "", Err(400)),
            (one(), "client=demo&client=demo", Err(400)),
            (one(), "imsOrgId=%zz", Err(400)),
            (set(), "imsOrgId=A%40AdobeOrg", Ok("demo")),
            (set(), "imsOrgId=A@AdobeOrg", Ok("demo")),
            (set(), "imsOrgId=B@AdobeOrg", Err(400)),
            (two(), "imsOrgId=A@AdobeOrg", Ok("demo")),
            (two(), "imsOrgId=B@AdobeOrg", Err(400)),
            (two(), "client=shop&imsOrgId=A@AdobeOrg", Ok("shop")),
            (off(), "imsOrgId=any", Ok("demo")),
            // The verifier refuses what is disabled; here it is found all the same.
            (off(), "imsOrgId=B@AdobeOrg", Ok("shop")),
            (Vec::new(), "imsOrgId=any", Err(400)),
        ] {
            let state = AuthState::fixed(records);
            let named = state.named_by(Some(query)).map(|client| client.code.as_str()).map_err(|r| r.status);
            assert_eq!(named, found, "{query}");
        }
    }
}
