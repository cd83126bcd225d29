//! The lease protocol as a state machine that stateright walks through exhaustively. Its nodes and its control plane
//! decide with [`NodeLease`], [`holds`], [`Roster`] and [`Confirmation`], so what is checked is the code that runs.
//!
//! ```text
//! run ── Send ──▶ flight ── Commit (any time later, any order, or never) ──▶ log ── Deliver (per watch) ──▶ run
//!                                                                             └── Hear ──▶ control plane
//! control ── Rotate ──▶ log;  Answered;  Confirm;  every step: look, and the reply once it is done
//! ```
//! - **Crash and pause** need no step of their own: whatever may happen may also not happen, for as long as one likes,
//!   while the clocks go on. A run that is never chosen again has crashed.
//! - **A restart** is the node's next run, beside the old one, which may go on at any time.
//! - **A lost heartbeat** stays in flight; a late one is committed after others were sent, committed and delivered.
//! - **Time** is a step that moves each machine's clock by 9, 10 or 11 ms, each at its own choice: a rate that is wrong
//!   by 10 % either way and changes all the time. Everything else may happen any number of times between two of them.
//!   Only differences of moments matter to the protocol, so after a step every clock is set back to [`NOW`], with every
//!   stored moment; those that cannot matter any more become one. So time has no end in the model.
//! - **A watch that lags** leaves out any of what was replaced meanwhile, or none of it.
//!
//! States that differ in nothing that is to come are made one ([`World::settle`], [`World::trim`]); that is what makes
//! them few enough to be walked through.

mod world;

use std::time::Duration;

use stateright::{Model, Property};

use crate::clock::Mono;
use crate::lease::{How, NodeLease, holds};
use world::{Control, Entry, Run, Watch, World};

/// Every machine's clock, after every step.
const NOW: Mono = Mono(1000);
/// Two steps of time.
const LEASE: Duration = Duration::from_millis(20);

/// What is weaker than the protocol, one thing at a time: the checker must find what breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weak {
    /// Nothing: the protocol as it is.
    Nothing,
    /// The control plane waits for the bare lease, as if all clocks ran alike.
    NoDrift,
    /// The lease runs from the moment at which the heartbeat came back.
    FromReturn,
    /// The control plane looks around before it has read the bucket up to the change.
    BeforeRead,
    /// A request looks at the tokens first and at the lease then.
    StateFirst,
    /// Two runs of a node write one entry.
    SameKey,
    /// A lease is earned when the bucket takes the heartbeat, not when it comes back through the watch.
    OnCommit,
    /// Any heartbeat that comes back stands for the last one sent.
    AnyBeat,
    /// A node that leaves keeps its lease.
    LeaveKeeps,
    /// A silent run is forgotten after the bare lease.
    ForgetsEarly,
    /// The control plane deletes the entry of a run that it takes for silent as it stands, unread.
    SweepsUnread,
    /// A node counts what it has read although its watch has not caught up.
    NodeBehind,
    /// The control plane does.
    ControlBehind,
}

/// How much of everything there is.
#[derive(Clone, Debug)]
pub(super) struct Bounds {
    /// Of each node the runs, and of each run how many heartbeats it sends, a farewell included.
    pub(super) beats: Vec<Vec<u64>>,
    /// Runs that may leave.
    pub(super) leaves: usize,
    /// Restarts of the control plane before its reply.
    pub(super) restarts: usize,
    /// Whether the control plane forgets silent runs, and deletes their entries.
    pub(super) forgets: bool,
    /// Whether the record is changed a second time.
    pub(super) changes: bool,
    /// By how much the clock of the control plane and those of the nodes may move at a time.
    pub(super) rates: (Vec<u64>, Vec<u64>),
    /// Whether to go on when no run has the old token any more, and to ask what the protocol is good for.
    pub(super) goes_on: bool,
    /// What is weaker.
    pub(super) weak: Weak,
}

/// One thing that happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The clocks of the control plane and of the nodes go on, in ms.
    Time(Vec<u64>),
    Send(usize),
    Leave(usize),
    Commit(usize),
    /// A run's watch brings an entry; those before it were replaced.
    Deliver(usize, u64),
    Rotate,
    Change,
    /// The control plane knows that its change is in the bucket: from the answer, or by reading after a restart.
    Answered,
    Confirm,
    /// The control plane's watch brings an entry.
    Hear(u64),
    Forget,
    Restart,
    /// A request makes its first look, and its second.
    Look(usize),
    Decide(usize),
}

