//! A change of a client on its way to every node, to be waited for or watched.

use std::sync::Arc;
use std::time::Duration;

use cameo_auth::Revision;
use cameo_auth::clock::Mono;
use cameo_auth::lease::{Confirmation, How};
use serde::Serialize;
use tokio::sync::watch;

use super::{Plane, ROLLOUTS};

/// A look is taken at least this often while a node is waited for: its lease may lapse without a word.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How far a change has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Progress {
    /// Its place in the control bucket.
    pub(crate) revision: Revision,
    /// Every node that could act on what was before.
    pub(crate) nodes: Vec<NodeLine>,
    /// Since the bucket took the change.
    pub(crate) took_ms: u64,
    /// Whether every node is confirmed.
    #[serde(skip)]
    pub(crate) done: bool,
}

/// A node of a rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NodeLine {
    /// Its name.
    pub(crate) node: String,
    /// Which run of it.
    pub(crate) run: String,
    /// `reported`, `left` or `lapsed`; `waiting` before.
    pub(crate) how: &'static str,
    /// Since the bucket took the change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) after_ms: Option<u64>,
}

/// A change that is being confirmed.
#[derive(Clone, Debug)]
pub(crate) struct Rollout {
    /// Names it for those who want to follow.
    pub(crate) number: u64,
    /// Whose it is.
    pub(crate) client: Arc<str>,
    progress: watch::Receiver<Progress>,
}

impl Rollout {
    /// What is known, now and whenever it changes.
    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// Waits until every node is confirmed.
    pub(crate) async fn confirmed(mut self) -> Progress {
        // The sender is dropped only after the last word.
        let _ = self.progress.wait_for(|progress| progress.done).await;
        self.progress.borrow().clone()
    }
}

impl Plane {
    /// Begins to wait for a change; goes on also when nobody listens any more.
    pub(super) fn roll_out(&self, client: &str, revision: Revision) -> Rollout {
        let answered = self.0.config.clock.mono();
        let (sender, progress) = watch::channel(Progress { revision, ..Progress::default() });
        let mut rollouts = self.0.rollouts.lock();
        rollouts.0 += 1;
        let rollout = Rollout { number: rollouts.0, client: client.into(), progress };
        if rollouts.1.len() == ROLLOUTS {
            rollouts.1.pop_front();
        }
        rollouts.1.push_back(rollout.clone());
        drop(rollouts);
        tokio::spawn(self.clone().confirm(revision, answered, sender));
        rollout
    }

    /// A rollout of a moment ago.
    pub(crate) fn rollout(&self, number: u64) -> Option<Rollout> {
        self.0.rollouts.lock().1.iter().find(|rollout| rollout.number == number).cloned()
    }

    async fn confirm(self, revision: Revision, answered: Mono, sender: watch::Sender<Progress>) {
        let mut read = self.0.read.subscribe();
        let mut begun: Option<Confirmation> = None;
        loop {
            read.borrow_and_update();
            let now = self.0.config.clock.mono();
            {
                let view = self.0.view.read();
                match begun.as_mut().filter(|begun| begun.stands(&view.roster)) {
                    None => begun = view.roster.confirm(revision, answered),
                    Some(confirmation) => confirmation.look(&view.roster, now),
                }
            }
            if let Some(confirmation) = &begun {
                let progress = shown(confirmation, answered, now);
                let done = progress.done;
                sender.send_replace(progress);
                if done {
                    metrics::histogram!("cameo_rollout_seconds").record(now.since(answered).as_secs_f64());
                    return;
                }
            }
            // A word of a node, or time alone.
            let _ = tokio::time::timeout(LOOK_EVERY, read.changed()).await;
        }
    }
}

fn shown(confirmation: &Confirmation, answered: Mono, now: Mono) -> Progress {
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let nodes = confirmation.nodes().map(|(run, how)| {
        let (how, after) = match how {
            None => ("waiting", None),
            Some(How::Reported { after }) => ("reported", Some(after)),
            Some(How::Left { after }) => ("left", Some(after)),
            Some(How::Lapsed { after }) => ("lapsed", Some(after)),
        };
        NodeLine { node: run.node.clone(), run: run.run.clone(), how, after_ms: after.map(ms) }
    });
    Progress {
        revision: confirmation.revision(),
        nodes: nodes.collect(),
        took_ms: ms(now.since(answered)),
        done: confirmation.is_done(),
    }
}
