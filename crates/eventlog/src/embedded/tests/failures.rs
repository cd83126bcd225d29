//! File operations that fail while the log is open: what is promised about the group, and that the log recovers.

use super::*;

/// A hand in the file system: makes the chosen operations fail while it is switched on.
#[derive(Default)]
struct Hand {
    on: AtomicBool,
    ops: Mutex<Vec<(Op, usize, i32)>>,
    asked: AtomicU64,
}

const ENOSPC: i32 = 28;
const EDQUOT: i32 = 122;
const EIO: i32 = 5;

impl Hand {
    fn faults(self: &Arc<Self>) -> Faults {
        let hand = Arc::clone(self);
        Arc::new(move |op| {
            if !hand.on.load(Ordering::SeqCst) {
                return None;
            }
            hand.asked.fetch_add(1, Ordering::SeqCst);
            let ops = hand.ops.lock();
            let same = |of: &Op| std::mem::discriminant(of) == std::mem::discriminant(&op);
            let (_, written, code) = ops.iter().find(|(of, ..)| same(of))?;
            Some(Fault { written: *written, error: io::Error::from_raw_os_error(*code) })
        })
    }

    fn fail(&self, ops: &[(Op, usize, i32)]) {
        *self.ops.lock() = ops.to_vec();
        self.on.store(true, Ordering::SeqCst);
    }

    fn relent(&self) {
        self.on.store(false, Ordering::SeqCst);
    }
}

const WRITE: Op = Op::Write(0);

fn log_with_hand(dir: &Path) -> (EmbeddedLog, Arc<Hand>) {
    let hand = Arc::new(Hand::default());
    let log = EmbeddedLog::open_with(options(dir), Some(hand.faults())).unwrap();
    append(&log, &[frame(P0, 1, 100), frame(P1, 1, 100)]).unwrap();
    (log, hand)
}

/// Tries until it is taken: the log looks at the free space only every so often.
fn append_again(log: &EmbeddedLog, n: u64) {
    let began = std::time::Instant::now();
    while let Err(error) = append(log, &[frame(P0, n, 100)]) {
        assert_eq!(error, AppendError::StorageFull);
        assert!(began.elapsed().as_secs() < 10, "it does not recover");
        std::thread::yield_now();
    }
}

/// The log has exactly these positions of the first partition, now and after a restart.
fn assert_holds(log: EmbeddedLog, dir: &Path, last: u64) {
    let expected: Vec<_> = (1..=last).map(|n| (0, n)).collect();
    let of_p0 = |log: &EmbeddedLog| {
        let all = places(&read_all(log).unwrap());
        all.into_iter().filter(|(partition, _)| *partition == 0).collect::<Vec<_>>()
    };
    assert_eq!(of_p0(&log), expected);
    drop(log);
    assert_eq!(of_p0(&open(dir)), expected);
}

#[test]
fn a_write_that_fails_wherever_it_stops_is_taken_back() {
    for code in [ENOSPC, EDQUOT, EIO] {
        for written in [0, 1, 47, 48, 100, 215] {
            let dir = tempfile::tempdir().unwrap();
            let (log, hand) = log_with_hand(dir.path());
            hand.fail(&[(WRITE, written, code)]);
            let error = append(&log, &[frame(P0, 2, 100), frame(P1, 2, 100)]).unwrap_err();
            assert_eq!(error == AppendError::StorageFull, code != EIO, "{error}");
            assert!(!matches!(error, AppendError::Unknown(_)));
            assert_eq!((log.last(P0), read_all(&log).unwrap().len()), (Position(1), 2), "reads go on");
            hand.relent();
            append_again(&log, 2);
            assert_holds(log, dir.path(), 2);
        }
    }
}

#[test]
fn a_crash_after_a_failed_write_loses_nothing_and_gains_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (log, hand) = log_with_hand(dir.path());
    hand.fail(&[(WRITE, 150, EIO), (Op::Truncate, 0, EIO)]);
    append(&log, &[frame(P0, 2, 100)]).unwrap_err();
    assert_holds(log, dir.path(), 1);
}

#[test]
fn a_log_that_cannot_be_shortened_takes_nothing_until_it_can() {
    let dir = tempfile::tempdir().unwrap();
    let (log, hand) = log_with_hand(dir.path());
    hand.fail(&[(WRITE, 150, ENOSPC), (Op::Truncate, 0, EIO)]);
    let error = append(&log, &[frame(P0, 2, 100)]).unwrap_err();
    assert!(matches!(error, AppendError::Unknown(_)), "{error}");
    hand.fail(&[(Op::Truncate, 0, EIO)]);
    for _ in 0..3 {
        let error = append(&log, &[frame(P0, 2, 100)]).unwrap_err();
        assert!(matches!(error, AppendError::Unavailable(_)), "{error}");
    }
    hand.relent();
    append_again(&log, 2);
    assert_holds(log, dir.path(), 2);
}

