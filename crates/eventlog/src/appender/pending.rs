//! Events that wait for the next group, per partition, and the tickets of frames on their way. No log, no threads.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::LogTime;
use crate::frame::{AppenderId, FrameBuilder, HEADER_BYTES};

/// Smallest and largest room a new frame starts with, in bytes; between them what the last one took.
const CAPACITY: (usize, usize) = (1 << 10, 256 << 10);

/// A frame that has no header yet, and who waits for its events.
pub(super) struct Draft<T> {
    pub(super) frame: FrameBuilder,
    /// As long as the events, or empty when nobody waits.
    pub(super) tickets: Vec<Option<T>>,
}

impl<T> Draft<T> {
    fn new(capacity: usize) -> Self {
        Self { frame: FrameBuilder::with_capacity(capacity.clamp(CAPACITY.0, CAPACITY.1)), tickets: vec![] }
    }

    fn add_ticket(&mut self, ticket: Option<T>) {
        if ticket.is_some() || !self.tickets.is_empty() {
            self.tickets.resize_with(self.frame.events() as usize - 1, || None);
            self.tickets.push(ticket);
        }
    }
}

/// What one partition has pending.
pub(super) struct Pending<T> {
    /// Oldest first; only the last one takes more events.
    pub(super) drafts: VecDeque<Draft<T>>,
    last_bytes: usize,
    /// No event is taken any more.
    pub(super) closed: bool,
}

/// An event that no frame can hold; it was not added.
pub(super) struct TooLarge(pub(super) usize);

impl<T> Pending<T> {
    pub(super) const fn new() -> Self {
        Self { drafts: VecDeque::new(), last_bytes: 0, closed: false }
    }

    /// Has the next event begin a frame of its own.
    pub(super) fn begin_frame(&mut self) {
        if self.drafts.back().is_some_and(|draft| draft.frame.events() > 0) {
            self.drafts.push_back(Draft::new(self.last_bytes));
        }
    }

    /// Adds an event to the open frame, or to a new one when it would grow past `frame_bytes`. Returns its bytes, and
    /// gives the ticket back when the event is larger than `event_bytes`.
    pub(super) fn add(
        &mut self,
        frame_bytes: usize,
        event_bytes: usize,
        encode: impl FnOnce(&mut Vec<u8>),
        ticket: Option<T>,
    ) -> Result<usize, (TooLarge, Option<T>)> {
        if self.drafts.is_empty() {
            self.drafts.push_back(Draft::new(self.last_bytes));
        }
        let Some(draft) = self.drafts.back_mut() else { return Err((TooLarge(0), ticket)) };
        let bytes = draft.frame.push(encode);
        if bytes > event_bytes {
            draft.frame.pop(bytes);
            return Err((TooLarge(bytes), ticket));
        }
        if draft.frame.len() <= frame_bytes || draft.frame.events() == 1 {
            draft.add_ticket(ticket);
            self.last_bytes = draft.frame.len();
            return Ok(bytes);
        }
        // Full: the event goes into the next one.
        let event = draft.frame.pop(bytes);
        let mut next = Draft::new(CAPACITY.1.max(HEADER_BYTES + bytes));
        next.frame.push_popped(&event);
        next.add_ticket(ticket);
        self.drafts.push_back(next);
        Ok(bytes)
    }
}

/// Tickets of a frame that was given to the log.
struct Waiting<T> {
    appender: AppenderId,
    counter: u64,
    tickets: Vec<Option<T>>,
}

/// Tickets of the frames of one partition, in the order of the frames.
pub(super) struct Registry<T>(VecDeque<Waiting<T>>);

impl<T> Registry<T> {
    pub(super) const fn new() -> Self {
        Self(VecDeque::new())
    }

    pub(super) fn insert(&mut self, appender: AppenderId, counter: u64, tickets: Vec<Option<T>>) {
        self.0.push_back(Waiting { appender, counter, tickets });
    }

    pub(super) fn take(&mut self, appender: AppenderId, counter: u64) -> Option<Vec<Option<T>>> {
        // A replica takes them in order, so it is the first one.
        let at = self.0.iter().position(|waiting| waiting.appender == appender && waiting.counter == counter)?;
        self.0.remove(at).map(|waiting| waiting.tickets)
    }

    pub(super) fn take_all(&mut self) -> Vec<Vec<Option<T>>> {
        self.0.drain(..).map(|waiting| waiting.tickets).collect()
    }
}

/// The end of the chain of this appender's frames in one partition.
#[derive(Clone, Copy, Default)]
pub(super) struct Chain {
    /// Counter and digest of its last frame in the log; 0 when there is none.
    pub(super) counter: u64,
    pub(super) digest: u64,
    pub(super) at: LogTime,
}

/// A frame with its header, ready for the log.
pub(super) struct Ready<T> {
    pub(super) bytes: Bytes,
    pub(super) counter: u64,
    pub(super) digest: u64,
    pub(super) events: usize,
    pub(super) tickets: Vec<Option<T>>,
}
