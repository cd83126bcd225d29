//! The Rust SDK: send visits, read and change profiles, upload bulk files, call the admin API.
//!
//! What it is: a thin asynchronous client over HTTP/1.1 with typed errors and retries where a retry cannot count
//! anything twice: visits that all carry an event id, changes and uploads of files (which always carry a key), and reads.
//! A retry waits as long as the server asks, at most ten seconds, and there are four at most.
//!
//! With the feature `nats` there is also a producer of visits over a NATS connection of the caller's own (`nats::Producer`).
//!
//! A server of `https://` is trusted by the system's authorities, or by those of a file.
//!
//! What it is not: it keeps no queue, no cache and no state beyond a pool of connections.
//!
//! ```no_run
//! # async fn example() -> Result<(), cameo_client::Error> {
//! use cameo_client::{Client, Visit};
//!
//! let client = Client::new("http://127.0.0.1:8080", "demo")?;
//! let visit = Visit::of_tnt_id("a1").profile("country", "france").event_id("order-17");
//! let result = client.visit(&visit).await?;
//! println!("{}", result["tntId"]);
//! let profile = client.profile("tnt", "a1").await?;
//! # Ok(())
//! # }
//! ```

mod admin;
mod bulk;
mod error;
#[cfg(feature = "nats")]
pub mod nats;
#[cfg(test)]
mod tests;
pub mod tls;
mod transport;
mod visit;

pub use admin::{Admin, Grant};
pub use bulk::{Upload, UploadOptions};
pub use error::Error;
pub use visit::Visit;

use std::path::Path;

use http::Method;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use transport::{Call, Transport};

/// All but the unreserved characters of RFC 3986.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

pub(crate) fn encode(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}

/// A key for [`UploadOptions::idempotency_key`] that no other upload has. Keep it to go on with an upload that failed.
#[must_use]
pub fn new_idempotency_key() -> String {
    transport::random_id()
}

/// Talks to one server about one client (tenant). Cheap to clone; clones share connections.
#[derive(Clone, Debug)]
pub struct Client {
    transport: Transport,
    code: String,
}

impl Client {
    /// For the server at `url` (`http://HOST:PORT` or `https://HOST:PORT`) and the client code `code`. Connects on the
    /// first call.
    ///
    /// # Errors
    /// When the URL is none, or of https where the system has no authorities to trust it by.
    pub fn new(url: &str, code: &str) -> Result<Self, Error> {
        Self::trusting(url, code, None)
    }

    /// As [`Self::new`]; with `ca`, a PEM file, only its authorities are trusted.
    ///
    /// # Errors
    /// Also when the file holds none.
    pub fn trusting(url: &str, code: &str, ca: Option<&Path>) -> Result<Self, Error> {
        Ok(Self { transport: Transport::new(url, ca)?, code: code.to_owned() })
    }

    /// Sends `Authorization: Bearer TOKEN` with every call.
    ///
    /// # Errors
    /// When the token cannot stand in a header.
    pub fn with_token(mut self, token: &str) -> Result<Self, Error> {
        self.transport.set_token(token)?;
        Ok(self)
    }

    /// The server's URL, without a slash at the end.
    #[must_use]
    pub fn url(&self) -> &str {
        self.transport.url()
    }

    /// Sends one visit; the reply names its ids and holds the profile after it.
    ///
    /// # Errors
    /// When it was refused, or the server could not be reached. Retried only when the visit has an event id.
    pub async fn visit(&self, visit: &Visit) -> Result<Value, Error> {
        let path = format!("/v1/{}/visits?return=profile", encode(&self.code));
        let body = serde_json::to_vec(visit).map_err(|error| Error::BadReply(error.to_string()))?;
        let call = Call::new(Method::POST, path).json(body).retry(visit.has_event_id());
        self.transport.json(call).await
    }

    /// Sends up to 10,000 visits; the reply has `accepted`, `refused` and a result for each, in order.
    ///
    /// # Errors
    /// When the whole call was refused, or the server could not be reached. Retried only when every visit has an event
    /// id.
    pub async fn visits(&self, visits: &[Visit]) -> Result<Value, Error> {
        let path = format!("/v1/{}/visits", encode(&self.code));
        let body = serde_json::to_vec(visits).map_err(|error| Error::BadReply(error.to_string()))?;
        let call = Call::new(Method::POST, path).json(body).retry(visits.iter().all(Visit::has_event_id));
        self.transport.json(call).await
    }

    fn profile_path(&self, kind: &str, id: &str) -> String {
        format!("/v1/{}/profiles/{}/{}", encode(&self.code), encode(kind), encode(id))
    }

    /// A profile by one of its ids; `kind` is `tnt`, `tp`, `ecid` or `cust:CODE`.
    ///
    /// # Errors
    /// [`Error::Refused`] with status 404 when there is none.
    pub async fn profile(&self, kind: &str, id: &str) -> Result<Value, Error> {
        self.transport.json(Call::new(Method::GET, self.profile_path(kind, id)).retry(true)).await
    }

