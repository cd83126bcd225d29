//! Visits: encodings, results in order, retries, generated ids, and what a caller is told when the log fails.

use cameo_eventlog::memory::Failure;
use cameo_profile::{Address, ClientCode, Partition, PartitionCount};
use http::Method;
use metrics_exporter_prometheus::PrometheusBuilder;
use serde_json::{Value, json};

use super::{Rig, VISITS};

#[tokio::test]
async fn one_visit_is_stored_and_shown() {
    let rig = Rig::new().await;
    let visit = json!({"sessionId": "s1", "ids": {"tntId": "a1", "thirdPartyId": "crm"}, "profile": {"n": 1, "b": true, "f": 1.5, "t": "x"}});
    let reply = rig.call(Method::POST, "/v1/demo/visits?return=profile", "application/json", visit.to_string()).await;
    let reply = reply.expect(200).json();
    assert_eq!(
        (&reply["status"], &reply["tntId"], &reply["thirdPartyId"]),
        (&json!("accepted"), &json!("a1"), &json!("crm"))
    );
    let profile = &reply["profile"];
    assert_eq!(profile["ids"], json!({"tntId": ["a1"], "thirdPartyId": "crm"}), "{profile}");
    for (name, value) in [("n", "1"), ("b", "true"), ("f", "1.5"), ("t", "x"), ("visitCount", "1")] {
        assert_eq!(profile["profileAttributes"][name]["value"], value, "{profile}");
    }
    let fetched = rig.get("/rest/v1/profiles/thirdPartyId/crm?client=demo").await.expect(200).json();
    assert_eq!(fetched["visitorId"], "a1");
    assert_eq!(fetched["modifiedAt"], profile["modifiedAt"]);
}

#[tokio::test]
async fn every_encoding_is_read_and_sniffed() {
    let rig = Rig::new().await;
    let one = json!({"ids": {"tntId": "enc"}});
    let (text, list) = (one.to_string(), json!([one, one]).to_string());
    let lines = format!("{one}\n\r\n{one}\n");
    let (packed, packed_list) =
        (rmp_serde::to_vec_named(&one).unwrap(), rmp_serde::to_vec_named(&[&one, &one]).unwrap());
    let cases: [(&str, Vec<u8>, u64); 10] = [
        ("application/json", text.clone().into(), 0),
        ("application/json; charset=utf-8", list.clone().into(), 2),
        ("application/x-ndjson", lines.clone().into(), 2),
        ("application/msgpack", packed.clone(), 0),
        ("application/msgpack", packed_list.clone(), 2),
        ("application/x-www-form-urlencoded", text.into(), 0),
        ("text/plain", list.into(), 2),
        ("", lines.into(), 2),
        ("", packed, 0),
        ("application/octet-stream", packed_list, 2),
    ];
    let mut visits = 0;
    for (content_type, body, count) in cases {
        let reply = rig.call(Method::POST, VISITS, content_type, body).await.expect(200).json();
        if count == 0 {
            assert_eq!(reply["status"], "accepted", "{content_type}: {reply}");
            visits += 1;
        } else {
            assert_eq!(reply["accepted"], count, "{content_type}: {reply}");
            visits += count;
        }
    }
    let profile = rig.fetch("enc").await.expect(200).json();
    assert_eq!(profile["profileAttributes"]["visitCount"]["value"], visits.to_string());
}

#[tokio::test]
async fn a_refused_visit_names_field_limit_and_place() {
    let rig = Rig::new().await;
    let body =
        "[{\"ids\":{\"tntId\":\"ok\"}},\n {\"ids\":{\"tntId\":7}},\n7,{\"profile\":{\"a\":null}},{\"nonsense\":1}]";
    let reply = rig.call(Method::POST, VISITS, "application/json", body).await.expect(200).json();
    assert_eq!((&reply["accepted"], &reply["refused"]), (&json!(1), &json!(4)), "{reply}");
    let error = |index: usize| reply["results"][index]["error"].clone();
    assert_eq!((&error(1)["field"], &error(1)["line"]), (&json!("ids.tntId"), &json!(2)), "{reply}");
    assert_eq!((&error(2)["line"], &error(2)["column"]), (&json!(3), &json!(1)), "{reply}");
    assert_eq!(error(3)["field"], "profile.a", "{reply}");
    assert!(error(4)["message"].as_str().unwrap().contains("nonsense"), "{reply}");
}

