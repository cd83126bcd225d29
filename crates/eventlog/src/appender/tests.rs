//! The appender over the in-memory log: packing, tickets, failures, the chain of frames.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::*;
use crate::clock::Clock;
use crate::frame::{Admit, Frame, Lineage};
use crate::memory::Failure;
use crate::{LogReader, MemoryLog, PartitionCount};

const P0: Partition = Partition(0);

type Failed = (u64, AppendError);

struct Note(u64, SyncSender<Failed>);

impl Ticket for Note {
    fn fail(self, error: &AppendError) {
        // A test that is not interested has dropped the other end.
        let _ = self.1.send((self.0, error.clone()));
    }
}

fn start(partitions: u32, options: AppenderOptions) -> (MemoryLog, Appender<Note>) {
    let log = MemoryLog::new(PartitionCount::new(partitions).unwrap());
    let appender = Appender::start(Arc::new(log.clone()), options).unwrap();
    (log, appender)
}

fn notes() -> (SyncSender<Failed>, Receiver<Failed>) {
    sync_channel(1000)
}

fn submit(appender: &Appender<Note>, partition: Partition, n: u64, tx: &SyncSender<Failed>) -> Result<(), SubmitError> {
    let ticket = Some(Note(n, tx.clone()));
    appender.submit(partition, |out| out.extend_from_slice(&n.to_le_bytes()), ticket).map_err(|(error, _)| error)
}

fn event(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().unwrap())
}

/// Reads `count` events of the partitions in order of the log, checking the chain; gives the numbers and the tickets.
fn apply(log: &MemoryLog, appender: &Appender<Note>, count: usize) -> (Vec<u64>, Vec<Note>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut reader = log.reader(log.partitions().iter().map(|p| (p, Position::START)).collect());
    let mut lineages = vec![Lineage::new(); usize::from(log.partitions().get())];
    let (mut numbers, mut tickets) = (vec![], vec![]);
    while numbers.len() < count {
        for stored in runtime.block_on(reader.next_batch()).unwrap() {
            let frame = Frame::decode(&stored.bytes).unwrap();
            let admit = lineages[stored.partition.index()].admit(frame.header(), frame.digest(), stored.at);
            assert_eq!(admit, Admit::New);
            let of_frame: Vec<u64> = frame.events().map(event).collect();
            if let Some(taken) = appender.take_tickets(frame.header()) {
                assert_eq!(taken.len(), of_frame.len());
                for (ticket, n) in taken.into_iter().zip(&of_frame) {
                    tickets.extend(ticket.inspect(|ticket| assert_eq!(ticket.0, *n)));
                }
            }
            assert!(appender.take_tickets(frame.header()).is_none());
            numbers.extend(of_frame);
        }
    }
    (numbers, tickets)
}

#[test]
fn events_arrive_once_in_order_with_their_tickets() {
    let (log, appender) = start(4, AppenderOptions { max_frame_bytes: 200, ..AppenderOptions::default() });
    let (tx, rx) = notes();
    std::thread::scope(|scope| {
        for thread in 0..4u16 {
            let (appender, tx) = (&appender, &tx);
            scope.spawn(move || {
                for n in 0..500 {
                    let ticket = (n % 3 == 0).then(|| Note(u64::from(thread) * 1000 + n, tx.clone()));
                    let number = u64::from(thread) * 1000 + n;
                    let encode = |out: &mut Vec<u8>| out.extend_from_slice(&number.to_le_bytes());
                    appender.submit(Partition(thread), encode, ticket).map_err(|(error, _)| error).unwrap();
                }
            });
        }
    });
    let (numbers, tickets) = apply(&log, &appender, 2000);
    for thread in 0..4 {
        let of_it: Vec<_> = numbers.iter().filter(|n| **n / 1000 == thread).map(|n| n % 1000).collect();
        assert_eq!(of_it, (0..500).collect::<Vec<_>>());
    }
    assert_eq!(tickets.len(), 4 * 167);
    assert_eq!(appender.lines[0].inner.waiting_events.load(Ordering::SeqCst), 0);
    appender.close();
    assert_eq!(appender.lines[0].inner.pending_bytes.load(Ordering::SeqCst), 0);
    assert!(rx.try_recv().is_err(), "no ticket failed");
    assert_eq!(submit(&appender, P0, 1, &tx), Err(SubmitError::Closed));
}

#[test]
fn what_is_submitted_together_stands_in_one_frame_or_not_at_all() {
    let (log, appender) = start(1, AppenderOptions { max_frame_bytes: 200, ..AppenderOptions::default() });
    let (tx, rx) = notes();
    let together = |numbers: std::ops::Range<u64>| {
        let events = numbers.map(|n| (n.to_le_bytes().to_vec(), Note(n, tx.clone()))).collect();
        appender.submit_together(P0, events)
    };
    together(0..100).unwrap();
    let (numbers, tickets) = apply(&log, &appender, 100);
    assert_eq!((numbers, tickets.len()), ((0..100).collect(), 100));
    // Far more than a frame takes otherwise.
    assert_eq!(log.last(P0), Position(1));
    log.fail_next(Failure::Unavailable);
    together(100..200).unwrap();
    let failed: Vec<_> = (0..100).map(|_| rx.recv().unwrap().0).collect();
    assert_eq!(failed, (100..200).collect::<Vec<_>>());
    let too_large =
        vec![(vec![0; EVENT_BYTES_MAX / 2], Note(0, tx.clone())), (vec![0; EVENT_BYTES_MAX / 2], Note(1, tx.clone()))];
    assert!(matches!(appender.submit_together(P0, too_large), Err(SubmitError::TooLarge { .. })));
}