impl Model for Bounds {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let nodes = self.beats.iter().enumerate();
        let runs = nodes.flat_map(|(node, runs)| runs.iter().enumerate().map(move |(run, beats)| (node, run, *beats)));
        let runs = runs.map(|(node, run, to_send)| {
            let run = if self.weak == Weak::SameKey { 0 } else { run };
            let key = (node as u8, run as u8);
            let lease = NodeLease::new(LEASE);
            Run {
                node,
                key,
                lease,
                sent: 0,
                to_send,
                watch: Watch { of: Some(key), ..Watch::default() },
                rotated: false,
                left: false,
                lost: false,
                looked: false,
            }
        });
        let (log, flight) = (Vec::new(), Vec::new());
        vec![World { log, flight, runs: runs.collect(), control: Control::default(), leaves: 0, broken: false }]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        // Whoever has let go of the old token never takes it up again.
        if world.control.replied
            && world.runs.iter().all(|run| (run.rotated || run.left && run.lease.until == Mono(0)) && !run.looked)
            && !self.goes_on
        {
            return;
        }
        let (control, nodes) = &self.rates;
        let mut moves: Vec<_> = control.iter().map(|by| vec![*by]).collect();
        for _ in &self.beats {
            let with = |start: &Vec<u64>| nodes.iter().map(|by| [&start[..], &[*by]].concat()).collect::<Vec<_>>();
            moves = moves.iter().flat_map(with).collect();
        }
        steps.extend(moves.into_iter().map(Step::Time));
        for (index, run) in world.runs.iter().enumerate() {
            // A node's next run begins after the one before it.
            let begun = index == 0 || world.runs[index - 1].node != run.node || world.runs[index - 1].sent > 0;
            if !run.left && begun {
                if run.to_send > 0 {
                    steps.push(Step::Send(index));
                    if world.leaves < self.leaves {
                        steps.push(Step::Leave(index));
                    }
                }
                steps.extend(run.watch.next(&world.log).into_iter().map(|revision| Step::Deliver(index, revision)));
            }
            if run.looked {
                steps.push(Step::Decide(index));
            } else if world.control.replied && !run.rotated {
                steps.push(Step::Look(index));
            }
        }
        steps.extend((0..world.flight.len()).map(Step::Commit));
        match world.rotation() {
            None => steps.push(Step::Rotate),
            Some(_) if self.changes && !world.log.contains(&Entry::Change) => steps.push(Step::Change),
            Some(_) => {}
        }
        let control = &world.control;
        if control.replied {
            return;
        }
        steps.extend(control.watch.next(&world.log).into_iter().map(Step::Hear));
        match (control.answered, &control.confirmation) {
            (None, _) if world.rotation().is_some() => steps.push(Step::Answered),
            (Some(_), None) => steps.push(Step::Confirm),
            _ => {}
        }
        if control.restarts < self.restarts {
            steps.push(Step::Restart);
        }
        if self.forgets {
            steps.push(Step::Forget);
        }
    }

    fn next_state(&self, before: &World, step: Step) -> Option<World> {
        let mut world = before.clone();
        match step {
            Step::Time(moves) => world.time(&moves),
            Step::Send(index) | Step::Leave(index) => {
                let run = &mut world.runs[index];
                run.left = matches!(step, Step::Leave(_));
                world.leaves += usize::from(run.left);
                if run.left && self.weak != Weak::LeaveKeeps {
                    run.lease.give_up();
                }
                let (key, applied, left) = (run.key, run.watch.whole, run.left);
                let number = run.lease.sending(NOW);
                run.sent += 1;
                run.to_send -= 1;
                world.flight.push((index, Entry::Beat { key, number, applied, left }));
                world.flight.sort_unstable();
            }
            Step::Commit(sent) => {
                let (run, entry) = world.flight.remove(sent);
                world.commit(run, entry, self.weak);
            }
            Step::Deliver(index, revision) => world.deliver(index, revision, self.weak),
            Step::Rotate => world.log.push(Entry::Rotation),
            Step::Change => world.log.push(Entry::Change),
            Step::Answered => world.control.answered = Some(NOW),
            Step::Confirm => world.confirm(self.weak),
            Step::Hear(revision) => world.hear(revision, self.weak),
            Step::Forget => world.forget(self.weak),
            Step::Restart => {
                world.control = Control { restarts: world.control.restarts + 1, ..Control::default() };
            }
            Step::Look(index) => {
                let run = &world.runs[index];
                let may = match self.weak {
                    Weak::StateFirst => !run.rotated,
                    _ => holds(run.lease.until(), NOW),
                };
                world.runs[index].looked = may;
            }
            Step::Decide(index) => {
                let run = &world.runs[index];
                world.broken = match self.weak {
                    Weak::StateFirst => holds(run.lease.until(), NOW),
                    _ => !run.rotated,
                };
                world.runs[index].looked = false;
            }
        }
        world.look_around();
        world.settle(self);
        world.trim(self);
        (world != *before).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let never = Property::always(NEVER, |_: &Self, world: &World| !world.broken);
        if !self.goes_on {
            return vec![never];
        }
        vec![
            never,
            Property::sometimes("confirmed by report", |_, world: &World| {
                world.confirmed(|how| matches!(how, How::Reported { .. }))
            }),
            Property::sometimes("confirmed by lapse", |_, world: &World| {
                world.confirmed(|how| matches!(how, How::Lapsed { .. }))
            }),
            Property::sometimes("confirmed by farewell", |_, world: &World| {
                world.confirmed(|how| matches!(how, How::Left { .. }))
            }),
            Property::sometimes("a run serves the new token after the reply", |_, world: &World| {
                world.control.replied && world.runs.iter().any(World::serves_new)
            }),
            Property::sometimes("a run lost its lease and got it back", |_, world: &World| {
                world.runs.iter().any(|run| run.lost && holds(run.lease.until(), NOW))
            }),
        ]
    }
}

/// The promise.
pub(super) const NEVER: &str = "after the reply no run accepts the old token";
