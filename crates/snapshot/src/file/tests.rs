//! The file as such: the golden one of each version, round trips, and every kind of damage.

use std::path::PathBuf;

use proptest::prelude::*;

use super::*;

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

fn head() -> Head {
    Head {
        log: LogId(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10),
        partitions: PartitionCount::new(16).unwrap(),
        partition: Partition(3),
        position: Position(12_345),
        at: LogTime(1_700_000_000_001),
        made_at_ms: 1_700_000_000_002,
        lineage: b"lineage".to_vec(),
    }
}

fn pairs() -> Pairs {
    vec![(b"\x01c".to_vec(), b"clients".to_vec()), (b"\x01p\0\0\0\0tnt:a".to_vec(), vec![7; 300]), (vec![2], vec![])]
}

fn encode(head: &Head, pairs: &Pairs) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), head).unwrap();
    pairs.iter().for_each(|(key, value)| writer.pair(key, value).unwrap());
    writer.finish().unwrap()
}

fn decode(bytes: &[u8]) -> Result<(Head, Pairs), Damage> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.snap");
    std::fs::write(&path, bytes).unwrap();
    let mut reader = Reader::open(&path)?;
    let (mut key, mut value, mut all) = (Vec::new(), Vec::new(), Vec::new());
    while reader.next(&mut key, &mut value)? {
        all.push((key.clone(), value.clone()));
    }
    Ok((reader.head().clone(), all))
}

/// What zstd makes of the pairs differs between its versions, so the golden file is read, and compared up to there.
#[test]
fn version_1_reads_for_ever() {
    let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/snapshot.v1.snap");
    let stored = std::fs::read(golden).unwrap();
    assert_eq!(decode(&stored).unwrap(), (head(), pairs()));
    assert_eq!(stored[..HEAD_BYTES + 7], encode(&head(), &pairs())[..HEAD_BYTES + 7], "another head without a version");
}

#[test]
fn every_flipped_byte_and_every_cut_is_noticed() {
    let good = encode(&head(), &pairs());
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        assert!(decode(&bad).is_err(), "byte {at}");
        assert!(decode(&good[..at]).is_err(), "cut at {at}");
    }
    assert!(matches!(decode(b""), Err(Damage::NotASnapshot)));
    let mut newer = good.clone();
    newer[8] = 2;
    assert!(matches!(decode(&newer), Err(Damage::Version(2))), "said before any checksum");
    let mut longer = good;
    longer.push(0);
    assert!(matches!(decode(&longer), Err(Damage::Checksum { .. })));
}

proptest! {
    #[test]
    fn pairs_come_back(pairs in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..40), prop::collection::vec(any::<u8>(), 0..2000)), 0..50)) {
        prop_assert_eq!(decode(&encode(&head(), &pairs)).unwrap(), (head(), pairs));
    }
}
