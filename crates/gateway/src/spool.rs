//! Takes in a bulk file: decoded, onto disk, digested and validated as it comes, so that none of it stays in memory.
//!
//! Synchronous: it runs on a thread that may block. The spool file has no name, so nothing is left of it after a crash.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, Write};
use std::path::Path;

use flate2::write::MultiGzDecoder;
use xxhash_rust::xxh3::Xxh3;

use crate::bounds;
use crate::parse::{Item, Parser, Refused, RowFailure, Version};

/// Bytes that are gathered for one write to the spool, and read at once from it.
const BLOCK_BYTES: usize = 128 << 10;
/// The largest window of a zstd body, as a power of two: 8 MB, what levels up to 19 use. Ours: it is held in memory.
const ZSTD_WINDOW_LOG: u32 = 23;

/// What every gzip member begins with (RFC 1952).
const GZIP_MAGIC: &[u8] = b"\x1f\x8b";

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Plain,
    Gzip,
    Zstd,
}

/// Why a file cannot be taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpoolError {
    /// The file breaks a rule.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// Decoded, it is too large.
    #[error("the file must be smaller than {} bytes", bounds::BODY_BYTES)]
    TooLarge,
    /// It does not decompress.
    #[error("the body is not valid {encoding}: {reason}")]
    Corrupt { encoding: &'static str, reason: String },
    /// The caller went away.
    #[error("the body ended early")]
    Aborted,
    /// The spool cannot be written.
    #[error("the spool file cannot be written")]
    Disk(#[source] io::Error),
}

/// A file that has been read to its end.
#[derive(Debug)]
pub(crate) struct Spooled {
    file: File,
    pub(crate) version: Version,
    pub(crate) report: Report,
    /// xxh3-128 of the decoded file.
    pub(crate) digest: [u8; 16],
}

/// What validation found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) rows: u32,
    pub(crate) rows_to_apply: u32,
    pub(crate) rows_failed: u32,
    pub(crate) rows_skipped: u32,
    /// The first failed rows, in order.
    pub(crate) errors: Vec<RowFailure>,
}

impl Report {
    fn add(&mut self, item: Item<'_>) {
        match item {
            Item::Row(_) => self.rows_to_apply += 1,
            Item::Skipped => self.rows_skipped += 1,
            Item::Failed(failure) => {
                self.rows_failed += 1;
                if self.errors.len() < cameo_profile::limits::BATCH_ERRORS_KEPT {
                    self.errors.push(failure);
                }
            }
        }
    }
}

/// Where decoded bytes go.
struct Sink {
    file: BufWriter<File>,
    parser: Parser,
    report: Report,
    digest: Xxh3,
    bytes: usize,
    /// Why it takes no more. Decompressors report errors as their own, so the reason waits here.
    failure: Option<SpoolError>,
    failed: bool,
}

