//! Some entries of one profile as a stored value. Codec only.
//!
//! ```text
//! version u8 = 2 · count (varint), then for each entry, oldest first:
//!   position    varint, less the one before it
//!   event       varint
//!   change      varint (not in version 1)
//!   log time    signed varint, less the one before it; ms
//!   hint        signed varint, less the one before it
//!   what        u8, and what belongs to it: line (varint) of a row, days (varint) of settings, an address (length, text),
//!               where an address leads and led (length, text, epoch; an empty text = nowhere), and how many lead to it,
//!               each with its epoch
//!   came        where `what` has the bit 128: message, time (varints) · via u8 (0 none, 1 with its epoch, 2 without) · its
//!               address, the one above it (length, text) · epoch (varint)
//! ```
//! Codes of `what` are never reused. Version 1 had those up to 6, without the bit.

use cameo_eventlog::Hint;
use cameo_profile::state::{AliasTo, Came, CameVia, Touch};
use cameo_profile::varint::{self, Reader};
use cameo_profile::{LogTime, Position};

use super::{Entry, What};

const VERSION: u8 = 2;

const VISIT: u8 = 1;
const FIRST_VISIT: u8 = 2;
const UPDATE: u8 = 3;
const ROW: u8 = 4;
const ERASED: u8 = 5;
const SETTINGS: u8 = 6;
const JOINED: u8 = 7;
const MORE: u8 = 8;
const LEFT: u8 = 9;
const TAKEN_OUT: u8 = 10;
const GIVEN_BACK: u8 = 11;
const LINKED: u8 = 12;
/// As [`LINKED`], of an address that was a home with a profile, which went along.
const BROUGHT: u8 = 13;
const FREED: u8 = 14;
const FORGOTTEN: u8 = 15;
/// It came by a way.
const CAME: u8 = 128;

fn put_text(out: &mut Vec<u8>, text: &str) {
    varint::put_bytes(out, text.as_bytes());
}

fn put_alias(out: &mut Vec<u8>, to: Option<&AliasTo>) {
    put_text(out, to.map_or("", |to| &to.address));
    varint::put(out, to.map_or(0, |to| to.epoch));
}

fn take_alias(from: &mut Reader<'_>) -> Option<AliasTo> {
    let (address, epoch) = (from.text(), from.varint());
    (!address.is_empty()).then(|| AliasTo { address: address.into(), epoch })
}

fn put_code(out: &mut Vec<u8>, code: u8, came: Option<&Came>) {
    out.push(if came.is_some() { code | CAME } else { code });
}

fn put_came(out: &mut Vec<u8>, came: Option<&Came>) {
    let Some(came) = came else { return };
    varint::put(out, u64::from(came.message));
    varint::put(out, came.time);
    let Some(via) = &came.via else { return out.push(0) };
    out.push(if via.epoch.is_some() { 1 } else { 2 });
    put_text(out, &via.address);
    put_text(out, &via.under);
    if let Some(epoch) = via.epoch {
        varint::put(out, epoch);
    }
}

fn take_came(from: &mut Reader<'_>) -> Option<Box<Came>> {
    let (message, time) = (u32::try_from(from.varint()).ok()?, from.varint());
    let via = match from.byte() {
        0 => None,
        kind @ (1 | 2) => {
            let (address, under) = (from.text().into(), from.text().into());
            Some(CameVia { address, under, epoch: (kind == 1).then(|| from.varint()) })
        }
        _ => return None,
    };
    Some(Box::new(Came { message, time, via }))
}

pub(super) fn put_touch(out: &mut Vec<u8>, touch: &Touch) {
    match touch {
        Touch::Visit { created, came } => {
            put_code(out, if *created { FIRST_VISIT } else { VISIT }, came.as_deref());
            put_came(out, came.as_deref());
        }
        Touch::Update { came } => {
            put_code(out, UPDATE, came.as_deref());
            put_came(out, came.as_deref());
        }
        Touch::Row { line, came } => {
            put_code(out, ROW, came.as_deref());
            varint::put(out, u64::from(*line));
            put_came(out, came.as_deref());
        }
        Touch::Joined { address } => put_addressed(out, JOINED, address),
        Touch::More { address } => put_addressed(out, MORE, address),
        Touch::Left { address } => put_addressed(out, LEFT, address),
        Touch::TakenOut { address, by } => {
            put_addressed(out, TAKEN_OUT, address);
            put_text(out, by.as_deref().unwrap_or_default());
        }
        Touch::GivenBack => out.push(GIVEN_BACK),
        Touch::Linked { to, from, brought, held } => {
            out.push(if *brought { BROUGHT } else { LINKED });
            put_alias(out, Some(to));
            put_alias(out, from.as_ref());
            varint::put(out, held.len() as u64);
            for (address, epoch) in held {
                put_text(out, address);
                varint::put(out, *epoch);
            }
        }
        Touch::Freed { from } => {
            out.push(FREED);
            put_alias(out, Some(from));
        }
        Touch::Erased => out.push(ERASED),
        Touch::Forgotten { epoch, brought } => {
            out.push(FORGOTTEN);
            varint::put(out, *epoch);
            varint::put(out, brought.len() as u64);
            brought.iter().for_each(|epoch| varint::put(out, *epoch));
        }
    }
}

