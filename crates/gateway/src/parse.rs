//! The parser of bulk files: fed with pieces of any size, it gives rows, skipped rows and failed rows, in order.
//!
//! Three forms, told apart by the first byte that counts: batch text, a JSON array of objects (`[`) and NDJSON (`{`).
//! Pure: no IO, no clock. Memory: at most one line ([`crate::bounds::LINE_BYTES`]) twice.
//!
//! A row that is wrong is an [`Item::Failed`] and the next one is read; a file that is wrong is [`Refused`].

mod json;
mod lines;
mod text;

use std::borrow::Cow;

use cameo_profile::ids::{self, Invalid};
use cameo_profile::{Kind, limits};

use crate::bounds;
use json::{Array, Objects};
use lines::{Line, Lines};
use text::Text;

/// Which version of the API the file came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// Updates profiles that exist.
    V1,
    /// Makes the missing ones.
    V2,
    /// As 2, and a value can remove its attribute.
    V3,
}

impl Version {
    /// 1, 2 or 3.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::V1 => 1,
            Self::V2 => 2,
            Self::V3 => 3,
        }
    }

    /// Whether an unknown id gets a profile.
    #[must_use]
    pub const fn creates(self) -> bool {
        !matches!(self, Self::V1)
    }

    /// Whether `\N` and `null` remove an attribute.
    #[must_use]
    pub const fn removes(self) -> bool {
        matches!(self, Self::V3)
    }
}

/// What kind of id a row has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdKind {
    /// `pcId`.
    Tnt,
    /// `thirdPartyId`.
    ThirdParty,
}

impl IdKind {
    /// The name of its column.
    #[must_use]
    pub const fn column(self) -> &'static str {
        match self {
            Self::Tnt => "pcId",
            Self::ThirdParty => "thirdPartyId",
        }
    }

    /// The first part of a canonical address.
    #[must_use]
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Tnt => "tnt",
            Self::ThirdParty => "tp",
        }
    }

    fn of_column(name: &str) -> Option<Self> {
        [Self::Tnt, Self::ThirdParty].into_iter().find(|kind| kind.column() == name)
    }

    /// The id as it stands in an address: a pcId without the vendor's location hint.
    fn bare(self, id: &str) -> &str {
        match self {
            Self::Tnt => ids::without_hint(id),
            Self::ThirdParty => id,
        }
    }

    /// The rules of `cameo_profile::AddressBuf`, without making one.
    fn check(self, id: &str) -> Result<(), Invalid> {
        let (limit, kind) = match self {
            Self::Tnt => (limits::TNT_ID_CHARS, Kind::Tnt),
            Self::ThirdParty => (limits::THIRD_PARTY_ID_CHARS, Kind::ThirdParty),
        };
        let forbidden = |c: char| kind == Kind::ThirdParty && matches!(c, '+' | '/');
        ids::check_text(id, limit, forbidden, || self.column().into())
    }
}

/// What the parser found.
#[derive(Debug)]
pub enum Item<'a> {
    /// A row to apply.
    Row(Row<'a>),
    /// A row without any value: it changes nothing.
    Skipped,
    /// A row that is wrong.
    Failed(RowFailure),
}

/// A row that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowFailure {
    /// As [`Row::line`].
    pub line: u32,
    /// The column, if one is to blame.
    pub column: Option<String>,
    /// What is wrong.
    pub reason: String,
}

/// A row to apply.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// Line of the file from 1; in a JSON array the number of the object from 1, as two may stand in one line. Rises.
    pub line: u32,
    /// What `id` is.
    pub kind: IdKind,
    /// The checked id, as it stands in an address.
    pub id: &'a str,
    names: Names<'a>,
    text: &'a str,
    cells: &'a [Span],
}

/// Where the names of a row's cells stand.
#[derive(Clone, Copy, Debug)]
enum Names<'a> {
    /// In the header, which all rows share.
    Header(&'a [Box<str>]),
    /// Before each value.
    InRow,
}