impl Sink {
    fn take(&mut self, bytes: &[u8]) -> Result<(), SpoolError> {
        self.bytes += bytes.len();
        if self.bytes >= bounds::BODY_BYTES {
            return Err(SpoolError::TooLarge);
        }
        self.digest.update(bytes);
        self.parser.feed(bytes, &mut |item| self.report.add(item))?;
        self.file.write_all(bytes).map_err(SpoolError::Disk)
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.failed {
            match self.take(bytes) {
                Ok(()) => return Ok(bytes.len()),
                Err(failure) => self.failure = Some(failure),
            }
        }
        self.failed = true;
        Err(io::Error::other("the file was refused"))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum Decoder {
    Plain(Box<Sink>),
    Gzip(Box<MultiGzDecoder<Sink>>),
    Zstd(Box<zstd::stream::write::Decoder<'static, Sink>>),
}

/// Takes one file in.
pub(crate) struct Spool {
    decoder: Decoder,
    /// Of a gzip body: the header of its first member has been read.
    begun: bool,
    version: Version,
    /// As sent.
    bytes: usize,
}

impl Spool {
    /// With a file in `folder`.
    pub(crate) fn start(folder: &Path, version: Version, encoding: Encoding) -> Result<Self, SpoolError> {
        let file = tempfile::tempfile_in(folder).map_err(SpoolError::Disk)?;
        let sink = Sink {
            file: BufWriter::with_capacity(BLOCK_BYTES, file),
            parser: Parser::new(version),
            report: Report::default(),
            digest: Xxh3::new(),
            bytes: 0,
            failure: None,
            failed: false,
        };
        let decoder = match encoding {
            Encoding::Plain => Decoder::Plain(Box::new(sink)),
            Encoding::Gzip => Decoder::Gzip(Box::new(MultiGzDecoder::new(sink))),
            Encoding::Zstd => {
                let mut decoder = zstd::stream::raw::Decoder::new().map_err(SpoolError::Disk)?;
                let window = zstd::stream::raw::DParameter::WindowLogMax(ZSTD_WINDOW_LOG);
                decoder.set_parameter(window).map_err(SpoolError::Disk)?;
                Decoder::Zstd(Box::new(zstd::stream::write::Decoder::with_decoder(sink, decoder)))
            }
        };
        Ok(Self { decoder, begun: false, version, bytes: 0 })
    }

    /// Takes a piece of the body.
    pub(crate) fn feed(&mut self, piece: &[u8]) -> Result<(), SpoolError> {
        self.bytes += piece.len();
        // Also of what is sent: a compressed body can be long and decode to nothing.
        if self.bytes >= bounds::BODY_BYTES {
            return Err(SpoolError::TooLarge);
        }
        let (encoding, sink, done) = match &mut self.decoder {
            Decoder::Plain(sink) => return sink.take(piece),
            Decoder::Gzip(decoder) => {
                let done = members(decoder, &mut self.begun, piece);
                ("gzip", decoder.get_mut(), done)
            }
            Decoder::Zstd(decoder) => {
                let done = decoder.write_all(piece);
                ("zstd", decoder.get_mut(), done)
            }
        };
        done.map_err(|error| sink.failure.take().unwrap_or_else(|| corrupt(encoding, &error)))
    }

    /// The body is whole.
    pub(crate) fn finish(mut self) -> Result<Spooled, SpoolError> {
        let (encoding, sink, done) = match &mut self.decoder {
            Decoder::Plain(sink) => ("", &mut **sink, Ok(())),
            // An empty body is an empty file, in any encoding.
            Decoder::Gzip(decoder) if self.bytes == 0 => ("", decoder.get_mut(), Ok(())),
            Decoder::Zstd(decoder) if self.bytes == 0 => ("", decoder.get_mut(), Ok(())),
            Decoder::Gzip(decoder) => {
                let done = decoder.try_finish();
                ("gzip", decoder.get_mut(), done)
            }
            Decoder::Zstd(decoder) => {
                let done = decoder.do_finish();
                ("zstd", decoder.get_mut(), done)
            }
        };
        done.map_err(|error| sink.failure.take().unwrap_or_else(|| corrupt(encoding, &error)))?;
        let Sink { file, parser, report, digest, .. } = sink;
        parser.finish(&mut |item| report.add(item))?;
        report.rows = parser.rows();
        file.flush().map_err(SpoolError::Disk)?;
        Ok(Spooled {
            file: file.get_ref().try_clone().map_err(SpoolError::Disk)?,
            version: self.version,
            digest: digest.digest128().to_be_bytes(),
            report: std::mem::take(report),
        })
    }
}

/// Feeds gzip members, one after the other. The decoder calls whatever does not begin a further one a bad header; what
/// has gone wrong for the caller is that the stream has ended before.
fn members(decoder: &mut MultiGzDecoder<Sink>, begun: &mut bool, mut piece: &[u8]) -> io::Result<()> {
    let trailing = || io::Error::new(io::ErrorKind::InvalidData, "bytes follow the end of the gzip stream");
    while !piece.is_empty() {
        let inside = decoder.header().is_some();
        match decoder.write(piece) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(taken) => {
                let ended = inside && decoder.header().is_none();
                if ended && !GZIP_MAGIC.starts_with(&piece[..taken.min(GZIP_MAGIC.len())]) {
                    return Err(trailing());
                }
                *begun |= decoder.header().is_some();
                piece = &piece[taken..];
            }
            Err(_) if *begun && decoder.header().is_none() => return Err(trailing()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn corrupt(encoding: &'static str, error: &io::Error) -> SpoolError {
    let reason = match error.kind() {
        io::ErrorKind::UnexpectedEof => "it ends early".into(),
        _ => error.to_string(),
    };
    SpoolError::Corrupt { encoding, reason }
}

impl Spooled {
    /// Reads the rows again, from the begin. Stops early when `take` says so.
    pub(crate) fn replay(&self, mut take: impl FnMut(Item<'_>) -> bool) -> io::Result<()> {
        let mut file = &self.file;
        file.rewind()?;
        let mut parser = Parser::new(self.version);
        let mut block = vec![0; BLOCK_BYTES];
        let wanted = Cell::new(true);
        let mut sink = |item: Item<'_>| wanted.set(wanted.get() && take(item));
        // It was read to its end before, so a refusal means that the spool has changed under us.
        let changed = |refused: Refused| io::Error::new(io::ErrorKind::InvalidData, refused.to_string());
        while wanted.get() {
            match file.read(&mut block)? {
                0 => return parser.finish(&mut sink).map_err(changed),
                read => parser.feed(&block[..read], &mut sink).map_err(changed)?,
            }
        }
        Ok(())
    }
}
