//! Some entries of one profile as a stored value. Codec only.
//!
//! ```text
//! version u8 = 1 · count (varint), then for each entry, oldest first:
//!   position    varint, less the one before it
//!   event       varint
//!   log time    signed varint, less the one before it; ms
//!   hint        signed varint, less the one before it
//!   what        u8, and what belongs to it: line (varint) of a row, days (varint) of settings
//! ```
//! Codes of `what` are never reused.

use cameo_eventlog::Hint;
use cameo_profile::varint::{self, Reader};
use cameo_profile::{LogTime, Position};

use super::{Entry, What};

const VERSION: u8 = 1;

const VISIT: u8 = 1;
const FIRST_VISIT: u8 = 2;
const UPDATE: u8 = 3;
const ROW: u8 = 4;
const ERASED: u8 = 5;
const SETTINGS: u8 = 6;

pub(super) fn put_what(out: &mut Vec<u8>, what: &What) {
    match what {
        What::Visit => out.push(VISIT),
        What::FirstVisit => out.push(FIRST_VISIT),
        What::Update => out.push(UPDATE),
        What::Row(line) => {
            out.push(ROW);
            varint::put(out, u64::from(*line));
        }
        What::Settings(days) => {
            out.push(SETTINGS);
            varint::put(out, u64::from(*days));
        }
        What::Erased => out.push(ERASED),
    }
}

pub(super) fn take_what(from: &mut Reader<'_>) -> Option<What> {
    Some(match from.byte() {
        VISIT => What::Visit,
        FIRST_VISIT => What::FirstVisit,
        UPDATE => What::Update,
        ROW => What::Row(u32::try_from(from.varint()).ok()?),
        SETTINGS => What::Settings(u16::try_from(from.varint()).ok()?),
        ERASED => What::Erased,
        _ => return None,
    })
}

/// Entries in rising order.
pub(crate) fn encode(entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::with_capacity(4 + entries.len() * 12);
    out.push(VERSION);
    varint::put(&mut out, entries.len() as u64);
    let (mut position, mut at, mut hint) = (0, 0, 0);
    for entry in entries {
        varint::put(&mut out, entry.position.0.wrapping_sub(position));
        varint::put(&mut out, u64::from(entry.event));
        varint::put_signed(&mut out, entry.at.0.wrapping_sub(at) as i64);
        varint::put_signed(&mut out, entry.hint.0.wrapping_sub(hint) as i64);
        put_what(&mut out, &entry.what);
        (position, at, hint) = (entry.position.0, entry.at.0, entry.hint.0);
    }
    out
}

/// `None` when it is not what [`encode`] wrote.
pub(crate) fn decode(bytes: &[u8]) -> Option<Vec<Entry>> {
    let mut from = Reader::new(bytes);
    if from.byte() != VERSION {
        return None;
    }
    let count = from.varint();
    // An entry has at least five bytes, so a count out of thin air reserves no more than there is.
    let mut entries = Vec::with_capacity((count as usize).min(bytes.len() / 5 + 1));
    let (mut position, mut at, mut hint) = (0u64, 0u64, 0u64);
    for _ in 0..count {
        position = position.wrapping_add(from.varint());
        let event = u32::try_from(from.varint()).ok()?;
        at = at.wrapping_add(from.signed() as u64);
        hint = hint.wrapping_add(from.signed() as u64);
        let what = take_what(&mut from)?;
        if from.is_bad() {
            return None;
        }
        entries.push(Entry { position: Position(position), event, at: LogTime(at), hint: Hint(hint), what });
    }
    from.is_empty().then_some(entries)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry() -> impl Strategy<Value = Entry> {
        let what = prop_oneof![
            Just(What::Visit),
            Just(What::FirstVisit),
            Just(What::Update),
            any::<u32>().prop_map(What::Row),
            any::<u16>().prop_map(What::Settings),
            Just(What::Erased)
        ];
        (any::<u64>(), any::<u32>(), any::<u64>(), any::<u64>(), what).prop_map(|(position, event, at, hint, what)| {
            Entry { position: Position(position), event, at: LogTime(at), hint: Hint(hint), what }
        })
    }

    proptest! {
        #[test]
        fn round_trip(entries in proptest::collection::vec(entry(), 0..20)) {
            prop_assert_eq!(decode(&encode(&entries)), Some(entries));
        }

        #[test]
        fn rubbish_is_refused_or_read_never_fatal(bytes: Vec<u8>) {
            let _ = decode(&bytes);
        }
    }

    /// Version 1 as it stands on disks.
    #[test]
    fn version_1_is_read() {
        let entries = [
            Entry { position: Position(300), event: 2, at: LogTime(1000), hint: Hint(77), what: What::FirstVisit },
            Entry { position: Position(301), event: 0, at: LogTime(1001), hint: Hint(70), what: What::Row(9) },
        ];
        let bytes = [1, 2, 0xac, 2, 2, 0xd0, 0x0f, 0x9a, 1, 2, 1, 0, 2, 13, 4, 9];
        assert_eq!(encode(&entries), bytes);
        assert_eq!(decode(&bytes).unwrap(), entries);
    }
}
