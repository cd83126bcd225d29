//! What is kept is read again as it was, within its bounds, and whatever happens to the disk.

use super::*;
use crate::Partition;
use crate::frame::{AppenderId, FrameBuilder, HEADER_BYTES};

pub(in crate::jetstream) const LOG: LogId = LogId(7);
pub(in crate::jetstream) const STREAM: usize = 2;

fn kept(position: u64, bytes: usize) -> Kept {
    let mut frame = FrameBuilder::with_capacity(bytes);
    frame.push(|out| out.resize(out.len() + bytes, position as u8));
    let (bytes, _) = frame.finish(AppenderId(9), Partition(2), position, 0);
    Kept { position: Position(position), at: LogTime(1_790_000_000_000 + position), bytes }
}

pub(in crate::jetstream) fn some(positions: std::ops::RangeInclusive<u64>) -> Vec<Kept> {
    positions.map(|position| kept(position, 100)).collect()
}

fn open(dir: &Path) -> Recent {
    Recent::open(dir, LOG, STREAM).unwrap()
}

fn all(dir: &Path) -> Vec<Kept> {
    read(dir, LOG, STREAM).unwrap()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    list(dir, STREAM).unwrap().into_iter().map(|(_, path)| path).collect()
}

fn bytes_of(dir: &Path) -> u64 {
    files(dir).iter().map(|path| fs::metadata(path).unwrap().len()).sum()
}

#[test]
fn what_is_kept_is_read_again_and_what_comes_twice_stays_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let frames = some(5..=30);
    open(dir.path()).push(&frames[..10]);
    let mut recent = open(dir.path());
    assert_eq!(recent.newest(), Some(Newest::of(&frames[9])));
    // From a checkpoint on, as a start reads; among it another frame in a place that is taken.
    recent.push(&[kept(14, 50)]);
    recent.push(&frames[5..]);
    assert_eq!(all(dir.path()), frames);
    assert!(recent.newest().unwrap().is(&frames[25].bytes) && !recent.newest().unwrap().is(&frames[24].bytes));

    // Other streams have files of their own; another log has no use for these.
    assert_eq!(Recent::open(dir.path(), LOG, 1).unwrap().newest(), None);
    assert_eq!(all(dir.path()), frames);
    assert_eq!(Recent::open(dir.path(), LogId(8), STREAM).unwrap().newest(), None);
    assert!(files(dir.path()).is_empty());
}

#[test]
fn no_more_is_kept_than_the_bound_and_the_newest_stays() {
    let dir = tempfile::tempdir().unwrap();
    let mut recent = open(dir.path());
    let large = FRAME_BYTES_MAX - HEADER_BYTES - 4;
    let frames = (RECENT_BYTES + 3 * PIECE_BYTES) / FRAME_BYTES_MAX as u64;
    for position in 1..=frames {
        recent.push(&[kept(position, large)]);
        assert!(bytes_of(dir.path()) <= RECENT_BYTES + 2 * PIECE_BYTES, "after {position}");
    }
    drop(recent);
    assert_eq!(open(dir.path()).newest().unwrap().position, Position(frames));
    let positions: Vec<_> = all(dir.path()).iter().map(|kept| kept.position.0).collect();
    assert!(positions.is_sorted_by(|a, b| a + 1 == *b) && positions.last() == Some(&frames), "{positions:?}");
    assert!(positions.len() as u64 * FRAME_BYTES_MAX as u64 >= RECENT_BYTES - 2 * PIECE_BYTES, "{positions:?}");
}

#[test]
fn what_nobody_has_written_to_for_a_day_goes() {
    let dir = tempfile::tempdir().unwrap();
    let frames = some(1..=20);
    open(dir.path()).push(&frames[..10]);
    let age = |path: &Path, age: Duration| {
        File::options().write(true).open(path).unwrap().set_modified(SystemTime::now() - age).unwrap();
    };
    let minute = Duration::from_secs(60);
    age(&files(dir.path())[0], RECENT_AGE - minute);
    let mut recent = open(dir.path());
    recent.push(&frames[10..]);
    assert_eq!(all(dir.path()), frames, "younger than a day");
    age(&files(dir.path())[0], RECENT_AGE + minute);
    recent.prune();
    assert_eq!(all(dir.path()), frames[10..]);
    assert!(recent.newest().is_some());
    age(&files(dir.path())[0], RECENT_AGE + minute);
    drop(recent);
    let mut recent = open(dir.path());
    assert_eq!((recent.newest(), files(dir.path()).len()), (None, 0));
    recent.push(&frames);
    assert_eq!(all(dir.path()), frames);
}

#[test]
fn a_torn_or_damaged_record_ends_its_piece_and_is_read_once_more() {
    let frames = some(1..=10);
    let length = RECORD_BYTES + frames[0].bytes.len();
    for (cut, left) in [(1, 9), (length - 1, 9), (length, 9), (length + 1, 8), (10 * length, 0), (10 * length + 1, 0)] {
        for torn in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            open(dir.path()).push(&frames);
            let path = files(dir.path()).remove(0);
            let mut bytes = fs::read(&path).unwrap();
            let at = bytes.len() - cut;
            if torn {
                bytes.truncate(at);
            } else {
                bytes[at] ^= 1;
            }
            fs::write(&path, bytes).unwrap();
            assert_eq!(all(dir.path()), frames[..left], "{cut} {torn}");
            let mut recent = open(dir.path());
            assert_eq!(recent.newest(), frames[..left].last().map(Newest::of));
            recent.push(&frames);
            assert_eq!(all(dir.path()), frames, "{cut} {torn}");
        }
    }
}

#[test]
fn a_disk_that_takes_nothing_is_not_littered_and_not_tried_again_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let frames = some(1..=6);
    let mut recent = open(dir.path());
    recent.push(&frames[..2]);
    let piece = files(dir.path());
    // As when the pause is over.
    let later = |recent: &mut Recent| recent.failed = Instant::now().checked_sub(AGAIN);

    // A file can be made, and takes nothing.
    recent.open = None;
    let full = dir.path().join(format!("{STREAM}-{:020}", 3));
    std::os::unix::fs::symlink("/dev/full", &full).unwrap();
    recent.push(&frames[2..4]);
    assert!(recent.failed.is_some());
    assert_eq!(files(dir.path()), piece, "what takes nothing is removed, and no other file was made");
    later(&mut recent);
    recent.push(&frames[4..5]);
    assert!(recent.failed.is_none());
    let gap: Vec<_> = frames[..2].iter().chain(&frames[4..5]).cloned().collect();
    assert_eq!(all(dir.path()), gap, "what was not kept is seen to be missing");

    // A piece takes no record: here one that has some, then one that has none.
    for _ in 0..2 {
        let Some((file, _)) = &mut recent.open else { panic!("no piece is open") };
        *file = Arc::new(File::open("/dev/null").unwrap());
        recent.push(&frames[5..]);
        assert!(recent.failed.is_some());
        assert_eq!((files(dir.path()).len(), all(dir.path())), (2, gap.clone()));
        recent.begin(Position(6)).unwrap();
        assert_eq!(files(dir.path()).len(), 3);
        later(&mut recent);
    }
    recent.push(&frames[5..]);
    assert_eq!(all(dir.path()).last(), frames.last());
    assert_eq!(open(dir.path()).newest(), frames.last().map(Newest::of));
}
