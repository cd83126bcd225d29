//! The edge's metrics, looked up once: names carry their units (design §4).

use metrics::{
    Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

/// Of a replica.
pub(crate) struct ReplicaMeters {
    pub(crate) apply_seconds: Histogram,
    pub(crate) checkpoint_seconds: Histogram,
    pub(crate) checkpoint_failures: Counter,
    pub(crate) checkpoint_age: Gauge,
    pub(crate) profiles: Gauge,
    pub(crate) profile_bytes: Gauge,
    pub(crate) lag_frames: Gauge,
    pub(crate) halted_partitions: Gauge,
    pub(crate) links_waiting: Gauge,
    pub(crate) links_waiting_seconds: Gauge,
    pub(crate) snapshots_taken: Counter,
    pub(crate) snapshots_failed: Counter,
    pub(crate) snapshots_damaged: Counter,
    pub(crate) snapshot_bytes: Counter,
    pub(crate) snapshot_seconds: Histogram,
    pub(crate) snapshot_load_seconds: Histogram,
    pub(crate) snapshot_age: Gauge,
}

impl ReplicaMeters {
    pub(crate) fn new() -> Self {
        describe_histogram!("cameo_apply_seconds", "Time to fold one frame into its partition");
        describe_histogram!("cameo_checkpoint_seconds", "Time to write one checkpoint");
        describe_counter!("cameo_checkpoint_failures_total", "Checkpoints that could not be written");
        describe_gauge!(
            "cameo_checkpoint_timestamp_seconds",
            "When the last checkpoint was written, seconds since 1970"
        );
        describe_gauge!("cameo_checkpoint_age_seconds", "Age of the last checkpoint");
        describe_gauge!("cameo_profiles", "Profiles in memory");
        describe_gauge!("cameo_profile_bytes", "Bytes of profiles in memory, with their table");
        describe_gauge!("cameo_lag_frames", "Frames in the log that are not applied yet");
        describe_gauge!("cameo_halted_partitions", "Partitions that stopped for good; see /readyz");
        describe_gauge!(
            "cameo_links_waiting",
            "Messages between partitions that link profiles and have not arrived yet"
        );
        describe_gauge!(
            "cameo_links_waiting_seconds",
            "For how long this node has seen the one wait that waits longest; milliseconds, unless something is stuck"
        );
        describe_counter!("cameo_snapshots_total", "Snapshots by outcome: taken, failed, or found damaged when loaded");
        describe_counter!("cameo_snapshot_bytes_total", "Bytes of snapshots taken, compressed");
        describe_histogram!("cameo_snapshot_seconds", "Time to take one snapshot of one partition");
        describe_histogram!("cameo_snapshot_load_seconds", "Time to load one partition from a snapshot");
        describe_gauge!("cameo_snapshot_age_seconds", "Age of the newest snapshot of the partition that waits longest");
        let snapshots = |outcome: &'static str| counter!("cameo_snapshots_total", "outcome" => outcome);
        Self {
            snapshots_taken: snapshots("taken"),
            snapshots_failed: snapshots("failed"),
            snapshots_damaged: snapshots("damaged"),
            snapshot_bytes: counter!("cameo_snapshot_bytes_total"),
            snapshot_seconds: histogram!("cameo_snapshot_seconds"),
            snapshot_load_seconds: histogram!("cameo_snapshot_load_seconds"),
            snapshot_age: gauge!("cameo_snapshot_age_seconds"),
            apply_seconds: histogram!("cameo_apply_seconds"),
            checkpoint_seconds: histogram!("cameo_checkpoint_seconds"),
            checkpoint_failures: counter!("cameo_checkpoint_failures_total"),
            checkpoint_age: gauge!("cameo_checkpoint_age_seconds"),
            profiles: gauge!("cameo_profiles"),
            profile_bytes: gauge!("cameo_profile_bytes"),
            lag_frames: gauge!("cameo_lag_frames"),
            halted_partitions: gauge!("cameo_halted_partitions"),
            links_waiting: gauge!("cameo_links_waiting"),
            links_waiting_seconds: gauge!("cameo_links_waiting_seconds"),
        }
    }
}

/// Of the HTTP API.
pub(crate) struct ApiMeters {
    pub(crate) visits_accepted: Counter,
    pub(crate) visits_duplicate: Counter,
    pub(crate) visits_refused: Counter,
    pub(crate) visits_failed: Counter,
    pub(crate) visits_spooled: Counter,
    pub(crate) profile_reads: Counter,
    pub(crate) updates: Counter,
}

impl ApiMeters {
    pub(crate) fn new() -> Self {
        describe_counter!("cameo_visits_total", "Visits by outcome");
        describe_counter!("cameo_profile_reads_total", "Profiles asked for");
        describe_counter!("cameo_updates_total", "Single updates, patches and erasures");
        let visits = |outcome: &'static str| counter!("cameo_visits_total", "outcome" => outcome);
        Self {
            visits_accepted: visits("accepted"),
            visits_duplicate: visits("duplicate"),
            visits_refused: visits("refused"),
            visits_failed: visits("failed"),
            visits_spooled: visits("spooled"),
            profile_reads: counter!("cameo_profile_reads_total"),
            updates: counter!("cameo_updates_total"),
        }
    }
}
