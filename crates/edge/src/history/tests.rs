//! Promises of the index: what is told of an earlier moment is what was read then, over restarts, kills, failed
//! checkpoints, erasures and trims; what cannot be told is said to be.

use std::sync::Arc;
use std::time::Duration;

use cameo_auth::{ClientRecord, Verifier};
use cameo_eventlog::{Clock, EventLog, LogTime, MemoryLog, Partition, PartitionCount};
use cameo_profile::event::{BatchRow, BatchRows, ClientSettings, Erase, Update, Visit};
use cameo_profile::view::ProfileRef;
use cameo_profile::{Address, ClientCode, Event};
use proptest::prelude::*;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::read::AsOf;
use crate::api::write;
use crate::config::{EdgeConfig, SnapshotConfig};
use crate::replica::Replica;

/// The time that logs start at.
const NOW: u64 = 1_790_000_000_000;
const DAY: u64 = 86_400_000;
const P0: Partition = Partition(0);
const IDS: [&str; 3] = ["tnt:a", "tnt:b", "tp:c"];

mod links;

struct Rig {
    dir: TempDir,
    log: Arc<MemoryLog>,
    clock: Clock,
    now_ms: u64,
    runtime: Runtime,
    snapshots: Option<SnapshotConfig>,
    replica: Option<Replica<MemoryLog>>,
}

impl Rig {
    fn new() -> Self {
        Self::of(1)
    }

    fn of(partitions: u32) -> Self {
        let clock = Clock::manual(NOW);
        let log = Arc::new(MemoryLog::with_clock(PartitionCount::new(partitions).unwrap(), clock.clone()));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut rig = Self { dir, log, clock, now_ms: NOW, runtime, snapshots: None, replica: None };
        rig.open();
        rig
    }

    fn open(&mut self) {
        let client = ClientRecord::new(&ClientCode::new("demo").unwrap(), 0).unwrap();
        let config = EdgeConfig {
            auth: Verifier::fixed(vec![client]),
            checkpoint_dir: self.dir.path().join("checkpoint"),
            // Only when asked for, and at the end.
            checkpoint_every: Duration::from_secs(3600),
            retention: None,
            snapshots: self.snapshots.clone(),
            spool: None,
            draining: Arc::default(),
            metrics: None,
        };
        self.replica = Some(Replica::open(&config, Arc::clone(&self.log)).unwrap());
    }

    fn replica(&self) -> &Replica<MemoryLog> {
        self.replica.as_ref().unwrap()
    }

    /// Ends it in order: with a checkpoint.
    fn restart(&mut self) {
        self.replica.take().unwrap().close();
        self.open();
    }

    /// What a kill at this moment would leave, if this is right after a checkpoint.
    fn save(&mut self) -> TempDir {
        self.replica.take().unwrap().close();
        let saved = tempfile::tempdir().unwrap();
        copy(&self.dir.path().join("checkpoint"), &saved.path().join("checkpoint"));
        self.open();
        saved
    }

    /// As after a kill: what was written since is lost.
    fn kill(&mut self, saved: &TempDir) {
        self.replica.take().unwrap().close();
        let place = self.dir.path().join("checkpoint");
        std::fs::remove_dir_all(&place).unwrap();
        copy(&saved.path().join("checkpoint"), &place);
        self.open();
    }

    /// A moment later, an event.
    fn submit(&mut self, events: &[Event<'_>]) -> LogTime {
        self.later(1);
        let mut call = self.replica().start_call(events.len());
        events.iter().for_each(|event| call.add(P0, event, None));
        self.runtime.block_on(call.wait()).into_iter().for_each(|answer| drop(answer.unwrap()));
        LogTime(self.now_ms)
    }

    fn later(&mut self, ms: u64) {
        self.now_ms += ms;
        self.clock.set(self.now_ms);
    }

    /// What a reader sees now.
    fn read(&self, address: &str) -> Option<String> {
        let read = self.replica().read(P0, |state, now| {
            state.profile("demo", Address::from_canonical(address), now).map(|profile| text(&profile))
        });
        read.unwrap()
    }

    fn as_of(&self, address: &str, time: LogTime) -> AsOf<String> {
        let (client, address) = (ClientCode::new("demo").unwrap(), Address::from_canonical(address));
        self.replica().as_of(self.runtime.handle().clone(), &client, address, time, text).unwrap()
    }

    fn trim(&self, upto: u64) {
        let upto = [(P0, cameo_eventlog::Position(upto))];
        self.runtime.block_on(self.log.trim(&upto, LogTime(u64::MAX))).unwrap();
    }
}

fn text(profile: &ProfileRef<'_>) -> String {
    let mut out = Vec::new();
    write::native("demo", profile, &mut out);
    String::from_utf8(out).unwrap()
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let place = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &place)
        } else {
            std::fs::copy(entry.path(), place).unwrap();
        }
    }
}

