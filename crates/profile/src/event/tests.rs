//! Events round-trip, rubbish is refused, and what any version ever wrote can still be read.

use proptest::prelude::*;

use super::*;

/// One of each kind, every field used. Bytes of each version are in `golden/events-v*.txt`: `name hex` a line.
fn one_of_each() -> Vec<(&'static str, Event<'static>)> {
    let context = VisitContext {
        url: Some("https://shop.example/p/7?x=é"),
        referrer: Some("https://search.example/"),
        mbox: Some("landing"),
        parameters: vec![("user.categoryId", "shoes")],
        order: Some(Order { id: "o-1", total: 12.5, product_ids: vec!["p1", "p2"] }),
        user_agent: Some("Mozilla/5.0"),
        delivery: None,
    };
    vec![
        (
            "visit",
            Event::Visit(Visit {
                client: "demo",
                home: "tp:crm-17",
                generated: false,
                event_id: Some("e-1"),
                occurred_at: Some(1_787_075_619_003),
                session_id: Some("s-1"),
                profile: vec![("tier", "gold"), ("city", "")],
                categories: vec!["shoes", "bags"],
                other_ids: vec!["tnt:a1", "cust:crm:9"],
                context: Some(context),
                route: Route::Direct,
                via: "tnt:a1",
                delivery: None,
            }),
        ),
        ("visit-bare", Event::Visit(Visit { client: "demo", home: "tnt:a1", generated: true, ..Visit::default() })),
        (
            "update",
            Event::Update(Update {
                client: "demo",
                address: "tnt:a1",
                event_id: Some("r-1"),
                occurred_at: Some(7),
                set: vec![("tier", "silver")],
                unset: vec!["city"],
                route: Route::Enter,
                via: "tnt:a2",
                by: None,
            }),
        ),
        ("erase", Event::Erase(Erase { client: "demo", address: "ecid:77", by: None })),
        (
            "batch-opened",
            Event::BatchOpened(BatchOpened {
                client: "demo",
                batch: "demo-1787075619003-abc",
                idempotency_key: Some("nightly"),
                digest: [7; 16],
                api_version: 2,
                opened_by: "g1",
                opened_at: 1_787_075_619_003,
                rows: 4,
                rows_to_apply: 2,
                rows_failed: 1,
                rows_skipped: 1,
            }),
        ),
        (
            "batch-rows",
            Event::BatchRows(BatchRows {
                client: "demo",
                batch: "demo-1787075619003-abc",
                kind: "tp",
                create: true,
                occurred_at: 1_787_075_619_003,
                columns: vec!["tier", "city"],
                rows: vec![BatchRow { line: 2, id: "crm-1", values: vec![Some("gold"), None], removed: vec![1] }],
                after: 1,
                by: None,
            }),
        ),
        (
            "batch-errors",
            Event::BatchErrors(BatchErrors {
                client: "demo",
                batch: "demo-1787075619003-abc",
                errors: vec![RowError { line: 3, column: Some("city"), reason: "bad escape" }],
            }),
        ),
        ("client-settings", Event::ClientSettings(ClientSettings { client: "demo", lifetime_days: 30 })),
        (
            "batch-closed",
            Event::BatchClosed(BatchClosed {
                client: "demo",
                batch: "demo-1787075619003-abc",
                updated: 498_000,
                created: 12_000,
                not_found: 1500,
                failed: 1,
            }),
        ),
        ("unlink", Event::Unlink(Unlink { client: "demo", address: "tnt:a1", epoch: 7, by: None })),
        ("drop-alias", Event::DropAlias(DropAlias { client: "demo", address: "tnt:a1", epoch: 7 })),
        ("relay", Event::Relay(Relay { from: 3, first: 12, messages: vec![MessageBytes(MESSAGE)] })),
        ("delivered", Event::Delivered(Delivered { to: 9, upto: 12 })),
    ]
}

/// A visit as delivery calls make it. Its bytes are in `golden/events-delivery.txt`.
fn of_delivery() -> Event<'static> {
    let click = Part {
        what: "click",
        name: Some("banner"),
        at: Some(1_787_075_619_000),
        url: Some("https://shop.example/banner"),
        parameters: vec![("colour", "red")],
        order: Some(Order { id: "o-2", total: 0.5, product_ids: vec!["p3"] }),
        product: Some("p3"),
    };
    let geo = Geo {
        ip: Some("192.0.2.7"),
        latitude: Some(48.5),
        longitude: Some(-2.25),
        country: Some("FR"),
        state: Some("35"),
        city: Some("Rennes"),
        zip: Some("35000"),
    };
    let delivery = DeliveryContext {
        channel: "web",
        time_offset_minutes: Some(120.0),
        host: Some("shop.example"),
        geo: Some(geo),
        parts: vec![Part { what: "execute.pageLoad", ..Part::default() }, click],
        left_out: 3,
    };
    let data = DeliveryData { uncounted: true, timed: vec![(1_787_075_619_000, "tier", "gold")] };
    Event::Visit(Visit {
        client: "demo",
        home: "tp:crm-17",
        context: Some(VisitContext { delivery: Some(Box::new(delivery)), ..VisitContext::default() }),
        delivery: Some(Box::new(data)),
        ..Visit::default()
    })
}

