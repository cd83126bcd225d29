//! The codec and the chain: round trips, rubbish, the golden file of each version, lost and repeated frames.

use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use cameo_profile::LogTime;

fn build(partition: u16, counter: u64, prev: u64, events: &[Vec<u8>]) -> (Bytes, u64) {
    let mut builder = FrameBuilder::with_capacity(0);
    for event in events {
        assert_eq!(builder.push(|out| out.extend_from_slice(event)), event.len() + EVENT_PREFIX_BYTES);
    }
    assert_eq!(builder.events() as usize, events.len());
    builder.finish(AppenderId(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10), Partition(partition), counter, prev)
}

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

#[test]
fn version_1_reads_for_ever() {
    let events = [b"first".to_vec(), vec![], vec![0xff; 300]];
    let (bytes, digest) = build(513, 7, 0x1122_3344_5566_7788, &events);
    let stored = Bytes::from(std::fs::read(golden("frame.v1.bin")).unwrap());
    assert_eq!(bytes, stored, "the encoder has changed without a new version");
    let frame = Frame::decode(&stored).unwrap();
    assert_eq!((frame.header().counter, frame.header().partition), (7, Partition(513)));
    assert_eq!(frame.header().prev_digest, 0x1122_3344_5566_7788);
    assert_eq!(frame.digest(), digest);
    assert_eq!(frame.events().len(), 3);
    assert_eq!(frame.events().collect::<Vec<_>>(), events);
}

#[test]
fn errors_say_what_is_wrong() {
    let (good, _) = build(1, 1, 0, &[b"event".to_vec()]);
    let change = |at: usize, byte: u8| {
        let mut bytes = good.to_vec();
        bytes[at] = byte;
        Frame::decode(&bytes.into()).unwrap_err().to_string()
    };
    let decode = |bytes: &[u8]| Frame::decode(&Bytes::copy_from_slice(bytes)).unwrap_err().to_string();
    assert_eq!(decode(&good[..55]), "55 bytes are too few for a frame header of 56");
    assert_eq!(decode(&good[..64]), "the header announces 9 bytes of events; there are 8");
    assert_eq!(decode(&vec![0; 1_000_001]), "1000001 bytes are more than a frame's limit of 1000000");
    assert_eq!(change(0, 0), "it does not start like a frame (found [00, 4d, 46, 52])");
    assert_eq!(change(4, 2), "frame format version 2 is unknown; this release knows version 1");
    assert!(change(60, 0).starts_with("checksum "), "{}", change(60, 0));
    assert!(change(48, 2).starts_with("checksum "));
    // Intact by its checksum, but made by a broken writer.
    assert_eq!(decode(&build(1, 0, 0, &[]).0), "it is intact, but its counter is 0");
    let mut builder = FrameBuilder::with_capacity(0);
    builder.push(|_| {});
    builder.events = 2;
    let (two, _) = builder.finish(AppenderId(1), Partition(0), 1, 0);
    assert_eq!(decode(&two), "it is intact, but its events do not fit into its body");
    let mut builder = FrameBuilder::with_capacity(0);
    builder.push(|_| {});
    builder.events = 0;
    let (none, _) = builder.finish(AppenderId(1), Partition(0), 1, 0);
    assert_eq!(decode(&none), "it is intact, but its body is longer than its events");
}

#[test]
fn an_encoder_that_panics_leaves_nothing_behind() {
    let mut builder = FrameBuilder::with_capacity(0);
    builder.push(|out| out.push(1));
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        builder.push(|out| {
            out.extend_from_slice(b"half");
            panic!("a test wants it so");
        })
    }));
    assert!(panicked.is_err());
    builder.push(|out| out.push(2));
    let frame = Frame::decode(&builder.finish(AppenderId(1), Partition(0), 1, 0).0).unwrap();
    assert_eq!(frame.events().collect::<Vec<_>>(), [[1], [2]]);
}

