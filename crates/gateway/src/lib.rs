//! Bulk files (TARGET_API §3): parse, validate, submit to the log, and tell how far they are.
//!
//! What it is: the [`parse`]r of batch text, JSON and NDJSON.
//!
//! What it is not: there are no profiles here, and no log.
//!
//! Invariants:
//! - A file is read and validated whole before the first of its rows is appended.
//! - A row that is wrong fails alone, with its line, its column and a reason; a file that is wrong stores nothing.

pub mod bounds;
pub mod parse;