/// What is done in one step of a generated history.
#[derive(Clone, Debug)]
enum Step {
    Visit { who: usize, event_id: Option<u8>, value: u8 },
    Update { who: usize, value: u8, unset: bool },
    Row { who: usize, value: u8, create: bool },
    Erase { who: usize },
    Settings { days: u16 },
}

/// Steps that may come in one frame, and what happens after them.
#[derive(Clone, Debug)]
struct Moment {
    after_ms: u64,
    steps: Vec<Step>,
    then: Then,
}

#[derive(Clone, Copy, Debug)]
enum Then {
    Nothing,
    Restart,
    Save,
    Kill,
}

fn step() -> impl Strategy<Value = Step> {
    let who = 0..IDS.len();
    prop_oneof![
        6 => (who.clone(), prop::option::weighted(0.3, 0..4u8), 0..4u8)
            .prop_map(|(who, event_id, value)| Step::Visit { who, event_id, value }),
        3 => (who.clone(), 0..4u8, any::<bool>()).prop_map(|(who, value, unset)| Step::Update { who, value, unset }),
        2 => (who.clone(), 0..4u8, any::<bool>()).prop_map(|(who, value, create)| Step::Row { who, value, create }),
        1 => who.prop_map(|who| Step::Erase { who }),
        1 => (1..40u16).prop_map(|days| Step::Settings { days }),
    ]
}

fn moment() -> impl Strategy<Value = Moment> {
    let after_ms = prop_oneof![6 => 1..60_000u64, 2 => DAY..12 * DAY, 1 => 20 * DAY..21 * DAY];
    let then =
        prop_oneof![8 => Just(Then::Nothing), 1 => Just(Then::Restart), 1 => Just(Then::Save), 1 => Just(Then::Kill)];
    (after_ms, prop::collection::vec(step(), 1..5), then).prop_map(|(after_ms, steps, then)| Moment {
        after_ms,
        steps,
        then,
    })
}

