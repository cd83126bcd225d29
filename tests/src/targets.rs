//! Bodies of the fuzz targets, shared by `fuzz/` and the test that replays the corpus. Each takes any bytes and must
//! return; a broken promise is a panic.

use cameo_profile::{Event, LogTime, PartitionState};

/// A fuzz target by its name.
pub type Target = (&'static str, fn(&[u8]));

/// All of them; the name is also that of the corpus folder.
pub const TARGETS: [Target; 1] = [("event", event)];

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

    let mut state = PartitionState::new();
    for at in [1_000, 2_000, 86_400_000 * 15] {
        let _ = state.apply(LogTime(at), &event);
    }
    let now = LogTime(86_400_000 * 15);
    let mut restored = PartitionState::new();
    for (key, value) in state.take_changes().puts {
        restored.restore(&key, &value).expect("what was checkpointed restores");
    }
    assert_eq!(state.digest(now), restored.digest(now));
}