#[test]
fn close_appends_what_is_pending() {
    let (log, appender) = start(2, AppenderOptions::default());
    let (tx, _rx) = notes();
    (0..100).for_each(|n| submit(&appender, Partition(n as u16 % 2), n, &tx).unwrap());
    appender.close();
    let (numbers, tickets) = apply(&log, &appender, 100);
    assert_eq!((numbers.len(), tickets.len()), (100, 100));
}

#[test]
fn a_failed_frame_fails_its_tickets_and_leaves_no_hole() {
    for failure in [Failure::StorageFull, Failure::Unavailable, Failure::UnknownAndLost, Failure::UnknownButWritten] {
        let (log, appender) = start(1, AppenderOptions::default());
        let (tx, rx) = notes();
        submit(&appender, P0, 1, &tx).unwrap();
        apply(&log, &appender, 1);
        let id = appender.id(P0);
        log.fail_next(failure);
        submit(&appender, P0, 2, &tx).unwrap();
        let (n, error) = rx.recv().unwrap();
        assert_eq!(n, 2);
        let unknown = matches!(failure, Failure::UnknownAndLost | Failure::UnknownButWritten);
        assert_eq!(matches!(error, AppendError::Unknown(_)), unknown);
        // Refused for a moment after the log was full, taken again by itself.
        while let Err(error) = submit(&appender, P0, 3, &tx) {
            assert_eq!((error, failure), (SubmitError::StorageFull, Failure::StorageFull));
            std::thread::yield_now();
        }
        appender.close();
        let expected: &[u64] = if failure == Failure::UnknownButWritten { &[1, 2, 3] } else { &[1, 3] };
        let (numbers, _) = apply(&log, &appender, expected.len());
        assert_eq!(numbers, expected);
        assert_eq!(appender.id(P0) != id, unknown, "a new id after an unknown outcome only");
    }
}

#[test]
fn a_long_silence_renews_the_id() {
    let clock = Clock::manual(1_000_000);
    let log = MemoryLog::with_clock(PartitionCount::new(2).unwrap(), clock.clone());
    let appender = Appender::<Note>::start(Arc::new(log.clone()), AppenderOptions::default()).unwrap();
    let (tx, _rx) = notes();
    let id = appender.id(P0);
    submit(&appender, P0, 1, &tx).unwrap();
    apply(&log, &appender, 1);
    clock.set(1_000_000 + RENEW_AFTER_MS + 1);
    submit(&appender, Partition(1), 2, &tx).unwrap();
    apply(&log, &appender, 2);
    assert_eq!(appender.id(P0), id, "the other partition was not silent");
    submit(&appender, P0, 3, &tx).unwrap();
    apply(&log, &appender, 3);
    assert_ne!(appender.id(P0), id);
}

#[test]
fn bounds_have_their_errors() {
    let (_log, appender) = start(1, AppenderOptions { max_pending_bytes: 0, ..AppenderOptions::default() });
    let (tx, rx) = notes();
    let big = |out: &mut Vec<u8>| out.resize(out.len() + EVENT_BYTES_MAX - 3, 0);
    let (error, ticket) = appender.submit(P0, big, Some(Note(9, tx.clone()))).unwrap_err();
    assert_eq!(error, SubmitError::TooLarge { bytes: EVENT_BYTES_MAX + 1, limit: EVENT_BYTES_MAX });
    assert_eq!(ticket.unwrap().0, 9);
    let fitting = |out: &mut Vec<u8>| out.resize(out.len() + EVENT_BYTES_MAX - 4, 0);
    appender.submit(P0, fitting, None).map_err(|(error, _)| error).unwrap();
    appender.close();
    appender.lines[0].inner.pending_bytes.store(1, Ordering::SeqCst);
    assert_eq!(submit(&appender, P0, 1, &tx), Err(SubmitError::Full));
    assert!(rx.try_recv().is_err());
}

#[test]
fn too_many_untaken_tickets_stop_the_intake() {
    let (log, appender) = start(1, AppenderOptions { max_waiting_events: 2, ..AppenderOptions::default() });
    let (tx, _rx) = notes();
    let mut taken = 0;
    while submit(&appender, P0, taken, &tx) != Err(SubmitError::Full) {
        taken += 1;
        assert!(taken < 1_000_000, "there is a bound");
    }
    let (_, tickets) = apply(&log, &appender, taken as usize);
    assert_eq!(tickets.len(), taken as usize);
    submit(&appender, P0, 0, &tx).unwrap();
}
