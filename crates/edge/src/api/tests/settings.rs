//! Lifetimes on their way from the clients' records into the log.

use std::task::Poll;

use cameo_auth::Revision;
use tokio::sync::watch;

use super::*;

impl Rig {
    /// What the log says of `brief` in each partition; `None` where it has stopped.
    fn lifetimes(&self) -> Vec<Option<u16>> {
        let replica = self.edge.replica();
        let of = |partition| replica.read(partition, |state, _| state.lifetime_days("brief")).ok();
        replica.partitions().iter().map(of).collect()
    }
}

/// A node that was away has records from before; what others appended since is newer.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_its_lease_leaves_the_log_alone_until_it_has_it() {
    let rig = Rig::new().await;
    let stopped = Partition(0);
    let stale = Verifier::fixed(vec![ClientRecord { lifetime_days: 9, ..client("brief") }]);
    stale.hold(false);
    let (log, frames) = (rig.log.clone(), rig.frames());
    let dir = tempfile::tempdir().unwrap();
    let away = Rig::over_auth(stale.clone(), log, rig.clock.clone(), dir, None).await;
    assert_eq!((rig.frames(), rig.lifetimes()), (frames, vec![Some(2); 4]));

    // It goes on past a partition that takes nothing.
    rig.append_nonsense(stopped).await;
    rig.stopped(stopped).await;
    away.stopped(stopped).await;
    let (changes, following) = watch::channel(Revision(0));
    let edge = Arc::new(away.edge);
    let mut follows = Box::pin(Arc::clone(&edge).follow_settings(following));
    // At its start, and at a change, it goes as far as it can by itself: nothing to wait for.
    for change in 1..3 {
        let waits = std::future::poll_fn(|context| Poll::Ready(follows.as_mut().poll(context).is_pending())).await;
        assert!(waits);
        assert_eq!(rig.lifetimes(), [None, Some(2), Some(2), Some(2)], "it has no lease");
        changes.send(Revision(change)).unwrap();
    }
    stale.hold(true);
    let follows = tokio::spawn(follows);
    until("lifetimes that are settled", || rig.lifetimes() == [None, Some(9), Some(9), Some(9)]).await;
    drop(changes);
    follows.await.unwrap();
}
