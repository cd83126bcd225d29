//! The file of a snapshot. What a pair means is not known here.
//!
//! Layout, version 1; integers are little-endian, offsets in bytes:
//! ```text
//!  0          8         10         12          14         16
//!  +----------+---------+----------+-----------+----------+
//!  | magic    | version | partition| partitions| 0        |
//!  | CMEOSNAP | u16     | u16      | of the log| u16      |
//! 16----------+---------+----------+-----------+----------+
//!  | id of the log, u128                                  |
//! 32--------------------------+---------------------------+
//!  | position, u64            | log time, ms, u64         |
//! 48--------------------------+---------------------------+
//!  | written, ms since 1970   | length of the lineage,    |
//!  | u64                      | u32, and 0, u32           |
//! 64--------------------------+---------------------------+
//!  | lineage (cameo-eventlog, frame/lineage.rs)           |
//!  +------------------------------------------------------+
//!  | one zstd frame: per pair, in rising order of keys,   |
//!  |   length of key, u32, and value, u32; key; value;    |
//!  | then u32::MAX, u32::MAX, and how many pairs, u64     |
//!  +------------------------------------------------------+
//!  | XXH3-128 over everything before it, u128             |
//!  +------------------------------------------------------+
//! ```
//! The pairs are those of a checkpoint (`cameo-profile`, state/stored.rs), which have a version of their own.

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Take, Write};
use std::path::Path;

use cameo_eventlog::{LogId, LogTime, Partition, PartitionCount, Position};
use xxhash_rust::xxh3::Xxh3Default;

use crate::Name;

/// The newest format version, and the only one so far.
pub const VERSION: u16 = 1;

const MAGIC: [u8; 8] = *b"CMEOSNAP";
const HEAD_BYTES: usize = 64;
const CHECKSUM_BYTES: u64 = 16;
/// Most bytes of a key or a value. Far above what a partition writes; a length past it is damage.
const PART_BYTES_MAX: u32 = 64 << 20;
/// Most bytes of a lineage: its own limit of appenders is far below.
const LINEAGE_BYTES_MAX: u32 = 16 << 20;
/// Of zstd: more shrinks profiles little and takes much longer.
const LEVEL: i32 = 1;
/// Bytes read at a time.
const BUFFER_BYTES: usize = 1 << 20;

/// What a snapshot says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Of which log.
    pub log: LogId,
    /// P of that log.
    pub partitions: PartitionCount,
    /// Of which partition.
    pub partition: Partition,
    /// Up to where the log is in it.
    pub position: Position,
    /// The partition's log time there.
    pub at: LogTime,
    /// When it was written, milliseconds since 1970 by the writer's clock.
    pub made_at_ms: u64,
    /// The partition's lineage, encoded.
    pub lineage: Vec<u8>,
}

/// Why a file is no snapshot that can be used.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// The file system said no.
    #[error("it cannot be read")]
    Io(#[from] io::Error),
    /// Cut off, or something else.
    #[error("it does not begin like a snapshot")]
    NotASnapshot,
    /// Written by a newer release.
    #[error("its format version is {0}; this release knows version {VERSION}")]
    Version(u16),
    /// Some byte differs from what was written.
    #[error("its checksum is {found:032x}, and its bytes have {computed:032x}")]
    Checksum {
        /// In the file.
        found: u128,
        /// Of its bytes.
        computed: u128,
    },
    /// The checksum holds but the contents make no sense: a fault of the writer.
    #[error("it is intact, but {0}")]
    Nonsense(String),
}

impl Head {
    fn encode(&self) -> io::Result<Vec<u8>> {
        let lineage = u32::try_from(self.lineage.len()).ok().filter(|bytes| *bytes <= LINEAGE_BYTES_MAX);
        let lineage = lineage.ok_or_else(|| io::Error::other("the lineage is too long for a snapshot"))?;
        let mut bytes = Vec::with_capacity(HEAD_BYTES + self.lineage.len());
        bytes.extend_from_slice(&MAGIC);
        for number in [VERSION, self.partition.0, self.partitions.get(), 0] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&self.log.0.to_le_bytes());
        for number in [self.position.0, self.at.0, self.made_at_ms] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&lineage.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.lineage);
        Ok(bytes)
    }

    fn read(from: &mut impl Read) -> Result<Self, Damage> {
        let mut fixed = [0; HEAD_BYTES];
        from.read_exact(&mut fixed).map_err(cut_off)?;
        if fixed[..8] != MAGIC {
            return Err(Damage::NotASnapshot);
        }
        let two = |at: usize| u16::from_le_bytes([fixed[at], fixed[at + 1]]);
        if two(8) != VERSION {
            return Err(Damage::Version(two(8)));
        }
        let bytes = u32::try_from(eight(&fixed, 56)).ok().filter(|bytes| *bytes <= LINEAGE_BYTES_MAX);
        let bytes = bytes.ok_or_else(|| Damage::Nonsense("its lineage is longer than any".into()))?;
        let mut lineage = vec![0; bytes as usize];
        from.read_exact(&mut lineage).map_err(cut_off)?;
        let partitions = PartitionCount::new(two(12).into()).map_err(|error| Damage::Nonsense(format!("{error}")))?;
        Ok(Self {
            log: LogId(u128::from(eight(&fixed, 16)) | u128::from(eight(&fixed, 24)) << 64),
            partitions,
            partition: Partition(two(10)),
            position: Position(eight(&fixed, 32)),
            at: LogTime(eight(&fixed, 40)),
            made_at_ms: eight(&fixed, 48),
            lineage,
        })
    }
}

