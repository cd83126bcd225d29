//! Bodies of the fuzz targets, shared by `fuzz/` and the test that replays the corpus. Each takes any bytes and must
//! return; a broken promise is a panic.

use bytes::Bytes;
use cameo_eventlog::frame::{Frame, Lineage};
use cameo_gateway::parse::{Item, Parser, Version};
use cameo_profile::{Event, LogTime, PartitionState};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A fuzz target by its name.
pub type Target = (&'static str, fn(&[u8]));

/// All of them; the name is also that of the corpus folder.
pub const TARGETS: [Target; 4] = [("batch", batch), ("event", event), ("frame", frame), ("visit", visit)];

/// One event of the log: what decodes encodes to the same event, and folds; the state survives a checkpoint.
///
/// # Panics
/// When that does not hold.
pub fn event(data: &[u8]) {
    let Ok(event) = Event::decode(data) else { return };
    let mut encoded = Vec::new();
    event.encode(&mut encoded);
    let again = Event::decode(&encoded).expect("what was encoded decodes");
    // NaN is not itself; by their bytes they are the same.
    let mut twice = Vec::new();
    again.encode(&mut twice);
    assert_eq!(encoded, twice);

    let mut state = PartitionState::default();
    for at in [1_000, 2_000, 86_400_000 * 15] {
        let _ = state.apply(LogTime(at), &event);
    }
    let now = LogTime(86_400_000 * 15);
    let mut restored = PartitionState::default();
    for (key, value) in state.take_changes().puts {
        restored.restore(&key, &value).expect("what was checkpointed restores");
    }
    assert_eq!(state.digest(now), restored.digest(now));
}

/// Where a frame's checksum stands, and what it covers; see the layout in `cameo_eventlog::frame`.
const CHECKSUM_AT: std::ops::Range<usize> = 8..16;

/// One frame: it decodes or is refused, as it is and with a checksum made right (so that a search gets past it); what
/// decodes walks to its end. The same bytes also as a lineage of a checkpoint.
///
/// # Panics
/// When that does not hold.
pub fn frame(data: &[u8]) {
    walk(data.to_vec());
    let mut sealed = data.to_vec();
    if let (Some(seed), Some(covered)) = (data.first_chunk(), data.get(CHECKSUM_AT.end..)) {
        let checksum = xxh3_64_with_seed(covered, u64::from_le_bytes(*seed));
        sealed[CHECKSUM_AT].copy_from_slice(&checksum.to_le_bytes());
        walk(sealed);
    }
    if let Ok(lineage) = Lineage::decode(data) {
        assert!(Lineage::decode(&lineage.encode()).is_ok(), "what was encoded decodes");
    }
}

fn walk(bytes: Vec<u8>) {
    let bytes = Bytes::from(bytes);
    let Ok(frame) = Frame::decode(&bytes) else { return };
    let events = frame.events();
    let promised = events.len();
    assert_eq!(events.count(), promised, "as many events as the header says");
    assert_eq!(frame.bytes(), &bytes);
}

/// A body of visits; the first byte chooses the encoding. Each visit is taken, and its event reads back, or refused.
///
/// # Panics
/// When that does not hold.
pub fn visit(data: &[u8]) {
    let Some((choice, body)) = data.split_first() else { return };
    let content_type = match choice % 4 {
        0 => "application/json",
        1 => "application/x-ndjson",
        2 => "application/msgpack",
        _ => "text/plain",
    };
    match cameo_edge::check_visits(content_type, body, NOW_MS) {
        Ok(good) => assert!(good <= 10_000, "{good} visits in one call"),
        Err(why) => assert!(!why.is_empty(), "every refusal says why"),
    }
}

/// Some moment in 2026, as the clock of the target.
const NOW_MS: u64 = 1_780_000_000_000;

/// A bulk file; the first byte chooses version and how it is cut. However it is cut, the same rows, failures and
/// refusal come out, and they add up.
///
/// # Panics
/// When that does not hold.
pub fn batch(data: &[u8]) {
    let Some((&choice, file)) = data.split_first() else { return };
    let version = [Version::V1, Version::V2, Version::V3][usize::from(choice % 3)];
    let whole = parse(version, file, file.len().max(1));
    let cut = parse(version, file, 1 + usize::from(choice / 3));
    assert_eq!(whole, cut, "the same however it is cut");
}

/// Everything a parser says of a file that comes in pieces of so many bytes.
fn parse(version: Version, file: &[u8], piece: usize) -> Vec<String> {
    let mut said = Vec::new();
    let mut last_line = 0;
    let mut sink = |item: Item<'_>| match &item {
        Item::Row(row) => {
            assert!(row.line > last_line, "lines rise");
            last_line = row.line;
            assert!(row.cells().next().is_some(), "a row has a value");
            let cells: Vec<_> = row.cells().collect();
            assert!(version.removes() || cells.iter().all(|cell| cell.value.is_some()), "only v3 removes");
            said.push(format!("{} {:?} {:?} {cells:?}", row.line, row.kind, row.id));
        }
        Item::Skipped => said.push("skipped".into()),
        Item::Failed(failure) => {
            assert!(!failure.reason.is_empty(), "every failure says why");
            last_line = failure.line;
            said.push(format!("{failure:?}"));
        }
    };
    let mut parser = Parser::new(version);
    let result = file.chunks(piece).try_for_each(|piece| parser.feed(piece, &mut sink));
    let result = result.and_then(|()| parser.finish(&mut sink));
    assert_eq!(parser.rows() as usize, said.len(), "as many rows as items");
    said.push(format!("{result:?}"));
    said
}