/// Runs one step as an event; rows are of one batch each, numbered by `serial`.
fn with_event(step: &Step, serial: usize, then: &mut dyn FnMut(&Event<'_>)) {
    match step {
        Step::Visit { who, event_id, value } => {
            let (value, event_id) = (value.to_string(), event_id.map(|id| format!("e{id}")));
            let mut visit =
                Visit { client: "demo", home: IDS[*who], event_id: event_id.as_deref(), ..Visit::default() };
            visit.profile = vec![("a", &value)];
            visit.categories = vec![&value];
            visit.session_id = Some(&value);
            then(&Event::Visit(visit));
        }
        Step::Update { who, value, unset } => {
            let value = value.to_string();
            let mut update =
                Update { client: "demo", address: IDS[*who], set: vec![("b", &value)], ..Update::default() };
            update.unset = if *unset { vec!["a"] } else { vec![] };
            then(&Event::Update(update));
        }
        Step::Row { who, value, create } => {
            let (value, batch) = (value.to_string(), format!("demo-1-{serial}"));
            let (kind, id) = IDS[*who].split_once(':').unwrap();
            let row = |line| BatchRow { line, id, values: vec![Some(&*value), None], removed: vec![1] };
            let rows = BatchRows { client: "demo", batch: &batch, kind, create: *create, ..BatchRows::default() };
            let rows =
                BatchRows { columns: vec!["c", "b"], rows: vec![row(2), row(5)], occurred_at: NOW + DAY, ..rows };
            then(&Event::BatchRows(rows));
        }
        Step::Erase { who } => then(&Event::Erase(Erase { client: "demo", address: IDS[*who], ..Erase::default() })),
        Step::Settings { days } => {
            then(&Event::ClientSettings(ClientSettings { client: "demo", lifetime_days: *days }));
        }
    }
}

/// Events in one call, which may be one frame.
fn submit(rig: &mut Rig, steps: &[Step], serial: usize) -> LogTime {
    let mut encoded: Vec<Vec<u8>> = Vec::new();
    for (n, step) in steps.iter().enumerate() {
        with_event(step, serial * 10 + n, &mut |event| {
            let mut bytes = Vec::new();
            event.encode(&mut bytes);
            encoded.push(bytes);
        });
    }
    let events: Vec<_> = encoded.iter().map(|bytes| Event::decode(bytes).unwrap()).collect();
    rig.submit(&events)
}

proptest! {
    // Each case opens some databases.
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn every_moment_is_told_as_it_was(moments in prop::collection::vec(moment(), 1..25)) {
        let mut rig = Rig::new();
        let mut saved = rig.save();
        let mut seen: Vec<(LogTime, [Option<String>; 3])> = Vec::new();
        let mut erased = [LogTime(0); 3];
        for (serial, moment) in moments.iter().enumerate() {
            rig.later(moment.after_ms);
            // What has ended meanwhile reads so, although nothing has happened.
            seen.push((LogTime(rig.now_ms), IDS.map(|id| rig.read(id))));
            let at = submit(&mut rig, &moment.steps, serial);
            seen.push((at, IDS.map(|id| rig.read(id))));
            for step in &moment.steps {
                if let Step::Erase { who } = step {
                    erased[*who] = at;
                }
            }
            match moment.then {
                Then::Nothing => {}
                Then::Restart => rig.restart(),
                Then::Save => saved = rig.save(),
                Then::Kill => rig.kill(&saved),
            }
        }
        for (at, profiles) in &seen {
            for ((id, erased), profile) in IDS.iter().zip(erased).zip(profiles) {
                // Nothing from before an erasure is ever told again.
                let expected = profile.clone().filter(|_| *at >= erased);
                let expected = expected.map_or(AsOf::None, AsOf::Found);
                prop_assert_eq!(rig.as_of(id, *at), expected, "{} at {}", id, at);
            }
        }
    }
}

fn visit(id: &str) -> Event<'_> {
    Event::Visit(Visit { client: "demo", home: id, profile: vec![("a", "1")], ..Visit::default() })
}

#[test]
fn what_the_log_has_let_go_is_said_and_what_an_image_has_is_told() {
    let mut rig = Rig::new();
    let mut seen = Vec::new();
    for day in 0..30 {
        rig.later(DAY);
        let at = rig.submit(&[visit("tnt:a")]);
        seen.push((at, rig.read("tnt:a").unwrap()));
        if day % 10 == 9 {
            // The walk at the start asks for an image, the checkpoint at the end takes it.
            rig.restart();
            rig.restart();
        }
    }
    let recorded = rig.replica().recorded(P0, "demo", "tnt:a").unwrap();
    assert_eq!(recorded.held.images.len(), 3);
    assert!(recorded.held.images.iter().all(|image| image.length > 0 && image.noted.is_none()), "places, no bytes");
    assert_eq!(recorded.whole_since(), None);
    for (at, profile) in &seen {
        assert_eq!(rig.as_of("tnt:a", *at), AsOf::Found(profile.clone()));
    }
    // Positions are days, from 1: the second image is of the twentieth, the first of the tenth.
    rig.trim(15);
    for tended in [false, true] {
        for (day, (at, profile)) in (1..).zip(&seen) {
            let is_lost = day < 20 && (tended || day != 10);
            let expected = if is_lost { AsOf::TooEarly(Some(seen[19].0)) } else { AsOf::Found(profile.clone()) };
            assert_eq!(rig.as_of("tnt:a", *at), expected, "day {day}");
        }
        let recorded = rig.replica().recorded(P0, "demo", "tnt:a").unwrap();
        assert_eq!(recorded.entries().len(), 15);
        assert_eq!(recorded.whole_since(), Some(seen[14].0));
        // The walk lets go what was trimmed, and nothing else is told.
        rig.restart();
        rig.restart();
    }
    let recorded = rig.replica().recorded(P0, "demo", "tnt:a").unwrap();
    assert_eq!((recorded.held.entries.len(), recorded.held.images.len()), (15, 2));
    // Everything but the present is gone from the log.
    rig.trim(30);
    assert_eq!(rig.as_of("tnt:a", seen[28].0), AsOf::TooEarly(Some(seen[29].0)));
    assert_eq!(rig.as_of("tnt:a", seen[29].0), AsOf::Found(seen[29].1.clone()));
}

