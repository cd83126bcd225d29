//! Why an event was not applied, and how callers are told.

use cameo_eventlog::AppendError;
use cameo_http::Refusal;
use cameo_http::refusal::{RETRY_BUSY, RETRY_UNAVAILABLE};

/// Why an event was not applied, by what the caller should do next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// Too much is under way. Nothing was stored; try again soon.
    #[error("too many events are waiting to be stored; try again in a moment")]
    Busy,
    /// The disk is full. Nothing was stored; it works again by itself when there is room.
    #[error("the storage is full; nothing was stored, and it works again when there is room")]
    StorageFull,
    /// The log or the replica cannot take it. Nothing was stored; safe to try again.
    #[error("nothing was stored: {0}")]
    Unavailable(String),
    /// This node takes it no more, and another may: it is shutting down, or the partition has stopped here. Nothing was
    /// stored.
    #[error("nothing was stored: {0}")]
    Elsewhere(String),
    /// Nobody knows whether it was stored: only a retry with the same event id is safe.
    #[error("the outcome is unknown ({0}); retry with the same eventId")]
    Unknown(String),
    /// The event is larger than the log takes.
    #[error("the event takes {bytes} bytes; the limit is {limit}")]
    TooLarge {
        /// Encoded size.
        bytes: usize,
        /// Most allowed.
        limit: usize,
    },
}

impl From<SubmitError> for Refusal {
    fn from(error: SubmitError) -> Self {
        let message = error.to_string();
        let (status, retry_after, limit) = match error {
            SubmitError::Busy => (429, Some(RETRY_BUSY), None),
            SubmitError::StorageFull => (507, Some(RETRY_UNAVAILABLE), None),
            SubmitError::Unavailable(_) | SubmitError::Elsewhere(_) | SubmitError::Unknown(_) => {
                (503, Some(RETRY_UNAVAILABLE), None)
            }
            SubmitError::TooLarge { limit, .. } => (413, None, Some(limit)),
        };
        Self { retry_after, limit, ..Self::new(status, message) }
    }
}

impl From<AppendError> for SubmitError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::StorageFull => Self::StorageFull,
            AppendError::Unavailable(why) => Self::Unavailable(why.to_string()),
            AppendError::Unknown(why) => Self::Unknown(why.to_string()),
        }
    }
}

impl From<cameo_eventlog::SubmitError> for SubmitError {
    fn from(error: cameo_eventlog::SubmitError) -> Self {
        match error {
            cameo_eventlog::SubmitError::Full => Self::Busy,
            cameo_eventlog::SubmitError::StorageFull => Self::StorageFull,
            cameo_eventlog::SubmitError::Closed => Self::Elsewhere("the server is shutting down".into()),
            cameo_eventlog::SubmitError::TooLarge { bytes, limit } => Self::TooLarge { bytes, limit },
        }
    }
}
