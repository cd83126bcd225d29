//! The records of a control bucket as one file, for the day on which the bucket is lost.
//!
//! ```text
//! {"v":1,"atMs":1795…,"records":{"client.demo":"…sealed record, as it stands in the bucket…", …}}
//! ```
//! What it is: every entry that the control plane has signed: clients with their settings and token digests, users, admin keys.
//! They stay sealed, so that whoever can write to the file still forges nothing. What it is not: heartbeats and last uses,
//! which speak of processes that are gone, and the key that signs, without which nobody can use it.
//!
//! It holds digests of passwords and the secrets that identities are signed with, and is kept from others like those. A
//! record that is written back is as it was: a token that was revoked since is good again, which whoever does it must know.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::bucket::{Bucket, Durability, Expected, Key, PutError, Revision, Unreadable};
use crate::seal::{self, Unsealed, Verifying};

/// The format that is written.
const FORMAT: u8 = 1;
/// How long a bucket may take to tell its next entry.
const PATIENCE: Duration = Duration::from_secs(20);

/// The signed records of a bucket, as of a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    /// When they were read, in ms since 1970.
    pub at_ms: u64,
    records: BTreeMap<Key, Bytes>,
}

/// Why a file or a record of it cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// It is none.
    #[error("it is not a copy of control records")]
    Shape(#[source] serde_json::Error),
    /// It is of a format that this version does not know.
    #[error("it is of a format ({0}) that this version does not know")]
    Format(u8),
    /// A name that no record has.
    #[error("it has a record {0:?}, which is no name of a record")]
    Name(String),
    /// A record is not the control plane's.
    #[error("its record {key} is not taken; is the signing key the one that wrote it?")]
    Foreign {
        /// Which.
        key: Key,
        /// What is wrong with it.
        source: Unsealed,
    },
    /// The bucket has such a record.
    #[error("there is another record {key} already: records are restored before the control plane starts")]
    ThereAlready {
        /// Which.
        key: Key,
    },
    /// The bucket does not take it.
    #[error("the record {key} cannot be written")]
    Put {
        /// Which.
        key: Key,
        /// Why.
        source: PutError,
    },
    /// The bucket cannot be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    v: u8,
    at_ms: u64,
    records: BTreeMap<String, String>,
}

impl Backup {
    /// Every signed record of a bucket.
    ///
    /// # Errors
    /// When it cannot be read, or says nothing for 20 seconds: an empty one is none that a control plane has written.
    pub async fn read(bucket: &dyn Bucket, at_ms: u64) -> Result<Self, Unreadable> {
        let mut watch = bucket.watch(Revision(0)).await?;
        let mut records = BTreeMap::new();
        loop {
            let change = tokio::time::timeout(PATIENCE, watch.next()).await;
            let change = change.map_err(|_| Unreadable("it does not tell what is in it".into()))?;
            let change = change.map_err(|end| Unreadable(end.to_string()))?;
            match change.value.filter(|value| seal::is_sealed(value)) {
                Some(value) => records.insert(change.key, value),
                None => records.remove(&change.key),
            };
            if change.last {
                return Ok(Self { at_ms, records });
            }
        }
    }

    /// From a file.
    ///
    /// # Errors
    /// When it is none.
    pub fn decode(bytes: &[u8]) -> Result<Self, BackupError> {
        let File { v, at_ms, records } = serde_json::from_slice(bytes).map_err(BackupError::Shape)?;
        if v != FORMAT {
            return Err(BackupError::Format(v));
        }
        let record = |(key, value): (String, String)| match Key::new(key.as_str()) {
            Ok(key) => Ok((key, Bytes::from(value))),
            Err(_) => Err(BackupError::Name(key)),
        };
        Ok(Self { at_ms, records: records.into_iter().map(record).collect::<Result<_, _>>()? })
    }