#[test]
fn an_erasure_takes_the_index_along() {
    let mut rig = Rig::new();
    let before = rig.submit(&[visit("tnt:a"), visit("tnt:b")]);
    rig.restart();
    rig.restart();
    let erase = Event::Erase(Erase { client: "demo", address: "tnt:a", ..Erase::default() });
    rig.submit(&[visit("tnt:a"), erase]);
    for _ in 0..2 {
        let recorded = rig.replica().recorded(P0, "demo", "tnt:a").unwrap();
        assert!(recorded.entries().is_empty() && recorded.held.images.is_empty() && recorded.held.floor.is_none());
        assert_eq!(rig.as_of("tnt:a", before), AsOf::None);
        assert!(matches!(rig.as_of("tnt:b", before), AsOf::Found(_)));
        rig.restart();
    }
    let index = rig.replica().index().unwrap();
    let left: Vec<_> =
        index.iter().map(|pair| pair.key().unwrap()).filter(|key| key.windows(5).any(|w| w == b"tnt:a")).collect();
    assert!(left.is_empty(), "{left:?}");
    let again = rig.submit(&[visit("tnt:a")]);
    assert_eq!(rig.as_of("tnt:a", again), rig.read("tnt:a").map_or(AsOf::None, AsOf::Found));
    assert_eq!(rig.as_of("tnt:a", before), AsOf::None);
}

#[test]
fn a_checkpoint_without_an_index_leaves_a_gap_that_is_told() {
    let mut rig = Rig::new();
    let before = rig.submit(&[visit("tnt:a")]);
    rig.restart();
    // As a version that had no index, or a snapshot, leaves it.
    rig.replica.take().unwrap().close();
    {
        let place = rig.dir.path().join("checkpoint");
        let (database, _) = cameo_store::open(&place, "state").unwrap();
        let index = database.keyspace(super::store::KEYSPACE, fjall::KeyspaceCreateOptions::default).unwrap();
        index.clear().unwrap();
        database.persist(fjall::PersistMode::SyncAll).unwrap();
    }
    rig.open();
    rig.later(DAY);
    let later = rig.submit(&[visit("tnt:a")]);
    let latest = rig.submit(&[visit("tnt:a")]);
    for _ in 0..2 {
        let recorded = rig.replica().recorded(P0, "demo", "tnt:a").unwrap();
        assert_eq!(recorded.whole_since(), Some(before));
        assert_eq!(recorded.entries().len(), 2);
        assert_eq!(rig.as_of("tnt:a", before), AsOf::TooEarly(Some(latest)));
        assert_eq!(rig.as_of("tnt:a", later), AsOf::TooEarly(Some(latest)));
        assert_eq!(rig.as_of("tnt:a", latest), rig.read("tnt:a").map_or(AsOf::None, AsOf::Found));
        rig.restart();
    }
    // Who came after the gap is told whole.
    let first = rig.submit(&[visit("tnt:b")]);
    rig.submit(&[visit("tnt:b")]);
    assert!(matches!(rig.as_of("tnt:b", first), AsOf::Found(_)));
}

/// Version 1 noted nothing of links, so what it has is told and nothing is made of it.
#[test]
fn an_index_of_version_1_is_read_and_no_earlier_moment_is_told_from_it() {
    let mut rig = Rig::new();
    let before = rig.submit(&[visit("tnt:a")]);
    rig.later(DAY);
    let last = rig.submit(&[visit("tnt:a")]);
    rig.replica.take().unwrap().close();
    {
        let (database, _) = cameo_store::open(&rig.dir.path().join("checkpoint"), "state").unwrap();
        let index = database.keyspace(super::store::KEYSPACE, fjall::KeyspaceCreateOptions::default).unwrap();
        for pair in index.iter() {
            let (key, value) = pair.into_inner().unwrap();
            let mut value = value.to_vec();
            if key[2] == b'm' {
                // After the head of the array.
                value[1] = 1;
            } else {
                let entries = super::chunk::decode(&value).unwrap();
                value = vec![1, entries.len() as u8];
                let mut at = 0;
                for (entry, created) in entries.iter().zip([true, false]) {
                    value.extend([1, 0]);
                    cameo_profile::varint::put_signed(&mut value, (entry.at.0 - at) as i64);
                    at = entry.at.0;
                    value.extend([0, if created { 2 } else { 1 }]);
                }
            }
            index.insert(key, value).unwrap();
        }
        database.persist(fjall::PersistMode::SyncAll).unwrap();
    }
    rig.open();
    for _ in 0..2 {
        let recorded = rig.replica().recorded(P0, "demo", "tnt:a").unwrap();
        assert_eq!((recorded.entries().len(), recorded.whole_since()), (2, Some(last)));
        assert!(recorded.entries()[0].is_birth());
        assert_eq!(rig.as_of("tnt:a", before), AsOf::TooEarly(Some(last)));
        assert_eq!(rig.as_of("tnt:a", last), AsOf::Found(rig.read("tnt:a").unwrap()));
        rig.restart();
    }
    let first = rig.submit(&[visit("tnt:b")]);
    rig.submit(&[visit("tnt:b")]);
    assert!(matches!(rig.as_of("tnt:b", first), AsOf::Found(_)));
}

