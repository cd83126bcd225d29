//! JSON rows: `{"pcId":"…","attribute":"value"|number|true|false|null}`, in an array or one a line.
//!
//! Numbers and booleans are stored as they are written. `null` and `""` change nothing; in v3 `null` removes.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use cameo_http::wording;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::lines::Held;
use super::text::check_name;
use super::{IdKind, Item, Line, Names, Refused, Row, RowFailure, Span, Take, Version, quoted, too_long, too_much};
use crate::bounds;

/// Names up to which a plain search for a repeated one is cheaper than a set.
const FEW_NAMES: usize = 16;

/// Finds the elements of an array of any length; what is in them is not its business.
#[derive(Debug)]
pub(super) struct Array {
    state: State,
    elements: u32,
    held: Held,
    /// Where we are, for errors.
    line: u32,
    column: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before `[`.
    Start,
    /// After `[`: an element or the end.
    First,
    /// After a comma: an element.
    Next,
    /// Inside an element.
    Element { depth: u32, string: bool, escape: bool },
    /// After `]`: nothing but white space.
    End,
}

impl Array {
    pub(super) fn starting_at(line: u32) -> Self {
        Self { state: State::Start, elements: 0, held: Held::default(), line, column: 0 }
    }

    fn refused(&self, problem: &'static str) -> Refused {
        Refused::new(self.line, self.column.max(1), problem)
    }

    pub(super) fn feed(
        &mut self,
        piece: &[u8],
        take: &mut impl FnMut(u32, Line<'_>) -> Result<(), Refused>,
    ) -> Result<(), Refused> {
        let mut from = 0;
        for (at, &byte) in piece.iter().enumerate() {
            self.column += 1;
            match &mut self.state {
                State::Element { depth, string, escape } => {
                    if *string {
                        match byte {
                            _ if *escape => *escape = false,
                            b'\\' => *escape = true,
                            b'"' => *string = false,
                            _ => {}
                        }
                    } else {
                        match byte {
                            b'"' => *string = true,
                            b'{' | b'[' => *depth += 1,
                            b'}' | b']' if *depth > 0 => *depth -= 1,
                            b',' | b']' if *depth == 0 => {
                                take(self.elements, self.held.ended_by(&piece[from..at]))?;
                                self.held.clear();
                                self.state = if byte == b',' { State::Next } else { State::End };
                            }
                            _ => {}
                        }
                    }
                }
                _ if byte.is_ascii_whitespace() => {}
                State::Start if byte == b'[' => self.state = State::First,
                State::First if byte == b']' => self.state = State::End,
                State::First | State::Next if !matches!(byte, b',' | b']' | b'}') => {
                    self.elements += 1;
                    from = at;
                    let depth = u32::from(matches!(byte, b'{' | b'['));
                    self.state = State::Element { depth, string: byte == b'"', escape: false };
                }
                State::End => return Err(self.refused("something follows the end of the array")),
                _ => return Err(self.refused("a row is missing here: expected an object")),
            }
            if byte == b'\n' {
                self.line += 1;
                self.column = 0;
            }
        }
        if matches!(self.state, State::Element { .. }) {
            self.held.hold(&piece[from..]);
        }
        Ok(())
    }

    pub(super) fn finish(&self) -> Result<(), Refused> {
        match self.state {
            State::End => Ok(()),
            _ => Err(self.refused("the file ends before its array does")),
        }
    }
}

/// Reads objects.
#[derive(Debug)]
pub(super) struct Objects {
    version: Version,
    text: String,
    cells: Vec<Span>,
}

impl Objects {
    pub(super) const fn new(version: Version) -> Self {
        Self { version, text: String::new(), cells: Vec::new() }
    }

    pub(super) fn line(&mut self, number: u32, line: Line<'_>, take: &mut impl Take) -> Result<(), Refused> {
        let bytes = match line {
            Line::Whole(bytes) => bytes.trim_ascii(),
            Line::TooLong => return take(number, Item::Failed(too_long(number))),
        };
        if bytes.is_empty() {
            return Ok(());
        }
        self.text.clear();
        self.cells.clear();
        match self.read(bytes) {
            Err((column, reason)) => take(number, Item::Failed(RowFailure { line: number, column, reason })),
            Ok(_) if self.cells.is_empty() => take(number, Item::Skipped),
            Ok((kind, id)) => {
                let values: usize = self.cells.iter().map(|cell| (cell.end - cell.start) as usize).sum();
                if values > bounds::ROW_BYTES {
                    return take(number, Item::Failed(too_much(number, values)));
                }
                let (text, cells) = (&self.text, &self.cells);
                let id = &text[..id];
                take(number, Item::Row(Row { line: number, kind, id: kind.bare(id), names: Names::InRow, text, cells }))
            }
        }
    }

