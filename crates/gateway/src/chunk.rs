//! Collects the rows of one partition until they make an event of a good size.

use cameo_profile::Event;
use cameo_profile::event::{BatchRow, BatchRows};

use crate::parse::{IdKind, Row};

/// Attributes of a chunk whose rows name their own; past it the chunk ends, as every row has a place for each. Ours.
const OWN_COLUMNS: usize = 64;
/// What a row takes beside its texts and cells, in bytes: array and number heads.
const ROW_OVERHEAD: usize = 16;
/// What a cell takes beside its text, in bytes.
const CELL_OVERHEAD: usize = 5;

/// What all chunks of a batch say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Batch<'a> {
    pub(crate) client: &'a str,
    pub(crate) batch: &'a str,
    pub(crate) create: bool,
    pub(crate) occurred_at: u64,
    /// Who uploaded it, if known.
    pub(crate) by: Option<&'a str>,
}

/// Rows on their way into an event. Texts lie in one buffer, so that a row costs no allocation.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    kind: Option<IdKind>,
    columns: Vec<Box<str>>,
    text: String,
    rows: Vec<HeldRow>,
    cells: Vec<HeldCell>,
    /// Places of all rows, filled or not.
    places: usize,
    /// Line of the last row that was given away before these.
    after: u32,
}

#[derive(Debug)]
struct HeldRow {
    line: u32,
    id: usize,
    cells: usize,
}

#[derive(Debug)]
struct HeldCell {
    column: u16,
    removed: bool,
    /// Where its text ends; it starts where the one before ends.
    end: usize,
}

impl Chunk {
    /// Of rows that follow the one at line `after`.
    pub(crate) fn following(after: u32) -> Self {
        Self { after, ..Self::default() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// About how many bytes the event takes.
    pub(crate) fn bytes(&self) -> usize {
        self.text.len() + self.places + self.rows.len() * ROW_OVERHEAD + self.cells.len() * CELL_OVERHEAD
    }

    /// Whether `row` can be in one event with those held.
    pub(crate) fn takes(&self, row: &Row<'_>) -> bool {
        if self.is_empty() {
            return true;
        }
        let new = || row.cells().filter(|cell| self.column(cell.name).is_none()).count();
        let columns_fit = || match new() {
            0 => true,
            new => self.columns.len() + new <= OWN_COLUMNS,
        };
        self.kind == Some(row.kind) && (row.header().is_some() || columns_fit())
    }

    fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| **column == *name)
    }

    /// Adds a row that [`Self::takes`].
    pub(crate) fn push(&mut self, row: &Row<'_>) {
        self.kind = Some(row.kind);
        self.text.push_str(row.id);
        let id = self.text.len();
        let mut places = 0;
        if let Some(header) = row.header()
            && self.columns.is_empty()
        {
            self.columns = header.to_vec();
        }
        for cell in row.cells() {
            let column = match row.header() {
                Some(_) => cell.column,
                None => self.column(cell.name).unwrap_or_else(|| {
                    self.columns.push(cell.name.into());
                    self.columns.len() - 1
                }),
            };
            self.text.push_str(cell.value.unwrap_or_default());
            self.cells.push(HeldCell { column: column as u16, removed: cell.value.is_none(), end: self.text.len() });
            places = places.max(column + 1);
        }
        self.places += places;
        self.rows.push(HeldRow { line: row.line, id, cells: self.cells.len() });
    }

    /// Gives the rows as an event, and starts over behind them.
    pub(crate) fn give<R>(&mut self, batch: Batch<'_>, with: impl FnOnce(&Event<'_>) -> R) -> R {
        let given = with(&Event::BatchRows(self.event(batch)));
        self.after = self.rows.last().map_or(self.after, |row| row.line);
        self.kind = None;
        self.columns.clear();
        self.text.clear();
        self.rows.clear();
        self.cells.clear();
        self.places = 0;
        given
    }

    fn event<'a>(&'a self, batch: Batch<'a>) -> BatchRows<'a> {
        let mut cells = self.cells.iter().enumerate().peekable();
        let mut at = 0;
        let rows = self.rows.iter().map(|row| {
            let id = &self.text[at..row.id];
            at = row.id;
            let mut values: Vec<Option<&str>> = Vec::with_capacity(self.columns.len());
            let mut removed = Vec::new();
            while let Some((_, cell)) = cells.next_if(|(n, _)| *n < row.cells) {
                if cell.removed {
                    removed.push(cell.column);
                } else {
                    let column = usize::from(cell.column);
                    if values.len() <= column {
                        values.resize(column + 1, None);
                    }
                    values[column] = Some(&self.text[at..cell.end]);
                }
                at = cell.end;
            }
            BatchRow { line: row.line, id, values, removed }
        });
        BatchRows {
            client: batch.client,
            batch: batch.batch,
            kind: self.kind.unwrap_or(IdKind::Tnt).prefix(),
            create: batch.create,
            occurred_at: batch.occurred_at,
            rows: rows.collect(),
            columns: self.columns.iter().map(|column| &**column).collect(),
            after: self.after,
            by: batch.by,
        }
    }
}
