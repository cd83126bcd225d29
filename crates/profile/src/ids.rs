//! What a visitor is called: clients, addresses and their canonical text, and the checks every id passes on its way in.
//!
//! An *address* is one name of a visitor at one client: `tnt:` tntId, `tp:` thirdPartyId, `ecid:` ECID,
//! `cust:CODE:` customer id. Its canonical text is what events and state hold.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::limits;
use crate::position::{Partition, PartitionCount};

/// Something a caller sent that breaks a rule: which field, and how.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {problem}")]
pub struct Invalid {
    /// The field in the caller's words: `thirdPartyId`, `profile.tier`, `page.url`.
    pub field: Cow<'static, str>,
    /// What is wrong with it.
    pub problem: Problem,
}

/// How a field breaks its rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// It has no characters.
    #[error("is empty")]
    Empty,
    /// More characters than allowed.
    #[error("is {chars} characters long; the limit is {limit}")]
    TooLong {
        /// Characters found.
        chars: usize,
        /// Characters allowed.
        limit: usize,
    },
    /// A character that must not stand in it.
    #[error("has a forbidden character {found:?} at character {at}")]
    Forbidden {
        /// The character.
        found: char,
        /// Where, counted from 1.
        at: usize,
    },
    /// More entries than allowed.
    #[error("has {count} entries; the limit is {limit}")]
    TooMany {
        /// Entries found.
        count: usize,
        /// Entries allowed.
        limit: usize,
    },
    /// A name that the store computes by itself.
    #[error("is a system attribute, which only visits change")]
    Reserved,
    /// Anything else; the text continues a sentence that starts with the field.
    #[error("{0}")]
    Other(Cow<'static, str>),
}

impl Invalid {
    /// A problem in words that continue a sentence starting with the field.
    pub fn other(field: impl Into<Cow<'static, str>>, text: impl Into<Cow<'static, str>>) -> Self {
        Self { field: field.into(), problem: Problem::Other(text.into()) }
    }

    /// The bound that was broken, if it was one.
    #[must_use]
    pub fn limit(&self) -> Option<usize> {
        match self.problem {
            Problem::TooLong { limit, .. } | Problem::TooMany { limit, .. } => Some(limit),
            _ => None,
        }
    }
}

/// Checks that `text` has 1 to `limit` characters, no control character and none that `forbidden` names.
///
/// # Errors
/// Says which of these it breaks; `field` is only called then.
pub fn check_text(
    text: &str,
    limit: usize,
    forbidden: impl Fn(char) -> bool,
    field: impl FnOnce() -> Cow<'static, str>,
) -> Result<(), Invalid> {
    let problem = if text.is_empty() {
        Problem::Empty
    } else if let Some((at, found)) =
        text.chars().enumerate().find(|(_, c)| c.is_control() || forbidden(*c)).map(|(at, c)| (at + 1, c))
    {
        Problem::Forbidden { found, at }
    } else {
        match too_long(text, limit) {
            None => return Ok(()),
            Some(problem) => problem,
        }
    };
    Err(Invalid { field: field(), problem })
}

/// Checks a value that may be empty and hold any character: at most `limit` characters.
///
/// # Errors
/// When it is longer; `field` is only called then.
pub fn check_length(text: &str, limit: usize, field: impl FnOnce() -> Cow<'static, str>) -> Result<(), Invalid> {
    too_long(text, limit).map_or(Ok(()), |problem| Err(Invalid { field: field(), problem }))
}

fn too_long(text: &str, limit: usize) -> Option<Problem> {
    // A character is at least one byte, so most texts need no count.
    if text.len() <= limit {
        return None;
    }
    let chars = text.chars().count();
    (chars > limit).then_some(Problem::TooLong { chars, limit })
}

/// Checks a sessionId: 1–128 printable, none of space `?` `{` `}` `/` (TARGET_API §1).
///
/// # Errors
/// Names the rule it breaks.
pub fn check_session_id(text: &str) -> Result<(), Invalid> {
    let forbidden = |c: char| matches!(c, '?' | '{' | '}' | '/') || c.is_whitespace();
    check_text(text, limits::SESSION_ID_CHARS, forbidden, || "sessionId".into())
}

