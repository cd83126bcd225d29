//! A body of visits, split and decoded: one JSON object, a JSON list, NDJSON or MessagePack. No HTTP beyond the type.
//!
//! A visit that is refused harms no other, and its error names the field and its place in the whole body.

use std::fmt;
use std::marker::PhantomData;

use cameo_http::{Refusal, wording};
use http::HeaderValue;
use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::api::visit::{Object, VisitRequest};

/// Visits in one call (design §5).
const VISITS: usize = 10_000;
/// Lists and objects within each other in MessagePack. Ours: as serde_json; reading recurses, so this bounds the stack.
const DEPTH: usize = 128;
/// What some editors and shells put before text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// How the body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Json,
    Lines,
    MessagePack,
}

impl Encoding {
    /// By content type; a type that says nothing of the kind leaves it to the first byte.
    pub(super) fn of(content_type: Option<&HeaderValue>, body: &[u8]) -> Self {
        let content_type = content_type.and_then(|value| value.to_str().ok()).unwrap_or_default();
        let media = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match media.as_str() {
            "application/json" => Self::Json,
            "application/x-ndjson" | "application/ndjson" | "application/jsonl" | "application/x-jsonlines" => {
                Self::Lines
            }
            "application/msgpack" | "application/x-msgpack" | "application/vnd.msgpack" => Self::MessagePack,
            _ if body.starts_with(BYTE_ORDER_MARK) => Self::Json,
            // MessagePack objects and lists start with a byte that no JSON text can start with.
            _ if body.first().is_some_and(|&byte| byte >= 0x80) => Self::MessagePack,
            _ => Self::Json,
        }
    }
}

/// What one body holds: the visits in order, each read or refused.
pub(super) struct Decoded<'b> {
    pub(super) visits: Vec<Result<VisitRequest<'b>, Refusal>>,
    /// The body was one object, not a list: the reply is one object too.
    pub(super) single: bool,
}

/// Reads a body. A body that cannot be told apart into visits is refused whole.
pub(super) fn decode(encoding: Encoding, body: &[u8]) -> Result<Decoded<'_>, Refusal> {
    let text = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
    let decoded = match encoding {
        Encoding::Json => json(text)?,
        Encoding::Lines => Decoded { visits: lines(text)?, single: false },
        Encoding::MessagePack => message_pack(body)?,
    };
    match decoded.visits.len() {
        0 => Err(Refusal::new(400, "the body has no visit")),
        count if count > VISITS => Err(too_many(count)),
        _ => Ok(decoded),
    }
}

fn too_many(count: usize) -> Refusal {
    let text = format!("the body has {count} visits; the limit is {VISITS} a call");
    Refusal { limit: Some(VISITS), ..Refusal::new(413, text) }
}

/// The field a decoder stopped at; it decodes once more, for refusals only.
fn field<'b, D: Deserializer<'b>>(from: D) -> Option<String> {
    let error = serde_path_to_error::deserialize::<_, Object<VisitRequest<'b>>>(from).err()?;
    let path = error.path().to_string();
    (!path.is_empty() && path != ".").then_some(path)
}

fn worded(said: &str, field: Option<String>) -> Refusal {
    wording::refusal(said, field, "a visit")
}

/// Why a visit, or the whole body, is no JSON of ours; `part` is what was decoded of the body.
fn json_refusal(error: &serde_json::Error, part: &[u8], places: &mut Places<'_>) -> Refusal {
    let field = error.is_data().then(|| field(&mut serde_json::Deserializer::from_slice(part))).flatten();
    let place = (error.line() > 0).then(|| places.of(part, error.line(), error.column())).flatten();
    Refusal { place, ..worded(&error.to_string(), field) }
}

/// Finds lines and columns of a body for its parts, in the order of the parts: what is before one is looked at once, however
/// many of them are refused.
struct Places<'b> {
    body: &'b [u8],
    /// Up to here lines have been counted.
    upto: usize,
    lines: usize,
    /// Where the last of them begins.
    line_start: usize,
}

impl<'b> Places<'b> {
    const fn new(body: &'b [u8]) -> Self {
        Self { body, upto: 0, lines: 0, line_start: 0 }
    }

    /// Line and column in the body of a place in a part of it.
    fn of(&mut self, part: &[u8], line: usize, column: usize) -> Option<(usize, usize)> {
        let offset = (part.as_ptr() as usize).checked_sub(self.body.as_ptr() as usize)?;
        let ahead = self.body.get(self.upto..offset)?;
        if let Some(newline) = ahead.iter().rposition(|&byte| byte == b'\n') {
            self.lines += ahead.iter().filter(|&&byte| byte == b'\n').count();
            self.line_start = self.upto + newline + 1;
        }
        self.upto = offset;
        Some((self.lines + line, if line == 1 { offset - self.line_start + column } else { column }))
    }
}