#[tokio::test]
async fn a_retry_is_told_what_the_first_was() {
    let rig = Rig::new().await;
    for visit in [json!({"eventId": "e1", "profile": {"a": 1}}), json!({"eventId": "e1", "ids": {"tntId": "named"}})] {
        let first = rig.visit(&visit).await.expect(200).json();
        assert_eq!(first, rig.visit(&visit).await.expect(200).json());
        let profile = rig.fetch(first["tntId"].as_str().unwrap()).await.expect(200).json();
        assert_eq!(profile["profileAttributes"]["visitCount"]["value"], "1");
    }
    let path = "/v1/demo/visits?return=profile";
    let again = rig.call(Method::POST, path, "application/json", json!({"eventId": "e1"}).to_string()).await.json();
    assert_eq!(again["profile"]["ids"]["tntId"][0], again["tntId"], "{again}");
    // A node that cannot prove that it knows the latest does not know whether the client requires authentication by now.
    for holds in [false, true] {
        rig.auth.hold(holds);
        let reply = rig.call(Method::POST, path, "application/json", "{}").await.expect(200).json();
        assert_eq!((&reply["status"], reply.get("profile").is_some()), (&json!("accepted"), holds), "{reply}");
    }
}

#[tokio::test]
async fn what_the_log_says_decides_the_status() {
    let rig = Rig::new().await;
    let visit = json!({"ids": {"tntId": "fails"}});
    for (failure, status, said) in [
        (Failure::StorageFull, 507, "full"),
        (Failure::Unavailable, 503, "nothing was stored"),
        (Failure::UnknownAndLost, 503, "the same eventId"),
    ] {
        rig.log.fail_next(failure);
        let reply = rig.visit(&visit).await.expect(status);
        assert!(reply.retry_after && reply.text.contains(said), "{}", reply.text);
        assert_eq!(reply.content_type, "application/problem+json");
        rig.fetch("fails").await.expect(404);
        // A full log refuses for a moment without asking; many visits that are answered by themselves end it.
        while rig.visit(&json!({"ids": {"tntId": "other"}})).await.status == 507 {
            tokio::task::yield_now().await;
        }
    }
    // Nothing of a list was taken: the whole call is to be sent again.
    rig.log.fail_next(Failure::Unavailable);
    let reply = rig.visit(&json!([visit, {"sessionId": "a b"}])).await.expect(503);
    assert!(reply.retry_after, "{}", reply.text);
}

/// A visitor of the partition that stops in these tests, and one of another.
fn stopped_and_well() -> (Partition, Value, Value) {
    let (code, count) = (ClientCode::new("demo").unwrap(), PartitionCount::new(4).unwrap());
    let partition = |id: &str| Address::from_canonical(&format!("tnt:{id}")).partition(&code, count);
    let visitor = |is: bool| (0..).map(|n| format!("v{n}")).find(|id| (partition(id) == Partition(2)) == is).unwrap();
    let visit = |is: bool| json!({"ids": {"tntId": visitor(is)}});
    (Partition(2), visit(true), visit(false))
}

#[tokio::test]
async fn a_list_with_a_visit_of_unknown_outcome_is_not_said_to_be_stored_nowhere() {
    let rig = Rig::new().await;
    let (stopped, of_stopped, well) = stopped_and_well();
    rig.append_nonsense(stopped).await;
    rig.stopped(stopped).await;
    for list in [json!([of_stopped, well]), json!([well, of_stopped])] {
        rig.log.fail_next(Failure::UnknownAndLost);
        let reply = rig.visit(&list).await.expect(503);
        assert!(reply.text.contains("the outcome is unknown") && reply.retry_after, "{}", reply.text);
    }
    let reply = rig.visit(&json!([of_stopped])).await.expect(503);
    assert!(reply.text.contains("nothing was stored"), "{}", reply.text);
}

