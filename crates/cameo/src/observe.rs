//! Logs and metrics of the process.

use std::io::IsTerminal as _;

use anyhow::Context;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// Buckets of every histogram of times, in seconds: from a fold in memory to a disk that hangs.
const SECONDS: [f64; 14] =
    [0.000_01, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10.0];
/// Buckets of every histogram of sizes, in bytes: from one small event to the largest frame.
const BYTES: [f64; 8] = [256.0, 1024.0, 4096.0, 16384.0, 65536.0, 131_072.0, 262_144.0, 1_048_576.0];

/// Starts logging to standard error.
pub(crate) fn start_logging(filter: &str, format: LogFormat) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter).with_context(|| format!("{filter:?} is not a log filter"))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Colours are for people at a terminal, not for files.
    let builder = builder.with_ansi(std::io::stderr().is_terminal());
    // Telling of a log line that could not be written would panic when standard error is closed, in a thread that has
    // better things to do.
    let builder = builder.log_internal_errors(false);
    match format {
        LogFormat::Human => builder.with_target(false).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}

/// Starts recording; the handle renders `/metrics`. Nothing of it grows unless `/metrics` is read or `run_upkeep` is
/// called now and then: see the caller.
pub(crate) fn start_metrics() -> anyhow::Result<PrometheusHandle> {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_bytes".into()), &BYTES)?
        .install_recorder()
        .context("cannot start recording metrics")
}

/// Tells how much memory the process holds, where the system says so (Linux).
pub(crate) fn measure_memory() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(bytes) = resident_bytes(&status) {
        metrics::describe_gauge!("cameo_memory_bytes", "Memory that the process holds (resident set)");
        metrics::gauge!("cameo_memory_bytes").set(bytes as f64);
    }
}

/// `VmRSS` of proc_pid_status(5), which is in units of 1024 bytes.
fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read_in_kilobytes() {
        assert_eq!(resident_bytes("Name:\tcameo\nVmRSS:\t   20480 kB\nThreads:\t4\n"), Some(20_971_520));
        assert_eq!(resident_bytes("Name:\tcameo\n"), None);
    }
}