fn json(body: &[u8]) -> Result<Decoded<'_>, Refusal> {
    let first = body.iter().position(|byte| !byte.is_ascii_whitespace()).map(|at| body[at]);
    if first != Some(b'[') {
        return match serde_json::from_slice(body) {
            Ok(Object(visit)) => Ok(Decoded { visits: vec![Ok(visit)], single: true }),
            // Several objects one after the other are lines whose type was not said.
            Err(error) if error.is_syntax() && body.contains(&b'\n') => match lines(body) {
                Ok(visits) if visits.len() > 1 && visits.iter().any(Result::is_ok) => {
                    Ok(Decoded { visits, single: false })
                }
                // More of them than a call may have: that, and not the second line, is what is wrong.
                Err(refusal) if refusal.limit.is_some() => Err(refusal),
                _ => Err(json_refusal(&error, body, &mut Places::new(body))),
            },
            Err(error) => Err(json_refusal(&error, body, &mut Places::new(body))),
        };
    }
    // All at once when all are well-formed; else one by one, so that a bad visit harms no other.
    if let Ok(Capped { items, count }) = serde_json::from_slice::<Capped<Object<VisitRequest<'_>>>>(body) {
        let visits = if count > VISITS { return Err(too_many(count)) } else { items };
        return Ok(Decoded { visits: visits.into_iter().map(|Object(visit)| Ok(visit)).collect(), single: false });
    }
    let raw: Capped<&RawValue> =
        serde_json::from_slice(body).map_err(|error| json_refusal(&error, body, &mut Places::new(body)))?;
    if raw.count > VISITS {
        return Err(too_many(raw.count));
    }
    let mut places = Places::new(body);
    let visits = raw.items.into_iter().map(|raw| one_json(raw.get().as_bytes(), &mut places));
    Ok(Decoded { visits: visits.collect(), single: false })
}

fn one_json<'b>(part: &'b [u8], places: &mut Places<'_>) -> Result<VisitRequest<'b>, Refusal> {
    match serde_json::from_slice(part) {
        Ok(Object(visit)) => Ok(visit),
        Err(error) => Err(json_refusal(&error, part, places)),
    }
}

/// A list of which no more than [`VISITS`] items are kept, however long it is.
struct Capped<T> {
    items: Vec<T>,
    count: usize,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Capped<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct CappedVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for CappedVisitor<T> {
            type Value = Capped<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of visits")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Capped<T>, A::Error> {
                let mut items = Vec::new();
                while items.len() < VISITS {
                    match list.next_element()? {
                        Some(item) => items.push(item),
                        None => return Ok(Capped { count: items.len(), items }),
                    }
                }
                let mut count = items.len();
                while list.next_element::<IgnoredAny>()?.is_some() {
                    count += 1;
                }
                Ok(Capped { items, count })
            }
        }
        from.deserialize_seq(CappedVisitor(PhantomData))
    }
}

fn lines(body: &[u8]) -> Result<Vec<Result<VisitRequest<'_>, Refusal>>, Refusal> {
    let (mut visits, mut places) = (Vec::new(), Places::new(body));
    for line in body.split(|&byte| byte == b'\n') {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        if visits.len() >= VISITS {
            let rest = body.split(|&byte| byte == b'\n').filter(|line| !line.iter().all(u8::is_ascii_whitespace));
            return Err(too_many(rest.count()));
        }
        visits.push(one_json(line, &mut places));
    }
    Ok(visits)
}

fn message_pack(body: &[u8]) -> Result<Decoded<'_>, Refusal> {
    let cut = |error: rmp_serde::decode::Error| worded(&error.to_string(), None);
    let is_list = matches!(body.first(), Some(0x90..=0x9f | 0xdc | 0xdd));
    if !is_list {
        let mut rest = body;
        let skipped = skip(&mut rest).map_err(cut)?;
        if !rest.is_empty() {
            return Err(Refusal::new(400, format!("{} bytes follow the visit", rest.len())));
        }
        let visit = one_packed(skipped)?;
        return Ok(Decoded { visits: vec![Ok(visit)], single: true });
    }
    let (count, mut rest) = list_head(body).ok_or_else(|| Refusal::new(400, "the MessagePack list is cut off"))?;
    if count > VISITS {
        return Err(too_many(count));
    }
    let mut visits = Vec::with_capacity(count);
    for _ in 0..count {
        let visit = skip(&mut rest).map_err(cut)?;
        visits.push(one_packed(visit));
    }
    if !rest.is_empty() {
        return Err(Refusal::new(400, format!("{} bytes follow the list of visits", rest.len())));
    }
    Ok(Decoded { visits, single: false })
}

fn one_packed(part: &[u8]) -> Result<VisitRequest<'_>, Refusal> {
    match rmp_serde::from_slice(part) {
        Ok(Object(visit)) => Ok(visit),
        Err(error) => Err(worded(&error.to_string(), field(&mut rmp_serde::Deserializer::from_read_ref(part)))),
    }
}

/// Length of a MessagePack list and what follows its head.
fn list_head(body: &[u8]) -> Option<(usize, &[u8])> {
    let (&marker, rest) = body.split_first()?;
    match marker {
        0x90..=0x9f => Some((usize::from(marker & 15), rest)),
        0xdc => rest.split_first_chunk::<2>().map(|(n, rest)| (usize::from(u16::from_be_bytes(*n)), rest)),
        _ => rest.split_first_chunk::<4>().map(|(n, rest)| (u32::from_be_bytes(*n) as usize, rest)),
    }
}

/// Takes one value off the front.
fn skip<'b>(rest: &mut &'b [u8]) -> Result<&'b [u8], rmp_serde::decode::Error> {
    let whole = *rest;
    let mut after = whole;
    let mut reader = rmp_serde::Deserializer::new(&mut after);
    reader.set_max_depth(DEPTH);
    IgnoredAny::deserialize(&mut reader)?;
    *rest = after;
    Ok(&whole[..whole.len() - after.len()])
}

#[cfg(test)]
mod tests;