#[tokio::test]
async fn every_visit_is_counted_once_by_what_became_of_it() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let rig = Rig::new().await;
    let (stopped, of_stopped, well) = stopped_and_well();
    rig.append_nonsense(stopped).await;
    rig.stopped(stopped).await;
    let wrong = json!({"sessionId": "a b"});
    let call = |visit: &Value| json!({"context": {"channel": "web"}, "id": visit["ids"]}).to_string();
    let delivery = "/rest/v1/delivery?client=demo&sessionId=s";
    let counted = || {
        let text = recorder.handle().render();
        ["accepted", "refused", "failed"].map(|outcome| {
            let name = format!("cameo_visits_total{{outcome=\"{outcome}\"}} ");
            text.lines().find_map(|line| line.strip_prefix(&name)?.parse::<u64>().ok()).unwrap_or(0)
        })
    };
    let mut expected = [0; 3];
    for (body, fails, outcomes) in [
        (well.clone(), None, [1, 0, 0]),
        (wrong.clone(), None, [0, 1, 0]),
        (of_stopped.clone(), None, [0, 0, 1]),
        (well.clone(), Some(Failure::Unavailable), [0, 0, 1]),
        (well.clone(), Some(Failure::UnknownAndLost), [0, 0, 1]),
        (json!([well, wrong, of_stopped]), None, [1, 1, 1]),
        (json!([wrong, of_stopped]), None, [0, 1, 1]),
        (json!([well, wrong]), Some(Failure::Unavailable), [0, 1, 1]),
    ] {
        fails.into_iter().for_each(|failure| rig.log.fail_next(failure));
        rig.visit(&body).await;
        expected = std::array::from_fn(|at| expected[at] + outcomes[at]);
        assert_eq!(counted(), expected, "{body} {fails:?}");
    }
    for (visit, outcomes) in [(&well, [1, 0, 0]), (&of_stopped, [0, 0, 1])] {
        rig.call(Method::POST, delivery, "application/json", call(visit)).await;
        expected = std::array::from_fn(|at| expected[at] + outcomes[at]);
        assert_eq!(counted(), expected, "a delivery call of {visit}");
    }
}

#[tokio::test]
async fn categories_come_by_parameter_as_well() {
    let rig = Rig::new().await;
    let visit = json!({"ids": {"tntId": "cat"}, "parameters": {"user.categoryId": "a, b"}, "categories": ["c"]});
    rig.visit(&visit).await.expect(200);
    let profile = rig.get("/v1/demo/profiles/tnt/cat").await.expect(200).json();
    let affinities = profile["categoryAffinities"].as_array().unwrap();
    assert_eq!(affinities.len(), 3, "{profile}");
    assert!(affinities.iter().all(|a| a["points"].is_number()), "{profile}");
}

#[tokio::test]
async fn a_list_is_no_visit_whatever_its_items() {
    let rig = Rig::new().await;
    let before = rig.settled().await;
    for body in ["[[]]", "[[\"e1\"]]", "[{\"ids\":[\"a\"]}]", "[{\"page\":[\"u\"]}]", "[7]", "[null]"] {
        let reply = rig.call(Method::POST, VISITS, "application/json", body).await.expect(200).json();
        assert_eq!((&reply["accepted"], &reply["refused"]), (&json!(0), &json!(1)), "{body}: {reply}");
    }
    let packed = rmp_serde::to_vec(&[[("a", 1)]]).unwrap();
    let reply = rig.call(Method::POST, VISITS, "application/msgpack", packed).await.expect(200).json();
    assert_eq!(reply["refused"], 1, "{reply}");
    for body in ["", " ", "[]", "7", "\"text\"", "{", "[{}", "{}{}", "null"] {
        rig.call(Method::POST, VISITS, "application/json", body).await.expect(400);
    }
    assert_eq!(rig.stored(), before);
}