/// A cell in the decoded text of its row.
#[derive(Clone, Copy, Debug)]
struct Span {
    column: u16,
    /// Names of [`Names::InRow`]: from here to `start`.
    name: u32,
    start: u32,
    end: u32,
    removed: bool,
}

/// One value of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell<'a> {
    /// Its column among those of the header; without a header, its place in the row.
    pub column: usize,
    /// Name of the attribute.
    pub name: &'a str,
    /// The value, or nothing to remove the attribute.
    pub value: Option<&'a str>,
}

impl<'a> Row<'a> {
    /// The attributes that all rows of the file share; nothing if every row names its own.
    #[must_use]
    pub const fn header(&self) -> Option<&'a [Box<str>]> {
        match self.names {
            Names::Header(names) => Some(names),
            Names::InRow => None,
        }
    }

    /// The values, at least one, by rising column. Empty ones are not among them.
    pub fn cells(&self) -> impl Iterator<Item = Cell<'a>> + Clone {
        let (names, text) = (self.names, self.text);
        self.cells.iter().map(move |span| {
            let column = usize::from(span.column);
            let name = match names {
                Names::Header(names) => &names[column],
                Names::InRow => &text[span.name as usize..span.start as usize],
            };
            Cell { column, name, value: (!span.removed).then(|| &text[span.start as usize..span.end as usize]) }
        })
    }
}

/// A file that cannot be taken at all. Nothing of it is stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {problem}")]
pub struct Refused {
    /// Line, from 1.
    pub line: u32,
    /// Column of the header from 1; in JSON the byte of the line from 1.
    pub column: u32,
    /// What is wrong.
    pub problem: Cow<'static, str>,
    /// The bound that was broken, if one was.
    pub limit: Option<usize>,
}

impl Refused {
    fn new(line: u32, column: usize, problem: impl Into<Cow<'static, str>>) -> Self {
        Self { line, column: u32::try_from(column).unwrap_or(u32::MAX), problem: problem.into(), limit: None }
    }
}

/// A parser of one file.
#[derive(Debug)]
pub struct Parser {
    version: Version,
    /// What came before the form was known: at most a byte order mark and white space.
    start: Start,
    rows: u32,
    body: Option<Body>,
}

#[derive(Debug, Default)]
struct Start {
    /// Bytes of the byte order mark that have been seen.
    mark: usize,
    /// The mark is behind us.
    past_mark: bool,
    /// Line breaks before the first byte that counts.
    lines: u32,
}

#[derive(Debug)]
enum Body {
    Text(Lines, Text),
    JsonLines(Lines, Objects),
    JsonArray(Array, Objects),
}

/// What may stand before a UTF-8 text.
const MARK: &[u8] = b"\xef\xbb\xbf";

impl Parser {
    /// For a file that came by `version`. Its first byte says what it is: content types are anything (TARGET_API §3).
    #[must_use]
    pub fn new(version: Version) -> Self {
        Self { version, start: Start::default(), rows: 0, body: None }
    }

    /// Data rows so far: those applied, skipped and failed.
    #[must_use]
    pub const fn rows(&self) -> u32 {
        self.rows
    }

