//! Who may name a person: visits that come over HTTP, for a client that asks for signatures. A tntId names a device only and
//! needs none. What exactly is signed says `cameo_auth::identity`.
//!
//! A signature stands in the object of the ids, as `identitySignature: {KIND: SIGNATURE}`; KIND is `tp`, `ecid` or
//! `cust:CODE`. The vendor's SDKs send no fields that they do not know, but any parameters: in a delivery call it may stand
//! in the mbox parameter `identitySignature.KIND` of any part instead. It is not stored.

use cameo_auth::Verifier;
use cameo_auth::identity;
use cameo_auth::state::Client;
use cameo_http::Refusal;
use cameo_profile::{AddressBuf, Kind};

use super::visit::{Fields, Value};

/// Parameters whose names start with this hold signatures.
const PARAMETER: &str = "identitySignature.";

/// Signatures in one object. Ours: more than a call can name ids that take one.
pub(super) const SIGNATURES: usize = 64;
/// Signatures that are tried for one id. Ours: the parts of a call may have different ones while a page gets its new one.
const TRIED: usize = 16;

/// Signatures by kind, as they came.
#[derive(Debug, Default)]
pub(super) struct Signatures<'r>(Vec<(&'r str, &'r str)>);

/// Whether an mbox parameter holds a signature.
pub(super) fn is_parameter(name: &str) -> bool {
    name.starts_with(PARAMETER)
}

impl<'r> Signatures<'r> {
    /// Those of an object.
    pub(super) fn add(&mut self, fields: &'r Fields<'_>) {
        self.0.extend(texts(fields));
    }

    /// Those among mbox parameters.
    pub(super) fn add_parameters(&mut self, fields: &'r Fields<'_>) {
        self.0.extend(texts(fields).filter_map(|(name, value)| Some((name.strip_prefix(PARAMETER)?, value))));
    }
}

fn texts<'r>(fields: &'r Fields<'_>) -> impl Iterator<Item = (&'r str, &'r str)> {
    fields.0.iter().filter_map(|(name, value)| match value {
        Value::Text(text) => Some((&**name, &**text)),
        Value::Not(_) => None,
    })
}

/// Refuses an address that needs a good signature and has none. Nothing of the visit is stored then: without the id it would
/// be another visitor's.
pub(super) fn check(
    auth: &Verifier,
    client: &Client,
    addresses: &[AddressBuf],
    signatures: &Signatures<'_>,
) -> Result<(), Refusal> {
    if !client.record.require_identity_signature {
        return Ok(());
    }
    for address in addresses {
        let address = address.as_address();
        let Some(kind) = identity::kind_of(address) else { continue };
        let named = match address.parts().0 {
            Kind::Tnt => "the tntId",
            Kind::ThirdParty => "the thirdPartyId",
            Kind::Ecid => "the ECID",
            Kind::Customer(_) => "the customer id",
        };
        let refused = |text: String| {
            Err(Refusal { field: Some(format!("identitySignature.{kind}").into()), ..Refusal::new(403, text) })
        };
        let mut found = signatures.0.iter().filter(|(of, _)| *of == kind).map(|(_, signature)| *signature).peekable();
        if found.peek().is_none() {
            return refused(format!(
                "{named} needs a signature in identitySignature.{kind}: this client takes ids of persons only with one"
            ));
        }
        let (mut good, mut tried) = (false, Vec::new());
        for signature in found.filter_map(identity::read_signature) {
            // The same parameter may stand in several parts of a call.
            if tried.contains(&signature) {
                continue;
            }
            if tried.len() >= TRIED {
                return refused(format!("none of {TRIED} in identitySignature.{kind} is the signature of {named}"));
            }
            tried.push(signature);
            good =
                auth.has_signed(client.code.as_str(), address, &signature).map_err(cameo_auth::Denied::into_refusal)?;
            if good {
                break;
            }
        }
        if !good {
            return refused(format!("identitySignature.{kind} is not the signature of {named}"));
        }
    }
    Ok(())
}