/// A message to `tp:crm-17` that drops an alias: what a message says is tested where it is defined.
const MESSAGE: &[u8] = b"\x97\xa4demo\xa9tp:crm-17\xc0\x90\x00\x00\x81\xa4Drop\x91\x07";

/// How version 1 reads today: it had no routes, and nothing between partitions.
fn version_1() -> Vec<(&'static str, Event<'static>)> {
    let mut events = one_of_each();
    events.truncate(9);
    for (_, event) in &mut events {
        match event {
            Event::Visit(visit) => (visit.route, visit.via) = (Route::Plain, ""),
            Event::Update(update) => (update.route, update.via) = (Route::Plain, ""),
            _ => {}
        }
    }
    events
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).expect("hex")).collect()
}

#[test]
fn every_version_ever_written_can_be_read() {
    let versions = [
        (include_str!("../../golden/events-v1.txt"), version_1()),
        (include_str!("../../golden/events-v2.txt"), one_of_each()),
    ];
    for (golden, events) in versions {
        let written: Vec<_> = golden.lines().filter_map(|line| line.split_once(' ')).collect();
        assert_eq!(written.len(), events.len());
        for ((name, bytes), (wanted_name, wanted)) in written.iter().zip(&events) {
            assert_eq!(name, wanted_name);
            assert_eq!(Event::decode(&unhex(bytes)).expect("decodes"), *wanted, "{name}");
        }
    }
}

#[test]
fn visits_of_delivery_calls_keep_their_layout() {
    let wanted = of_delivery();
    let mut now = Vec::new();
    wanted.encode(&mut now);
    let golden = include_str!("../../golden/events-delivery.txt").trim();
    assert_eq!(hex(&now), golden, "a changed layout is a new version with a golden file of its own");
    assert_eq!(Event::decode(&unhex(golden)).expect("decodes"), wanted);
}

#[test]
fn this_version_writes_what_it_says() {
    let written: String = one_of_each()
        .iter()
        .map(|(name, event)| {
            let mut bytes = Vec::new();
            event.encode(&mut bytes);
            format!("{name} {}\n", hex(&bytes))
        })
        .collect();
    let golden = include_str!("../../golden/events-v2.txt");
    assert_eq!(written, golden, "a changed layout is a new version with a golden file of its own");
}

#[test]
fn unknown_kinds_are_named() {
    assert!(matches!(Event::decode(&[]), Err(DecodeError::Empty)));
    let error = Event::decode(&[200, 0]).expect_err("unknown");
    assert_eq!(error.to_string(), "unknown event kind 200; the log was written by a newer version");
    assert!(matches!(Event::decode(&[1, 0xc1]), Err(DecodeError::Body { kind: 1, .. })));
}

proptest! {
    #[test]
    fn rubbish_never_panics(kind in 0..14u8, body: Vec<u8>) {
        let bytes = [&[kind][..], &body].concat();
        let _ = Event::decode(&bytes);
    }

    #[test]
    fn a_damaged_event_decodes_or_is_refused(index in 0..13usize, at: prop::sample::Index, flip in 1..=255u8) {
        let (_, event) = &one_of_each()[index];
        let mut bytes = Vec::new();
        event.encode(&mut bytes);
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        let _ = Event::decode(&bytes);
        let _ = Event::decode(&bytes[..at]);
    }
}

#[test]
fn who_made_a_change_is_the_last_field_and_may_be_missing() {
    let update = Update { client: "demo", address: "tnt:a", set: vec![("a", "1")], ..Update::default() };
    let rows = BatchRows { client: "demo", batch: "b", kind: "tnt", ..BatchRows::default() };
    for by in [None, Some("token:pos")] {
        let events = [
            Event::Update(Update { by, ..update.clone() }),
            Event::Erase(Erase { client: "demo", address: "tnt:a", by }),
            Event::BatchRows(BatchRows { by, ..rows.clone() }),
        ];
        for event in events {
            let mut bytes = Vec::new();
            event.encode(&mut bytes);
            assert_eq!(Event::decode(&bytes).unwrap(), event);
        }
    }
}
