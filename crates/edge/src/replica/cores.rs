//! Work on all partitions at once, as far as there are cores.

use std::sync::atomic::{AtomicU16, Ordering};

use cameo_profile::{Partition, PartitionCount};
use parking_lot::Mutex;

/// Threads at most: more would only hold more of the work in memory.
const THREADS_MAX: usize = 8;

/// Does the job for every partition, and gives the results in order.
///
/// # Errors
/// One of the errors of the jobs; after it no further job is begun.
pub(super) fn for_each<T: Send, E: Send>(
    partitions: PartitionCount,
    job: impl Fn(Partition) -> Result<T, E> + Sync,
) -> Result<Vec<T>, E> {
    let count = usize::from(partitions.get());
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX).min(count);
    let next = AtomicU16::new(0);
    let results = Mutex::new(Vec::with_capacity(count));
    let failed = Mutex::new(None);
    let work = || {
        while failed.lock().is_none() {
            let partition = Partition(next.fetch_add(1, Ordering::Relaxed));
            if partition.0 >= partitions.get() {
                return;
            }
            match job(partition) {
                Ok(result) => results.lock().push((partition, result)),
                Err(error) => *failed.lock() = Some(error),
            }
        }
    };
    std::thread::scope(|scope| {
        (1..threads).for_each(|_| drop(scope.spawn(work)));
        work();
    });
    if let Some(error) = failed.into_inner() {
        return Err(error);
    }
    let mut results = results.into_inner();
    results.sort_unstable_by_key(|(partition, _)| *partition);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}
