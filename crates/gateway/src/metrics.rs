//! The gateway's metrics, looked up once: names carry their units (design §4).

use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};

pub(crate) struct Meters {
    pub(crate) batches: Counter,
    pub(crate) rows_updated: Counter,
    pub(crate) rows_not_found: Counter,
    pub(crate) rows_failed: Counter,
    pub(crate) rows_skipped: Counter,
    pub(crate) uploads_active: Gauge,
    pub(crate) uploads_refused: Counter,
}

impl Meters {
    pub(crate) fn new() -> Self {
        describe_counter!("cameo_batches_total", "Bulk files taken");
        describe_counter!(
            "cameo_batch_rows_total",
            "Rows of bulk files that this process submitted, by what became of them"
        );
        describe_counter!("cameo_uploads_refused_total", "Bulk files refused as a whole");
        describe_gauge!("cameo_uploads_active", "Bulk files being received or submitted");
        let rows = |outcome: &'static str| counter!("cameo_batch_rows_total", "outcome" => outcome);
        Self {
            batches: counter!("cameo_batches_total"),
            rows_updated: rows("updated"),
            rows_not_found: rows("not_found"),
            rows_failed: rows("failed"),
            rows_skipped: rows("skipped"),
            uploads_active: gauge!("cameo_uploads_active"),
            uploads_refused: counter!("cameo_uploads_refused_total"),
        }
    }
}
