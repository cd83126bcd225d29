//! How a record is changed: read from the bucket itself, decided on, and written by compare-and-set. What is decided, the
//! callers know; nothing here looks at who asks.

use std::collections::BTreeMap;

use cameo_auth::Revision;
use cameo_auth::bucket::{Expected, Key};
use serde::Serialize;

use super::view::{Versioned, View};
use super::{Plane, Problem};

/// How often a change is decided anew when somebody else was first.
const TRIES: usize = 16;

/// A record that is changed in its place, by its next version.
pub(super) trait Changing: Versioned + Serialize + Clone {
    fn version_mut(&mut self) -> &mut u64;
    /// Those that the view holds, by their handle.
    fn among(view: &View) -> &BTreeMap<String, Self>;
    /// That there is none.
    fn missing(handle: &str) -> Problem;
}

impl Plane {
    /// Changes the record of a handle, and says at which revision; decides anew when somebody else was first.
    pub(super) async fn change_record<T: Changing>(
        &self,
        key: Key,
        handle: &str,
        mut decide: impl FnMut(&mut T) -> Result<(), Problem>,
    ) -> Result<(T, Revision), Problem> {
        for _ in 0..TRIES {
            let entry = self.0.config.bucket.get(&key).await?;
            let (held, gone) = {
                let view = self.0.view.read();
                (T::among(&view).get(handle).cloned(), view.version_gone(&key))
            };
            let expected = entry.as_ref().map_or(Expected::Absent, |entry| Expected::At(entry.revision));
            let read: Option<Result<T, _>> =
                entry.map(|entry| self.0.config.sealer.verifying().open(&key, &entry.value));
            let mut record = match (read, held) {
                // Somebody else has put an old record back: what was last seen holds, and is written anew with this
                // change. Building on an old one would bring revoked tokens, old passwords or more roles back to life.
                (Some(Ok(read)), Some(held)) if held.version() > read.version() => held,
                // One that was removed: a change must not bring it back under a new version.
                (Some(Ok(read)), _) if read.version() <= gone => return Err(T::missing(handle)),
                (Some(Ok(read)), _) => read,
                // Rubbish in its place, or nothing, is somebody else's doing too where nobody may remove a record.
                (None | Some(Err(_)), Some(held)) if !T::REMOVABLE => held,
                (None, _) => return Err(T::missing(handle)),
                (Some(Err(error)), _) => {
                    return Err(Problem::Unavailable(format!("the record of {handle}: {error}")));
                }
            };
            decide(&mut record)?;
            *record.version_mut() += 1;
            let sealed = self.0.config.sealer.seal(&key, &record);
            if let Some(revision) = self.put(key.clone(), sealed, expected).await? {
                return Ok((record, revision));
            }
        }
        Err(Problem::Unavailable("too many changes at once; nothing was changed".into()))
    }
}
