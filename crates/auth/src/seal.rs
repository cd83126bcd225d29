//! Signatures of the control plane on what it writes into the bucket: whoever else can write there forges nothing.
//!
//! ```text
//! {"v":1,"payload":"…JSON…","signature":"128 hex digits"}     Ed25519 over "cameo-record-v1" 0 key 0 payload
//! ```
//! The key is part of what is signed, so a record cannot stand in for another one. Against an old record put back, each
//! record has a version of its own, and a node takes none that is older than what it has seen ([`crate::state`]).

use std::fmt;

use bytes::Bytes;
use ed25519_dalek::{Signature, Signer, SigningKey};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::bucket::Key;
use crate::hex;

const DOMAIN: &[u8] = b"cameo-record-v1";
const PASS_DOMAIN: &[u8] = b"cameo-pass-v2";

/// For how long a pass is good before and after its second: clocks of nodes differ.
pub const PASS_SECONDS: u64 = 30;

/// The control plane's signing key.
#[derive(Clone)]
pub struct Sealer(SigningKey);

/// What nodes hold of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Verifying(ed25519_dalek::VerifyingKey);

/// A text that is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoKey {
    /// It is something else.
    #[error("not an Ed25519 key of 64 hexadecimal digits")]
    Shape,
    /// It has the digits, and no key has these.
    #[error("the key is damaged: it has 64 hexadecimal digits, but no Ed25519 key has these")]
    Damaged,
}

/// Why an entry is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsealed {
    /// It is no sealed record.
    #[error("it is not a sealed record")]
    Shape,
    /// It is of a format that this version does not know.
    #[error("it is sealed in a format ({0}) that this version does not know")]
    Format(u8),
    /// The control plane did not sign it.
    #[error("its signature is not the control plane's")]
    Signature,
    /// What was signed does not read as a record.
    #[error("what it holds is not the record that its key names")]
    Payload,
}

#[derive(Serialize, Deserialize)]
struct Sealed<'a> {
    v: u8,
    #[serde(borrow)]
    payload: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    signature: std::borrow::Cow<'a, str>,
}

impl Sealer {
    /// A new key.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *seed)?;
        Ok(Self(SigningKey::from_bytes(&seed)))
    }

    /// From 64 hexadecimal digits, as in the key file.
    ///
    /// # Errors
    /// When it is something else.
    pub fn from_hex(text: &str) -> Result<Self, NoKey> {
        let bytes = Zeroizing::new(hex::decode::<32>(text.trim()).ok_or(NoKey::Shape)?);
        Ok(Self(SigningKey::from_bytes(&bytes)))
    }

    /// For the key file.
    #[must_use]
    pub fn to_hex(&self) -> Zeroizing<String> {
        Zeroizing::new(hex::encode(&self.0.to_bytes()))
    }

    /// What nodes check with.
    #[must_use]
    pub fn verifying(&self) -> Verifying {
        Verifying(self.0.verifying_key())
    }

    /// Signs a record for a key.
    ///
    /// # Panics
    /// Never: the records have string keys and finite numbers.
    #[must_use]
    pub fn seal<T: Serialize>(&self, key: &Key, record: &T) -> Bytes {
        #[expect(clippy::expect_used, reason = "plain structs with string keys always serialise")]
        let payload = serde_json::to_string(record).expect("a record is JSON");
        let signature = self.0.sign(&message(key, &payload));
        let sealed = Sealed { v: 1, payload: payload.into(), signature: hex::encode(&signature.to_bytes()).into() };
        #[expect(clippy::expect_used, reason = "two strings and a number")]
        let bytes = serde_json::to_vec(&sealed).expect("a sealed record is JSON");
        bytes.into()
    }
}

impl Sealer {
    /// A pass for one request: the control plane's word that it comes from its own pages, for somebody whose role has
    /// been checked. `by` says who that is; `seconds` since 1970 are now.
    #[must_use]
    pub fn pass(&self, method: &str, path: &str, by: &str, seconds: u64) -> String {
        let signature = self.0.sign(&pass_message(method, path, by, seconds));
        format!("{seconds}.{}", hex::encode(&signature.to_bytes()))
    }
}

/// Whether an entry has the shape of a sealed record, whoever signed it.
pub(crate) fn is_sealed(bytes: &[u8]) -> bool {
    serde_json::from_slice::<Sealed<'_>>(bytes).is_ok()
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer(***)")
    }
}

impl Verifying {
    /// From 64 hexadecimal digits.
    ///
    /// # Errors
    /// When it is something else.
    pub fn from_hex(text: &str) -> Result<Self, NoKey> {
        let bytes = hex::decode::<32>(text.trim()).ok_or(NoKey::Shape)?;
        ed25519_dalek::VerifyingKey::from_bytes(&bytes).map(Self).map_err(|_| NoKey::Damaged)
    }

    /// 64 hexadecimal digits.
    #[must_use]
    pub fn to_hex(&self) -> String {
        hex::encode(self.0.as_bytes())
    }

