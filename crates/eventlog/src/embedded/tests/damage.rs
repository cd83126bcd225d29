//! Bytes on disk that are not what was written: cut off at the end, an error anywhere else.

use super::*;

/// Three groups over two partitions, some small, in one segment. Returns its bytes.
fn written(dir: &Path) -> (Vec<u8>, Vec<u64>) {
    let log = EmbeddedLog::open(EmbeddedOptions { durability: Durability::Buffered, ..options(dir) }).unwrap();
    append(&log, &[frame(P0, 1, 40), frame(P1, 1, 40)]).unwrap();
    append(&log, &[frame(P1, 2, 60)]).unwrap();
    append(&log, &[frame(P0, 2, 30), frame(P1, 3, 20), frame(P0, 3, 1)]).unwrap();
    drop(log);
    let starts = group_starts(dir, 1);
    let mut bytes = fs::read(segment_file(dir, 1)).unwrap();
    bytes.truncate(starts[3] as usize);
    (bytes, starts)
}

/// The log in `dir`, with its one segment replaced.
fn open_with(dir: &Path, segment: &[u8]) -> Result<EmbeddedLog, OpenError> {
    fs::write(segment_file(dir, 1), segment).unwrap();
    EmbeddedLog::open(options(dir))
}

fn damage(result: Result<EmbeddedLog, OpenError>) -> crate::Damage {
    match result.map(drop).unwrap_err() {
        OpenError::Damaged(damage) => *damage,
        other => panic!("{other}"),
    }
}

#[test]
fn a_torn_end_is_cut_off_wherever_it_tore() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, starts) = written(dir.path());
    for length in starts[2]..starts[3] {
        // Torn as a shorter file, or with zeros where the rest was not written, or with other remains.
        let tails = [vec![], vec![0; 5000], vec![0xa5; (starts[3] - length) as usize]];
        let some = if length % 8 == 0 { 3 } else { 1 };
        for tail in &tails[..some] {
            let segment = [&bytes[..length as usize], tail].concat();
            let log = open_with(dir.path(), &segment).unwrap();
            assert_eq!((log.last(P0), log.last(P1)), (Position(1), Position(2)), "torn at byte {length}");
            let left = fs::metadata(segment_file(dir.path(), 1)).unwrap().len();
            assert!(left == starts[2] || length == starts[2], "nothing of it is left");
        }
    }
    let log = open_with(dir.path(), &bytes[..starts[3] as usize - 7]).unwrap();
    append(&log, &[frame(P0, 9, 10)]).unwrap();
    drop(log);
    assert_eq!(places(&read_all(&open(dir.path())).unwrap()), [(0, 1), (1, 1), (1, 2), (0, 2)]);
}

#[test]
fn zeros_behind_the_groups_are_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, _) = written(dir.path());
    let log = open_with(dir.path(), &[&bytes[..], &vec![0; 3 << 20]].concat()).unwrap();
    assert_eq!((log.last(P0), log.last(P1)), (Position(3), Position(3)));
    drop(log);
    // As the log itself lays them out.
    let log = open_with(dir.path(), &bytes).unwrap();
    append(&log, &[frame(P0, 4, 10)]).unwrap();
    drop(log);
    assert!(fs::metadata(segment_file(dir.path(), 1)).unwrap().len() > 1 << 20);
    let log = open(dir.path());
    append(&log, &[frame(P0, 5, 10)]).unwrap();
    assert_eq!(read_all(&log).unwrap().len(), 8);
}

#[test]
fn a_changed_byte_before_the_last_group_is_an_error_that_names_the_place() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, starts) = written(dir.path());
    let heads = [(starts[0], 2, vec![]), (starts[1], 1, vec![(0, 1), (1, 1)])];
    for at in 0..starts[2] {
        let mut changed = bytes.clone();
        changed[at as usize] ^= 0x10;
        let found = damage(open_with(dir.path(), &changed));
        assert_eq!(found.file, segment_file(dir.path(), 1));
        let Some((start, frames, before)) = heads.iter().rev().find(|(start, ..)| at >= *start) else {
            assert!(!found.exact && found.offset == 0, "byte {at}: {found}");
            continue;
        };
        let named: Vec<_> = found.frames.iter().map(|(partition, position)| (partition.0, position.0)).collect();
        if at < start + (group::HEAD_BYTES + frames * group::ENTRY_BYTES) as u64 {
            assert!(!found.exact && named == *before && found.offset == *start, "byte {at}: {found}");
        } else {
            let hit = match (*start == starts[0], at) {
                (true, at) if at < starts[0] + 48 + 32 + 100 => (0, 1),
                (true, _) => (1, 1),
                (false, _) => (1, 2),
            };
            assert!(found.exact && named == [hit], "byte {at}: {found}");
        }
    }
    let log = open_with(dir.path(), &bytes).unwrap();
    assert_eq!(read_all(&log).unwrap().len(), 6);
}