fn eight(bytes: &[u8; HEAD_BYTES], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

fn cut_off(error: io::Error) -> Damage {
    if error.kind() == io::ErrorKind::UnexpectedEof { Damage::NotASnapshot } else { Damage::Io(error) }
}

/// Passes bytes on and takes their checksum.
struct Summing<W> {
    out: W,
    sum: Xxh3Default,
}

impl<W: Write> Write for Summing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.sum.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Writes a snapshot. Without [`Self::finish`] it is none.
pub struct Writer<W: Write> {
    pairs: zstd::stream::write::Encoder<'static, Summing<W>>,
    count: u64,
}

impl<W: Write> Writer<W> {
    /// Begins one.
    ///
    /// # Errors
    /// As writing to `out`.
    pub fn new(out: W, head: &Head) -> io::Result<Self> {
        let mut out = Summing { out, sum: Xxh3Default::new() };
        out.write_all(&head.encode()?)?;
        Ok(Self { pairs: zstd::stream::write::Encoder::new(out, LEVEL)?, count: 0 })
    }

    /// Adds a pair. Pairs come in rising order of their keys.
    ///
    /// # Errors
    /// As writing; also for a pair larger than any.
    pub fn pair(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        for part in [key, value] {
            let length = u32::try_from(part.len()).ok().filter(|length| *length <= PART_BYTES_MAX);
            let length = length.ok_or_else(|| io::Error::other("a pair is too large for a snapshot"))?;
            self.pairs.write_all(&length.to_le_bytes())?;
        }
        self.count += 1;
        self.pairs.write_all(key)?;
        self.pairs.write_all(value)
    }

    /// Ends it, and gives back what it was written to.
    ///
    /// # Errors
    /// As writing.
    pub fn finish(mut self) -> io::Result<W> {
        self.pairs.write_all(&[0xff; 8])?;
        self.pairs.write_all(&self.count.to_le_bytes())?;
        let mut summing = self.pairs.finish()?;
        let sum = summing.sum.digest128();
        summing.out.write_all(&sum.to_le_bytes())?;
        summing.out.flush()?;
        Ok(summing.out)
    }
}

/// A snapshot whose bytes are those that were written: its checksum has been compared.
pub struct Reader {
    head: Head,
    pairs: zstd::stream::read::Decoder<'static, BufReader<Take<File>>>,
    count: u64,
}

impl Reader {
    /// Reads the file once to compare its checksum, and stands before its first pair.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn open(path: &Path) -> Result<Self, Damage> {
        let mut file = File::open(path)?;
        let Some(body) = file.metadata()?.len().checked_sub(CHECKSUM_BYTES) else { return Err(Damage::NotASnapshot) };
        // What it is, before what is wrong with it.
        Head::read(&mut file)?;
        file.seek(SeekFrom::Start(0))?;
        let (mut sum, mut left) = (Xxh3Default::new(), body);
        let mut buffer = vec![0; BUFFER_BYTES];
        while left > 0 {
            let take = left.min(BUFFER_BYTES as u64) as usize;
            file.read_exact(&mut buffer[..take]).map_err(cut_off)?;
            sum.update(&buffer[..take]);
            left -= take as u64;
        }
        let mut found = [0; CHECKSUM_BYTES as usize];
        file.read_exact(&mut found).map_err(cut_off)?;
        let (found, computed) = (u128::from_le_bytes(found), sum.digest128());
        if found != computed {
            return Err(Damage::Checksum { found, computed });
        }
        file.seek(SeekFrom::Start(0))?;
        let head = Head::read(&mut file)?;
        let rest = body - (HEAD_BYTES + head.lineage.len()) as u64;
        let pairs = zstd::stream::read::Decoder::with_buffer(BufReader::with_capacity(BUFFER_BYTES, file.take(rest)))?;
        Ok(Self { head, pairs, count: 0 })
    }

    /// As [`Self::open`]; it must be the one that its name says.
    ///
    /// # Errors
    /// Also when it is another one.
    pub fn open_as(path: &Path, name: &Name) -> Result<Self, Damage> {
        let reader = Self::open(path)?;
        let head = &reader.head;
        if (head.log, head.partition, head.position) == (name.log, name.partition, name.position) {
            return Ok(reader);
        }
        Err(Damage::Nonsense("it is of another partition, position or log than its name says".into()))
    }

    /// What it says about itself.
    #[must_use]
    pub const fn head(&self) -> &Head {
        &self.head
    }

    /// The next pair, into these; false after the last.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn next(&mut self, key: &mut Vec<u8>, value: &mut Vec<u8>) -> Result<bool, Damage> {
        let mut word = [0; 8];
        self.read(&mut word)?;
        let [a, b, c, d, e, f, g, h] = word;
        let (keys, values) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
        if (keys, values) == (u32::MAX, u32::MAX) {
            self.read(&mut word)?;
            let count = u64::from_le_bytes(word);
            if count != self.count {
                return Err(Damage::Nonsense(format!("it has {} pairs, and says that it has {count}", self.count)));
            }
            return Ok(false);
        }
        if keys.max(values) > PART_BYTES_MAX {
            return Err(Damage::Nonsense(format!("pair {} is larger than any", self.count)));
        }
        key.resize(keys as usize, 0);
        value.resize(values as usize, 0);
        self.read(key)?;
        self.read(value)?;
        self.count += 1;
        Ok(true)
    }

    fn read(&mut self, into: &mut [u8]) -> Result<(), Damage> {
        self.pairs.read_exact(into).map_err(|error| Damage::Nonsense(format!("its pairs cannot be unpacked: {error}")))
    }
}
