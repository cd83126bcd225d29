//! Signatures that prove to public callers' visits that they may name a person (`identitySignature`): HMAC-SHA-256 (RFC 2104)
//! by a secret that a client shares with its own servers.
//!
//! ```text
//! signed: "cameo-identity-v1" LF client LF kind LF id        kind: tp, ecid, cust:CODE; the bytes are UTF-8
//! written: 64 hexadecimal digits                             key: the bytes of the whole secret, cameo_ids_…
//! ```
//! No part can have a line feed in it, so nothing else is signed by the same bytes.
//!
//! Unlike a token, the secret itself is in the client's record, as nodes must compute with it: whoever can read the control
//! bucket can sign. It opens nothing else.

use std::fmt;

use cameo_profile::{Address, Kind};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::hex;
use crate::token::Secret;

/// What is signed starts with this.
const DOMAIN: &str = "cameo-identity-v1";
/// Bytes of a block of SHA-256 (RFC 2104: B).
const BLOCK: usize = 64;

/// A secret that a client's servers sign with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IdentitySecret {
    key: SharedKey,
    /// Who made it.
    pub created_by: String,
    /// When.
    pub created_ms: u64,
    /// When it ends; nothing for the one that is good until it is replaced.
    pub until_ms: Option<u64>,
}

/// The text of a secret. Wiped when dropped; prints as `***`.
#[derive(Clone, PartialEq, Eq)]
struct SharedKey(Zeroizing<String>);

impl fmt::Debug for SharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for SharedKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for SharedKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

impl IdentitySecret {
    /// One that is good until it is replaced.
    #[must_use]
    pub fn new(secret: &Secret, by: &str, now_ms: u64) -> Self {
        let key = SharedKey(Zeroizing::new(secret.reveal().to_owned()));
        Self { key, created_by: by.to_owned(), created_ms: now_ms, until_ms: None }
    }

    /// Whether it has not ended.
    #[must_use]
    pub fn lives(&self, now_ms: u64) -> bool {
        self.until_ms.is_none_or(|until_ms| now_ms < until_ms)
    }

    /// Whether this is the signature of an address, in constant time.
    #[must_use]
    pub fn has_signed(&self, client: &str, address: Address<'_>, signature: &[u8; 32]) -> bool {
        sign(self.key.0.as_bytes(), client, address).ct_eq(signature).into()
    }
}

/// Signs an address of a client; for those who hold the secret.
#[must_use]
pub fn signature(secret: &str, client: &str, address: Address<'_>) -> String {
    hex::encode(&sign(secret.as_bytes(), client, address))
}

/// Reads a signature; in digits of either case, as some libraries write capitals.
#[must_use]
pub fn read_signature(text: &str) -> Option<[u8; 32]> {
    hex::decode(text.trim())
}

/// The kind of an address as it is signed: `tp`, `ecid`, `cust:CODE`; nothing for a tntId, which needs no signature.
#[must_use]
pub fn kind_of(address: Address<'_>) -> Option<String> {
    match address.parts().0 {
        Kind::Tnt => None,
        Kind::ThirdParty => Some("tp".into()),
        Kind::Ecid => Some("ecid".into()),
        Kind::Customer(code) => Some(format!("cust:{code}")),
    }
}

fn sign(key: &[u8], client: &str, address: Address<'_>) -> [u8; 32] {
    let kind = kind_of(address).unwrap_or_else(|| "tnt".into());
    hmac(key, &[DOMAIN, client, &kind, address.parts().1].join("\n"))
}

/// RFC 2104, 2.
fn hmac(key: &[u8], text: &str) -> [u8; 32] {
    let mut block = Zeroizing::new([0_u8; BLOCK]);
    if key.len() > BLOCK {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let pad = |with: u8| Zeroizing::new(block.map(|byte| byte ^ with));
    let inner = Sha256::new().chain_update(*pad(0x36)).chain_update(text).finalize();
    Sha256::new().chain_update(*pad(0x5c)).chain_update(inner).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::SecretKind;
    use cameo_profile::AddressBuf;

    #[test]
    fn the_vectors_of_rfc_4231() {
        for (key, text, expected) in [
            (&[0x0b; 20][..], "Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
            (
                b"Jefe",
                "what do ya want for nothing?",
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
            (
                &[0xaa; 131],
                "Test Using Larger Than Block-Size Key - Hash Key First",
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            ),
        ] {
            assert_eq!(hex::encode(&hmac(key, text)), expected);
        }
    }

    #[test]
    fn what_openssl_signs_is_good() {
        // printf 'cameo-identity-v1\n%s\n%s\n%s' demo tp crm-17 | openssl dgst -sha256 -hmac cameo_ids_test -r
        let crm = AddressBuf::third_party("crm-17").unwrap();
        let expected = "e23ad8c539da1a2ef0d0a245950a7ee3d1d85d10ddefbd78da7893210e1b4c36";
        assert_eq!(signature("cameo_ids_test", "demo", crm.as_address()), expected);
    }

    #[test]
    fn a_signature_is_of_one_address_of_one_client_by_one_secret() {
        let secrets = [(); 2].map(|()| Secret::generate(SecretKind::IdentitySecret).unwrap());
        let [held, other] = secrets.each_ref().map(|secret| IdentitySecret::new(secret, "ada", 1));
        let address = AddressBuf::third_party("7").unwrap();
        let text = signature(secrets[0].reveal(), "demo", address.as_address());
        let good = read_signature(&text.to_ascii_uppercase()).unwrap();
        assert!(held.has_signed("demo", address.as_address(), &good));
        assert!(!other.has_signed("demo", address.as_address(), &good));
        assert!(!held.has_signed("shop", address.as_address(), &good));
        for address in [AddressBuf::ecid("7"), AddressBuf::customer("crm", "7"), AddressBuf::third_party("8")] {
            assert!(!held.has_signed("demo", address.unwrap().as_address(), &good));
        }
        assert_eq!(format!("{held:?}").matches("***").count(), 1, "the secret shows nowhere");
        assert!(["", "zz", &text[1..]].iter().all(|text| read_signature(text).is_none()));
    }
}