#[test]
fn the_words_of_the_error() {
    let dir = tempfile::tempdir().unwrap();
    let (mut bytes, starts) = written(dir.path());
    let frame_at = starts[1] as usize + group::HEAD_BYTES + group::ENTRY_BYTES;
    bytes[frame_at + 70] ^= 1;
    let text = damage(open_with(dir.path(), &bytes)).to_string();
    let file = segment_file(dir.path(), 1);
    let expected =
        format!("{} is damaged at byte {frame_at}: a frame is not what was written: checksum", file.display());
    assert!(text.starts_with(&expected) && text.ends_with("hit: partition 1 position 2"), "{text}");
    bytes[starts[1] as usize] = 0;
    let text = damage(open_with(dir.path(), &bytes)).to_string();
    let expected = "no group starts here; last good before it: partition 0 position 1, partition 1 position 1";
    assert!(text.ends_with(expected), "{text}");
}

#[test]
fn a_visitor_cannot_fake_the_group_behind_a_torn_one() {
    // A group of another log, sent in by a visitor as the contents of an event.
    let other = tempfile::tempdir().unwrap();
    let (bytes, starts) = written(other.path());
    let fake = &bytes[starts[2] as usize..];
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    append(&log, &[frame(P0, 1, 10)]).unwrap();
    let mut builder = FrameBuilder::with_capacity(0);
    builder.push(|out| out.extend_from_slice(fake));
    append(&log, &[(P0, builder.finish(AppenderId(1), P0, 2, 0).0)]).unwrap();
    drop(log);
    let file = fs::read(segment_file(dir.path(), 1)).unwrap();
    let end = group_starts(dir.path(), 1)[2] as usize;
    let log = open_with(dir.path(), &file[..end - 1]).unwrap();
    assert_eq!(log.last(P0), Position(1));
}

/// A log of ten segments, one group each.
fn ten_segments(dir: &Path) -> EmbeddedOptions {
    let small = EmbeddedOptions { segment_bytes: 1, tail_bytes: 0, ..options(dir) };
    let log = EmbeddedLog::open(small.clone()).unwrap();
    for n in 1..=10 {
        append(&log, &[frame(P0, n, 100)]).unwrap();
    }
    small
}

#[test]
fn damage_in_a_sealed_segment_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let small = ten_segments(dir.path());
    let file = segment_file(dir.path(), 4);
    let good = fs::read(&file).unwrap();
    let start = SegmentHeader::bytes_for(2) as usize;
    let shorter = good[..good.len() - 1].to_vec();
    let without_group = good[..start].to_vec();
    let mut longer = good.clone();
    longer.push(0);
    let mut changed = good.clone();
    changed[start + 150] ^= 1;
    for (bad, named) in [(shorter, 5), (without_group, 5), (longer, 5), (changed, 4)] {
        fs::write(&file, bad).unwrap();
        let found = damage(EmbeddedLog::open(small.clone()));
        assert_eq!(found.file, segment_file(dir.path(), named), "{found}");
    }
    fs::write(&file, good).unwrap();
    EmbeddedLog::open(small).unwrap();
}

#[test]
fn a_lost_segment_is_an_error() {
    for lost in [1, 4, 10] {
        let dir = tempfile::tempdir().unwrap();
        let small = ten_segments(dir.path());
        fs::remove_file(segment_file(dir.path(), lost)).unwrap();
        let text = damage(EmbeddedLog::open(small)).to_string();
        assert!(text.contains("missing"), "{text}");
    }
    let dir = tempfile::tempdir().unwrap();
    let small = ten_segments(dir.path());
    fs::remove_file(dir.path().join("log.json")).unwrap();
    let error = EmbeddedLog::open(small).map(drop).unwrap_err();
    assert!(matches!(error, OpenError::BadMeta { .. }), "{error}");
}

#[test]
fn a_segment_that_was_being_created_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let small = ten_segments(dir.path());
    let whole = fs::read(segment_file(dir.path(), 10)).unwrap();
    let unborn = segment_file(dir.path(), 11);
    let whole_header = SegmentHeader::bytes_for(2) as usize;
    for length in [0, 1, 6, 40, whole_header - 8, whole_header - 1] {
        fs::write(&unborn, &whole[..length]).unwrap();
        let log = EmbeddedLog::open(small.clone()).unwrap();
        assert_eq!(log.last(P0), Position(10));
        assert!(!unborn.exists());
    }
}

#[test]
fn a_reader_names_damage_that_appears_while_the_log_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let small = ten_segments(dir.path());
    let log = EmbeddedLog::open(small).unwrap();
    let file = segment_file(dir.path(), 4);
    let mut bytes = fs::read(&file).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&file, bytes).unwrap();
    let text = read_all(&log).unwrap_err().to_string();
    assert!(text.contains(".seg is damaged at byte") && text.ends_with("hit: partition 0 position 4"), "{text}");
}
