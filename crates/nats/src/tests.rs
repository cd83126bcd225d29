//! Publishing, feeds and queues over real NATS servers, which are killed, emptied and filled.

use std::time::Duration;

use bytes::Bytes;

use crate::stream::{StreamSpec, StreamWatch};
use crate::testing::Servers;
use crate::{Feed, FeedError, FeedOptions, Handled, Nats, Publish, PublishError};

mod tls;
mod traps;

const PATIENCE: Duration = Duration::from_secs(60);

fn spec(name: &str, replicas: usize) -> StreamSpec {
    StreamSpec {
        name: name.into(),
        subjects: vec![format!("{name}.in.*")],
        replicas,
        max_bytes: -1,
        max_messages: -1,
        per_subject: -1,
        duplicate_window: Duration::from_secs(600),
        work_queue: false,
        republish: Some((format!("{name}.in.*"), format!("{name}.tail.{{{{wildcard(1)}}}}"))),
        metadata: [("fact".to_owned(), "yes".to_owned())].into(),
    }
}

async fn made(nats: &Nats, name: &str, replicas: usize) -> StreamWatch {
    let info = nats.ensure_stream(&spec(name, replicas)).await.unwrap();
    assert_eq!(info.metadata.get("fact").map(String::as_str), Some("yes"));
    StreamWatch::start(nats.clone(), name.into(), info)
}

fn options(name: &str, after: u64) -> FeedOptions {
    let (filter, tail) = (format!("{name}.in.*"), format!("{name}.tail.*"));
    FeedOptions { stream: name.into(), filter, tail, after, contiguous: true }
}

fn feed(nats: &Nats, stream: &StreamWatch, name: &str, after: u64) -> Feed {
    Feed::start(nats.clone(), stream.clone(), options(name, after))
}

fn message(name: &str, n: u64) -> Publish {
    let payload = Bytes::from(n.to_string());
    Publish { subject: format!("{name}.in.{}", n % 3), id: n.to_string(), expected: None, headers: vec![], payload }
}

async fn publish(nats: &Nats, name: &str, n: u64) -> u64 {
    nats.publish(&message(name, n), PATIENCE).await.unwrap().seq
}