    /// Reads a piece of the file.
    ///
    /// # Errors
    /// When the file cannot be taken at all; the parser is of no use after that.
    pub fn feed(&mut self, mut piece: &[u8], sink: &mut impl FnMut(Item<'_>)) -> Result<(), Refused> {
        if self.body.is_none() {
            piece = match self.start(piece)? {
                Some(rest) => rest,
                None => return Ok(()),
            };
        }
        let rows = &mut self.rows;
        let mut count = |line: u32, item: Item<'_>| count(rows, line, item, sink);
        match &mut self.body {
            None => Ok(()),
            Some(Body::Text(lines, text)) => lines.feed(piece, &mut |n, line| text.line(n, line, &mut count)),
            Some(Body::JsonLines(lines, objects)) => {
                lines.feed(piece, &mut |n, line| objects.line(n, line, &mut count))
            }
            Some(Body::JsonArray(array, objects)) => {
                array.feed(piece, &mut |n, object| objects.line(n, object, &mut count))
            }
        }
    }

    /// Reads what is left: a last line need not end.
    ///
    /// # Errors
    /// As [`Self::feed`]; a file without a header, and a JSON array that does not end.
    pub fn finish(&mut self, sink: &mut impl FnMut(Item<'_>)) -> Result<(), Refused> {
        let rows = &mut self.rows;
        let mut count = |line: u32, item: Item<'_>| count(rows, line, item, sink);
        match &mut self.body {
            None => Err(Refused::new(1, 1, "the file is empty; it starts with batch=pcId, or batch=thirdPartyId,")),
            Some(Body::Text(lines, text)) => {
                let had_header = text.has_header();
                lines.finish(&mut |n, line| text.line(n, line, &mut count))?;
                text.finish(had_header)
            }
            Some(Body::JsonLines(lines, objects)) => lines.finish(&mut |n, line| objects.line(n, line, &mut count)),
            Some(Body::JsonArray(array, _)) => array.finish(),
        }
    }

    /// Skips the mark, blank lines, and decides on the form; gives what is left of the piece once it is known.
    fn start<'p>(&mut self, mut piece: &'p [u8]) -> Result<Option<&'p [u8]>, Refused> {
        while let Some((&byte, rest)) = piece.split_first() {
            if !self.start.past_mark {
                if byte == MARK[self.start.mark] {
                    self.start.mark += 1;
                    self.start.past_mark = self.start.mark == MARK.len();
                    piece = rest;
                    continue;
                }
                if self.start.mark > 0 {
                    return Err(Refused::new(1, 1, "the file starts with a broken byte order mark"));
                }
                self.start.past_mark = true;
            }
            if !byte.is_ascii_whitespace() {
                self.body = Some(self.body_of(byte));
                return Ok(Some(piece));
            }
            self.start.lines += u32::from(byte == b'\n');
            piece = rest;
        }
        Ok(None)
    }

    fn body_of(&self, first: u8) -> Body {
        let lines = Lines::starting_at(self.start.lines + 1);
        let objects = || Objects::new(self.version);
        match first {
            b'[' => Body::JsonArray(Array::starting_at(self.start.lines + 1), objects()),
            b'{' => Body::JsonLines(lines, objects()),
            _ => Body::Text(lines, Text::new(self.version)),
        }
    }
}

fn count(rows: &mut u32, line: u32, item: Item<'_>, sink: &mut impl FnMut(Item<'_>)) -> Result<(), Refused> {
    if *rows == limits::BATCH_ROWS {
        let problem = format!("the file has more than {} rows", limits::BATCH_ROWS);
        return Err(Refused { limit: Some(limits::BATCH_ROWS as usize), ..Refused::new(line, 1, problem) });
    }
    *rows += 1;
    sink(item);
    Ok(())
}

/// A caller's text, short and printable enough to stand in an error.
fn quoted(text: &str) -> String {
    let mut out: String = text.chars().filter(|c| !c.is_control()).take(bounds::QUOTED_CHARS).collect();
    if text.chars().nth(bounds::QUOTED_CHARS).is_some() {
        out.push('…');
    }
    out
}

/// A row whose values no profile could hold.
fn too_much(line: u32, bytes: usize) -> RowFailure {
    let reason = format!("the values take {bytes} bytes; a profile holds {}", bounds::ROW_BYTES);
    RowFailure { line, column: None, reason }
}

fn too_long(line: u32) -> RowFailure {
    RowFailure { line, column: None, reason: format!("the row is longer than {} bytes", bounds::LINE_BYTES) }
}

/// What takes items, counting rows.
trait Take: FnMut(u32, Item<'_>) -> Result<(), Refused> {}
impl<F: FnMut(u32, Item<'_>) -> Result<(), Refused>> Take for F {}

#[cfg(test)]
mod tests;