#[test]
fn a_failed_sync_takes_the_group_back_or_is_unknown() {
    // The tail cannot be made durable either: nobody knows, and nothing is taken.
    let dir = tempfile::tempdir().unwrap();
    let (log, hand) = log_with_hand(dir.path());
    hand.fail(&[(Op::Sync, 0, EIO)]);
    let results = log.append_now(&[frame(P0, 2, 100), frame(P1, 2, 100)]);
    assert!(results.iter().all(|result| matches!(result, Err(AppendError::Unknown(_)))), "{results:?}");
    let error = append(&log, &[frame(P0, 2, 100)]).unwrap_err();
    assert!(matches!(error, AppendError::Unavailable(_)), "{error}");
    assert_eq!(read_all(&log).unwrap().len(), 2, "no reader has seen the group");
    hand.relent();
    append_again(&log, 2);
    assert_holds(log, dir.path(), 2);
}

#[test]
fn a_sync_that_fails_once_is_certainly_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let hand = Arc::new(Hand::default());
    let once = {
        let (faults, hand) = (hand.faults(), Arc::clone(&hand));
        Arc::new(move |op| faults(op).inspect(|_| hand.relent()))
    };
    let log = EmbeddedLog::open_with(options(dir.path()), Some(once)).unwrap();
    for n in 1..=5 {
        // Also with no group before it in the segment.
        hand.fail(&[(Op::Sync, 0, EIO)]);
        let error = append(&log, &[frame(P0, n, 70_000)]).unwrap_err();
        assert!(matches!(error, AppendError::Unavailable(_)), "{error}");
        append_again(&log, n);
    }
    assert_holds(log, dir.path(), 5);
}

#[test]
fn a_crash_while_the_outcome_is_unknown_keeps_or_drops_the_whole_group() {
    let dir = tempfile::tempdir().unwrap();
    let (log, hand) = log_with_hand(dir.path());
    hand.fail(&[(Op::Sync, 0, EIO), (Op::Truncate, 0, EIO)]);
    let error = append(&log, &[frame(P0, 2, 100)]).unwrap_err();
    assert!(matches!(error, AppendError::Unknown(_)), "{error}");
    // Here the bytes did reach the file.
    drop(log);
    let log = open(dir.path());
    append_again(&log, 3);
    assert_holds(log, dir.path(), 3);
}

#[test]
fn the_reserve_is_kept_free() {
    let dir = tempfile::tempdir().unwrap();
    let (log, hand) = log_with_hand(dir.path());
    hand.fail(&[(Op::FreeSpace, (64 << 20) - 1, 0)]);
    let began = std::time::Instant::now();
    let mut n = 1;
    // What it knew of the space before may be good for a moment more.
    while append(&log, &[frame(P0, n + 1, 100)]).is_ok() {
        n += 1;
        assert!(began.elapsed().as_secs() < 10, "the reserve is not kept");
    }
    assert_eq!(append(&log, &[frame(P0, n + 1, 100)]), Err(AppendError::StorageFull));
    let asked = hand.asked.load(Ordering::SeqCst);
    for _ in 0..1000 {
        assert_eq!(append(&log, &[frame(P0, n + 1, 100)]), Err(AppendError::StorageFull));
    }
    assert!(hand.asked.load(Ordering::SeqCst) - asked < 500, "it asks only now and then");
    hand.fail(&[(Op::FreeSpace, 64 << 20, 0)]);
    append_again(&log, n + 1);
    assert_holds(log, dir.path(), n + 1);
}

#[test]
fn a_segment_that_cannot_be_started_is_started_later() {
    for op in [Op::Create, WRITE, Op::Sync] {
        let dir = tempfile::tempdir().unwrap();
        let hand = Arc::new(Hand::default());
        let small = EmbeddedOptions { segment_bytes: 1, tail_bytes: 0, ..options(dir.path()) };
        let log = EmbeddedLog::open_with(small.clone(), Some(hand.faults())).unwrap();
        append(&log, &[frame(P0, 1, 100)]).unwrap();
        hand.fail(&[(op, 10, ENOSPC)]);
        for _ in 0..3 {
            assert_eq!(append(&log, &[frame(P0, 2, 100)]), Err(AppendError::StorageFull));
        }
        hand.relent();
        append_again(&log, 2);
        append_again(&log, 3);
        drop(log);
        let log = EmbeddedLog::open(small).unwrap();
        assert_eq!(places(&read_all(&log).unwrap()), [(0, 1), (0, 2), (0, 3)]);
    }
}