/// Checks the name of an attribute that a caller sets: 1–128 characters, no control character, not one of the names
/// that the store computes (TARGET_API §1, §6).
///
/// # Errors
/// Names the rule it breaks; `field` is only called then.
pub fn check_attribute_name(name: &str, field: impl FnOnce() -> Cow<'static, str>) -> Result<(), Invalid> {
    if is_system_attribute(name) {
        return Err(Invalid { field: field(), problem: Problem::Reserved });
    }
    check_text(name, limits::ATTRIBUTE_NAME_CHARS, |_| false, field)
}

/// The attributes that stand in a fetch although nobody set them (TARGET_API §6).
pub const SYSTEM_ATTRIBUTES: [&str; 10] = [
    "firstSessionStart",
    "lastVisit",
    "visitCount",
    "sessionCount",
    "averageDaysBetweenVisits",
    "daysSinceLastVisit",
    "isFirstSession",
    "isNewSession",
    "user.categoryAffinities",
    "user.categoryAffinity",
];

/// Whether `name` is one of [`SYSTEM_ATTRIBUTES`].
#[must_use]
pub fn is_system_attribute(name: &str) -> bool {
    SYSTEM_ATTRIBUTES.contains(&name)
}

/// A tenant: 1–64 of `a-z A-Z 0-9 - _`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientCode(Box<str>);