    /// A profile with `contributions`: what each of its ids brought and did, that of the id it lives at first.
    ///
    /// # Errors
    /// As [`Self::profile`].
    pub async fn profile_by_parts(&self, kind: &str, id: &str) -> Result<Value, Error> {
        let path = format!("{}?contributions=true", self.profile_path(kind, id));
        self.transport.json(Call::new(Method::GET, path).retry(true)).await
    }

    /// Takes the id `other` (kind, id) out of a profile; the reply is the profile that this id has of its own then.
    ///
    /// # Errors
    /// [`Error::Refused`] with status 404 when there is no such profile or the id is not linked to it, 409 when the profile
    /// lives at that id. Not retried: a second try finds nothing that is linked.
    pub async fn unlink(&self, kind: &str, id: &str, other: (&str, &str)) -> Result<Value, Error> {
        let body = json!({"kind": other.0, "id": other.1}).to_string();
        let path = format!("{}/unlink", self.profile_path(kind, id));
        self.transport.json(Call::new(Method::POST, path).json(body.into_bytes())).await
    }

    /// A profile as it read at a time: RFC 3339 text, or milliseconds since 1970. Log time counts, not `occurredAt`.
    ///
    /// # Errors
    /// [`Error::Refused`] with status 404 when there was none then, 410 when the log does not reach back that far.
    pub async fn profile_as_of(&self, kind: &str, id: &str, time: &str) -> Result<Value, Error> {
        let path = format!("{}?asOf={}", self.profile_path(kind, id), encode(time));
        self.transport.json(Call::new(Method::GET, path).retry(true)).await
    }

    /// What happened to a profile, newest first: `{entries: […], next?, completeSince?}`. `limit` is 1 to 200; `after` is
    /// the `next` of the page before.
    ///
    /// # Errors
    /// [`Error::Refused`] with status 404 when nothing is known of it.
    pub async fn history(&self, kind: &str, id: &str, limit: usize, after: Option<&str>) -> Result<Value, Error> {
        let after = after.map(|after| format!("&after={}", encode(after))).unwrap_or_default();
        let path = format!("{}/history?limit={limit}{after}", self.profile_path(kind, id));
        self.transport.json(Call::new(Method::GET, path).retry(true)).await
    }

    /// Everything that is held about a profile, as the JSON file that a browser would download.
    ///
    /// # Errors
    /// [`Error::Refused`] with status 404 when nothing is known of it.
    pub async fn export(&self, kind: &str, id: &str) -> Result<Vec<u8>, Error> {
        let path = format!("{}/export", self.profile_path(kind, id));
        let reply = self.transport.send(Call::new(Method::GET, path).retry(true)).await?;
        Ok(reply.body.into())
    }

    /// Sets and removes attributes of a profile; the reply is the profile afterwards.
    ///
    /// # Errors
    /// [`Error::Refused`] with status 404 when there is none.
    pub async fn change(
        &self,
        kind: &str,
        id: &str,
        set: &[(String, String)],
        unset: &[String],
    ) -> Result<Value, Error> {
        let set: serde_json::Map<_, _> = set.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        // With an id of its own the change counts once however often it is sent.
        let body = json!({"set": set, "unset": unset, "eventId": transport::random_id()});
        let call =
            Call::new(Method::PATCH, self.profile_path(kind, id)).json(body.to_string().into_bytes()).retry(true);
        self.transport.json(call).await
    }

    /// Erases a profile.
    ///
    /// # Errors
    /// [`Error::Refused`] with status 404 when there is none.
    pub async fn erase(&self, kind: &str, id: &str) -> Result<(), Error> {
        self.transport.send(Call::new(Method::DELETE, self.profile_path(kind, id))).await.map(drop)
    }

    /// Asks the server whether it may be sent requests, once.
    ///
    /// # Errors
    /// [`Error::Refused`] with status 503 and the server's reasons when it may not.
    pub async fn ready(&self) -> Result<(), Error> {
        self.transport.send(Call::new(Method::GET, "/readyz".into())).await.map(drop)
    }

    /// Counters and state of a batch.
    ///
    /// # Errors
    /// [`Error::Refused`] with status 404 when there is no such batch.
    pub async fn batch(&self, batch_id: &str) -> Result<Value, Error> {
        let path = format!("/v1/{}/batches/{}", encode(&self.code), encode(batch_id));
        self.transport.json(Call::new(Method::GET, path).retry(true)).await
    }

    /// The failed rows of a batch: `{errors: [{line, column, reason}]}`.
    ///
    /// # Errors
    /// [`Error::Refused`] with status 404 when there is no such batch.
    pub async fn batch_errors(&self, batch_id: &str) -> Result<Value, Error> {
        let path = format!("/m2/{}/profile/batchErrors?batchId={}", encode(&self.code), encode(batch_id));
        self.transport.json(Call::new(Method::GET, path).accept_json().retry(true)).await
    }
}
