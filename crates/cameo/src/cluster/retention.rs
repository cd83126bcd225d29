//! The control plane keeps log and snapshots from growing without end: it alone may. Snapshots beyond two of a partition
//! go, and so does the part of the log that is older than its retention and that the older of the two has.
//!
//! Edges write snapshots, and one that was broken into may write anything. So those two are not whatever is listed: each was
//! read whole here once, is what its name says, and of a place that the log has reached.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use cameo_eventlog::{EventLog, JetStreamLog, LogTime, Partition, Position};
use cameo_nats::object::ObjectError;
use cameo_snapshot::{Damage, GENERATIONS, Listed, Name, Objects, Plan, Reader, Store, StoreError};

/// How often it is looked whether something can go.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// How often parts of snapshots are looked for that were never finished.
const UNFINISHED_EVERY: Duration = Duration::from_secs(1800);

/// Goes on for as long as the process runs. `file` is where snapshots are copied to, one at a time, to be looked at.
pub(super) async fn keep(log: JetStreamLog, objects: Objects, retention: Duration, file: PathBuf) {
    let mut failing = false;
    let mut unfinished = Instant::now();
    let mut looked = Looked { store: Store::Objects(objects.clone()), file, intact: HashMap::new() };
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        match once(&log, &objects, retention, &mut unfinished, &mut looked).await {
            Ok(()) if failing => {
                tracing::info!("log and snapshots can be shortened again");
                failing = false;
            }
            Ok(()) => {}
            Err(error) => {
                if !failing {
                    tracing::warn!(error = format!("{error:#}"), "log and snapshots cannot be shortened; trying again");
                }
                failing = true;
            }
        }
    }
}

async fn once(
    log: &JetStreamLog,
    objects: &Objects,
    retention: Duration,
    unfinished: &mut Instant,
    looked: &mut Looked,
) -> anyhow::Result<()> {
    let all = Plan::new(log.id(), log.partitions(), looked.store.list().await?);
    let plan = looked.sound(log, &all).await?;
    let mut removed = 0;
    for outdated in all.outdated_by(&plan) {
        looked.store.remove(&outdated.name).await?;
        removed += 1;
    }
    if removed > 0 {
        tracing::debug!(snapshots = removed, "removed snapshots that are not needed any more");
    }
    if unfinished.elapsed() >= UNFINISHED_EVERY {
        *unfinished = Instant::now();
        let removed = objects.remove_unfinished().await?;
        if removed > 0 {
            tracing::info!(snapshots = removed, "removed parts of snapshots that were never finished");
        }
    }
    let older_than = LogTime(log.now().ms().saturating_sub(u64::try_from(retention.as_millis()).unwrap_or(u64::MAX)));
    // What is not named is kept, and so is what shares a stream with it.
    let needed = |(partition, floor): (Partition, Option<Position>)| floor.map(|floor| (partition, floor));
    let upto: Vec<_> = log.partitions().iter().zip(plan.floors()).filter_map(needed).collect();
    let trimmed = log.trim(&upto, older_than).await?;
    if trimmed.segments > 0 {
        tracing::info!(eventlog.streams = trimmed.segments, eventlog.bytes = trimmed.bytes, "trimmed the log");
        metrics::counter!("cameo_log_trimmed_bytes_total").increment(trimmed.bytes);
    }
    Ok(())
}

/// Which snapshots are sound. Each is read once.
struct Looked {
    store: Store,
    file: PathBuf,
    /// By name, and since when it is there.
    intact: HashMap<(Name, u64), bool>,
}

impl Looked {
    /// Of each partition the newest ones that are, as many as are kept.
    async fn sound(&mut self, log: &JetStreamLog, all: &Plan) -> anyhow::Result<Plan> {
        let listed =
            |(name, at_ms): &(Name, u64)| all.of.iter().flatten().any(|one| (one.name, one.at_ms) == (*name, *at_ms));
        self.intact.retain(|known, _| listed(known));
        let mut sound = Plan { of: Vec::with_capacity(all.of.len()) };
        for of_it in &all.of {
            let mut kept = Vec::with_capacity(GENERATIONS);
            for one in of_it.iter().filter(|one| one.name.position <= log.last(one.name.partition)) {
                if kept.len() < GENERATIONS && self.is_intact(one).await? {
                    kept.push(*one);
                }
            }
            sound.of.push(kept);
        }
        Ok(sound)
    }

    async fn is_intact(&mut self, one: &Listed) -> anyhow::Result<bool> {
        let known = (one.name, one.at_ms);
        if let Some(intact) = self.intact.get(&known) {
            return Ok(*intact);
        }
        let intact = match self.store.get(&one.name, &self.file).await {
            Ok(()) => {
                let (file, name) = (self.file.clone(), one.name);
                let opened = tokio::task::spawn_blocking(move || {
                    let opened = Reader::open_as(&file, &name).map(drop);
                    std::fs::remove_file(&file).map(|()| opened)
                });
                match opened.await?? {
                    Ok(()) => Ok(()),
                    Err(Damage::Io(error)) => return Err(error.into()),
                    Err(damage) => Err(damage.to_string()),
                }
            }
            Err(StoreError::Objects(error @ (ObjectError::Damaged { .. } | ObjectError::Missing(_)))) => {
                Err(error.to_string())
            }
            Err(error) => return Err(error.into()),
        };
        if let Err(why) = &intact {
            tracing::error!(snapshot = %one.name, why, "a snapshot is not intact; none is removed for it");
        }
        self.intact.insert(known, intact.is_ok());
        Ok(intact.is_ok())
    }
}
