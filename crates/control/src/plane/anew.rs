//! What becomes of the view when the bucket may have lost something: it is read again from its first entry, what is missing
//! there is written again, and then the history that goes on from here gets a name (ADR 13).
//!
//! ```text
//! begin anew ─▶ read whole, up to a mark of our own ─▶ restore what is known here and missing there ─▶ name the history
//! ```
//! Before the name is read nothing is confirmed: nodes report what they have applied of a history that has its name.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use cameo_auth::Revision;
use cameo_auth::bucket::{Durability, Expected, Key};
use cameo_auth::lease::Epoch;
use cameo_auth::node::EPOCH_KEY;
use serde::Deserialize;

use super::view::Lost;
use super::{Inner, OpenError, Plane};

#[cfg(test)]
mod tests;

/// Pause before a step that failed is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// Up to where the view has read, when it has read this; tells people when the control plane last looked so.
const MARK: &str = "control.started";
/// What callers are told whose change may be gone.
pub(super) const LOST: &str = "the control store has lost entries meanwhile, and this change may be one of them";

/// A name for a history.
pub(super) fn draw() -> Result<Epoch, OpenError> {
    let random = getrandom::u64().map_err(|error| OpenError::Randomness(error.to_string()))?;
    Ok(Epoch(format!("{random:016x}")))
}

/// Where the view was when a write was asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pass: u64,
    read: Revision,
}

/// As much of any record as says which of two is newer.
#[derive(Deserialize)]
struct Version {
    /// Admin keys never change, and have none.
    #[serde(default)]
    version: u64,
}

impl Plane {
    pub(super) fn place(&self) -> Place {
        let view = self.0.view.read();
        Place { pass: view.pass, read: view.roster.read() }
    }

    /// Waits until the view has read up to what was written; says whether it has read on from where it was.
    pub(super) async fn stands(&self, before: Place, revision: Revision) -> bool {
        if revision <= before.read {
            // The place was read before the write was asked for: it has been given twice.
            tracing::error!(%revision, read = %before.read, "the control bucket has lost what was read of it");
            self.0.begin_anew(before.pass);
        }
        self.caught_up(revision).await;
        self.0.view.read().pass == before.pass
    }
}

impl Inner {
    /// Waits until the view has read up to a revision.
    pub(super) async fn caught_up(&self, revision: Revision) {
        // The sender lives in `self`.
        let _ = self.read.subscribe().wait_for(|read| *read >= revision).await;
    }

    /// Counts everything as unread, unless somebody else has done so since that pass.
    pub(super) fn begin_anew(self: &Arc<Self>, pass: u64) {
        let epoch = match draw() {
            Ok(epoch) => epoch,
            // The watch ends again, or the next write: nothing is confirmed until it could be done.
            Err(error) => return tracing::error!(%error, "the control bucket cannot be read anew"),
        };
        {
            let mut view = self.view.write();
            if view.pass != pass {
                return;
            }
            view.begin_anew(epoch);
            self.read.send_replace(Revision(0));
            self.pass.send_replace(view.pass);
        }
        tokio::spawn(settle(Arc::downgrade(self), pass + 1));
    }

    fn is_over(&self, pass: u64) -> bool {
        self.view.read().pass != pass
    }

    /// Waits until the view has everything that is in the bucket.
    pub(super) async fn read_whole(&self) -> Result<(), String> {
        let now = Bytes::from(self.config.clock.unix_ms().to_string());
        let mark = self.write(MARK, now).await?;
        self.caught_up(mark).await;
        Ok(())
    }

    /// Writes the name of the history that goes on from here, and says where.
    pub(super) async fn name_history(&self) -> Result<Revision, String> {
        let epoch = self.view.read().roster.epoch().cloned().ok_or("the history has no name yet")?;
        self.write(EPOCH_KEY, Bytes::from(epoch.0)).await
    }

    async fn write(&self, name: &str, value: Bytes) -> Result<Revision, String> {
        let key = Key::new(name).map_err(|error| error.to_string())?;
        let put = self.config.bucket.put(key, value, Expected::Any, Durability::Durable).await;
        put.map_err(|error| error.to_string())
    }

    /// Puts what is known here and missing in the bucket back into it. Never over what is newer.
    async fn restore(&self) -> Result<(), String> {
        let lost = self.view.read().lost(&self.config.sealer);
        for Lost { key, version, value } in lost {
            let bucket = &self.config.bucket;
            let held = bucket.get(&key).await.map_err(|error| error.to_string())?;
            let found = held.as_ref().map(|entry| self.config.sealer.verifying().open::<Version>(&key, &entry.value));
            let expected = held.as_ref().map_or(Expected::Absent, |entry| Expected::At(entry.revision));
            let written = match (value, found) {
                (Some(value), Some(_)) if held.is_some_and(|entry| entry.value == value) => continue,
                (Some(_), Some(Ok(found))) if found.version >= version => continue,
                (Some(value), _) => bucket.put(key.clone(), value, expected, Durability::Durable).await,
                (None, Some(Ok(found))) if found.version <= version => bucket.delete(key.clone(), expected).await,
                (None, _) => continue,
            };
            let revision = written.map_err(|error| format!("{key}: {error}"))?;
            tracing::warn!(%key, %revision, "the control bucket had lost this entry; it is as it was again");
        }
        Ok(())
    }

    async fn settle(&self) -> Result<(), String> {
        self.read_whole().await?;
        self.restore().await?;
        let named = self.name_history().await?;
        let floor = self.view.read().floor;
        if named <= floor {
            // Once more, behind every place that anybody is known to have read: who has missed all that was given twice
            // reads it there.
            self.caught_up(Revision(floor.0 + 1)).await;
            self.name_history().await?;
        }
        Ok(())
    }
}

/// Brings bucket and view together, however often it takes, unless all is begun anew once more.
async fn settle(plane: Weak<Inner>, pass: u64) {
    while let Some(inner) = plane.upgrade().filter(|inner| !inner.is_over(pass)) {
        let mut passes = inner.pass.subscribe();
        let settled = tokio::select! {
            settled = inner.settle() => settled,
            _ = passes.wait_for(|now| *now != pass) => return,
        };
        match settled {
            Ok(()) => return,
            Err(why) => tracing::warn!(why, "the control bucket is not whole yet; trying again"),
        }
        drop(inner);
        tokio::time::sleep(AGAIN).await;
    }
}