#[test]
fn a_profile_with_very_many_events_keeps_the_latest() {
    let mut rig = Rig::new();
    let visits = vec![visit("tnt:a"); 700];
    let mut seen = Vec::new();
    for _ in 0..18 {
        let at = rig.submit(&visits);
        seen.push((at, rig.read("tnt:a").unwrap()));
        rig.restart();
    }
    rig.restart();
    rig.restart();
    let recorded = rig.replica().recorded(P0, "demo", "tnt:a").unwrap();
    let count = recorded.held.entries.len();
    assert!((super::ENTRIES_KEPT..super::ENTRIES_KEPT + 700).contains(&count), "{count}");
    assert!(recorded.whole_since().is_some());
    let (at, profile) = &seen[17];
    assert_eq!(rig.as_of("tnt:a", *at), AsOf::Found(profile.clone()));
    assert!(matches!(rig.as_of("tnt:a", seen[0].0), AsOf::TooEarly(Some(_))));
}

#[test]
fn what_was_restored_into_another_log_is_not_told_as_having_been_there_before() {
    let mut rig = Rig::new();
    let long_ago = rig.submit(&[visit("tnt:a")]);
    rig.later(DAY);
    let last = rig.submit(&[visit("tnt:a")]);
    let snapshots = tempfile::tempdir().unwrap();
    let store = cameo_snapshot::Store::Folder(cameo_snapshot::Folder::new(snapshots.path().to_owned()));
    let config = SnapshotConfig {
        store: store.clone(),
        every: Duration::ZERO,
        node: "one".into(),
        work_dir: snapshots.path().join("tmp"),
        removes: false,
    };
    rig.replica.take().unwrap().close();
    rig.snapshots = Some(config);
    rig.open();
    rig.runtime.block_on(rig.replica().take_snapshots()).unwrap();
    let listed = rig.runtime.block_on(store.list()).unwrap();
    rig.replica.take().unwrap().close();
    rig.snapshots = None;

    rig.dir = tempfile::tempdir().unwrap();
    rig.log = Arc::new(MemoryLog::with_clock(PartitionCount::new(1).unwrap(), rig.clock.clone()));
    let mut snapshot =
        cameo_snapshot::Reader::open_as(&snapshots.path().join(listed[0].name.to_string()), &listed[0].name).unwrap();
    crate::restore_partition(rig.dir.path().join("checkpoint"), &*rig.log, &mut snapshot).unwrap();
    rig.open();
    rig.later(DAY);
    let now = LogTime(rig.now_ms);
    assert_eq!(rig.as_of("tnt:a", now), AsOf::Found(rig.read("tnt:a").unwrap()));
    for round in 0..2 {
        assert_eq!(rig.as_of("tnt:a", long_ago), AsOf::TooEarly(Some(last)), "round {round}");
        assert_eq!(rig.replica().recorded(P0, "demo", "tnt:a").unwrap().whole_since(), Some(last));
        rig.restart();
    }
    // What happens from now on is told; before it, nothing of whom the snapshot may have had.
    let first = rig.submit(&[visit("tnt:b")]);
    rig.submit(&[visit("tnt:b"), visit("tnt:a")]);
    assert!(matches!(rig.as_of("tnt:b", first), AsOf::Found(_)));
    assert_eq!(rig.as_of("tnt:a", long_ago), AsOf::TooEarly(Some(LogTime(rig.now_ms))));
}
