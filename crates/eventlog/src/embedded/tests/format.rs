//! The files as such: golden ones of each version, round trips, rubbish.

use proptest::prelude::*;

use super::*;
use crate::embedded::group::{ENTRY_BYTES, Entry, HEAD_BYTES, Head};
use crate::frame::Lineage;

const LOG: LogId = LogId(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10);

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn header() -> SegmentHeader {
    SegmentHeader {
        log: LOG,
        number: 3,
        first_seq: 40,
        before: LogTime(1_700_000_000_000),
        previous_bytes: 4096,
        base: Box::new([7, 0]),
    }
}

/// A segment of two groups, as version 1 writes it.
fn segment_v1() -> Vec<u8> {
    let mut bytes = header().encode();
    let place = |(partition, bytes): (Partition, Bytes), position| (partition, Position(position), bytes);
    let first = [place(frame(P0, 1, 5), 8), place(frame(P1, 1, 0), 1)];
    group::encode(&mut bytes, Seed::of(LOG), 40, LogTime(1_700_000_000_001), &first);
    group::encode(&mut bytes, Seed::of(LOG), 41, LogTime(1_700_000_000_001), &[place(frame(P0, 2, 3), 9)]);
    bytes
}

fn meta() -> Meta {
    let partitions = PartitionCount::new(2).unwrap();
    Meta { id: LOG, partitions, created_at: LogTime(1_700_000_000_000), first_segment: 3, last_segment: 3 }
}

#[test]
fn version_1_reads_for_ever() {
    let stored = fs::read(golden("segment.v1.seg")).unwrap();
    assert_eq!(segment_v1(), stored, "the encoder has changed without a new version");
    let description = fs::read(golden("log.v1.json")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    meta::save(dir.path(), &meta()).unwrap();
    assert_eq!(fs::read(dir.path().join("log.json")).unwrap(), description);

    fs::write(segment_file(dir.path(), 3), stored).unwrap();
    let log = open(dir.path());
    assert_eq!(log.id(), LOG);
    assert_eq!((log.first(P0), log.last(P0), log.first(P1)), (Position(8), Position(9), Position(1)));
    let frames = read_all(&log).unwrap();
    assert_eq!(places(&frames), [(0, 8), (1, 1), (0, 9)]);
    assert_eq!(frames[0].bytes, frame(P0, 1, 5).1);
    assert!(frames.iter().all(|frame| frame.at == LogTime(1_700_000_000_001)));
}

#[test]
fn a_lineage_of_version_1_reads_for_ever() {
    let mut lineage = Lineage::new();
    for (appender, digest) in [(5, 6), (1 << 100, 8)] {
        let header = crate::frame::FrameHeader {
            version: 1,
            partition: P0,
            appender: AppenderId(appender),
            counter: 1,
            prev_digest: 0,
        };
        lineage.admit(&header, digest, LogTime(9));
    }
    let stored = fs::read(golden("lineage.v1.bin")).unwrap();
    assert_eq!(lineage.encode(), stored);
    assert_eq!(Lineage::decode(&stored).unwrap(), lineage);
}

#[test]
fn a_description_that_cannot_be_understood_is_refused_in_words() {
    let dir = tempfile::tempdir().unwrap();
    meta::save(dir.path(), &meta()).unwrap();
    let file = dir.path().join("log.json");
    let good = fs::read_to_string(&file).unwrap();
    for (from, to, words) in [
        ("\"formatVersion\": 1", "\"formatVersion\": 2", "has format version 2; this release knows version 1"),
        ("01020304", "x1020304", "has a logId that is not hexadecimal"),
        ("\"partitions\": 2", "\"partitions\": 0", "is wrong: a log has 1 to 1024 partitions, not 0"),
        ("{", "", "is not the description of a log: "),
    ] {
        fs::write(&file, good.replacen(from, to, 1)).unwrap();
        let error = EmbeddedLog::open(options(dir.path())).map(drop).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{} {words}", file.display())), "{error}");
    }
}

proptest! {
    #[test]
    fn a_group_reads_as_it_was_written(
        seq: u64,
        at: u64,
        frames in prop::collection::vec((0u16..1024, any::<u64>(), prop::collection::vec(any::<u8>(), 0..30)), 1..20),
        flip: prop::sample::Index,
        bit in 0u8..8,
    ) {
        let frames: Vec<_> =
            frames.into_iter().map(|(p, position, bytes)| (Partition(p), Position(position), Bytes::from(bytes))).collect();
        let mut bytes = vec![];
        group::encode(&mut bytes, Seed::of(LOG), seq, LogTime(at), &frames);
        let head = Head::decode(bytes.first_chunk().unwrap(), Seed::of(LOG)).unwrap();
        prop_assert_eq!((head.seq, head.at, head.group_bytes()), (seq, LogTime(at), bytes.len()));
        let table_end = HEAD_BYTES + frames.len() * ENTRY_BYTES;
        let table = head.decode_table(&bytes[HEAD_BYTES..table_end], Seed::of(LOG)).unwrap();
        let expected: Vec<_> = frames
            .iter()
            .map(|(partition, position, bytes)| Entry { partition: *partition, position: *position, length: bytes.len() })
            .collect();
        prop_assert_eq!(table, expected);

        prop_assert!(Head::decode(bytes.first_chunk().unwrap(), Seed::of(LogId(1))).is_err(), "of another log");
        bytes[flip.index(table_end)] ^= 1 << bit;
        let changed = Head::decode(bytes.first_chunk().unwrap(), Seed::of(LOG));
        prop_assert!(changed.is_err() || head.decode_table(&bytes[HEAD_BYTES..table_end], Seed::of(LOG)).is_err());
    }

    #[test]
    fn a_segment_header_reads_as_it_was_written(
        numbers: [u64; 4],
        log: u128,
        base in prop::collection::vec(any::<u64>(), 1..20),
        flip: prop::sample::Index,
        bit in 0u8..8,
    ) {
        let [number, first_seq, before, previous_bytes] = numbers;
        let base = base.into_boxed_slice();
        let header = SegmentHeader { log: LogId(log), number, first_seq, before: LogTime(before), previous_bytes, base };
        let mut bytes = header.encode();
        prop_assert_eq!(bytes.len() as u64, SegmentHeader::bytes_for(header.base.len()));
        prop_assert_eq!(SegmentHeader::decode(&bytes).unwrap(), header);
        let at = flip.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(SegmentHeader::decode(&bytes).is_err());
        prop_assert!(SegmentHeader::decode(&bytes[..at]).is_err());
    }
}