/// Reads up to a sequence, and checks that each comes once, in order, with what was published there.
async fn read(feed: &mut Feed, after: u64, upto: u64) {
    let mut cursor = after;
    while cursor < upto {
        let batch = tokio::time::timeout(PATIENCE, feed.next()).await.expect("it goes on").unwrap();
        for message in batch {
            cursor += 1;
            assert_eq!(message.seq, cursor);
            assert_eq!(message.payload, cursor.to_string(), "message {cursor}");
        }
    }
    assert_eq!(cursor, upto);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_is_read_in_order_from_any_place_and_live() {
    let Some(servers) = Servers::start(1).await else { return };
    let nats = servers.connect("a").await;
    let stream = made(&nats, "S", 1).await;
    for n in 1..=1500 {
        assert_eq!(publish(&nats, "S", n).await, n);
    }
    assert_eq!(publish(&nats, "S", 7).await, 7, "a message id is stored once");
    for after in [0, 1, 700, 1499, 1500] {
        read(&mut feed(&nats, &stream, "S", after), after, 1500).await;
    }
    let mut live = feed(&nats, &stream, "S", 1500);
    for n in 1501..=1600 {
        publish(&nats, "S", n).await;
        read(&mut live, n - 1, n).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expected_place_is_held_to_and_a_missing_stream_is_no_unknown_outcome() {
    let Some(servers) = Servers::start(1).await else { return };
    let nats = servers.connect("a").await;
    made(&nats, "S", 1).await;
    let expecting = |n: u64, expected| Publish { expected: Some(expected), ..message("S", n) };
    assert_eq!(nats.publish(&expecting(3, 0), PATIENCE).await.unwrap().seq, 1);
    let conflict = Err(PublishError::Conflict { repeated: false });
    assert_eq!(nats.publish(&expecting(6, 0), PATIENCE).await, conflict);
    assert_eq!(nats.publish(&expecting(9, 1), PATIENCE).await.unwrap().seq, 2);
    let nowhere = Publish { subject: "nowhere".into(), ..message("S", 12) };
    let refused = nats.publish(&nowhere, Duration::from_secs(1)).await;
    assert!(matches!(refused, Err(PublishError::Unavailable(_))), "{refused:?}");
    let stored = nats.last_of("S", "S.in.0").await.unwrap().unwrap();
    assert_eq!((stored.seq, &*stored.payload, stored.header("Nats-Msg-Id")), (2, &b"9"[..], Some("9")));
    assert!(nats.last_of("S", "S.in.1").await.unwrap().is_none());
    assert_eq!(nats.at("S", 1).await.unwrap().unwrap().at_ms() / 1000, stored.at_ms() / 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_stream_refuses_and_forgets_nothing() {
    let Some(servers) = Servers::start(1).await else { return };
    let nats = servers.connect("a").await;
    let small = StreamSpec { max_bytes: 4000, ..spec("S", 1) };
    let info = nats.ensure_stream(&small).await.unwrap();
    let stream = StreamWatch::start(nats.clone(), "S".into(), info);
    let mut stored = 0;
    let refused = loop {
        let payload = Bytes::from(vec![b'x'; 500]);
        match nats.publish(&Publish { payload, ..message("S", stored + 1) }, PATIENCE).await {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
        assert!(stored < 100);
    };
    assert!(matches!(refused, PublishError::Full(_)), "{refused:?}");
    let first = feed(&nats, &stream, "S", 0).next().await.unwrap();
    assert_eq!((first[0].seq, first.len() as u64), (1, stored));
    // With more room it goes on as it was.
    let info = nats.ensure_stream(&StreamSpec { max_bytes: 100_000, ..small }).await.unwrap();
    assert_eq!((info.last, info.metadata.get("fact").map(String::as_str)), (stored, Some("yes")));
    assert_eq!(publish(&nats, "S", stored + 1).await, stored + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_trimmed_away_ends_a_feed_with_its_place() {
    let Some(servers) = Servers::start(1).await else { return };
    let nats = servers.connect("a").await;
    let stream = made(&nats, "S", 1).await;
    for n in 1..=20 {
        publish(&nats, "S", n).await;
    }
    assert_eq!(nats.purge_before("S", 11).await.unwrap(), 10);
    read(&mut feed(&nats, &stream, "S", 10), 10, 20).await;
    let mut late = feed(&nats, &stream, "S", 5);
    for _ in 0..2 {
        let error = tokio::time::timeout(PATIENCE, late.next()).await.unwrap().unwrap_err();
        assert_eq!(error, FeedError::Trimmed { stream: "S".into(), wanted: 6, first: 11 });
    }
    // Also when nothing is left to be read.
    assert_eq!(nats.purge_before("S", 21).await.unwrap(), 10);
    let mut empty = feed(&nats, &stream, "S", 15);
    let error = tokio::time::timeout(PATIENCE, empty.next()).await.unwrap().unwrap_err();
    assert_eq!(error, FeedError::Trimmed { stream: "S".into(), wanted: 16, first: 21 });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_lost_what_was_read_ends_its_feeds() {
    let Some(mut servers) = Servers::start(1).await else { return };
    let nats = servers.connect("a").await;
    let stream = made(&nats, "S", 1).await;
    for n in 1..=10 {
        publish(&nats, "S", n).await;
    }
    let mut reading = feed(&nats, &stream, "S", 0);
    read(&mut reading, 0, 10).await;
    // The disk comes back from a backup in which the stream is empty.
    servers.kill(0);
    let store = servers.store(0);
    std::fs::remove_dir_all(&store).unwrap();
    servers.restart(0);
    let error = tokio::time::timeout(PATIENCE, reading.next()).await.unwrap().unwrap_err();
    assert!(matches!(&error, FeedError::Rewritten { stream, .. } if stream == "S"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_messages_are_replaced_a_feed_ends_rather_than_miss_one() {
    let Some(mut servers) = Servers::start(1).await else { return };
    let nats = servers.connect("a").await;
    let info = nats.ensure_stream(&StreamSpec { per_subject: 1, ..spec("S", 1) }).await.unwrap();
    let stream = StreamWatch::start(nats.clone(), "S".into(), info);
    let start = |tail: &str| {
        let options = FeedOptions { tail: tail.into(), contiguous: false, ..options("S", 0) };
        Feed::start(nats.clone(), stream.clone(), options)
    };
    let next = async |feed: &mut Feed| tokio::time::timeout(PATIENCE, feed.next()).await.expect("it goes on");
    let places = |batch: Vec<crate::Stored>| batch.iter().map(|message| message.seq).collect::<Vec<_>>();
    for n in 1..=6 {
        publish(&nats, "S", n).await;
    }
    let (mut feed, mut deaf) = (start("S.tail.*"), start("S.nowhere"));
    assert_eq!(next(&mut feed).await.map(places), Ok(vec![4, 5, 6]));
    assert_eq!(next(&mut deaf).await.map(places), Ok(vec![4, 5, 6]));
    publish(&nats, "S", 7).await;
    // The message is there to be read, but what was told between it and the last one is not known.
    assert_eq!(next(&mut deaf).await.unwrap_err(), FeedError::Missed { stream: "S".into(), read: 6 });
    assert_eq!(next(&mut feed).await.map(places), Ok(vec![7]));
    servers.kill(0);
    servers.restart(0);
    assert_eq!(next(&mut feed).await.unwrap_err(), FeedError::Missed { stream: "S".into(), read: 7 });
    nats.up().await;
    assert_eq!(next(&mut start("S.tail.*")).await.map(places), Ok(vec![5, 6, 7]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_work_queue_gives_each_message_until_it_is_handled() {
    let Some(servers) = Servers::start(1).await else { return };
    let nats = servers.connect("a").await;
    nats.ensure_stream(&StreamSpec { work_queue: true, republish: None, ..spec("Q", 1) }).await.unwrap();
    for _ in 0..2 {
        nats.ensure_queue("Q", "takers", Duration::from_secs(1), 1000).await.unwrap();
    }
    for n in 1..=5 {
        publish(&nats, "Q", n).await;
    }
    let wait = Duration::from_millis(200);
    let taken = nats.take("Q", "takers", 3, wait).await.unwrap();
    assert_eq!(
        taken.iter().map(|message| (message.seq, message.subject.as_str())).collect::<Vec<_>>(),
        [(1, "Q.in.1"), (2, "Q.in.2"), (3, "Q.in.0")]
    );
    assert_eq!(taken[0].id.as_deref(), Some("1"));
    taken[0].handled(&nats, Handled::Done).await;
    taken[1].handled(&nats, Handled::Never("it is rubbish")).await;
    taken[2].handled(&nats, Handled::Later(Duration::from_millis(1))).await;
    // What was put off comes again, and so does what nobody said anything about.
    let mut seen = Vec::new();
    while seen.len() < 3 {
        for message in nats.take("Q", "takers", 10, wait).await.unwrap() {
            seen.push(message.seq);
            message.handled(&nats, Handled::Done).await;
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, [3, 4, 5]);
    assert!(nats.take("Q", "takers", 10, wait).await.unwrap().is_empty());
    let info = nats.stream_info("Q").await.unwrap().unwrap();
    assert_eq!((info.first, info.last), (6, 5), "nothing is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_refuses_when_it_is_full_and_never_stands_still_for_what_is_put_off() {
    const MOST: u64 = 20;
    let Some(servers) = Servers::start(1).await else { return };
    let nats = servers.connect("a").await;
    let bound = |max_messages| StreamSpec {
        work_queue: true,
        republish: None,
        max_bytes: 1_000_000,
        max_messages,
        ..spec("Q", 1)
    };
    // One of an earlier release, which had none.
    nats.ensure_stream(&StreamSpec { max_bytes: -1, ..bound(-1) }).await.unwrap();
    nats.ensure_queue("Q", "takers", Duration::from_secs(30), 3).await.unwrap();
    nats.ensure_stream(&bound(MOST as i64)).await.unwrap();
    nats.ensure_queue("Q", "takers", Duration::from_secs(30), MOST as i64).await.unwrap();
    for n in 1..=MOST {
        publish(&nats, "Q", n).await;
    }
    let refused = nats.publish(&message("Q", MOST + 1), PATIENCE).await;
    assert!(matches!(&refused, Err(PublishError::Full(said)) if said.contains("maximum messages")), "{refused:?}");
    let wait = Duration::from_millis(200);
    let taken = nats.take("Q", "takers", 100, wait).await.unwrap();
    assert_eq!(taken.iter().map(|message| message.delivered).collect::<Vec<_>>(), [1; MOST as usize]);
    let (last, others) = taken.split_last().unwrap();
    for message in others {
        message.handled(&nats, Handled::Later(PATIENCE)).await;
    }
    last.handled(&nats, Handled::Done).await;
    // There is room for one, and it is given out although all others are put off.
    let mut next = Vec::new();
    while next.is_empty() {
        // The word that one can go may still be on its way.
        let _ = nats.publish(&message("Q", MOST + 2), PATIENCE).await;
        next = nats.take("Q", "takers", 100, wait).await.unwrap();
    }
    assert_eq!(next.iter().map(|message| (message.seq, message.delivered)).collect::<Vec<_>>(), [(MOST + 1, 1)]);
    // A smaller bound takes nothing away.
    nats.ensure_stream(&bound(5)).await.unwrap();
    let info = nats.stream_info("Q").await.unwrap().unwrap();
    assert_eq!((info.first, info.last), (1, MOST + 1));
    let refused = nats.publish(&message("Q", MOST + 3), PATIENCE).await;
    assert!(matches!(refused, Err(PublishError::Full(_))), "{refused:?}");
}

/// The leader of the stream is killed again and again while messages are published and read.
#[tokio::test(flavor = "multi_thread")]
async fn leaders_die_and_nothing_is_missed_or_doubled() {
    let Some(mut servers) = Servers::start(3).await else { return };
    let (writer, reader) = (servers.connect("writer").await, servers.connect("reader").await);
    made(&writer, "S", 3).await;
    let info = reader.stream_info("S").await.unwrap().unwrap();
    let stream = StreamWatch::start(reader.clone(), "S".into(), info);
    let mut reading = feed(&reader, &stream, "S", 0);
    let (mut seq, mut slowest) = (0, Duration::ZERO);
    for round in 0..2 {
        for _ in 0..30 {
            seq += 1;
            assert_eq!(publish(&writer, "S", seq).await, seq);
        }
        read(&mut reading, seq - 30, seq).await;
        let leader = servers.leader(&writer, "S").await;
        servers.kill(leader);
        let began = std::time::Instant::now();
        seq += 1;
        assert_eq!(publish(&writer, "S", seq).await, seq, "round {round}");
        read(&mut reading, seq - 1, seq).await;
        slowest = slowest.max(began.elapsed());
        servers.restart(leader);
    }
    eprintln!("slowest publish and read over the death of a leader: {slowest:?}");
}
