//! An object store: named blobs in a stream, in the layout of the NATS object store (ADR-20 of NATS), so that its tools
//! list and read what is in it.
//!
//! ```text
//! stream OBJ_{bucket}
//! $O.{bucket}.C.{nuid}           a chunk of an object, in order
//! $O.{bucket}.M.{base64url name} what the object is: JSON with name, nuid, size, chunks, digest "SHA-256=…"
//! ```
//! One thing differs on purpose: the stream takes no roll-up header, as whoever may publish with it can empty the stream.
//! So an object is written once: the first description at a name's subject counts, whatever comes behind it there, a
//! `deleted` one too. Who may only publish can neither replace nor hide one; whoever may purge removes it.
//!
//! An object is there when its description is, which comes last. Chunks without one are of a writer that died, or still
//! writes.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::connection::{Nats, RequestError};
use crate::publish::{Publish, PublishError};
use crate::stream::StreamSpec;

/// Bytes of a chunk. Ours: far below the 1 MiB of a message, and few enough to be read back in batches.
const CHUNK_BYTES: usize = 256 << 10;
/// How long a chunk is tried to be stored.
const PUT_PATIENCE: Duration = Duration::from_secs(30);
/// How long a replica that lacks chunks is asked again.
const GET_PATIENCE: Duration = Duration::from_secs(10);
/// Pause before a replica is asked again.
const AGAIN: Duration = Duration::from_millis(100);
/// A writer that is slower than this for one chunk is taken for dead.
const UNFINISHED_AFTER: Duration = Duration::from_secs(3600);
/// Of the ids of chunks and descriptions: far longer than one is ever sent again.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// What an object is, as it stands in the store. Names of fields are the layout's.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Stored {
    name: String,
    options: Options,
    bucket: String,
    nuid: String,
    size: u64,
    mtime: String,
    chunks: u64,
    digest: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Options {
    #[serde(default)]
    max_chunk_size: usize,
}

/// An object that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its name.
    pub name: String,
    /// Its bytes.
    pub size: u64,
    /// Since when it is there, milliseconds since 1970 by the server's clock.
    pub at_ms: u64,
    nuid: String,
    chunks: u64,
    digest: String,
}

