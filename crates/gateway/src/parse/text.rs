//! Batch text: `batch=pcId,name,…`, then one row a line (TARGET_API §3).
//!
//! Names and values are URL-encoded as in forms: `%41` is `A`, `+` is a space, the result is UTF-8; bytes that need no
//! escape may stand as they are. In v3 a cell that reads `\N` removes its attribute; `%5CN` is the two characters.

use cameo_profile::ids;

use super::{IdKind, Item, Line, Names, Refused, Row, RowFailure, Span, Take, Version, quoted, too_long, too_much};
use crate::bounds;

/// What opens a file.
const OPENING: &[u8] = b"batch=";
/// What removes an attribute in v3.
const REMOVE: &[u8] = b"\\N";

#[derive(Debug)]
pub(super) struct Text {
    version: Version,
    header: Option<Header>,
    /// Decoded text of the row at hand.
    text: String,
    cells: Vec<Span>,
}

#[derive(Debug)]
struct Header {
    kind: IdKind,
    names: Vec<Box<str>>,
}

impl Text {
    pub(super) const fn new(version: Version) -> Self {
        Self { version, header: None, text: String::new(), cells: Vec::new() }
    }

    pub(super) fn line(&mut self, number: u32, line: Line<'_>, take: &mut impl Take) -> Result<(), Refused> {
        let line = match line {
            Line::Whole(line) if line.trim_ascii().is_empty() => return Ok(()),
            Line::Whole(line) => line,
            Line::TooLong if self.header.is_some() => return take(number, Item::Failed(too_long(number))),
            Line::TooLong => {
                let problem = format!("the header is longer than {} bytes", bounds::LINE_BYTES);
                return Err(Refused { limit: Some(bounds::LINE_BYTES), ..Refused::new(number, 1, problem) });
            }
        };
        let Some(header) = &self.header else {
            self.header = Some(Header::read(number, line)?);
            return Ok(());
        };
        self.text.clear();
        self.cells.clear();
        match read_row(self.version, header, number, line, &mut self.text, &mut self.cells) {
            Err(failure) => take(number, Item::Failed(failure)),
            Ok(_) if self.cells.is_empty() => take(number, Item::Skipped),
            Ok(id) => {
                let row = Row {
                    line: number,
                    kind: header.kind,
                    id: header.kind.bare(&self.text[..id]),
                    names: Names::Header(&header.names),
                    text: &self.text,
                    cells: &self.cells,
                };
                take(number, Item::Row(row))
            }
        }
    }

    pub(super) const fn has_header(&self) -> bool {
        self.header.is_some()
    }

    /// `had_header`: the header had a line end. A file without any has no rows, and is hardly meant: it is what `curl -d`
    /// makes of one that has.
    pub(super) fn finish(&self, had_header: bool) -> Result<(), Refused> {
        match self.header {
            Some(_) if had_header => Ok(()),
            Some(_) => {
                let problem = "the file is a header and no rows, as it has no line end; if curl sends it: -d takes the line \
                               ends out, --data-binary leaves them in";
                Err(Refused::new(1, 1, problem))
            }
            None => {
                Err(Refused::new(1, 1, "the file has no header; it starts with batch=pcId, or batch=thirdPartyId,"))
            }
        }
    }
}

impl Header {
    fn read(line: u32, bytes: &[u8]) -> Result<Self, Refused> {
        let Some(rest) = bytes.strip_prefix(OPENING) else {
            let found = quoted(&String::from_utf8_lossy(&bytes[..bytes.len().min(bounds::QUOTED_CHARS)]));
            let problem = format!("the file must start with batch=pcId, or batch=thirdPartyId, and not with {found:?}");
            return Err(Refused::new(line, 1, problem));
        };
        let mut cells = rest.split(|&byte| byte == b',');
        let first = decoded(line, 1, cells.next().unwrap_or_default())?;
        let kind = IdKind::of_column(&first).ok_or_else(|| {
            let problem = format!("the first column must be pcId or thirdPartyId, not {:?}", quoted(&first));
            Refused::new(line, 1, problem)
        })?;
        let mut names: Vec<Box<str>> = Vec::new();
        let mut seen = std::collections::HashMap::new();
        for (column, cell) in (2..).zip(cells) {
            let name = decoded(line, column, cell)?;
            check_name(&name).map_err(|problem| Refused::new(line, column, problem))?;
            if names.len() == bounds::COLUMNS {
                let problem = format!("the header names more than {} attributes", bounds::COLUMNS);
                return Err(Refused { limit: Some(bounds::COLUMNS), ..Refused::new(line, column, problem) });
            }
            if let Some(first) = seen.insert(name.clone(), column) {
                let problem = format!("attribute {:?} is named twice, first in column {first}", quoted(&name));
                return Err(Refused::new(line, column, problem));
            }
            names.push(name.into());
        }
        if names.is_empty() {
            return Err(Refused::new(line, 2, "the header names no attribute"));
        }
        Ok(Self { kind, names })
    }
}