    /// Reads what the control plane wrote under a key.
    ///
    /// # Errors
    /// Says what is wrong with it, and nothing of what it holds.
    pub fn open<T: serde::de::DeserializeOwned>(&self, key: &Key, bytes: &[u8]) -> Result<T, Unsealed> {
        let sealed: Sealed<'_> = serde_json::from_slice(bytes).map_err(|_| Unsealed::Shape)?;
        if sealed.v != 1 {
            return Err(Unsealed::Format(sealed.v));
        }
        let signature = Signature::from_bytes(&hex::decode::<64>(&sealed.signature).ok_or(Unsealed::Shape)?);
        let genuine = self.0.verify_strict(&message(key, &sealed.payload), &signature);
        genuine.map_err(|_| Unsealed::Signature)?;
        serde_json::from_str(&sealed.payload).map_err(|_| Unsealed::Payload)
    }
}

impl Verifying {
    /// Whether a pass is good for this request of this person, now.
    #[must_use]
    pub fn passes(&self, pass: &str, method: &str, path: &str, by: &str, now_seconds: u64) -> bool {
        let Some((seconds, signature)) = pass.split_once('.') else { return false };
        let (Ok(seconds), Some(signature)) = (seconds.parse::<u64>(), hex::decode::<64>(signature)) else {
            return false;
        };
        seconds.abs_diff(now_seconds) <= PASS_SECONDS
            && self
                .0
                .verify_strict(&pass_message(method, path, by, seconds), &Signature::from_bytes(&signature))
                .is_ok()
    }
}

impl fmt::Debug for Verifying {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verifying({})", self.to_hex())
    }
}

fn message(key: &Key, payload: &str) -> Vec<u8> {
    [DOMAIN, &[0], key.as_str().as_bytes(), &[0], payload.as_bytes()].concat()
}

fn pass_message(method: &str, path: &str, by: &str, seconds: u64) -> Vec<u8> {
    let parts = [method, path, by].map(str::as_bytes);
    [PASS_DOMAIN, &[0], parts[0], &[0], parts[1], &[0], parts[2], &[0], &seconds.to_be_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        Key::new(text).unwrap()
    }

    #[test]
    fn only_the_control_plane_writes_records_and_each_for_its_own_key() {
        let sealer = Sealer::generate().unwrap();
        let sealed = sealer.seal(&key("client.demo"), &vec![1, 2]);
        let verifying = Verifying::from_hex(&sealer.verifying().to_hex()).unwrap();
        let open = |name: &str, bytes: &[u8]| verifying.open::<Vec<u32>>(&key(name), bytes);
        assert_eq!(open("client.demo", &sealed), Ok(vec![1, 2]));
        assert_eq!(open("client.shop", &sealed), Err(Unsealed::Signature));
        let text = String::from_utf8(sealed.to_vec()).unwrap();
        assert_eq!(open("client.demo", text.replace("[1,2]", "[1,3]").as_bytes()), Err(Unsealed::Signature));
        assert_eq!(open("client.demo", text.replace("\"v\":1", "\"v\":2").as_bytes()), Err(Unsealed::Format(2)));
        assert_eq!(open("client.demo", b"{}"), Err(Unsealed::Shape));
        let other = Sealer::generate().unwrap().seal(&key("client.demo"), &vec![1, 2]);
        assert_eq!(open("client.demo", &other), Err(Unsealed::Signature));
        let text = sealer.seal(&key("client.demo"), &"x");
        assert_eq!(open("client.demo", &text), Err(Unsealed::Payload));
    }

    #[test]
    fn the_key_file_reads_back_and_the_key_shows_nowhere() {
        let sealer = Sealer::generate().unwrap();
        let again = Sealer::from_hex(&format!("{}\n", *sealer.to_hex())).unwrap();
        assert_eq!(again.verifying(), sealer.verifying());
        assert!(!format!("{sealer:?}").contains(&**sealer.to_hex()));
        assert!(Sealer::from_hex("00").is_err());
        assert_eq!(Verifying::from_hex("zz"), Err(NoKey::Shape));
        // No point of the curve has this y.
        assert_eq!(Verifying::from_hex(&format!("02{}", "00".repeat(31))), Err(NoKey::Damaged));
    }

    #[test]
    fn a_pass_is_good_for_its_request_and_its_half_minute() {
        let sealer = Sealer::generate().unwrap();
        let pass = sealer.pass("GET", "/v1/demo/batches?limit=1", "user:ada", 1000);
        let passes =
            |pass: &str, method: &str, path: &str, now| sealer.verifying().passes(pass, method, path, "user:ada", now);
        assert!(!sealer.verifying().passes(&pass, "GET", "/v1/demo/batches?limit=1", "user:eve", 1000));
        assert!([970, 1000, 1030].iter().all(|now| passes(&pass, "GET", "/v1/demo/batches?limit=1", *now)));
        assert!(![969, 1031].iter().any(|now| passes(&pass, "GET", "/v1/demo/batches?limit=1", *now)));
        assert!(!passes(&pass, "POST", "/v1/demo/batches?limit=1", 1000));
        assert!(!passes(&pass, "GET", "/v1/demo/batches?limit=2", 1000));
        assert!(!passes(&pass.replacen("1000", "1001", 1), "GET", "/v1/demo/batches?limit=1", 1000));
        assert!(!["", ".", "1000.", "1000.00", "x.y"].iter().any(|pass| passes(pass, "GET", "/", 1000)));
        let other = Sealer::generate().unwrap().verifying();
        assert!(!other.passes(&pass, "GET", "/v1/demo/batches?limit=1", "user:ada", 1000));
    }
}