    /// Gives the kind of the id and its length; the id comes first in the text.
    fn read(&mut self, bytes: &[u8]) -> Result<(IdKind, usize), (Option<String>, String)> {
        let whole = |reason: String| (None, reason);
        let text = std::str::from_utf8(bytes).map_err(|_| whole("the row is not UTF-8".into()))?;
        if bytes[0] != b'{' {
            return Err(whole("the row is not a JSON object".into()));
        }
        let Fields(fields) = serde_json::from_str(text).map_err(|error| whole(describe(&error)))?;
        let named = fields.into_iter().map(|(name, value)| Ok((read_name(name)?, value)));
        let fields = named.collect::<Result<Vec<_>, (Option<String>, String)>>()?;
        let mut ids = fields.iter().filter_map(|(name, value)| Some((IdKind::of_column(name)?, *value)));
        let (kind, id) = ids.next().ok_or_else(|| whole("the row has neither pcId nor thirdPartyId".into()))?;
        if ids.next().is_some() {
            return Err(whole("the row has more than one id; it takes one of pcId and thirdPartyId".into()));
        }
        let blame = |column: &str, reason: String| (Some(quoted(column)), reason);
        let id: Cow<'_, str> = read_string(id)
            .ok_or_else(|| blame(kind.column(), format!("{} must be a string", kind.column())))?
            .map_err(|error| blame(kind.column(), format!("{} {error}", kind.column())))?;
        kind.check(&id).map_err(|invalid| blame(kind.column(), invalid.to_string()))?;
        self.text.push_str(&id);
        if fields.len() > bounds::COLUMNS + 1 {
            let reason = format!("the row has {} attributes; the limit is {}", fields.len() - 1, bounds::COLUMNS);
            return Err(whole(reason));
        }
        check_repeats(&fields)?;
        for (name, value) in &fields {
            if IdKind::of_column(name).is_none() {
                check_name(name).map_err(|reason| blame(name, reason))?;
                self.cell(name, value).map_err(|reason| blame(name, format!("{} {reason}", quoted(name))))?;
            }
        }
        Ok((kind, id.len()))
    }

    /// Adds an attribute; the error continues a sentence that starts with its name.
    fn cell(&mut self, name: &str, value: &RawValue) -> Result<(), String> {
        let raw = value.get();
        let (value, removed) = match raw.as_bytes()[0] {
            b'n' if self.version.removes() => (Cow::Borrowed(""), true),
            b'n' => return Ok(()),
            b'{' | b'[' => return Err("is nested; a value is a string, a number, true, false or null".into()),
            b'"' => (read_string(value).unwrap_or(Ok(Cow::Borrowed("")))?, false),
            _ => (Cow::Borrowed(raw), false),
        };
        if value.is_empty() && !removed {
            return Ok(());
        }
        let column = self.cells.len() as u16;
        let at = self.text.len() as u32;
        self.text.push_str(name);
        let start = self.text.len() as u32;
        self.text.push_str(&value);
        self.cells.push(Span { column, name: at, start, end: self.text.len() as u32, removed });
        Ok(())
    }
}

fn check_repeats(fields: &[(Cow<'_, str>, &RawValue)]) -> Result<(), (Option<String>, String)> {
    let repeated = if fields.len() <= FEW_NAMES {
        fields.iter().enumerate().find(|(n, (name, _))| fields[..*n].iter().any(|(other, _)| other == name))
    } else {
        let mut seen = HashSet::with_capacity(fields.len());
        fields.iter().enumerate().find(|(_, (name, _))| !seen.insert(name))
    };
    repeated.map_or(Ok(()), |(_, (name, _))| {
        let name = quoted(name);
        let reason = format!("attribute {name:?} stands twice in the row");
        Err((Some(name), reason))
    })
}

/// The name of a field, which may be written with escapes.
fn read_name(name: &RawValue) -> Result<Cow<'_, str>, (Option<String>, String)> {
    read_string(name).unwrap_or(Ok(Cow::Borrowed(""))).map_err(|error| {
        // As it is written, since it stands for no text.
        let written = quoted(name.get().trim_matches('"'));
        let reason = format!("the attribute name {written} {error}");
        (Some(written), reason)
    })
}

/// The text of a JSON string; nothing if the value is none. The error continues a sentence that starts with its name.
fn read_string(value: &RawValue) -> Option<Result<Cow<'_, str>, String>> {
    let raw = value.get();
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if !inner.contains('\\') {
        return Some(Ok(Cow::Borrowed(inner)));
    }
    // It is JSON already, so what is left to go wrong is \u escapes that are no characters.
    let wrong = "has a bad escape: half of a surrogate pair, such as \\ud83d without its second half, is no character";
    Some(serde_json::from_str::<String>(raw).map(Cow::Owned).map_err(|_| wrong.into()))
}

/// What is wrong with the JSON, with the place in its row.
fn describe(error: &serde_json::Error) -> String {
    let text = wording::plain(&error.to_string());
    let text = text.strip_prefix("this is not JSON: ").unwrap_or(&text);
    format!("the row is not valid JSON: {} at byte {} of the row", quoted(text), error.column().max(1))
}

/// The fields of one object in order, with repeated ones. Names stay as they are written, so that one that is wrong can
/// be named.
struct Fields<'a>(Vec<(&'a RawValue, &'a RawValue)>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Map;
        impl<'de> Visitor<'de> for Map {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        from.deserialize_map(Map)
    }
}