fn put_addressed(out: &mut Vec<u8>, code: u8, address: &str) {
    out.push(code);
    put_text(out, address);
}

pub(super) fn put_days(out: &mut Vec<u8>, days: u16) {
    out.push(SETTINGS);
    varint::put(out, u64::from(days));
}

pub(super) fn take_what(from: &mut Reader<'_>) -> Option<What> {
    let byte = from.byte();
    let has_come = byte & CAME != 0;
    let came = |from: &mut Reader<'_>| if has_come { take_came(from).map(Some) } else { Some(None) };
    Some(What::Touched(match byte & !CAME {
        VISIT => Touch::Visit { created: false, came: came(from)? },
        FIRST_VISIT => Touch::Visit { created: true, came: came(from)? },
        UPDATE => Touch::Update { came: came(from)? },
        ROW => Touch::Row { line: u32::try_from(from.varint()).ok()?, came: came(from)? },
        _ if has_come => return None,
        SETTINGS => return Some(What::Settings(u16::try_from(from.varint()).ok()?)),
        ERASED => Touch::Erased,
        JOINED => Touch::Joined { address: from.text().into() },
        MORE => Touch::More { address: from.text().into() },
        LEFT => Touch::Left { address: from.text().into() },
        TAKEN_OUT => {
            let (address, by) = (from.text().into(), from.text());
            Touch::TakenOut { address, by: (!by.is_empty()).then(|| by.into()) }
        }
        GIVEN_BACK => Touch::GivenBack,
        code @ (LINKED | BROUGHT) => {
            let (to, before) = (take_alias(from)?, take_alias(from));
            let mut held = Vec::new();
            for _ in 0..from.varint() {
                held.push((from.text().into(), from.varint()));
                if from.is_bad() {
                    return None;
                }
            }
            Touch::Linked { to, from: before, brought: code == BROUGHT, held }
        }
        FREED => Touch::Freed { from: take_alias(from)? },
        FORGOTTEN => {
            let (epoch, mut brought) = (from.varint(), Vec::new());
            for _ in 0..from.varint() {
                brought.push(from.varint());
                if from.is_bad() {
                    return None;
                }
            }
            Touch::Forgotten { epoch, brought }
        }
        _ => return None,
    }))
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
        varint::put(&mut out, u64::from(entry.change));
        varint::put_signed(&mut out, entry.at.0.wrapping_sub(at) as i64);
        varint::put_signed(&mut out, entry.hint.0.wrapping_sub(hint) as i64);
        match &entry.what {
            What::Touched(touch) => put_touch(&mut out, touch),
            What::Settings(days) => put_days(&mut out, *days),
        }
        (position, at, hint) = (entry.position.0, entry.at.0, entry.hint.0);
    }
    out
}