#[tokio::test]
async fn a_time_is_read_in_every_spelling() {
    let rig = Rig::new().await;
    let at = super::NOW - 1000;
    let float = rmp_serde::to_vec_named(&json!({"ids": {"tntId": "t-f"}, "occurredAt": at as f64})).unwrap();
    let signed = [
        &[0x82, 0xa3][..],
        b"ids",
        &[0x81, 0xa5],
        b"tntId",
        &[0xa3],
        b"t-i",
        &[0xaa],
        b"occurredAt",
        &[0xd3],
        &(at as i64).to_be_bytes(),
    ]
    .concat();
    for body in [float, signed] {
        rig.call(Method::POST, VISITS, "application/msgpack", body).await.expect(200);
    }
    rig.visit(&json!({"ids": {"tntId": "t-t"}, "occurredAt": "2026-09-21T16:13:19+02:00"})).await.expect(200);
    for id in ["t-f", "t-i", "t-t"] {
        assert_eq!(rig.attribute(id, "lastVisit").await, Some(at.to_string()), "{id}");
    }
    for wrong in [json!(-1), json!(1.5), json!("yesterday"), json!("1969-12-31T23:59:59Z"), json!(super::NOW + 301_000)]
    {
        let reply = rig.visit(&json!({"ids": {"tntId": "t-w"}, "occurredAt": wrong})).await.expect(400);
        assert_eq!(reply.json()["field"], "occurredAt", "{}", reply.text);
    }
}

#[tokio::test]
async fn only_authenticated_customer_ids_name_a_visitor() {
    let rig = Rig::new().await;
    let visit = |state: &str| json!({"ids": {"customerIds": [{"id": "c1", "integrationCode": "crm", "authenticatedState": state}]}});
    let reply = rig.visit(&visit("authenticated")).await.expect(200).json();
    assert!(reply.get("tntId").is_none(), "{reply}");
    rig.get("/v1/demo/profiles/cust:crm/c1").await.expect(200);
    for state in ["unknown", "logged_out"] {
        let reply = rig.visit(&visit(state)).await.expect(200).json();
        assert_eq!(reply["tntId"].as_str().map(str::len), Some(26), "as if it named nobody: {reply}");
    }
    let reply = rig.visit(&visit("autenticated")).await.expect(400);
    assert!(reply.text.contains("autenticated"), "a typo must not lose the id: {}", reply.text);
}

#[tokio::test]
async fn generated_ids_are_in_the_order_of_their_making() {
    let rig = Rig::new().await;
    let reply = rig.visit(&json!(vec![json!({}); 100])).await.expect(200).json();
    let ids: Vec<_> = reply["results"].as_array().unwrap().iter().map(|r| r["tntId"].as_str().unwrap()).collect();
    assert!(ids.is_sorted() && ids.len() == 100, "{ids:?}");
}

#[tokio::test]
async fn a_number_is_kept_with_all_its_digits_or_refused() {
    let rig = Rig::new().await;
    let visit = |number: &str| format!(r#"{{"ids":{{"tntId":"n1"}},"profile":{{"number":{number}}}}}"#);
    let kept = ["0", "-7", "1.5", "9007199254740993", "18446744073709551615", "-9223372036854775808"];
    for number in kept {
        rig.call(Method::POST, VISITS, "application/json", visit(number)).await.expect(200);
        assert_eq!(rig.attribute("n1", "number").await.as_deref(), Some(number));
    }
    let before = rig.settled().await;
    for number in ["18446744073709551616", "-9223372036854775809", "123456789012345678901234567890", "1e30"] {
        let problem = rig.call(Method::POST, VISITS, "application/json", visit(number)).await.expect(400).json();
        assert_eq!(problem["field"], "profile.number", "{number}");
        assert!(problem["detail"].as_str().unwrap().contains("too large to be kept exactly"), "{problem}");
    }
    assert_eq!(rig.stored(), before);
}

#[tokio::test]
async fn a_byte_order_mark_before_text_is_not_part_of_it() {
    let rig = Rig::new().await;
    for content_type in ["", "application/json", "application/x-ndjson"] {
        let body = "\u{feff}{\"ids\":{\"tntId\":\"m1\"}}";
        rig.call(Method::POST, VISITS, content_type, body).await.expect(200);
    }
    assert_eq!(rig.attribute("m1", "visitCount").await.as_deref(), Some("3"));
}

#[tokio::test]
async fn too_many_lines_are_told_their_limit_without_a_type_too() {
    let rig = Rig::new().await;
    let body = "{}\n".repeat(10_001);
    let problem = rig.call(Method::POST, VISITS, "", body).await.expect(413).json();
    assert_eq!(problem["limit"], 10_000);
}