    /// For a file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let text = |(key, value): (&Key, &Bytes)| (key.to_string(), String::from_utf8_lossy(value).into_owned());
        let file = File { v: FORMAT, at_ms: self.at_ms, records: self.records.iter().map(text).collect() };
        // Plain strings and numbers always are JSON.
        serde_json::to_vec(&file).unwrap_or_default()
    }

    /// How many records there are of a kind: `client`, `user`, `key`.
    #[must_use]
    pub fn count(&self, kind: &str) -> usize {
        self.records.keys().filter(|key| key.name_of(kind).is_some()).count()
    }

    /// Whether the control plane has signed all of it.
    ///
    /// # Errors
    /// Names the first record that it has not.
    pub fn check(&self, key: &Verifying) -> Result<(), BackupError> {
        for (name, sealed) in &self.records {
            key.open::<serde_json::Value>(name, sealed)
                .map_err(|source| BackupError::Foreign { key: name.clone(), source })?;
        }
        Ok(())
    }

    /// Puts every record into a bucket that has none of it. Begun again, it goes on.
    ///
    /// # Errors
    /// When the bucket has such a record, and another; or does not take one.
    pub async fn write(&self, bucket: &dyn Bucket) -> Result<(), BackupError> {
        for (key, sealed) in &self.records {
            let put = bucket.put(key.clone(), sealed.clone(), Expected::Absent, Durability::Durable).await;
            match put {
                Ok(_) => {}
                Err(PutError::Conflict) if bucket.get(key).await?.is_some_and(|entry| entry.value == *sealed) => {}
                Err(PutError::Conflict) => return Err(BackupError::ThereAlready { key: key.clone() }),
                Err(source) => return Err(BackupError::Put { key: key.clone(), source }),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bucket::LocalBucket;
    use crate::seal::Sealer;

    /// As this version writes it; never changed.
    const GOLDEN: &str = include_str!("../golden/backup-v1.json");

    fn sealer() -> Sealer {
        Sealer::from_hex(&"5c".repeat(32)).unwrap()
    }

    fn key(text: &str) -> Key {
        Key::new(text).unwrap()
    }

    async fn bucket() -> LocalBucket {
        let bucket = LocalBucket::in_memory();
        for name in ["client.demo", "client.gone", "user.ada"] {
            let sealed = sealer().seal(&key(name), &serde_json::json!({"name": name}));
            bucket.put(key(name), sealed, Expected::Any, Durability::Durable).await.unwrap();
        }
        bucket.delete(key("client.gone"), Expected::Any).await.unwrap();
        for unsealed in ["control.started", "node.edge-1", "used.t"] {
            bucket.put(key(unsealed), "17".into(), Expected::Any, Durability::Ephemeral).await.unwrap();
        }
        bucket
    }

    #[tokio::test]
    async fn what_the_control_plane_signed_comes_back_as_it_was_and_nothing_else() {
        let backup = Backup::read(&bucket().await, 1).await.unwrap();
        assert_eq!((backup.records.len(), backup.count("client"), backup.count("user")), (2, 1, 1));
        assert_eq!(String::from_utf8(backup.encode()).unwrap(), GOLDEN.trim_end());
        let again = Backup::decode(GOLDEN.as_bytes()).unwrap();
        assert_eq!(again, backup);
        again.check(&sealer().verifying()).unwrap();
        let restored = LocalBucket::in_memory();
        again.write(&restored).await.unwrap();
        again.write(&restored).await.unwrap();
        assert_eq!(Backup::read(&restored, 1).await.unwrap(), backup);
    }

    #[tokio::test]
    async fn what_is_not_the_control_planes_is_refused_and_nothing_is_written_over() {
        let backup = Backup::read(&bucket().await, 1).await.unwrap();
        let stranger = Sealer::from_hex(&"01".repeat(32)).unwrap().verifying();
        assert!(matches!(backup.check(&stranger), Err(BackupError::Foreign { .. })));
        let renamed = GOLDEN.replace("user.ada", "user.eve");
        let renamed = Backup::decode(renamed.as_bytes()).unwrap().check(&sealer().verifying()).unwrap_err();
        assert!(renamed.to_string().contains("user."), "{renamed}");
        let other = LocalBucket::in_memory();
        other.put(key("user.ada"), "x".into(), Expected::Any, Durability::Durable).await.unwrap();
        assert!(matches!(backup.write(&other).await, Err(BackupError::ThereAlready { .. })));
        assert!(matches!(Backup::decode(b"{}"), Err(BackupError::Shape(_))));
        assert!(matches!(Backup::decode(br#"{"v":2,"atMs":1,"records":{}}"#), Err(BackupError::Format(2))));
    }
}