fn decoded(line: u32, column: usize, cell: &[u8]) -> Result<String, Refused> {
    let mut out = String::new();
    decode(cell, &mut out).map_err(|problem| Refused::new(line, column, format!("the column name {problem}")))?;
    Ok(out)
}

/// What an attribute of a file may be called; the error is a whole sentence.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    if IdKind::of_column(name).is_some() {
        return Err(format!("{name} is an id and cannot be an attribute; only the first column names one"));
    }
    ids::check_attribute_name(name, || {
        if name.is_empty() { "the attribute name".into() } else { format!("attribute {:?}", quoted(name)).into() }
    })
    .map_err(|invalid| invalid.to_string())
}

/// Decodes a row into `text` and `cells`; gives the length of its id, which comes first.
fn read_row(
    version: Version,
    header: &Header,
    number: u32,
    line: &[u8],
    text: &mut String,
    cells: &mut Vec<Span>,
) -> Result<usize, RowFailure> {
    let fail = |column: &str, problem: &str| RowFailure {
        line: number,
        column: Some(column.into()),
        reason: format!("{} {problem}", quoted(column)),
    };
    let id_column = header.kind.column();
    let mut rest = Some(line);
    let raw_id = next_cell(&mut rest).unwrap_or_default();
    let decoded = decode(raw_id, text);
    let id = text.len();
    let mut names = header.names.iter();
    let mut column = 0;
    // A longer row fails as such, whatever else is wrong with it.
    let mut first_problem = match decoded {
        Err(problem) => Some(fail(id_column, problem)),
        Ok(()) => header.kind.check(text).err().map(|invalid| RowFailure {
            line: number,
            column: Some(id_column.into()),
            reason: invalid.to_string(),
        }),
    };
    while let Some(raw) = next_cell(&mut rest) {
        let Some(name) = names.next() else { return Err(row_too_long(number, header, line)) };
        if !raw.is_empty() && first_problem.is_none() {
            let start = text.len();
            let removed = version.removes() && raw == REMOVE;
            if !removed && let Err(problem) = decode(raw, text) {
                first_problem = Some(fail(name, problem));
            }
            let (start, end) = (start as u32, text.len() as u32);
            cells.push(Span { column, name: start, start, end, removed });
        }
        column += 1;
    }
    if first_problem.is_none() && text.len() - id > bounds::ROW_BYTES {
        first_problem = Some(too_much(number, text.len() - id));
    }
    first_problem.map_or(Ok(id), Err)
}

fn row_too_long(line: u32, header: &Header, bytes: &[u8]) -> RowFailure {
    let found = memchr::memchr_iter(b',', bytes).count() + 1;
    let reason = format!("the row has {found} columns; the header has {}", header.names.len() + 1);
    RowFailure { line, column: None, reason }
}

/// The bytes up to the next comma; nothing after the last one.
fn next_cell<'a>(rest: &mut Option<&'a [u8]>) -> Option<&'a [u8]> {
    let bytes = (*rest)?;
    // Cells are short: a plain loop beats a call.
    match bytes.iter().position(|&byte| byte == b',') {
        Some(at) => {
            *rest = Some(&bytes[at + 1..]);
            Some(&bytes[..at])
        }
        None => rest.take(),
    }
}

/// Appends the decoded cell to `out`; the error continues a sentence that starts with its name.
fn decode(cell: &[u8], out: &mut String) -> Result<(), &'static str> {
    const NOT_UTF8: &str = "is not UTF-8 after decoding";
    if !cell.iter().any(|&byte| byte == b'%' || byte == b'+') {
        out.push_str(std::str::from_utf8(cell).map_err(|_| NOT_UTF8)?);
        return Ok(());
    }
    // ASCII, by far the most, is written as it comes; anything else needs a look at the whole.
    if cell.is_ascii() && ascii_escapes(cell, out) {
        return Ok(());
    }
    out.push_str(&cameo_http::query::decode(cell)?);
    Ok(())
}

/// Decodes ASCII with escapes of ASCII; `false` when an escape is none of ASCII, and nothing was appended.
fn ascii_escapes(cell: &[u8], out: &mut String) -> bool {
    let before = out.len();
    let mut at = 0;
    while let Some(&byte) = cell.get(at) {
        let (decoded, used) = match byte {
            b'+' => (b' ', 1),
            b'%' => match cell.get(at + 1..at + 3).map(|pair| (hex(pair[0]), hex(pair[1]))) {
                Some((Some(high), Some(low))) if high < 8 => (high << 4 | low, 3),
                // Not ASCII, or broken: the slow path says which.
                _ => {
                    out.truncate(before);
                    return false;
                }
            },
            byte => (byte, 1),
        };
        out.push(char::from(decoded));
        at += used;
    }
    true
}

const fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}
