//! The outage spool: what it promises while the log is away, and that all of it counts once when it is back.

use std::time::Instant;

use cameo_eventlog::memory::Failure;
use cameo_profile::{Address, limits};
use serde_json::json;

use super::*;

/// Room for whatever a test spools.
const ROOM: u64 = 1 << 20;
/// Far above what anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

async fn rig() -> Rig {
    let clock = Clock::manual(NOW);
    let log = MemoryLog::with_clock(PartitionCount::new(4).unwrap(), clock.clone());
    Rig::over(log, clock, tempfile::tempdir().unwrap(), Some(ROOM)).await
}

impl Rig {
    fn counted(event: u32, visitor: &str) -> Value {
        json!({"eventId": format!("e{event}"), "sessionId": "s", "ids": {"tntId": visitor}, "profile": {"n": event.to_string()}})
    }

    async fn spooled(&self) -> u64 {
        let ready: Value = self.get("/readyz?for=visits").await.json();
        ready["spool"]["visits"].as_u64().unwrap()
    }

    /// Waits until the spool is empty.
    async fn drained(&self) {
        self.drained_to(0).await;
    }

    /// Waits until no more than so many visits are in the spool.
    async fn drained_to(&self, left: u64) {
        let empty = async {
            while self.spooled().await > left {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, empty).await.expect("the spool is drained");
    }

    async fn visits_of(&self, visitor: &str) -> Option<String> {
        self.attribute(visitor, "visitCount").await
    }

    /// Ends it as a kill would: nothing is written any more that is not written yet.
    async fn again(self) -> Self {
        let Self { edge, log, clock, router, dir, .. } = self;
        drop(router);
        edge.close().await;
        drop(edge);
        Self::over(log, clock, dir, Some(ROOM)).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn visits_of_an_outage_are_acknowledged_as_such_and_count_once_afterwards() {
    let rig = rig().await;
    rig.visit(&Rig::counted(0, "a")).await.expect(200);
    rig.log.cut_off(Some(Failure::Unavailable));
    let reply = rig.visit(&Rig::counted(1, "a")).await.expect(202).json();
    assert_eq!((&reply["status"], &reply["tntId"]), (&json!("spooled"), &json!("a")), "{reply}");
    assert!(reply.get("profile").is_none() && reply.get("eventId").is_none(), "{reply}");
    // Sent again, it is the same visit.
    rig.visit(&Rig::counted(1, "a")).await.expect(202);
    // Without an event id one is made up, and told; without any id a visitor too, and a retry meets that one.
    let nameless = rig.visit(&json!({"sessionId": "s", "ids": {"tntId": "b"}})).await.expect(202).json();
    assert!(nameless["eventId"].as_str().is_some_and(|id| id.starts_with("spool-")), "{nameless}");
    let anonymous = json!({"eventId": "anonymous", "sessionId": "s"});
    let first = rig.visit(&anonymous).await.expect(202).json()["tntId"].clone();
    assert_eq!(rig.visit(&anonymous).await.expect(202).json()["tntId"], first);
    // A list is told one by one.
    let list = json!([Rig::counted(2, "a"), {"unheard": 1}, Rig::counted(3, "c")]);
    let reply = rig.visit(&list).await.expect(202).json();
    assert_eq!(
        (&reply["spooled"], &reply["refused"], &reply["accepted"]),
        (&json!(2), &json!(1), &json!(0)),
        "{reply}"
    );
    // Not visible yet, and nothing else is held up by that.
    assert_eq!(rig.visits_of("a").await.as_deref(), Some("1"));
    assert_eq!(rig.spooled().await, 5);
    // What is no visit is not taken.
    rig.patch("/v1/demo/profiles/tnt/a", &json!({"set": {"x": "y"}})).await.expect(503);

    rig.log.cut_off(None);
    rig.drained().await;
    assert_eq!(rig.visits_of("a").await.as_deref(), Some("3"));
    assert_eq!(rig.attribute("a", "n").await.as_deref(), Some("2"));
    assert_eq!(rig.visits_of("b").await.as_deref(), Some("1"));
    let again = rig.visit(&anonymous).await.expect(200).json();
    assert_eq!(again["tntId"], first);
    assert_eq!(rig.visits_of(first.as_str().unwrap()).await.as_deref(), Some("1"));
    // And on as ever.
    rig.visit(&Rig::counted(4, "a")).await.expect(200);
    assert_eq!(rig.visits_of("a").await.as_deref(), Some("4"));
}

/// However few the visitors are, it takes a frame for many visits and not one for each.
#[tokio::test(flavor = "multi_thread")]
async fn many_visits_of_one_visitor_go_into_the_log_in_a_few_frames() {
    let rig = rig().await;
    rig.log.cut_off(Some(Failure::Unavailable));
    for event in 0..300 {
        rig.visit(&Rig::counted(event, "a")).await.expect(202);
    }
    let frames = rig.frames();
    rig.log.cut_off(None);
    rig.drained().await;
    assert_eq!(rig.visits_of("a").await.as_deref(), Some("300"));
    assert!(rig.frames() - frames <= 3, "{} frames", rig.frames() - frames);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_visitors_visits_keep_their_order_through_failures_while_it_is_drained() {
    let rig = rig().await;
    rig.log.cut_off(Some(Failure::Unavailable));
    for event in 0..60 {
        rig.visit(&Rig::counted(event, ["a", "b"][event as usize % 2])).await.expect(202);
    }
    for failure in [Failure::Unavailable, Failure::UnknownAndLost, Failure::UnknownButWritten, Failure::StorageFull] {
        (0..3).for_each(|_| rig.log.fail_next(failure));
    }
    rig.log.cut_off(None);
    // Those that come meanwhile do not overtake.
    for event in 60..70 {
        let status = rig.visit(&Rig::counted(event, "a")).await.status.as_u16();
        assert!(matches!(status, 200 | 202), "{status}");
    }
    rig.drained().await;
    assert_eq!(rig.visits_of("a").await.as_deref(), Some("40"));
    assert_eq!(rig.visits_of("b").await.as_deref(), Some("30"));
    assert_eq!(rig.attribute("a", "n").await.as_deref(), Some("69"));
    assert_eq!(rig.attribute("b", "n").await.as_deref(), Some("59"));
}

/// The log has a visit whose append was never answered; the outage is longer than event ids are remembered, and what others
/// append first makes everybody forget them.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_log_had_all_along_counts_once_however_long_the_outage_was() {
    for restart in [false, true] {
        let mut rig = rig().await;
        let other = Rig::over(rig.log.clone(), rig.clock.clone(), tempfile::tempdir().unwrap(), None).await;
        let frames = rig.frames();
        rig.log.cut_off(Some(Failure::UnknownButWritten));
        // The first of a partition goes to the log, which has it and does not answer; the others only into the spool.
        for (event, visitor) in ["a", "b", "c", "d"].into_iter().enumerate() {
            rig.visit(&Rig::counted(event as u32, visitor)).await.expect(202);
        }
        // One without an event id of its own could be there twice: it is left to the caller, as without a spool. Behind
        // others it goes into the spool, and is not in the log.
        let nameless = ["e", "f", "g", "h", "i", "j", "k"];
        for visitor in nameless {
            let status = rig.visit(&json!({"sessionId": "s", "ids": {"tntId": visitor}})).await.status.as_u16();
            assert!(matches!(status, 202 | 503), "{status}");
        }
        // So some were written, and others were not.
        assert!(rig.frames() > frames && rig.spooled().await > 0);
        rig.clock.set(NOW + 2 * limits::EVENT_ID_WINDOW_MS);
        // The other edge is back first.
        if restart {
            let Rig { edge, log, clock, router, dir, .. } = rig;
            drop(router);
            edge.close().await;
            drop(edge);
            log.cut_off(None);
            for event in 100..120 {
                other.visit(&Rig::counted(event, &format!("z{event}"))).await.expect(200);
            }
            rig = Rig::over(log, clock, dir, Some(ROOM)).await;
        } else {
            rig.log.cut_off(None);
            for event in 100..120 {
                other.visit(&Rig::counted(event, &format!("z{event}"))).await.expect(200);
            }
        }
        rig.drained().await;
        for visitor in ["a", "b", "c", "d"].into_iter().chain(nameless) {
            assert_eq!(rig.visits_of(visitor).await.as_deref(), Some("1"), "{visitor}, restart: {restart}");
        }
    }
}

/// A device `a…` and a person, in two partitions, whom it is linked to.
async fn linked(rig: &Rig) -> (String, Partition, Partition) {
    let (code, count) = (ClientCode::new("demo").unwrap(), PartitionCount::new(4).unwrap());
    let of = |address: &str| Address::from_canonical(address).partition(&code, count);
    let home = of("tp:person");
    let device = (0..).map(|n| format!("a{n}")).find(|device| of(&format!("tnt:{device}")) != home).unwrap();
    rig.visit(&json!({"sessionId": "s", "ids": {"tntId": device, "thirdPartyId": "person"}})).await.expect(200);
    let enters = of(&format!("tnt:{device}"));
    (device, enters, home)
}

/// The log of the person's partition has stopped: what is for it is on its way, and holds up nothing behind it.
#[tokio::test(flavor = "multi_thread")]
async fn what_goes_on_to_another_partition_is_not_waited_for() {
    let rig = rig().await;
    let (device, _, home) = linked(&rig).await;
    rig.log.cut_off(Some(Failure::Unavailable));
    let visits: Vec<_> = (0..2500).map(|event| Rig::counted(event, &device)).collect();
    rig.visit(&json!(visits)).await.expect(202);
    rig.log.cut_off(Some(Failure::UnknownButWritten));
    rig.append_nonsense(home).await;
    rig.log.cut_off(None);
    // Three frames. To wait for what cannot arrive would take a quarter of a minute for each.
    let began = Instant::now();
    rig.drained().await;
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
    rig.stopped(home).await;
}

/// Without an event id a visit of a linked device goes straight to the person, past the partition where its earlier ones wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_linked_device_does_not_overtake_itself() {
    let rig = rig().await;
    let (device, ..) = linked(&rig).await;
    let straight = json!({"sessionId": "s", "ids": {"tntId": device}});
    rig.visit(&straight).await.expect(200);
    rig.log.cut_off(Some(Failure::Unavailable));
    rig.visit(&Rig::counted(1, &device)).await.expect(202);
    // Back, and the first visit cannot be stored for some seconds.
    (0..6).for_each(|_| rig.log.fail_next(Failure::StorageFull));
    rig.log.cut_off(None);
    assert_eq!(rig.spooled().await, 1);
    rig.visit(&straight).await.expect(202);
    rig.drained().await;
    // What was drained is on its way to the person.
    rig.settled().await;
    assert_eq!(rig.visits_of(&device).await.as_deref(), Some("4"));
    rig.visit(&straight).await.expect(200);
}

/// A partition whose log cannot be read on has its visits wait; nobody else's do, and no more are taken for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_has_stopped_holds_up_no_other() {
    let rig = rig().await;
    let stopped = Partition(2);
    let code = ClientCode::new("demo").unwrap();
    let count = PartitionCount::new(4).unwrap();
    let is_stopped = |visitor: &str| {
        let address = format!("tnt:{visitor}");
        Address::from_canonical(&address).partition(&code, count) == stopped
    };
    let visitors: Vec<_> = (0..40).map(|n| format!("v{n}")).collect();
    let (theirs, healthy): (Vec<_>, Vec<_>) = visitors.iter().partition(|visitor| is_stopped(visitor));
    assert!(!theirs.is_empty() && !healthy.is_empty());

    rig.log.cut_off(Some(Failure::Unavailable));
    // Those of the partition first: they stand in front of all others.
    for (event, visitor) in (0..).zip(theirs.iter().chain(&healthy)) {
        rig.visit(&Rig::counted(event, visitor)).await.expect(202);
    }
    // The first thing that is read when the log is back is an event of a kind that nobody knows.
    rig.log.cut_off(Some(Failure::UnknownButWritten));
    rig.append_nonsense(stopped).await;
    rig.log.cut_off(None);
    rig.drained_to(theirs.len() as u64).await;
    rig.stopped(stopped).await;
    for visitor in &healthy {
        assert_eq!(rig.visits_of(visitor).await.as_deref(), Some("1"), "{visitor}");
        // The log takes them at once again.
        rig.visit(&Rig::counted(100, visitor)).await.expect(200);
    }
    // What the partition had stays; nothing more is taken for it, whoever asks.
    for visitor in &theirs {
        let refused = rig.visit(&Rig::counted(100, visitor)).await.expect(503);
        assert!(refused.text.contains("partition 2 has stopped"), "{}", refused.text);
        rig.visit(&json!({"sessionId": "s", "ids": {"tntId": visitor}})).await.expect(503);
    }
    assert_eq!(rig.spooled().await, theirs.len() as u64);
    // Nor in the next outage, which the others' visits survive as ever.
    rig.log.cut_off(Some(Failure::Unavailable));
    rig.visit(&Rig::counted(101, theirs[0])).await.expect(503);
    rig.visit(&Rig::counted(101, healthy[0])).await.expect(202);
    rig.log.cut_off(None);
    rig.drained_to(theirs.len() as u64).await;
    assert_eq!(rig.visits_of(healthy[0]).await.as_deref(), Some("3"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_spool_refuses_and_takes_again_when_there_is_room() {
    let clock = Clock::manual(NOW);
    let log = MemoryLog::with_clock(PartitionCount::new(4).unwrap(), clock.clone());
    let rig = Rig::over(log, clock, tempfile::tempdir().unwrap(), Some(2000)).await;
    rig.log.cut_off(Some(Failure::Unavailable));
    let mut spooled = 0;
    let refused = loop {
        let reply = rig.visit(&Rig::counted(spooled, "a")).await;
        if reply.status != StatusCode::ACCEPTED {
            break reply;
        }
        spooled += 1;
        assert!(spooled < 100, "it is bounded");
    };
    assert!(spooled > 1, "{spooled}");
    assert!(refused.expect(503).retry_after);
    rig.get("/readyz?for=visits").await.expect(200);
    rig.log.cut_off(None);
    rig.drained().await;
    assert_eq!(rig.visits_of("a").await, Some(spooled.to_string()));
    rig.log.cut_off(Some(Failure::Unavailable));
    rig.visit(&Rig::counted(spooled + 1, "a")).await.expect(202);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_spooled_before_a_restart_is_drained_after_it() {
    let mut rig = rig().await;
    rig.log.cut_off(Some(Failure::Unavailable));
    for event in 0..20 {
        rig.visit(&Rig::counted(event, "a")).await.expect(202);
    }
    rig.log.cut_off(None);
    rig = rig.again().await;
    rig.drained().await;
    assert_eq!(rig.visits_of("a").await.as_deref(), Some("20"));
    // What has left does not come back.
    rig = rig.again().await;
    assert_eq!(rig.spooled().await, 0);
    rig.visit(&Rig::counted(20, "a")).await.expect(200);
    assert_eq!(rig.visits_of("a").await.as_deref(), Some("21"));
}
