//! Whether a stream still has the end that is known of it: what this process was told or has read, what a checkpoint has, and
//! what is kept on disk (`recent.rs`). A stream that has lost its end may have gone on with other frames, past the same place;
//! so how far it goes says little, and the frame that stands where the newest one was read is compared. Of a checkpoint only the
//! place is known: there, what has come after the stream was seen to be too short is not what was read.

use std::sync::atomic::Ordering;
use std::time::Duration;

use cameo_nats::RequestError;

use super::{Inner, Position, Stream, reappend};

/// How long the answer to one look may take: the leader that it was sent to may be gone, and nobody answers for it.
const LOOK_PATIENCE: Duration = Duration::from_millis(500);
/// The same for a frame, which may be large, from the leader that has just answered.
const FRAME_PATIENCE: Duration = Duration::from_secs(2);
/// [`Stream::looked`] of a stream that was not looked at since something was learnt of it: no connection is lost as often.
const NEVER: u64 = u64::MAX;

/// What the end of a stream is like.
pub(super) enum End {
    /// It has all that is known of it, or may have trimmed it.
    Whole,
    /// It ends at this sequence, too early, as its leader said at this time of its own, in milliseconds.
    Short { last: u64, at_ms: u64 },
    /// Here stands another frame than was read, or none.
    Other(Position),
    /// There is no such stream.
    Gone,
}

impl Stream {
    /// Says that it had everything up to here before this process was told anything of it: nothing is appended before a
    /// look has found it there.
    pub(super) fn had(&self, upto: Position) {
        if self.last.fetch_max(upto.0, Ordering::AcqRel) < upto.0 {
            self.distrust();
        }
    }

    /// The next append looks at it first.
    pub(super) fn distrust(&self) {
        self.looked.store(NEVER, Ordering::Release);
    }
}

impl Inner {
    /// Asks a stream's leader whether it has everything up to `known`, and what was read lately.
    ///
    /// # Errors
    /// When nobody can say.
    pub(super) async fn end(&self, stream: usize, known: Position) -> Result<End, RequestError> {
        let name = &self.streams[stream].name;
        let late = || RequestError::Timeout(name.clone());
        let info = tokio::time::timeout(LOOK_PATIENCE, self.nats.stream_info(name)).await.map_err(|_| late())??;
        let Some(info) = info else { return Ok(End::Gone) };
        if info.last < known.0 {
            return Ok(End::Short { last: info.last, at_ms: info.at_ms });
        }
        let newest = self.recent.get().and_then(|recent| recent[stream].newest());
        let Some(newest) = newest.filter(|newest| newest.position.0 >= info.first) else { return Ok(End::Whole) };
        if info.last < newest.position.0 {
            return Ok(End::Short { last: info.last, at_ms: info.at_ms });
        }
        let there = self.nats.at(name, newest.position.0);
        let there = tokio::time::timeout(FRAME_PATIENCE, there).await.map_err(|_| late())??;
        Ok(if there.is_some_and(|there| newest.is(&there.payload)) { End::Whole } else { End::Other(newest.position) })
    }

    /// Whether what stands at a position was stored after a time of the servers'; not if it was appended again.
    ///
    /// # Errors
    /// When nobody can say.
    pub(super) async fn is_later(&self, stream: usize, position: Position, ms: u64) -> Result<bool, RequestError> {
        let name = &self.streams[stream].name;
        let there = tokio::time::timeout(FRAME_PATIENCE, self.nats.at(name, position.0)).await;
        let there = there.map_err(|_| RequestError::Timeout(name.clone()))??;
        Ok(there.is_some_and(|there| reappend::time(&there).ms() > ms))
    }

    /// As [`Self::end`], for all that is known of a stream; says what is wrong with it, if anything.
    ///
    /// # Errors
    /// When nobody can say.
    pub(super) async fn look(&self, stream: usize) -> Result<Option<String>, RequestError> {
        let known = Position(self.streams[stream].last.load(Ordering::Acquire));
        let name = &self.streams[stream].name;
        let what = match self.end(stream, known).await? {
            End::Whole => return Ok(None),
            End::Gone if known == Position::START => return Ok(None),
            End::Gone => format!("stream {name} is gone, but {known} was stored in it"),
            End::Short { last, .. } => format!("stream {name} ends at position {last}, but {known} was stored in it"),
            End::Other(position) => other(name, position),
        };
        Ok(Some(format!("{what}: it has lost acknowledged frames (`cameo log reappend` tells which)")))
    }
}

/// What is said of a stream that went on after it had lost its end.
pub(super) fn other(stream: &str, position: Position) -> String {
    format!("stream {stream} has another frame at position {position} than was read there")
}

/// What is said of one that has grown to where it was read up to, after it was seen to end before.
pub(super) fn later(stream: &str, position: Position) -> String {
    format!("stream {stream} ended before position {position} that was read already, and has gone on since")
}