impl ClientCode {
    /// Checks the characters and the length.
    ///
    /// # Errors
    /// Names the rule it breaks.
    pub fn new(code: &str) -> Result<Self, Invalid> {
        let forbidden = |c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_');
        check_text(code, limits::CLIENT_CODE_CHARS, forbidden, || "client".into())?;
        Ok(Self(code.into()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClientCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which of a visitor's names an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind<'a> {
    /// tntId, `pcId`, `mboxPC`: one per device, generated by the store.
    Tnt,
    /// thirdPartyId, `mbox3rdPartyId`: the customer's own id for a person.
    ThirdParty,
    /// Experience Cloud id, `marketingCloudVisitorId`.
    Ecid,
    /// An authenticated customer id with its integration code.
    Customer(&'a str),
}

impl Kind<'_> {
    /// The field name that callers know it by.
    #[must_use]
    pub const fn field(self) -> &'static str {
        match self {
            Self::Tnt => "tntId",
            Self::ThirdParty => "thirdPartyId",
            Self::Ecid => "ecid",
            Self::Customer(_) => "customerIds",
        }
    }

    /// Whether it names a device or browser, not the person who uses it.
    #[must_use]
    pub const fn is_device(self) -> bool {
        matches!(self, Self::Tnt | Self::Ecid)
    }

    /// Priority as a home: the higher wins (design, "Identity").
    #[must_use]
    pub const fn priority(self) -> u8 {
        match self {
            Self::Tnt => 0,
            Self::Ecid => 1,
            Self::Customer(_) => 2,
            Self::ThirdParty => 3,
        }
    }
}

/// One name of a visitor, in canonical text, borrowed from an event or a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Address<'a>(&'a str);

impl<'a> Address<'a> {
    /// The canonical text, e.g. `tp:crm-17`.
    #[must_use]
    pub const fn as_str(self) -> &'a str {
        self.0
    }

    /// Takes text that this crate wrote before. Text of an unknown form reads as a tntId: the fold is total.
    #[must_use]
    pub const fn from_canonical(text: &'a str) -> Self {
        Self(text)
    }

    /// Kind and bare id.
    #[must_use]
    pub fn parts(self) -> (Kind<'a>, &'a str) {
        match self.0.split_once(':') {
            Some(("tnt", id)) => (Kind::Tnt, id),
            Some(("tp", id)) => (Kind::ThirdParty, id),
            Some(("ecid", id)) => (Kind::Ecid, id),
            Some(("cust", rest)) => match rest.split_once(':') {
                Some((code, id)) => (Kind::Customer(code), id),
                None => (Kind::Customer(""), rest),
            },
            _ => (Kind::Tnt, self.0),
        }
    }

    /// How it compares as a home: by priority, equals by their text, the smaller one being higher. Aliases point upwards in
    /// this order, so they never go round in a circle.
    #[must_use]
    pub fn height(self) -> (u8, std::cmp::Reverse<&'a str>) {
        (self.parts().0.priority(), std::cmp::Reverse(self.0))
    }

    /// The partition this address belongs to: `xxh3_64(client, kind, id) mod P` (design, "Identity").
    #[must_use]
    pub fn partition(self, client: &ClientCode, count: PartitionCount) -> Partition {
        partition_of(client, self.0, count)
    }
}

impl fmt::Display for Address<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// The partition of anything of a client's that has a canonical text: an address, an event id, a batch.
#[must_use]
pub fn partition_of(client: &ClientCode, text: &str, count: PartitionCount) -> Partition {
    partition_in(client.as_str(), text, count)
}

/// As [`partition_of`], for a client code that the log has.
pub(crate) fn partition_in(client: &str, text: &str, count: PartitionCount) -> Partition {
    let mut key = [0u8; 512];
    let (client, text) = (client.as_bytes(), text.as_bytes());
    let length = client.len() + 1 + text.len();
    let hash = if length <= key.len() {
        key[..client.len()].copy_from_slice(client);
        key[client.len() + 1..length].copy_from_slice(text);
        xxh3_64(&key[..length])
    } else {
        xxh3_64(&[client, &[0], text].concat())
    };
    Partition((hash % u64::from(count.get())) as u16)
}

/// A tntId without the location hint that the vendor's servers append: `x.28_0` is the visitor `x`, last seen by cluster
/// 28 there (vendor's `VisitorId`: a tntId "should not contain a dot unless the dot delimits the location hint"). Callers
/// that moved here keep such ids for two years in cookies and files, some with the hint, some without, some with two.
#[must_use]
pub fn without_hint(tnt_id: &str) -> &str {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let is_hint =
        |text: &str| text.split_once('_').is_some_and(|(cluster, node)| is_number(cluster) && is_number(node));
    let mut bare = tnt_id;
    while let Some((id, hint)) = bare.rsplit_once('.')
        && !id.is_empty()
        && is_hint(hint)
    {
        bare = id;
    }
    bare
}

/// An address of one's own, made from ids that callers sent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressBuf(String);

impl From<Address<'_>> for AddressBuf {
    fn from(address: Address<'_>) -> Self {
        Self(address.as_str().to_owned())
    }
}

impl AddressBuf {
    /// `tnt:ID`, without a location hint ([`without_hint`]).
    ///
    /// # Errors
    /// When the id is empty, over 128 characters or has a control character.
    pub fn tnt(id: &str) -> Result<Self, Invalid> {
        check_text(id, limits::TNT_ID_CHARS, |_| false, || Kind::Tnt.field().into())?;
        Ok(Self(["tnt:", without_hint(id)].concat()))
    }

    /// `tp:ID`.
    ///
    /// # Errors
    /// When the id is empty, over 256 characters, or has a control character, `+` or `/`.
    pub fn third_party(id: &str) -> Result<Self, Invalid> {
        let forbidden = |c: char| matches!(c, '+' | '/');
        check_text(id, limits::THIRD_PARTY_ID_CHARS, forbidden, || Kind::ThirdParty.field().into())?;
        Ok(Self(["tp:", id].concat()))
    }

    /// `ecid:ID`.
    ///
    /// # Errors
    /// When the id is empty, over 128 characters or has a control character.
    pub fn ecid(id: &str) -> Result<Self, Invalid> {
        check_text(id, limits::ECID_CHARS, |_| false, || Kind::Ecid.field().into())?;
        Ok(Self(["ecid:", id].concat()))
    }

