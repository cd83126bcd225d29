//! What one address has to say to another (ADR 8): the form messages have in outboxes and in `Relay` events, a
//! MessagePack array each. Fields are only ever added at the end.

use serde::{Deserialize, Serialize};

use crate::event::{Event, Relay};
use crate::limits;
use crate::session::Visits;
use crate::varint::Reader;

/// Who waits for the end of a walk: the partition in which it began, and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Saga {
    /// Where it began.
    pub partition: u16,
    /// Which of that partition's.
    pub number: u64,
}

/// Something for an address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Message {
    pub(crate) client: Box<str>,
    /// Canonical text of the address that it is for.
    pub(crate) to: Box<str>,
    pub(crate) saga: Option<Saga>,
    /// The aliases along which it came, with their epochs; the last one points to `to`.
    pub(crate) trail: Vec<(Box<str>, u64)>,
    /// Epoch of the alias of `to` that was found to lead nowhere; 0 = none.
    pub(crate) drop: u64,
    /// Steps so far.
    pub(crate) steps: u8,
    pub(crate) what: What,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum What {
    /// An event on the way to the home it is for.
    Walk(Walk),
    /// An address that was linked to this one follows another one by now.
    Left { address: Box<str>, epoch: u64 },
    /// An address is to get its profile back.
    TakeOut {
        address: Box<str>,
        epoch: u64,
        /// Who asked for it.
        #[serde(default)]
        by: Option<Box<str>>,
    },
    /// Here it is, if there was any.
    GiveBack(Option<Moved>),
    /// All of it has been given back.
    Unlinked { found: bool },
    /// The alias of this epoch leads nowhere any more; `erased`: because the profile was erased, with what the address had
    /// `brought` to it (see [`put_brought`]). Both are left out of the bytes where they say nothing, so they must stay the last
    /// fields.
    Drop {
        epoch: u64,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        erased: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        brought: Option<Vec<u64>>,
    },
    /// Attributes of an address that did not fit into the message that linked it, by the alias of this epoch, or gave it back
    /// (0).
    More { child: Box<str>, epoch: u64, attributes: Vec<(Box<str>, MovedAttribute)> },
    /// The profile to which the alias of this epoch had led was erased, with what this address had `brought` to it; the
    /// address has left it since.
    Forget {
        epoch: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        brought: Option<Vec<u64>>,
    },
}

/// An event on its way, and the links to be made before it is applied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Walk {
    /// Addresses above, to which this one and then each other is to be linked, lowest first.
    pub(crate) next: Vec<Box<str>>,
    /// All addresses that the event named, lowest first.
    pub(crate) named: Vec<Box<str>>,
    /// The lowest address that it named: whose part it is.
    pub(crate) via: Box<str>,
    /// Event time, ms since 1970.
    pub(crate) time: u64,
    /// Profiles taken along, to be taken in at the home.
    pub(crate) joined: Vec<Joined>,
    /// The event as the log has it; empty when it only asks for the profile.
    #[serde(with = "bytes")]
    pub(crate) event: Vec<u8>,
    /// The event had been seen before; with the tntId that was made up then, or an empty text.
    pub(crate) duplicate: Option<Box<str>>,
    /// How often it went on by another way than along an alias, or from its beginning.
    #[serde(default)]
    pub(crate) turns: u8,
}

/// An address that has been linked, with what it brings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Joined {
    pub(crate) child: Box<str>,
    /// Of its alias.
    pub(crate) epoch: u64,
    pub(crate) moved: Option<Moved>,
    /// For one that came from another home: the addresses that point to it, with their epochs.
    pub(crate) held: Option<Vec<(Box<str>, u64)>>,
}

/// A profile between two homes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Moved {
    pub(crate) created_at: u64,
    pub(crate) active_at: u64,
    /// Of the whole.
    pub(crate) visits: Option<MovedVisits>,
    /// The home's own part first; empty when nothing was ever linked to it.
    pub(crate) parts: Vec<MovedPart>,
    pub(crate) attributes: Vec<MovedAttribute>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct MovedPart {
    pub(crate) address: Box<str>,
    pub(crate) under: Box<str>,
    pub(crate) epoch: u64,
    pub(crate) left: bool,
    pub(crate) created_at: u64,
    pub(crate) active_at: u64,
    pub(crate) visits: Option<MovedVisits>,
    /// See [`put_brought`]; left out of the bytes where it says nothing, so it must stay the last field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) brought: Option<Vec<u64>>,
}

