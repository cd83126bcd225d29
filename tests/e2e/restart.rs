//! Stopping and starting: nothing acknowledged is lost, nothing is counted twice, and what cannot be trusted stops
//! the start with a message that says where.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use cameo_tests::http::Request;
use cameo_tests::server::{Server, Setup};
use cameo_tests::{wait, xml};

use crate::common::{BULK_V2, complete, fetch, plain, profiles_become, status_path, upload_all, visit, visit_count};

/// First bytes of every frame; see `cameo_eventlog::frame`.
const FRAME_MAGIC: &[u8] = b"CMFR";
/// Bytes of a frame's header.
const FRAME_HEADER: usize = 56;

#[test]
fn a_stop_and_a_kill_leave_profiles_and_batches_as_they_were() {
    let server = Server::start();
    for _ in 0..3 {
        visit(&server, &plain("kept"));
    }
    let reply = server.send(&Request::post(BULK_V2, "text/csv", "batch=pcId,a\nb1,1\nb2,%zz\n")).expect(200);
    let path = status_path(&server, &reply);
    let status = complete(&server, &path);
    let errors = path.replace("batchStatus", "batchErrors");
    let report = server.get(&errors).expect(200).text();
    let profile = fetch(&server, "kept").expect(200).text();

    let server = server.terminate().start();
    assert_eq!(fetch(&server, "kept").expect(200).text(), profile, "after SIGTERM");
    assert_eq!(complete(&server, &path), status);
    visit(&server, &plain("kept"));
    let profile = fetch(&server, "kept").expect(200).text();

    let server = server.kill().start();
    assert_eq!(fetch(&server, "kept").expect(200).text(), profile, "after kill -9");
    assert_eq!(complete(&server, &path), status);
    assert_eq!(server.get(&errors).expect(200).text(), report);
    assert_eq!(visit_count(&server, "kept"), 4);
}

#[test]
fn a_retry_after_a_restart_is_still_a_retry() {
    let server = Server::start();
    let anonymous = serde_json::json!({"eventId": "before-restart", "profile": {"a": "1"}});
    let first = visit(&server, &anonymous);
    let server = server.terminate().start();
    assert_eq!(visit(&server, &anonymous), first, "after SIGTERM");
    let server = server.kill().start();
    assert_eq!(visit(&server, &anonymous), first, "after kill -9");
    assert_eq!(visit_count(&server, first["tntId"].as_str().expect("a tntId")), 1);
}

#[test]
fn requests_under_way_are_answered_before_a_stop() {
    let server = Server::start();
    let body = plain("drain").to_string();
    let request = Request::post(crate::common::VISITS, "application/json", body);
    let bytes = [request.head().into_bytes(), request.body.clone().unwrap_or_default()].concat();
    let mut connection = server.connect();
    // The server has seen the head, so the request is under way when the signal comes.
    connection.write(&bytes[..bytes.len() - 1]).expect("most of the request");
    visit(&server, &plain("other"));
    let ending = std::thread::spawn(move || server.terminate());
    connection.write(&bytes[bytes.len() - 1..]).expect("the rest of the request");
    assert_eq!(connection.read().expect("an answer while draining").status, 200);
    let server = ending.join().expect("a clean end").start();
    assert_eq!(visit_count(&server, "drain"), 1);
}

/// Rows of the file whose append is interrupted.
const ROWS: u64 = 400_000;
/// The append is fast: some tries may be over before the kill.
const TRIES: u32 = 10;

#[test]
fn a_kill_half_way_through_a_bulk_file_leaves_it_stuck_and_the_same_upload_completes_it() {
    let setup = Setup::default();
    for number in 0..TRIES {
        // Those of the tries before, which were complete.
        let before = u64::from(number) * ROWS;
        let mut file = String::from("batch=pcId,a,b\n");
        for row in 0..ROWS {
            let _ = writeln!(file, "t{number}-{row},{row},x");
        }
        let request = Request::post(BULK_V2, "text/csv", file).header("Idempotency-Key", &format!("half-{number}"));
        let server = setup.start();
        let reply = server.send(&request).expect(200);
        let path = status_path(&server, &reply);
        wait::until("some rows of the file", || {
            let status = server.get(&format!("{path}&showDetails=true")).expect(200).text();
            (xml::number(&status, "consumedCount") > 0).then_some(())
        });
        let server = server.kill().start();

        let status = server.get(&format!("{path}&showDetails=true")).expect(200).text();
        if xml::text(&status, "status") == Some("complete") {
            continue;
        }
        assert_eq!(xml::text(&status, "status"), Some("stuck"), "{status}");
        let updated = xml::number(&status, "successfulUpdates");
        assert!(updated < ROWS, "{status}");
        assert_eq!(xml::number(&status, "consumedCount"), updated, "{status}");
        profiles_become(&server, before + updated);

        let reply = server.send(&request).expect(200);
        assert_eq!(status_path(&server, &reply), path, "the same key is the same batch");
        let status = complete(&server, &path);
        assert_eq!(xml::number(&status, "consumedCount"), ROWS, "{status}");
        assert_eq!(xml::number(&status, "successfulUpdates"), ROWS, "{status}");
        profiles_become(&server, before + ROWS);
        return;
    }
    panic!("{TRIES} times the file was applied before the kill");
}

