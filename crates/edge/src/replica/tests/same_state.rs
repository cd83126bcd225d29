//! The same events give the same state, whatever frames they came in, however often a frame came, and wherever a
//! replica was stopped and resumed from its checkpoint. The fold alone, without log or replica, is the measure.

use cameo_profile::PartitionState;
use proptest::prelude::*;

use super::*;

/// What happens to one visitor of one partition.
#[derive(Clone, Debug)]
enum Step {
    Visit { visitor: u8, event_id: Option<u8>, value: u8 },
    Update { visitor: u8, value: u8, unset: bool },
    Erase { visitor: u8 },
    Settings { days: u16 },
}

/// Steps of one moment, each with its partition and whether a new frame begins before it.
#[derive(Clone, Debug)]
struct Tick {
    after_ms: u64,
    steps: Vec<(u16, bool, Step)>,
    /// Frames of the log so far that are written once more: places in the list of them.
    repeats: Vec<prop::sample::Index>,
    /// A replica is opened and closed after it.
    resumes: bool,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..5u8, prop::option::of(0..6u8), any::<u8>())
            .prop_map(|(visitor, event_id, value)| Step::Visit { visitor, event_id, value }),
        3 => (0..5u8, any::<u8>(), any::<bool>())
            .prop_map(|(visitor, value, unset)| Step::Update { visitor, value, unset }),
        1 => (0..5u8).prop_map(|visitor| Step::Erase { visitor }),
        1 => (1..90u16).prop_map(|days| Step::Settings { days }),
    ]
}

fn tick() -> impl Strategy<Value = Tick> {
    let after_ms = prop_oneof![4 => 0..60_000u64, 1 => Just(20 * 86_400_000)];
    let steps = prop::collection::vec((0..2u16, any::<bool>(), step()), 1..8);
    let repeats = prop::collection::vec(any::<prop::sample::Index>(), 0..3);
    (after_ms, steps, repeats, prop::bool::weighted(0.3)).prop_map(|(after_ms, steps, repeats, resumes)| Tick {
        after_ms,
        steps,
        repeats,
        resumes,
    })
}

fn with_event(step: &Step, then: impl FnOnce(&Event<'_>)) {
    let text = |n: &u8| format!("tnt:v{n}");
    match step {
        Step::Visit { visitor, event_id, value } => {
            let (home, value, event_id) = (text(visitor), value.to_string(), event_id.map(|id| format!("e{id}")));
            let mut visit = Visit { client: "demo", home: &home, event_id: event_id.as_deref(), ..Visit::default() };
            visit.profile = vec![("a", &value)];
            visit.categories = vec![&value];
            then(&Event::Visit(visit));
        }
        Step::Update { visitor, value, unset } => {
            let (address, value) = (text(visitor), value.to_string());
            let mut update =
                Update { client: "demo", address: &address, set: vec![("b", &value)], ..Update::default() };
            update.unset = if *unset { vec!["a"] } else { vec![] };
            then(&Event::Update(update));
        }
        Step::Erase { visitor } => {
            then(&Event::Erase(Erase { client: "demo", address: &text(visitor), ..Erase::default() }))
        }
        Step::Settings { days } => {
            then(&Event::ClientSettings(ClientSettings { client: "demo", lifetime_days: *days }));
        }
    }
}

/// What the test knows of one partition.
#[derive(Default)]
struct Expected {
    state: PartitionState,
    counter: u64,
    digest: u64,
    at: LogTime,
}

proptest! {
    // Each case opens some databases; the cases of the fold's own tests are many.
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn however_it_is_cut_repeated_and_resumed(ticks in prop::collection::vec(tick(), 1..8)) {
        let (dir, (log, clock)) = (tempfile::tempdir().unwrap(), memory_log(2));
        let log = Arc::new(log);
        let mut expected = [Expected::default(), Expected::default()];
        let mut written: Vec<(Partition, Bytes)> = Vec::new();
        let mut now = NOW;
        for tick in &ticks {
            now += tick.after_ms;
            clock.set(now);
            for partition in [0, 1u16] {
                let known = &mut expected[usize::from(partition)];
                let mut open: Option<FrameBuilder> = None;
                let mut close = |open: &mut Option<FrameBuilder>, known: &mut Expected| {
                    let Some(frame) = open.take() else { return };
                    known.counter += 1;
                    let (bytes, digest) = frame.finish(AppenderId(7), Partition(partition), known.counter, known.digest);
                    known.digest = digest;
                    known.at = LogTime(now);
                    append(&log, Partition(partition), bytes.clone());
                    written.push((Partition(partition), bytes));
                };
                for (_, starts_frame, step) in tick.steps.iter().filter(|(p, ..)| *p == partition) {
                    if *starts_frame {
                        close(&mut open, known);
                    }
                    with_event(step, |event| {
                        known.state.apply(LogTime(now), event);
                        open.get_or_insert_with(|| FrameBuilder::with_capacity(64)).push(|out| event.encode(out));
                    });
                }
                close(&mut open, known);
            }
            for repeat in &tick.repeats {
                if !written.is_empty() {
                    let (partition, bytes) = repeat.get(&written).clone();
                    append(&log, partition, bytes);
                    expected[partition.index()].at = LogTime(now);
                }
            }
            if tick.resumes {
                drop(Replica::open(&config(&dir), Arc::clone(&log)).unwrap());
            }
        }
        let replica = Replica::open(&config(&dir), Arc::clone(&log)).unwrap();
        let digests: Vec<_> = replica.digests().into_iter().map(|(_, digest)| digest).collect();
        let measure: Vec<_> = expected.iter().map(|known| known.state.digest(known.at)).collect();
        prop_assert_eq!(digests, measure);
    }
}
