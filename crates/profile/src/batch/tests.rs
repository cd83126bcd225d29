//! What closing a batch keeps, which batches are forgotten first, and that older checkpoints can be read.

use super::*;

const T: u64 = 1_790_000_000_000;

fn opened<'a>(batch: &'a str, idempotency_key: Option<&'a str>) -> BatchOpened<'a> {
    BatchOpened { client: "demo", batch, idempotency_key, rows_to_apply: 3, ..BatchOpened::default() }
}

fn closed(batch: &str) -> BatchClosed<'_> {
    BatchClosed { client: "demo", batch, updated: 2, created: 1, not_found: 1, failed: 0 }
}

/// Opens and closes `count` batches whose ids start with `name`, one a millisecond.
fn pass(batches: &mut Batches, from: u64, name: &str, count: usize, close: bool) {
    for n in 0..count {
        let (batch, at) = (format!("{name}-{n}"), LogTime(from + n as u64));
        batches.open(0, &opened(&batch, None), at);
        if close {
            batches.close(0, &closed(&batch), at);
        }
    }
}

#[test]
fn the_head_keeps_the_counts_and_the_first_word_stands() {
    let mut batches = Batches::default();
    batches.open(0, &opened("b", Some("k")), LogTime(T));
    batches.close(0, &closed("b"), LogTime(T + 5));
    batches.close(0, &BatchClosed { updated: 9, ..closed("b") }, LogTime(T + 6));
    let counts = batches.head_by_key(0, "k").and_then(|head| head.closed).expect("closed");
    assert_eq!((counts.updated, counts.created, counts.not_found, counts.failed), (2, 1, 1, 0));
    assert_eq!((counts.consumed(), counts.last_change), (3, T + 5));
    batches.close(0, &closed("forgotten"), LogTime(T + 7));
    assert_eq!(batches.len(), 1, "closing makes no batch");
}

#[test]
fn closed_batches_make_room_for_one_that_is_open() {
    let mut batches = Batches::default();
    // A head in another partition: here are only its rows.
    batches.entry(0, "running", LogTime(T)).part.high_line = 7;
    pass(&mut batches, T + 1, "newer", limits::BATCHES_REMEMBERED + 50, true);
    assert_eq!(batches.len(), limits::BATCHES_REMEMBERED);
    assert_eq!(batches.get(0, "running").map(|batch| batch.part.high_line), Some(7));
    // The oldest of the closed ones went: one more than came too many, as one place is taken.
    assert!(batches.get(0, "newer-50").is_none() && batches.get(0, "newer-51").is_some());
}

#[test]
fn open_batches_do_not_push_out_all_closed_ones() {
    let mut batches = Batches::default();
    pass(&mut batches, T, "closed", limits::BATCHES_REMEMBERED, true);
    pass(&mut batches, T + 10_000, "open", limits::BATCHES_REMEMBERED, false);
    let open = batches.all().filter(|(_, batch)| !batch.closed).count();
    assert_eq!((batches.len(), open), (limits::BATCHES_REMEMBERED, limits::BATCHES_OPEN + 1));
    let last = limits::BATCHES_REMEMBERED - 1;
    assert!(batches.get(0, &format!("closed-{last}")).is_some(), "the newest closed one is there");
    assert!(batches.get(0, &format!("open-{last}")).is_some(), "and so is the newest open one");
    assert!(batches.get(0, "open-0").is_none());
}

#[test]
fn what_was_stored_before_batches_were_closed_can_be_read() {
    let key: BatchKey = (0, "demo-1787075619003-abc".into());
    let mut batches = Batches::default();
    let bytes: Vec<u8> = (0..BEFORE_CLOSING.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&BEFORE_CLOSING[at..at + 2], 16).expect("hex"))
        .collect();
    assert!(batches.restore(key, &bytes));
    let batch = batches.get(0, "demo-1787075619003-abc").expect("restored");
    let head = batch.head.as_ref().expect("a head");
    assert_eq!((batch.closed, head.closed), (false, None));
    assert_eq!((head.rows, head.rows_skipped, batch.part.high_line, batch.part.updated), (5, 1, 6, 2));
    assert_eq!((batch.errors.len(), batch.errors_incomplete), (1, true));
    let stored = encode(batch);
    let mut again = Batches::default();
    assert!(again.restore((0, "demo-1787075619003-abc".into()), &stored));
    assert_eq!(again.get(0, "demo-1787075619003-abc"), Some(batch));
}

/// A batch as it stood in checkpoints without `closed`.
const BEFORE_CLOSING: &str = "949ab664656d6f2d313738373037353631393030332d616263a76e696768746c79dc00100707070707070707070707070707070702a26731cf000001a01601e8bb05030101960602010100cf000001a01601ec3c919303a463697479aa62616420657363617065c3";
