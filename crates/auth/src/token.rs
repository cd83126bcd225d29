//! Secrets that callers carry: how they look, how they are made, and the digest that stands for them.
//!
//! ```text
//! cameo_pat_ 43 base62 characters (256 bit and a little)  _ 6 base62 characters (CRC-32 of the 43)
//! ```
//! The prefix is what secret scanners look for; the checksum tells a typing error from an unknown token without a
//! look-up. It protects nothing.

use std::fmt;

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::hex;

/// Base62 characters that carry the randomness: 62^43 > 2^256.
const RANDOM_CHARS: usize = 43;
/// Base62 characters of the CRC-32.
const CHECK_CHARS: usize = 6;
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// What a secret opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretKind {
    /// The profile API.
    ProfileToken,
    /// The admin API, for scripts.
    AdminKey,
    /// Nothing: it signs ids ([`crate::identity`]).
    IdentitySecret,
}

impl SecretKind {
    /// What it starts with.
    #[must_use]
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::ProfileToken => "cameo_pat_",
            Self::AdminKey => "cameo_key_",
            Self::IdentitySecret => "cameo_ids_",
        }
    }

    const fn length(self) -> usize {
        self.prefix().len() + RANDOM_CHARS + 1 + CHECK_CHARS
    }
}

/// A secret in the clear. Wiped when dropped; prints as `***`.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

/// Why a text is no secret of ours. Says nothing of the text itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a well-formed {}… secret", kind.prefix())]
pub struct Malformed {
    /// What was expected.
    pub kind: SecretKind,
}

impl Secret {
    /// A new one, of the system's randomness.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn generate(kind: SecretKind) -> Result<Self, getrandom::Error> {
        let mut text = Zeroizing::new(String::with_capacity(kind.length()));
        text.push_str(kind.prefix());
        while text.len() < kind.prefix().len() + RANDOM_CHARS {
            let mut bytes = Zeroizing::new([0_u8; 64]);
            getrandom::fill(&mut *bytes)?;
            // Bytes past the last multiple of 62 would make some characters likelier.
            let fair = bytes.iter().filter(|byte| **byte < 248);
            let missing = kind.prefix().len() + RANDOM_CHARS - text.len();
            text.extend(fair.take(missing).map(|byte| char::from(ALPHABET[usize::from(byte % 62)])));
        }
        let check = checksum(&text.as_bytes()[kind.prefix().len()..]);
        text.push('_');
        text.extend(check.map(char::from));
        Ok(Self(text))
    }

    /// The text, for the one reply that shows it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What is stored in its place.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(self.0.as_bytes())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Reads a secret that a caller sent as far as its digest: prefix, length, alphabet and checksum must be right.
///
/// # Errors
/// When it cannot be one of ours.
pub fn digest_of(kind: SecretKind, text: &[u8]) -> Result<Digest, Malformed> {
    let malformed = Malformed { kind };
    if text.len() != kind.length() {
        return Err(malformed);
    }
    let rest = text.strip_prefix(kind.prefix().as_bytes()).ok_or(malformed)?;
    let (random, check) = rest.split_at(RANDOM_CHARS);
    let genuine = random.iter().all(u8::is_ascii_alphanumeric) && check[0] == b'_' && check[1..] == checksum(random);
    if genuine { Ok(Digest::of(text)) } else { Err(malformed) }
}

fn checksum(random: &[u8]) -> [u8; CHECK_CHARS] {
    let mut rest = crc32fast::hash(random);
    let mut out = [b'0'; CHECK_CHARS];
    for place in out.iter_mut().rev() {
        *place = ALPHABET[(rest % 62) as usize];
        rest /= 62;
    }
    out
}

/// SHA-256 of a secret. The secrets have 256 bits of their own, so no salt and no slow hash is needed.
#[derive(Clone, Copy)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Of any bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// From its 64 hexadecimal digits.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        hex::decode(text).map(Self)
    }

    /// Its 32 bytes.
    #[must_use]
    pub fn bytes(&self) -> [u8; 32] {
        self.0
    }

    /// 64 hexadecimal digits.
    #[must_use]
    pub fn to_hex(&self) -> String {
        hex::encode(&self.0)
    }

    /// The first eight bytes, to find candidates by; who compares them learns nothing that helps to make a secret.
    #[must_use]
    pub(crate) fn bucket(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}

/// In constant time.
impl PartialEq for Digest {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Digest {}

/// A digest opens nothing, but has no business in a log either.
impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_reads_back_as_its_digest_and_shows_itself_nowhere_else() {
        for kind in [SecretKind::ProfileToken, SecretKind::AdminKey] {
            let secret = Secret::generate(kind).unwrap();
            assert_eq!(secret.reveal().len(), kind.length());
            assert_eq!(digest_of(kind, secret.reveal().as_bytes()), Ok(secret.digest()));
            assert_eq!(format!("{secret:?} {:?}", secret.digest()), "*** sha256:***");
            assert_ne!(Secret::generate(kind).unwrap().digest(), secret.digest());
        }
    }

    #[test]
    fn any_changed_character_is_noticed_without_a_look_up() {
        let secret = Secret::generate(SecretKind::ProfileToken).unwrap();
        for at in 0..secret.reveal().len() {
            let mut bytes = secret.reveal().as_bytes().to_vec();
            bytes[at] = if bytes[at] == b'x' { b'y' } else { b'x' };
            assert!(digest_of(SecretKind::ProfileToken, &bytes).is_err(), "{at}");
        }
        for text in ["", "cameo_pat_", "cameo_pat_é", &secret.reveal()[1..], &format!("{}0", secret.reveal())] {
            assert!(digest_of(SecretKind::ProfileToken, text.as_bytes()).is_err());
        }
        assert!(digest_of(SecretKind::AdminKey, secret.reveal().as_bytes()).is_err());
    }

    #[test]
    fn digests_go_through_hexadecimal() {
        let digest = Digest::of(b"abc");
        assert_eq!(digest.to_hex(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(Digest::from_hex(&digest.to_hex()), Some(digest));
        assert_eq!(Digest::from_hex("ba"), None);
        assert_eq!(Digest::from_hex(&"zz".repeat(32)), None);
    }
}