/// Visits and categories.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct MovedVisits {
    /// As in a profile (session.rs), with times relative to 0.
    #[serde(with = "bytes")]
    pub(crate) visits: Vec<u8>,
    pub(crate) categories: Vec<(Box<str>, u32)>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct MovedAttribute {
    pub(crate) name: Box<str>,
    pub(crate) time: u64,
    pub(crate) value: Option<Box<str>>,
    /// Index of its part.
    pub(crate) part: u32,
    pub(crate) shadowed: bool,
}

/// By which aliases an address brought something, as a message has it: nothing stands for the one that it has, as in nearly
/// all cases, and for a home, which has none.
pub(crate) fn put_brought(epoch: u64, brought: &[u64]) -> Option<Vec<u64>> {
    (epoch > 0 && brought != [epoch]).then(|| brought.to_vec())
}

/// Reads what [`put_brought`] wrote.
pub(crate) fn brought(epoch: u64, said: Option<Vec<u64>>) -> Vec<u64> {
    said.unwrap_or_else(|| vec![epoch])
}

impl Message {
    /// One that nobody waits for.
    pub(crate) fn new(client: &str, to: &str, what: What) -> Self {
        Self { client: client.into(), to: to.into(), saga: None, trail: Vec::new(), drop: 0, steps: 0, what }
    }

    /// Whether it has come as far as one may.
    pub(crate) fn is_far(&self) -> bool {
        let trail = || self.trail.iter().map(|(address, _)| address.len()).sum::<usize>();
        self.steps >= limits::WALK_STEPS || trail() > limits::MESSAGE_TRAIL_BYTES
    }

    pub(crate) fn encode(&self) -> Box<[u8]> {
        rmp_serde::to_vec(self).expect("plain data always encodes into memory").into()
    }

    /// `None` when the bytes are none of ours.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        rmp_serde::from_slice(bytes).ok()
    }
}

impl MovedVisits {
    pub(crate) fn new(visits: &Visits, categories: Vec<(Box<str>, u32)>) -> Self {
        let mut bytes = Vec::new();
        visits.encode(0, &mut bytes);
        Self { visits: bytes, categories }
    }

    pub(crate) fn visits(&self) -> Visits {
        Visits::decode(0, &mut Reader::new(&self.visits))
    }
}

impl MovedAttribute {
    /// About how many bytes it takes in a message.
    pub(crate) fn bytes(&self) -> usize {
        self.name.len() + self.value.as_deref().map_or(0, str::len) + 24
    }
}

/// Calls `read` with the event that a message of a relay is on the way with, the first one being 1; nothing when there is no
/// such message, or it is none of an event.
pub fn carried<R>(relay: &Relay<'_>, message: u32, read: impl FnOnce(&Event<'_>) -> R) -> Option<R> {
    let bytes = relay.messages.get((message as usize).checked_sub(1)?)?;
    let What::Walk(walk) = Message::decode(bytes.0)?.what else { return None };
    Event::decode(&walk.event).ok().map(|event| read(&event))
}

/// Bytes as one MessagePack binary, not as an array of numbers.
mod bytes {
    use serde::de::{Error, Visitor};
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Vec<u8>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
        }
        from.deserialize_bytes(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// As they stand in logs and outboxes of versions that knew nothing of what was brought: by the alias there is.
    #[test]
    fn messages_without_what_was_brought_are_read_and_written_so_where_that_is_the_usual_thing() {
        let drop = What::Drop { epoch: 7, erased: true, brought: None };
        let forget = What::Forget { epoch: 7, brought: None };
        for (what, old) in [
            (drop, rmp_serde::to_vec(&BTreeMap::from([("Drop", (7, true))]))),
            (forget, rmp_serde::to_vec(&BTreeMap::from([("Forget", (7,))]))),
        ] {
            let head = rmp_serde::to_vec(&("demo", "tnt:a", None::<()>, [(); 0], 0, 0, ())).unwrap();
            let old = [&head[..head.len() - 1], &old.unwrap()].concat();
            let message = Message::new("demo", "tnt:a", what);
            assert_eq!((&*message.encode(), Message::decode(&old).as_ref()), (&old[..], Some(&message)));
        }
        assert_eq!((put_brought(7, &[7]), brought(7, None)), (None, vec![7]));
        for told in [vec![], vec![3], vec![3, 7]] {
            assert_eq!(brought(7, put_brought(7, &told)), told);
        }
    }
}
