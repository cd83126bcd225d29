//! An access log in memory: every line of a file, plain or packed, taken apart and put in the order of time.
//!
//! Sorting needs all lines, so memory grows with the file: about 700 bytes a line, up to [`LINES`] lines. What does not
//! parse is counted, and remembered up to [`MALFORMED_KEPT`] lines.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use anyhow::{Context, ensure};
use flate2::bufread::MultiGzDecoder;
use xxhash_rust::xxh3::{xxh3_128, xxh3_128_with_seed};

use super::clf::{self, Line};

/// Well-formed lines that one import takes. Ours: about 7 GB of memory.
const LINES: usize = 10_000_000;
/// Bytes of one line. Ours: far more than a server logs of a request; a longer one is malformed.
const LINE_BYTES: u64 = 1 << 20;
/// Malformed lines that are remembered; all are counted. Ours: more than anybody reads.
const MALFORMED_KEPT: usize = 10_000;

/// A file, read.
#[derive(Debug, Default)]
pub(crate) struct AccessLog {
    /// In the order of time; lines of the same moment in the order of the file.
    pub(crate) entries: Vec<Entry>,
    /// Line numbers and reasons of the first malformed lines.
    pub(crate) malformed: Vec<(usize, &'static str)>,
    /// How many are malformed in all.
    pub(crate) malformed_lines: u64,
}

/// A well-formed line.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Its number in the file, from 1.
    pub(crate) number: usize,
    /// The same for the same line of the same file, also when the file has grown since: a hash of the file's first line,
    /// this line and its number.
    pub(crate) event: u128,
    pub(crate) line: Line,
}

impl Entry {
    /// Who it was: a hash of address and user agent.
    pub(crate) fn visitor(&self) -> u128 {
        let agent = self.line.user_agent.as_deref().unwrap_or_default();
        xxh3_128(format!("{}\n{agent}", self.line.host).as_bytes())
    }
}

/// Opens a file, or standard input for `-`, and reads it whole.
pub(crate) fn open(path: &Path) -> anyhow::Result<AccessLog> {
    let shown = path.display();
    let log = if path.as_os_str() == "-" {
        read(BufReader::new(std::io::stdin()))
    } else {
        read(BufReader::new(File::open(path).with_context(|| format!("cannot open {shown}"))?))
    };
    log.with_context(|| format!("cannot read {shown}"))
}

/// Reads a log, unpacking it if its first bytes (not its name) say that it is packed.
fn read<'a>(mut input: impl BufRead + 'a) -> anyhow::Result<AccessLog> {
    let packed = input.fill_buf()?.starts_with(&[0x1f, 0x8b]);
    let mut input: Box<dyn BufRead + 'a> =
        if packed { Box::new(BufReader::new(MultiGzDecoder::new(input))) } else { Box::new(input) };
    let mut log = AccessLog::default();
    let mut file = None;
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if input.by_ref().take(LINE_BYTES).read_until(b'\n', &mut line).with_context(|| format!("line {number}"))? == 0
        {
            break;
        }
        if line.len() as u64 == LINE_BYTES && line.last() != Some(&b'\n') {
            input.skip_until(b'\n').with_context(|| format!("line {number}"))?;
            log.malformed(number, "the line is longer than 1 MB");
            continue;
        }
        // The last line of a file may get its end later, and is still the same.
        let text = line.trim_ascii_end();
        if text.is_empty() {
            continue;
        }
        let file = *file.get_or_insert_with(|| xxh3_128(text));
        match clf::parse(text) {
            Ok(parsed) => {
                ensure!(log.entries.len() < LINES, "there are more than {LINES} lines; split the file");
                let event = xxh3_128_with_seed(text, number as u64) ^ file;
                log.entries.push(Entry { number, event, line: parsed });
            }
            Err(reason) => log.malformed(number, reason),
        }
    }
    // Stable: lines of the same second stay in the order of the file.
    log.entries.sort_by_key(|entry| entry.line.time_ms);
    Ok(log)
}

impl AccessLog {
    fn malformed(&mut self, number: usize, reason: &'static str) {
        self.malformed_lines += 1;
        if self.malformed.len() < MALFORMED_KEPT {
            self.malformed.push((number, reason));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn line(second: u32, path: &str) -> String {
        format!("1.2.3.4 - - [17/May/2015:10:05:{second:02} +0000] \"GET {path} HTTP/1.1\" 200 1 \"-\" \"x\"\n")
    }

    fn numbers(log: &AccessLog) -> Vec<usize> {
        log.entries.iter().map(|entry| entry.number).collect()
    }

    #[test]
    fn lines_are_put_in_the_order_of_time_and_malformed_ones_are_named() {
        let text = [line(9, "/a"), "rubbish\n".into(), "\r\n".into(), line(3, "/b"), line(9, "/c")].concat();
        let log = read(text.as_bytes()).unwrap();
        assert_eq!(numbers(&log), [4, 1, 5]);
        assert_eq!((log.malformed_lines, log.malformed[0].0), (1, 2));
    }

    #[test]
    fn a_packed_log_is_the_same_log_also_in_several_members() {
        let mut packed = Vec::new();
        for part in [line(1, "/a"), line(2, "/b")] {
            let mut gzip = flate2::write::GzEncoder::new(&mut packed, flate2::Compression::fast());
            gzip.write_all(part.as_bytes()).unwrap();
            gzip.finish().unwrap();
        }
        let (packed, plain) = (read(&packed[..]).unwrap(), read([line(1, "/a"), line(2, "/b")].concat().as_bytes()));
        let events = |log: &AccessLog| log.entries.iter().map(|entry| entry.event).collect::<Vec<_>>();
        assert_eq!(events(&packed), events(&plain.unwrap()));
        assert_eq!(packed.entries.len(), 2);
    }

    #[test]
    fn a_line_keeps_its_event_when_the_file_grows_and_no_other_line_has_it() {
        let short = read([line(1, "/a"), line(1, "/a")].concat().trim_end().as_bytes()).unwrap();
        let long = read([line(1, "/a"), line(1, "/a"), line(1, "/a")].concat().as_bytes()).unwrap();
        let mut events: Vec<_> = long.entries.iter().map(|entry| entry.event).collect();
        assert_eq!(short.entries.iter().map(|entry| entry.event).collect::<Vec<_>>(), events[..2]);
        events.dedup();
        assert_eq!(events.len(), 3);
    }

    #[test]
    fn a_line_without_an_end_in_sight_is_one_malformed_line() {
        let mut text = vec![b'x'; LINE_BYTES as usize * 2 + 7];
        text.extend(format!("\n{}", line(1, "/a")).bytes());
        let log = read(&text[..]).unwrap();
        assert_eq!((log.malformed_lines, log.malformed[0].0), (1, 1));
        assert_eq!(numbers(&log), [2]);
    }

    #[test]
    fn a_packed_log_that_breaks_off_is_an_error_and_an_empty_one_is_not() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(line(1, "/a").as_bytes()).unwrap();
        let packed = gzip.finish().unwrap();
        assert!(read(&packed[..packed.len() - 9]).is_err());
        assert!(read(&b""[..]).unwrap().entries.is_empty());
    }
}