/// `None` when it is not what [`encode`] wrote, in this version or version 1.
pub(crate) fn decode(bytes: &[u8]) -> Option<Vec<Entry>> {
    let mut from = Reader::new(bytes);
    let version = from.byte();
    if !(1..=VERSION).contains(&version) {
        return None;
    }
    let count = from.varint();
    // An entry has at least five bytes, so a count out of thin air reserves no more than there is.
    let mut entries = Vec::with_capacity((count as usize).min(bytes.len() / 5 + 1));
    let (mut position, mut at, mut hint) = (0u64, 0u64, 0u64);
    for _ in 0..count {
        position = position.wrapping_add(from.varint());
        let event = u32::try_from(from.varint()).ok()?;
        let change = if version > 1 { u32::try_from(from.varint()).ok()? } else { 0 };
        at = at.wrapping_add(from.signed() as u64);
        hint = hint.wrapping_add(from.signed() as u64);
        let what = take_what(&mut from)?;
        if from.is_bad() {
            return None;
        }
        let change = match &what {
            What::Touched(Touch::Row { line, .. }) if version == 1 => *line,
            _ => change,
        };
        let (position, at, hint) = (Position(position), LogTime(at), Hint(hint));
        entries.push(Entry { position, event, change, at, hint, what });
    }
    from.is_empty().then_some(entries)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn came() -> impl Strategy<Value = Option<Box<Came>>> {
        let via = (".*", ".*", any::<Option<u64>>()).prop_map(|(address, under, epoch)| CameVia {
            address: address.into(),
            under: under.into(),
            epoch,
        });
        let came = (any::<u32>(), any::<u64>(), prop::option::of(via))
            .prop_map(|(message, time, via)| Box::new(Came { message, time, via }));
        prop::option::of(came)
    }

    fn entry() -> impl Strategy<Value = Entry> {
        let alias = || (".+", any::<u64>()).prop_map(|(address, epoch)| AliasTo { address: address.into(), epoch });
        let address = || ".*".prop_map(Box::<str>::from);
        let touch = prop_oneof![
            (any::<bool>(), came()).prop_map(|(created, came)| Touch::Visit { created, came }),
            came().prop_map(|came| Touch::Update { came }),
            (any::<u32>(), came()).prop_map(|(line, came)| Touch::Row { line, came }),
            address().prop_map(|address| Touch::Joined { address }),
            address().prop_map(|address| Touch::More { address }),
            address().prop_map(|address| Touch::Left { address }),
            (address(), prop::option::of(".+"))
                .prop_map(|(address, by)| Touch::TakenOut { address, by: by.map(Into::into) }),
            Just(Touch::GivenBack),
            (alias(), prop::option::of(alias()), any::<bool>(), prop::collection::vec((address(), any::<u64>()), 0..3))
                .prop_map(|(to, from, brought, held)| Touch::Linked { to, from, brought, held }),
            alias().prop_map(|from| Touch::Freed { from }),
            Just(Touch::Erased),
            (any::<u64>(), prop::collection::vec(any::<u64>(), 0..3))
                .prop_map(|(epoch, brought)| Touch::Forgotten { epoch, brought }),
        ];
        let what = prop_oneof![8 => touch.prop_map(What::Touched), 1 => any::<u16>().prop_map(What::Settings)];
        (any::<u64>(), any::<u32>(), any::<u32>(), any::<u64>(), any::<u64>(), what).prop_map(
            |(position, event, change, at, hint, what)| {
                let (position, at, hint) = (Position(position), LogTime(at), Hint(hint));
                Entry { position, event, change, at, hint, what }
            },
        )
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

    fn visit(position: u64, event: u32, change: u32, at: u64, hint: u64, touch: Touch) -> Entry {
        let (position, at, hint) = (Position(position), LogTime(at), Hint(hint));
        Entry { position, event, change, at, hint, what: What::Touched(touch) }
    }

    /// Version 1 as it stands on disks.
    #[test]
    fn version_1_is_read() {
        let entries = [
            visit(300, 2, 0, 1000, 77, Touch::Visit { created: true, came: None }),
            visit(301, 0, 9, 1001, 70, Touch::Row { line: 9, came: None }),
        ];
        let bytes = [1, 2, 0xac, 2, 2, 0xd0, 0x0f, 0x9a, 1, 2, 1, 0, 2, 13, 4, 9];
        assert_eq!(decode(&bytes).unwrap(), entries);
    }

    /// Version 2 as it stands on disks.
    #[test]
    fn version_2_stays_as_it_is() {
        let via = CameVia { address: "tnt:a".into(), under: "".into(), epoch: Some(3) };
        let came = Came { message: 1, time: 999, via: Some(via) };
        let to = AliasTo { address: "tp:c".into(), epoch: 4 };
        let entries = [
            visit(300, 2, 0, 1000, 77, Touch::Visit { created: false, came: Some(Box::new(came)) }),
            visit(
                300,
                2,
                1,
                1000,
                77,
                Touch::Linked { to, from: None, brought: true, held: vec![("tnt:b".into(), 2)] },
            ),
        ];
        let first = b"\x02\x02\xac\x02\x02\x00\xd0\x0f\x9a\x01\x81\x01\xe7\x07\x01\x05tnt:a\x00\x03";
        let second = b"\x00\x02\x01\x00\x00\x0d\x04tp:c\x04\x00\x00\x01\x05tnt:b\x02";
        assert_eq!(encode(&entries), [&first[..], &second[..]].concat());
    }
}
