//! The connection to NATS, and the two things Cameo does with a JetStream stream: append to it, and read it in order.
//!
//! What it is: [`Nats`] (connecting, reconnecting, requests), [`Nats::publish`] (an append whose outcome is never
//! guessed), [`stream`] (make, look at, shorten a stream), [`Feed`] (a stream's messages in order, from any place, for
//! ever).
//!
//! What it is not: it knows neither frames nor records. It has no consumers: a user that may create one can have a stream
//! delivered to any subject and read all of it, so nodes are not given that right (ADR 5). A feed reads by direct get, and
//! follows the end of its stream by what the server republishes.
//!
//! Invariants:
//! - A publish that was not answered is [`PublishError::Unknown`], whatever happened to the connection.
//! - A publish is repeated under its own message id, so it is stored once within the stream's window of duplicates.
//! - A feed delivers rising sequences, none twice. Of a contiguous stream it leaves none out; what is missing, trimmed or
//!   rewritten ends it with an error that names the place.

mod connection;
mod direct;
mod feed;
pub mod object;
mod publish;
mod queue;
pub mod stream;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;

pub use connection::{Asked, ConnectError, Incoming, Nats, NatsOptions, RequestError, Subscription};
pub use direct::Stored;
pub use feed::{Feed, FeedError, FeedOptions};
pub use publish::{Ack, Publish, PublishError};
pub use queue::{Handled, Queued};