    /// `cust:CODE:ID`.
    ///
    /// # Errors
    /// When the id or its integration code is empty, over its limit, or has a control character; the code has no `:`.
    pub fn customer(code: &str, id: &str) -> Result<Self, Invalid> {
        check_text(code, limits::INTEGRATION_CODE_CHARS, |c| c == ':', || "customerIds.integrationCode".into())?;
        check_text(id, limits::CUSTOMER_ID_CHARS, |_| false, || "customerIds.id".into())?;
        Ok(Self(["cust:", code, ":", id].concat()))
    }

    /// An address of kind `kind`, by the rules of that kind.
    ///
    /// # Errors
    /// As the constructor of that kind.
    pub fn of(kind: Kind<'_>, id: &str) -> Result<Self, Invalid> {
        match kind {
            Kind::Tnt => Self::tnt(id),
            Kind::ThirdParty => Self::third_party(id),
            Kind::Ecid => Self::ecid(id),
            Kind::Customer(code) => Self::customer(code, id),
        }
    }

    /// Borrowed.
    #[must_use]
    pub fn as_address(&self) -> Address<'_> {
        Address(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_text_round_trips() {
        let cases = [
            (AddressBuf::tnt("a.b"), Kind::Tnt, "a.b", "tnt:a.b"),
            (AddressBuf::tnt("a.28_0"), Kind::Tnt, "a", "tnt:a"),
            (AddressBuf::third_party("tp:x"), Kind::ThirdParty, "tp:x", "tp:tp:x"),
            (AddressBuf::ecid("7"), Kind::Ecid, "7", "ecid:7"),
            (AddressBuf::customer("crm", "a:b"), Kind::Customer("crm"), "a:b", "cust:crm:a:b"),
        ];
        for (address, kind, id, text) in cases {
            let address = address.unwrap();
            assert_eq!(address.as_address().parts(), (kind, id));
            assert_eq!(address.as_address().as_str(), text);
        }
    }

    #[test]
    fn a_location_hint_is_no_part_of_a_tnt_id() {
        for (id, bare) in [("x.28_0", "x"), ("a.b.1_1", "a.b"), ("123-4.23_41", "123-4"), ("x.1_1.2_2", "x")] {
            assert_eq!(without_hint(id), bare);
        }
        for id in ["x", "x.", ".28_0", "x.28", "x.28_", "x._0", "x.28_0_1", "x.a_0", "x.28_0 ", "x.２８_0", ""] {
            assert_eq!(without_hint(id), id);
        }
    }

    #[test]
    fn ids_are_bounded_in_characters_not_bytes() {
        assert!(AddressBuf::tnt(&"é".repeat(128)).is_ok());
        let error = AddressBuf::tnt(&"é".repeat(129)).unwrap_err();
        assert_eq!(error.to_string(), "tntId is 129 characters long; the limit is 128");
        let error = AddressBuf::third_party("a/b").unwrap_err();
        assert_eq!(error.to_string(), "thirdPartyId has a forbidden character '/' at character 2");
        assert_eq!(AddressBuf::ecid("").unwrap_err().to_string(), "ecid is empty");
    }

    #[test]
    fn the_partition_of_an_address_never_changes() {
        // Fixed for ever: a changed hash would send a visitor of an existing log to another partition.
        let client = ClientCode::new("demo").unwrap();
        let p = |id: &str| AddressBuf::tnt(id).unwrap().as_address().partition(&client, PartitionCount::DEFAULT).0;
        let direct = |id: &str| (xxh3_64(format!("demo\0tnt:{id}").as_bytes()) % 16) as u16;
        for id in ["a", "b", &"x".repeat(120)] {
            assert_eq!(p(id), direct(id));
        }
        let long = "y".repeat(600);
        assert_eq!(
            partition_of(&client, &long, PartitionCount::DEFAULT).0,
            (xxh3_64(format!("demo\0{long}").as_bytes()) % 16) as u16
        );
    }
}
