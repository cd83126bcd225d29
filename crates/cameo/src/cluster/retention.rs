//! The control plane keeps log and snapshots from growing without end: it alone may. Snapshots beyond two of a partition
//! go, and so does the part of the log that is older than its retention and that the older of the two has.

use std::time::{Duration, Instant};

use cameo_eventlog::{EventLog, JetStreamLog, LogTime, Partition, Position};
use cameo_snapshot::{Objects, Plan, Store};

/// How often it is looked whether something can go.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// How often parts of snapshots are looked for that were never finished.
const UNFINISHED_EVERY: Duration = Duration::from_secs(1800);

/// Goes on for as long as the process runs.
pub(super) async fn keep(log: JetStreamLog, objects: Objects, retention: Duration) {
    let mut failing = false;
    let mut unfinished = Instant::now();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        match once(&log, &objects, retention, &mut unfinished).await {
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
) -> anyhow::Result<()> {
    let store = Store::Objects(objects.clone());
    let plan = Plan::new(log.id(), log.partitions(), store.list().await?);
    let mut removed = 0;
    for outdated in plan.outdated() {
        store.remove(&outdated.name).await?;
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