/// The segments of a log, oldest first.
fn segments(setup: &Setup) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(setup.data().join("log")).expect("the log's directory");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut segments: Vec<_> = paths.filter(|path| path.extension().is_some_and(|e| e == "seg")).collect();
    segments.sort();
    assert!(!segments.is_empty());
    segments
}

/// Where frames start in a segment.
fn frames(bytes: &[u8]) -> Vec<usize> {
    bytes.windows(FRAME_MAGIC.len()).enumerate().filter(|(_, w)| *w == FRAME_MAGIC).map(|(at, _)| at).collect()
}

/// Changes a segment's bytes.
fn tamper(segment: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(segment).expect("a segment");
    change(&mut bytes);
    std::fs::write(segment, bytes).expect("a segment");
}

/// A log with some visits after the last checkpoint, each in a frame of its own, of a server killed without warning.
fn killed_with_a_tail() -> Setup {
    let server = Server::start();
    for number in 0..8 {
        visit(&server, &plain(&format!("tail-{number}")));
    }
    server.kill()
}

#[test]
fn a_torn_last_frame_is_cut_off_with_a_warning() {
    let setup = killed_with_a_tail();
    let newest = segments(&setup).pop().expect("a segment");
    tamper(&newest, |bytes| {
        let last = *frames(bytes).last().expect("a frame");
        bytes.truncate(last + FRAME_HEADER + 5);
    });
    let server = setup.start();
    let log = server.log();
    let name = newest.file_name().and_then(|n| n.to_str()).expect("a name");
    assert!(log.contains("WARN") && log.contains(name), "no warning that names {name}:\n{log}");
    // The disk may have damaged what was acknowledged; nobody can promise that it was not.
    assert!(log.contains("unless the disk itself has lost") && !log.contains("never acknowledged"), "{log}");
    assert_eq!(visit_count(&server, "tail-0"), 1);
    visit(&server, &plain("after"));
    let server = server.kill().start();
    assert_eq!(visit_count(&server, "after"), 1);
}

/// The start must fail and name a file, a partition and a position.
fn assert_refused(setup: &Setup, named: &str) {
    let Err(refusal) = setup.try_start() else { panic!("it started all the same") };
    assert!(!refusal.status.success());
    for word in [named, "partition", "position"] {
        assert!(refusal.log.contains(word), "`{word}` is not in the error:\n{}", refusal.log);
    }
}

#[test]
fn a_corrupt_frame_in_the_middle_stops_the_start() {
    let setup = killed_with_a_tail();
    let oldest = segments(&setup).remove(0);
    tamper(&oldest, |bytes| {
        let first = frames(bytes)[1];
        bytes[first + FRAME_HEADER + 8] ^= 0x20;
    });
    assert_refused(&setup, oldest.file_name().and_then(|n| n.to_str()).expect("a name"));
}

#[test]
fn a_checkpoint_ahead_of_its_log_stops_the_start() {
    // The end of the log is gone: a disk that lost acknowledged writes.
    let server = Server::start();
    for number in 0..8 {
        visit(&server, &plain(&format!("ahead-{number}")));
    }
    let setup = server.terminate();
    let newest = segments(&setup).pop().expect("a segment");
    tamper(&newest, |bytes| {
        let last = *frames(bytes).last().expect("a frame");
        bytes.truncate(last);
    });
    assert_refused(&setup, "checkpoint");
}

#[test]
fn a_lost_segment_stops_the_start() {
    let server = Server::start();
    upload_all(&server, BULK_V2, "batch=pcId,a\nlost,1\n");
    let setup = server.terminate();
    for segment in segments(&setup) {
        std::fs::remove_file(segment).expect("a file to remove");
    }
    let Err(refusal) = setup.try_start() else { panic!("it started all the same") };
    assert!(refusal.log.contains("log"), "{}", refusal.log);
}