/// Why something could not be done with an object.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// The bucket cannot be asked.
    #[error("the object store cannot be used")]
    Request(#[from] RequestError),
    /// What was to be stored was not, as far as is known.
    #[error("the object store does not take it")]
    Publish(#[from] PublishError),
    /// There is one of this name, and objects are not replaced.
    #[error("there is an object {0} already")]
    ThereAlready(String),
    /// There is none of this name.
    #[error("there is no object {0}")]
    Missing(String),
    /// It is not what was stored.
    #[error("object {name} is damaged: {what}")]
    Damaged {
        /// Which.
        name: String,
        /// How.
        what: String,
    },
    /// What is to be stored cannot be read, or what was read cannot be written.
    #[error("the object's bytes cannot be read or written")]
    Io(#[from] io::Error),
}

/// A bucket of objects. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ObjectBucket {
    nats: Nats,
    name: String,
    stream: String,
}

impl ObjectBucket {
    /// Makes the bucket, unless it is there.
    ///
    /// # Errors
    /// When it cannot be made, or this user may not.
    pub async fn create(nats: &Nats, name: &str, replicas: usize) -> Result<(), RequestError> {
        let spec = StreamSpec {
            name: format!("OBJ_{name}"),
            subjects: vec![format!("$O.{name}.C.>"), format!("$O.{name}.M.>")],
            replicas,
            max_bytes: -1,
            max_messages: -1,
            per_subject: -1,
            duplicate_window: DUPLICATE_WINDOW,
            work_queue: false,
            republish: None,
            metadata: BTreeMap::new(),
        };
        nats.ensure_stream(&spec).await.map(drop)
    }

    /// The bucket of a name, whether it is there or not.
    #[must_use]
    pub fn new(nats: &Nats, name: &str) -> Self {
        Self { nats: nats.clone(), name: name.to_owned(), stream: format!("OBJ_{name}") }
    }

    /// The stream that holds it.
    #[must_use]
    pub fn stream(&self) -> &str {
        &self.stream
    }

    fn described_at(&self, name: &str) -> String {
        format!("$O.{}.M.{}", self.name, URL_SAFE.encode(name))
    }

    fn chunks_at(&self, nuid: &str) -> String {
        format!("$O.{}.C.{nuid}", self.name)
    }

    /// Stores what is read from `from`, to its end.
    ///
    /// # Errors
    /// When there is one of this name, or it cannot be stored. It is not there then, unless nobody can say; what was
    /// written of it is left to [`Self::remove_unfinished`].
    pub async fn put(&self, name: &str, from: &mut impl Read) -> Result<ObjectInfo, ObjectError> {
        if self.find(name).await?.is_some() {
            return Err(ObjectError::ThereAlready(name.to_owned()));
        }
        let nuid = nuid()?;
        let (mut digest, mut size, mut chunks) = (Sha256::new(), 0, 0);
        loop {
            let mut chunk = Vec::with_capacity(CHUNK_BYTES);
            from.take(CHUNK_BYTES as u64).read_to_end(&mut chunk)?;
            if chunk.is_empty() {
                break;
            }
            digest.update(&chunk);
            size += chunk.len() as u64;
            chunks += 1;
            // One after the other: their order in the stream is the object's.
            self.store(self.chunks_at(&nuid), format!("{nuid}.{chunks}"), None, chunk).await?;
        }
        let digest = format!("SHA-256={}", URL_SAFE.encode(digest.finalize()));
        let stored = Stored {
            name: name.to_owned(),
            options: Options { max_chunk_size: CHUNK_BYTES },
            bucket: self.name.clone(),
            nuid: nuid.clone(),
            size,
            mtime: String::from("0001-01-01T00:00:00Z"),
            chunks,
            digest: digest.clone(),
        };
        let described = serde_json::to_vec(&stored).map_err(io::Error::other)?;
        match self.store(self.described_at(name), nuid.clone(), Some(0), described).await {
            Err(PublishError::Conflict { .. }) => {
                // Another writer was first, or an attempt of ours that was not answered.
                let found = self.find(name).await?.filter(|found| found.nuid == nuid);
                found.ok_or_else(|| ObjectError::ThereAlready(name.to_owned()))
            }
            Err(error) => Err(error.into()),
            Ok(()) => Ok(ObjectInfo { name: name.to_owned(), size, at_ms: 0, nuid, chunks, digest }),
        }
    }

    async fn store(
        &self,
        subject: String,
        id: String,
        expected: Option<u64>,
        payload: Vec<u8>,
    ) -> Result<(), PublishError> {
        let publish = Publish { subject, id, expected, headers: vec![], payload: payload.into() };
        self.nats.publish(&publish, PUT_PATIENCE).await.map(drop)
    }

    /// What is there.
    ///
    /// # Errors
    /// When the bucket cannot be asked.
    pub async fn list(&self) -> Result<Vec<ObjectInfo>, ObjectError> {
        let (mut found, mut subjects) = (Vec::new(), HashSet::new());
        for message in self.all(&format!("$O.{}.M.*", self.name)).await? {
            let at_ms = message.at_ms();
            // Also one that cannot be read: [`Self::find`] takes it for the description too.
            if !subjects.insert(message.subject.clone()) {
                continue;
            }
            let Ok(stored) = serde_json::from_slice::<Stored>(&message.payload) else { continue };
            // One that speaks of another name than its own hides nobody.
            if self.described_at(&stored.name) == message.subject {
                found.push(info(stored, at_ms));
            }
        }
        Ok(found)
    }

    /// Every message of a filter, in order, as the replica that answers has them.
    async fn all(&self, filter: &str) -> Result<Vec<crate::Stored>, RequestError> {
        let (mut all, mut from) = (Vec::new(), 1);
        loop {
            let batch = self.nats.direct_batch(&self.stream, filter, from).await?;
            let Some(end) = batch.last() else { return Ok(all) };
            (from, _) = (end.seq + 1, all.extend(batch));
        }
    }

    async fn find(&self, name: &str) -> Result<Option<ObjectInfo>, ObjectError> {
        let Some(message) = self.nats.first_of(&self.stream, &self.described_at(name)).await? else { return Ok(None) };
        let stored: Stored = serde_json::from_slice(&message.payload).map_err(|error| ObjectError::Damaged {
            name: name.to_owned(),
            what: format!("its description cannot be read: {error}"),
        })?;
        let info = info(stored, message.at_ms());
        Ok(Some(ObjectInfo { name: name.to_owned(), ..info }))
    }

    /// Reads an object into `into`, and compares what came with what was stored.
    ///
    /// # Errors
    /// When there is none, or it is not what was stored: what stands in `into` is of no use then.
    pub async fn get(&self, name: &str, into: &mut impl Write) -> Result<(), ObjectError> {
        let object = self.find(name).await?.ok_or_else(|| ObjectError::Missing(name.to_owned()))?;
        let damaged = |what: String| ObjectError::Damaged { name: name.to_owned(), what };
        let filter = self.chunks_at(&object.nuid);
        let (mut digest, mut size, mut chunks, mut from) = (Sha256::new(), 0, 0, 1);
        let mut since = Instant::now();
        while chunks < object.chunks {
            let batch = self.nats.direct_batch(&self.stream, &filter, from).await?;
            if batch.is_empty() {
                // A replica may be behind.
                if since.elapsed() > GET_PATIENCE {
                    return Err(damaged(format!(
                        "{} of its {} chunks are missing",
                        object.chunks - chunks,
                        object.chunks
                    )));
                }
                tokio::time::sleep(AGAIN).await;
                continue;
            }
            since = Instant::now();
            // What somebody else has put behind them is not of it.
            let missing = usize::try_from(object.chunks - chunks).unwrap_or(usize::MAX);
            for message in batch.into_iter().take(missing) {
                digest.update(&message.payload);
                size += message.payload.len() as u64;
                chunks += 1;
                from = message.seq + 1;
                into.write_all(&message.payload)?;
            }
        }
        let found = format!("SHA-256={}", URL_SAFE.encode(digest.finalize()));
        if (size, found.trim_end_matches('=')) != (object.size, object.digest.trim_end_matches('=')) {
            return Err(damaged(format!(
                "{size} bytes came out with {found}; {} went in with {}",
                object.size, object.digest
            )));
        }
        into.flush()?;
        Ok(())
    }

    /// Removes an object; one that is not there is no error.
    ///
    /// # Errors
    /// When the bucket cannot be asked, or this user may not.
    pub async fn remove(&self, name: &str) -> Result<(), ObjectError> {
        let object = self.find(name).await?;
        // The description first: what is listed is whole.
        self.purge(&self.described_at(name)).await?;
        if let Some(object) = object {
            self.purge(&self.chunks_at(&object.nuid)).await?;
        }
        Ok(())
    }

    /// Removes chunks that no object has, and that are an hour old. Returns of how many objects.
    ///
    /// # Errors
    /// When the bucket cannot be asked, or this user may not.
    pub async fn remove_unfinished(&self) -> Result<usize, ObjectError> {
        #[derive(Deserialize)]
        struct Answer {
            state: State,
        }
        #[derive(Deserialize)]
        struct State {
            #[serde(default)]
            subjects: Option<HashMap<String, u64>>,
        }
        let ask = json!({ "subjects_filter": format!("$O.{}.C.*", self.name) });
        // Before the list, so that what is finished meanwhile is in the list.
        let answer: Answer = self.nats.api(&format!("STREAM.INFO.{}", self.stream), &ask).await?;
        let held: HashSet<_> = self.list().await?.into_iter().map(|object| self.chunks_at(&object.nuid)).collect();
        let mut removed = 0;
        for subject in answer.state.subjects.unwrap_or_default().into_keys().filter(|subject| !held.contains(subject)) {
            let Some(last) = self.nats.last_of(&self.stream, &subject).await? else { continue };
            let age = jiff::Timestamp::now().as_millisecond().saturating_sub_unsigned(last.at_ms());
            if age > UNFINISHED_AFTER.as_millis() as i64 {
                self.purge(&subject).await?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    async fn purge(&self, subject: &str) -> Result<(), RequestError> {
        let ask = json!({ "filter": subject });
        self.nats.api::<serde_json::Value>(&format!("STREAM.PURGE.{}", self.stream), &ask).await.map(drop)
    }
}

fn info(stored: Stored, at_ms: u64) -> ObjectInfo {
    let Stored { name, size, nuid, chunks, digest, .. } = stored;
    ObjectInfo { name, size, at_ms, nuid, chunks, digest }
}

/// One of a kind, of 22 letters and digits as NATS' own are.
fn nuid() -> io::Result<String> {
    const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut bytes = [0; 22];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes.iter().map(|byte| char::from(LETTERS[usize::from(byte % 62)])).collect())
}