proptest! {
    #[test]
    fn round_trip(
        partition: u16,
        counter in 1u64..,
        prev: u64,
        events in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..20),
    ) {
        let (bytes, digest) = build(partition, counter, prev, &events);
        let frame = Frame::decode(&bytes).unwrap();
        prop_assert_eq!(frame.header().partition, Partition(partition));
        prop_assert_eq!(frame.header().counter, counter);
        prop_assert_eq!(frame.header().prev_digest, prev);
        prop_assert_eq!(frame.digest(), digest);
        prop_assert_eq!(frame.events().collect::<Vec<_>>(), events);
        prop_assert_eq!(check(&bytes).unwrap().0, *frame.header());
    }

    #[test]
    fn any_changed_bit_is_found(
        events in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..20),
        at: prop::sample::Index,
        bit in 0u8..8,
    ) {
        let mut bytes = build(3, 9, 4, &events).0.to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(Frame::decode(&bytes.into()).is_err());
    }

    #[test]
    fn rubbish_is_refused(start in prop::bool::ANY, rest in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut bytes = if start { b"CMFR\x01\x00".to_vec() } else { vec![] };
        bytes.extend(rest);
        prop_assert!(Frame::decode(&bytes.into()).is_err());
    }

    #[test]
    fn lineage_round_trip(frames in prop::collection::vec((0u128..20, 1u64..3, any::<u64>(), 0u64..1000), 0..50)) {
        let mut lineage = Lineage::new();
        for (appender, counter, digest, at) in frames {
            lineage.admit(&header(appender, counter, 0), digest, LogTime(at));
        }
        prop_assert_eq!(Lineage::decode(&lineage.encode()).unwrap(), lineage);
    }

    #[test]
    fn lineage_refuses_rubbish(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        // Must not panic; an empty table is the only thing that rubbish is likely to be.
        if let Ok(lineage) = Lineage::decode(&bytes) {
            prop_assert_eq!(lineage.encode(), bytes);
        }
    }
}

fn header(appender: u128, counter: u64, prev_digest: u64) -> FrameHeader {
    FrameHeader { version: 1, partition: Partition(0), appender: AppenderId(appender), counter, prev_digest }
}

#[test]
fn the_chain_of_an_appender() {
    let at = LogTime(5);
    let mut lineage = Lineage::new();
    assert_eq!(lineage.admit(&header(1, 2, 0), 70, at), Admit::Hole { expected: 1, found: 2 });
    assert_eq!(lineage.admit(&header(1, 1, 9), 70, at), Admit::BrokenDigest { expected: 0, found: 9 });
    assert_eq!(lineage.admit(&header(1, 1, 0), 71, at), Admit::New);
    assert_eq!(lineage.admit(&header(1, 1, 0), 71, at), Admit::Seen);
    assert_eq!(lineage.admit(&header(1, 1, 0), 72, at), Admit::BrokenDigest { expected: 71, found: 72 });
    assert_eq!(lineage.admit(&header(1, 2, 72), 80, at), Admit::BrokenDigest { expected: 71, found: 72 });
    assert_eq!(lineage.admit(&header(2, 1, 0), 90, at), Admit::New, "another appender has its own chain");
    assert_eq!(lineage.admit(&header(1, 2, 71), 80, at), Admit::New);
    assert_eq!(lineage.admit(&header(1, 1, 0), 71, at), Admit::Seen);
    assert_eq!(lineage.admit(&header(1, 4, 80), 81, at), Admit::Hole { expected: 3, found: 4 });
    assert_eq!(lineage.admit(&header(1, 3, 80), 82, at), Admit::New, "what was refused has left no trace");
    assert_eq!(lineage.len(), 2);
}

#[test]
fn only_the_long_silent_are_forgotten() {
    let mut lineage = Lineage::new();
    let restart = |lineage: &mut Lineage, id: u128, at: u64| {
        assert_eq!(lineage.admit(&header(id, 1, 0), 1, LogTime(at)), Admit::New);
    };
    (0..64).for_each(|id| restart(&mut lineage, id, 1000 + id as u64));
    restart(&mut lineage, 100, 1000 + LINEAGE_SILENCE_MS);
    assert_eq!(lineage.len(), 65, "nobody was silent for longer than the bound");
    restart(&mut lineage, 101, 1010 + LINEAGE_SILENCE_MS);
    assert_eq!(lineage.len(), 56, "ten were");
    (1000..6000).for_each(|id| restart(&mut lineage, id, 2000 + LINEAGE_SILENCE_MS));
    assert_eq!(lineage.len(), 4096, "however many there are, the table is bounded");
    let next = lineage.admit(&header(5999, 2, 1), 2, LogTime(2000 + LINEAGE_SILENCE_MS));
    assert_eq!(next, Admit::New);
}
