//! Snapshots as objects of a NATS object store (ADR 6).

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::sync::Arc;

use cameo_nats::object::{ObjectBucket, ObjectError};
use cameo_nats::{Nats, RequestError};

use super::{Listed, Put, StoreError};
use crate::Name;

/// Behind the name of the cluster, the bucket's.
const BUCKET: &str = "SNAPSHOTS";

/// A bucket of objects.
#[derive(Clone, Debug)]
pub struct Objects(Arc<ObjectBucket>);

impl Objects {
    fn bucket(name: &str) -> String {
        format!("{}_{BUCKET}", name.to_uppercase())
    }

    /// Makes the bucket of a cluster, unless it is there. Whoever may does it; nodes only open it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn create(nats: &Nats, name: &str, replicas: usize) -> Result<(), RequestError> {
        ObjectBucket::create(nats, &Self::bucket(name), replicas).await
    }

    /// The bucket of a cluster, whether it is there or not.
    #[must_use]
    pub fn new(nats: &Nats, name: &str) -> Self {
        Self(Arc::new(ObjectBucket::new(nats, &Self::bucket(name))))
    }

    /// The stream that holds it.
    #[must_use]
    pub fn stream(&self) -> &str {
        self.0.stream()
    }

    /// Removes what was never finished. For whoever may remove.
    ///
    /// # Errors
    /// When the bucket cannot be used.
    pub async fn remove_unfinished(&self) -> Result<usize, StoreError> {
        Ok(self.0.remove_unfinished().await?)
    }

    pub(super) async fn list(&self) -> Result<Vec<Listed>, StoreError> {
        let objects = self.0.list().await?;
        let listed = |object: cameo_nats::object::ObjectInfo| {
            Some(Listed { name: Name::parse(&object.name)?, at_ms: object.at_ms, bytes: object.size })
        };
        Ok(objects.into_iter().filter_map(listed).collect())
    }

    pub(super) async fn put(&self, name: &Name, file: &Path) -> Result<Put, StoreError> {
        let mut file = File::open(file).map_err(StoreError::at("read", file))?;
        match self.0.put(&name.to_string(), &mut file).await {
            Ok(_) => Ok(Put::Stored),
            Err(ObjectError::ThereAlready(_)) => Ok(Put::ThereAlready),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) async fn get(&self, name: &Name, into: &Path) -> Result<(), StoreError> {
        let file = File::create(into).map_err(StoreError::at("write", into))?;
        let mut file = BufWriter::new(file);
        self.0.get(&name.to_string(), &mut file).await?;
        file.into_inner().map_err(|error| StoreError::at("write", into)(error.into_error()))?;
        Ok(())
    }

    pub(super) async fn remove(&self, name: &Name) -> Result<(), StoreError> {
        Ok(self.0.remove(&name.to_string()).await?)
    }
}
