//! What JetStream and its client are known to do now and then, each made to happen (docs/nats-traps.md).

use std::time::Instant;

use zeroize::Zeroizing;

use super::*;
use crate::RequestError;

/// How long after a message has been acknowledged its readers have it, whatever happened before.
const RESUMED: Duration = Duration::from_secs(3);

/// Publishes and reads one message, and says how long after its acknowledgement it was read.
async fn lag(writer: &Nats, reading: &mut Feed, seq: u64) -> Duration {
    assert_eq!(publish(writer, "S", seq).await, seq);
    let acknowledged = Instant::now();
    read(reading, seq - 1, seq).await;
    acknowledged.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_goes_on_within_three_seconds_of_a_restart_and_of_a_new_leader() {
    let Some(mut alone) = Servers::start(1).await else { return };
    let nats = alone.connect("a").await;
    let stream = made(&nats, "S", 1).await;
    let mut reading = feed(&nats, &stream, "S", 0);
    let mut lags = vec![lag(&nats, &mut reading, 1).await];
    for seq in 2..5 {
        alone.kill(0);
        alone.restart(0);
        lags.push(lag(&nats, &mut reading, seq).await);
    }
    let Some(mut servers) = Servers::start(3).await else { return };
    let (writer, reader) = (servers.connect("writer").await, servers.connect("reader").await);
    made(&writer, "S", 3).await;
    let info = reader.stream_info("S").await.unwrap().unwrap();
    let stream = StreamWatch::start(reader.clone(), "S".into(), info);
    let mut reading = feed(&reader, &stream, "S", 0);
    lags.push(lag(&writer, &mut reading, 1).await);
    for seq in 2..4 {
        let leader = servers.leader(&writer, "S").await;
        servers.kill(leader);
        lags.push(lag(&writer, &mut reading, seq).await);
        servers.restart(leader);
    }
    eprintln!("read so long after the acknowledgement: {lags:?}");
    assert!(lags.iter().all(|lag| *lag <= RESUMED), "{lags:?}");
}

/// As when the message was taken by a follower that leads the stream by now: nobody republishes it.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_not_republished_is_read_once_its_publish_is_answered() {
    const MESSAGES: u64 = 5;
    let Some(servers) = Servers::start(1).await else { return };
    let nats = servers.connect("a").await;
    let stream = made(&nats, "S", 1).await;
    let options = FeedOptions { tail: "S.nowhere".into(), ..options("S", 0) };
    let mut reading = Feed::start(nats.clone(), stream.clone(), options);
    // By then it follows the end of the stream, of which it will hear nothing.
    stream.tell(publish(&nats, "S", 1).await);
    read(&mut reading, 0, 1).await;
    let began = Instant::now();
    for seq in 2..2 + MESSAGES {
        stream.tell(publish(&nats, "S", seq).await);
        read(&mut reading, seq - 1, seq).await;
    }
    // A look at the stream comes once a second.
    assert!(began.elapsed() < Duration::from_secs(MESSAGES - 1), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stands_still_is_left() {
    let Some(servers) = Servers::start(3).await else { return };
    let nats = servers.connect("a").await;
    let here = nats.server();
    // A stream that somebody else leads: the election of another leader is another matter.
    let mut name = String::new();
    for n in 0..30 {
        name = format!("S{n}");
        made(&nats, &name, 3).await;
        if servers.leader(&nats, &name).await.to_string() != here.trim_start_matches('n') {
            break;
        }
    }
    let standing = here.trim_start_matches('n').parse().unwrap();
    servers.pause(standing, true);
    let began = Instant::now();
    assert_eq!(publish(&nats, &name, 1).await, 1);
    let took = began.elapsed();
    servers.pause(standing, false);
    eprintln!("left a server that stood still, and published, after {took:?}");
    assert_ne!(nats.server(), here);
    // NATS' own pings would have taken two intervals of five seconds, and one to begin with.
    assert!(took < Duration::from_secs(9), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_never_came_is_unknown_and_the_same_id_is_stored_once() {
    let Some(servers) = Servers::start(1).await else { return };
    let nats = servers.connect("a").await;
    made(&nats, "S", 1).await;
    publish(&nats, "S", 1).await;
    servers.pause(0, true);
    let outcome = nats.publish(&message("S", 2), Duration::from_millis(1500)).await;
    assert!(matches!(outcome, Err(PublishError::Unknown(_))), "{outcome:?}");
    assert_eq!(nats.waiting(), 0, "who gives up leaves nothing behind");
    servers.pause(0, false);
    // It was on its way, or it was not: one answer, and one message.
    assert_eq!(publish(&nats, "S", 2).await, 2);
    assert_eq!(publish(&nats, "S", 3).await, 3);
    assert_eq!(nats.stream_info("S").await.unwrap().unwrap().last, 3);
}

/// A leader whose disk is full says 503, and a follower may have stored the message: its id is not to be used for another.
#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_storing_is_unknown_and_one_of_asking_is_not() {
    let Some(servers) = Servers::start(1).await else { return };
    let (nats, stream) = (servers.connect("a").await, servers.connect("stream").await);
    let answers = [
        (r#"{"error":{"code":503,"err_code":10077,"description":"no space left on device"}}"#, true),
        (r#"{"error":{"code":500,"err_code":10000,"description":"who knows"}}"#, true),
        (r#"{"error":{"code":409,"err_code":10158,"description":"duplicate message id is in process"}}"#, true),
        (r#"{"error":{"code":503,"err_code":10008,"description":"JetStream system temporarily unavailable"}}"#, false),
        (r#"{"error":{"code":400,"err_code":10054,"description":"message size exceeds maximum allowed"}}"#, false),
    ];
    for (n, (answer, unknown)) in (1..).zip(answers) {
        let mut asked = stream.subscribe(&format!("S.in.{}", n % 3), None).await.unwrap();
        stream.flush().await.unwrap();
        let teller = stream.clone();
        let answering = tokio::spawn(async move {
            while let Some(message) = asked.next().await {
                teller.tell(&message.reply.unwrap(), Bytes::from_static(answer.as_bytes())).await.unwrap();
            }
        });
        let outcome = nats.publish(&message("S", n), Duration::from_millis(400)).await;
        answering.abort();
        match outcome {
            Err(PublishError::Unknown(_)) => assert!(unknown, "{answer}"),
            Err(PublishError::Unavailable(_)) => assert!(!unknown, "{answer}"),
            other => panic!("{other:?} to {answer}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_permitted_is_never_answered_and_so_unknown() {
    let users = "authorization { users: [
        { user: test, password: p }
        { user: edge, password: p, permissions: { publish: { deny: \"S.in.*\" } } }
    ] }";
    let Some(servers) = Servers::start_with(1, users, Some(("test", "p"))).await else { return };
    let nats = servers.connect("a").await;
    made(&nats, "S", 1).await;
    let edge = servers.connect_as("edge", Some(("edge".into(), Zeroizing::new("p".into())))).await;
    let outcome = edge.publish(&message("S", 1), Duration::from_millis(500)).await;
    assert!(matches!(outcome, Err(PublishError::Unknown(_))), "{outcome:?}");
    let asked = edge.request("S.in.1", Bytes::new(), Duration::from_millis(200)).await;
    assert_eq!(asked, Err(RequestError::Timeout("S.in.1".into())));
    assert_eq!(nats.stream_info("S").await.unwrap().unwrap().last, 0);
}

/// 10071 of one server, 10164 of several; and what either says to a copy.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_expect_the_same_place_one_gets_it_and_a_copy_is_told_from_a_conflict() {
    for count in [1, 3] {
        let Some(servers) = Servers::start(count).await else { return };
        let nats = servers.connect("a").await;
        made(&nats, "S", count).await;
        let expecting = |n: u64| Publish { expected: Some(0), subject: "S.in.0".into(), ..message("S", n) };
        // Both under way at once.
        let (first, second) = (expecting(1), expecting(2));
        let both = futures_util::future::join(nats.publish(&first, PATIENCE), nats.publish(&second, PATIENCE)).await;
        let (won, lost) = match both {
            (Ok(ack), lost) => ((ack, first), lost),
            (lost, Ok(ack)) => ((ack, second), lost),
            neither => panic!("{neither:?}"),
        };
        assert_eq!(lost, Err(PublishError::Conflict { repeated: false }), "{count} servers");
        // Its copy, expecting what it expected: several servers say where it stands, one says that the place is taken.
        let again = nats.publish(&won.1, PATIENCE).await;
        assert!(matches!(&again, Err(PublishError::Conflict { .. })) || again == Ok(won.0), "{again:?}");
        assert_eq!(nats.stream_info("S").await.unwrap().unwrap().last, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_is_slow_misses_nothing() {
    /// More than waits for a subscriber before the client drops some.
    const MESSAGES: u64 = 6000;
    let Some(servers) = Servers::start(1).await else { return };
    let nats = servers.connect("a").await;
    let stream = made(&nats, "S", 1).await;
    let mut reading = feed(&nats, &stream, "S", 0);
    publish(&nats, "S", 1).await;
    read(&mut reading, 0, 1).await;
    // It follows the end of the stream now, and nobody takes anything from it.
    for n in (2..=MESSAGES).step_by(100) {
        let some: Vec<_> = (n..(n + 100).min(MESSAGES + 1)).map(|n| message("S", n)).collect();
        for message in &some {
            nats.publish(message, PATIENCE).await.unwrap();
        }
    }
    read(&mut reading, 1, MESSAGES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_stream_takes_again_what_there_is_room_for() {
    let Some(servers) = Servers::start(1).await else { return };
    let nats = servers.connect("a").await;
    nats.ensure_stream(&StreamSpec { max_bytes: 4000, ..spec("S", 1) }).await.unwrap();
    let mut last = 0;
    let large = |n| Publish { payload: Bytes::from(vec![b'x'; 500]), ..message("S", n) };
    while let Ok(ack) = nats.publish(&large(last + 1), PATIENCE).await {
        last = ack.seq;
    }
    let refused = nats.publish(&large(last + 1), PATIENCE).await;
    assert!(matches!(refused, Err(PublishError::Full(_))), "{refused:?}");
    nats.purge_before("S", last).await.unwrap();
    assert_eq!(nats.publish(&large(last + 1), PATIENCE).await.unwrap().seq, last + 1);
}
