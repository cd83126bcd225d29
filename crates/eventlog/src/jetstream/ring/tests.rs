//! Whatever the disk does, tasks go on, and what is kept does not claim to be whole when it is not.

use std::sync::mpsc;

use super::*;
use crate::Position;
use crate::jetstream::recent;
use crate::jetstream::recent::tests::{LOG, STREAM, some};

/// On a runtime of one thread: a write on it would hold up everything.
#[tokio::test]
async fn a_disk_that_hangs_holds_up_no_task_and_leaves_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let ring = Ring::open(dir.path(), LOG, STREAM).unwrap();
    ring.keep(some(1..=2)).await;
    let (let_go, go) = mpsc::channel::<()>();
    let (hang, hangs) = mpsc::channel();
    let recent = Arc::clone(&ring.recent);
    let disk = std::thread::spawn(move || {
        let _held = recent.lock();
        hang.send(()).unwrap();
        go.recv().unwrap();
    });
    hangs.recv().unwrap();
    // Both return although nothing has been written; the first one's write goes on.
    ring.keep(some(3..=4)).await;
    ring.sync();
    ring.sync();
    ring.keep(some(5..=7)).await;
    assert!(ring.hangs.load(Ordering::Acquire));
    assert_eq!(ring.left_out.load(Ordering::Relaxed), 3);
    assert_eq!(ring.newest().unwrap().position, Position(7), "it was read all the same");

    let_go.send(()).unwrap();
    disk.join().unwrap();
    drop(ring.writing.acquire().await.unwrap());
    ring.keep(some(8..=9)).await;
    assert!(!ring.hangs.load(Ordering::Acquire));
    let kept: Vec<_> = recent::read(dir.path(), LOG, STREAM).unwrap().iter().map(|kept| kept.position.0).collect();
    assert_eq!(kept, [1, 2, 3, 4, 8, 9]);
    assert_eq!(Ring::open(dir.path(), LOG, STREAM).unwrap().newest(), ring.newest());
}
