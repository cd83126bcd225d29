//! A full disk: writes are refused with a status that says so, reads go on, and it recovers when there is room.

use std::fs;
use std::path::Path;
use std::time::Duration;

use cameo_tests::admin::{ADMIN_PASSWORD, Admin};
use cameo_tests::http::{Request, Response};
use cameo_tests::server::{Server, Setup};
use cameo_tests::tmpfs::Tmpfs;
use cameo_tests::{needs, wait};

use serde_json::json;

use crate::common::{BULK_V2, VISITS, fetch, plain, visit, visit_count};

/// The disk: room for the log's first segment and a checkpoint, and quickly filled.
const DISK_MEGABYTES: u32 = 160;
/// One visit of these takes a good part of what is left, so that few of them fill the disk.
const PADDING: usize = 5000;
/// Far more visits than the room that is left can hold.
const VISITS_MAX: usize = 200_000;

/// Far more changes of a setting than the room that is left can hold.
const CHANGES_MAX: u32 = 20_000;

/// Takes all the room but `left` bytes.
fn fill(disk: &Tmpfs, file: &Path, left: u64) {
    let room = disk.free().saturating_sub(left);
    let chunk = vec![b'x'; 1 << 20];
    let mut filler = fs::File::create(file).expect("the filler");
    for _ in 0..room / (1 << 20) {
        // Rounding and metadata may end it a little early.
        if std::io::Write::write_all(&mut filler, &chunk).is_err() {
            break;
        }
    }
}

/// Takes all the room there is.
pub(crate) fn fill_to_the_last_byte(disk: &Tmpfs, file: &Path) {
    fill(disk, file, 0);
    let mut rest = fs::OpenOptions::new().append(true).open(file).expect("the filler");
    while std::io::Write::write_all(&mut rest, b"x").is_ok() {}
    assert_eq!(disk.free(), 0);
}

fn send_padded(server: &Server, id: &str) -> Response {
    let parameters: serde_json::Map<_, _> = (0..20).map(|n| (format!("p{n}"), "v".repeat(PADDING).into())).collect();
    server.post_json(VISITS, &serde_json::json!({"ids": {"tntId": id}, "parameters": parameters}))
}

#[test]
fn a_full_disk_refuses_writes_serves_reads_and_recovers() {
    if !needs::have(needs::TMPFS) {
        return;
    }
    let disk = Tmpfs::mount(DISK_MEGABYTES);
    let setup = Setup::at(&disk.path().join("data"));
    let server = setup.start();
    visit(&server, &plain("before"));

    let filler = disk.path().join("filler");
    fill(&disk, &filler, 2 << 20);
    let mut acknowledged = 0;
    let refused = (0..VISITS_MAX).find_map(|_| {
        let reply = send_padded(&server, "filling");
        if reply.status == 200 {
            acknowledged += 1;
            return None;
        }
        Some(reply)
    });
    let refused = refused.expect("the disk is full at some point");
    assert!(matches!(refused.status, 507 | 503), "{} {}", refused.status, refused.text());
    assert_eq!(refused.header("content-type"), "application/problem+json");

    // A bulk file larger than what is left does not fit into the spool.
    let file = format!("batch=pcId,a\n{}", "bulk,v\n".repeat(400_000));
    let bulk = server.send(&Request::post(BULK_V2, "text/csv", file));
    assert!(matches!(bulk.status, 507 | 503), "{} {}", bulk.status, bulk.text());

    fetch(&server, "before").expect(200);
    assert_eq!(visit_count(&server, "filling"), acknowledged);
    server.get("/healthz").expect(200);

    fs::remove_file(&filler).expect("the filler goes");
    wait::until("a visit that is taken again", || {
        (server.post_json(VISITS, &plain("before")).status == 200).then_some(())
    });
    // Whether the refused one was stored after all is settled by now, and stays.
    let counted = (visit_count(&server, "before"), visit_count(&server, "filling"));
    assert!(counted.0 >= 2 && counted.1 == acknowledged, "{counted:?}, acknowledged {acknowledged}");

    let server = server.kill().start();
    assert_eq!((visit_count(&server, "before"), visit_count(&server, "filling")), counted);
    visit(&server, &plain("before"));
    drop(server);
}

#[test]
fn the_control_plane_works_again_when_there_is_room() {
    if !needs::have(needs::TMPFS) {
        return;
    }
    let disk = Tmpfs::mount(DISK_MEGABYTES);
    let server = Setup::at(&disk.path().join("data")).with(&["--admin-password", ADMIN_PASSWORD]).start();
    let admin = Admin::new(&server);
    visit(&server, &plain("before"));
    let made = admin.post("/v1/demo/tokens", &json!({"name": "pos", "scopes": ["profile:read"]})).expect(201).json();
    let token = made["accessToken"].as_str().expect("a token").to_owned();
    let id = made["token"]["id"].as_str().expect("an id").to_owned();
    admin.patch("/v1/demo/settings", &json!({"enableProfileApiAuthentication": true})).expect(200);
    let read = || {
        let get = Request::get("/rest/v1/profiles/before?client=demo");
        server.send(&get.header("Authorization", &format!("Bearer {token}"))).status
    };

    let filler = disk.path().join("filler");
    fill(&disk, &filler, 0);
    let days = |n: u32| json!({"lifetimeDays": 1 + n % 90});
    let refused = (0..CHANGES_MAX).find_map(|n| {
        let reply = admin.patch("/v1/demo/settings", &days(n));
        (reply.status != 200).then_some(reply)
    });
    let refused = refused.expect("the disk is full at some point");
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert_eq!(read(), 200, "what was allowed goes on");
    let revoke = || admin.delete(&format!("/v1/demo/tokens/{id}")).status;
    // A few bytes may be left; what counts is that nothing is called done that is not.
    if revoke() == 200 {
        assert_eq!(read(), 401);
    }

    fs::remove_file(&filler).expect("room again");
    wait::until("a change", || (admin.patch("/v1/demo/settings", &days(0)).status == 200).then_some(()));
    // 404: what was in doubt before has been done.
    assert!(matches!(revoke(), 200 | 404));
    assert_eq!(read(), 401);
    let noted = admin.get("/v1/demo/audit?action=settings").expect(200).json();
    assert_eq!(noted["entries"][0]["result"], "done", "{noted}");
    drop(server);
    let server = Setup::at(&disk.path().join("data")).start();
    let reply = server.send(&Request::get("/rest/v1/profiles/before?client=demo"));
    assert_eq!(reply.status, 401, "the switch survived: {}", reply.text());
}

#[test]
fn a_restart_on_a_full_disk_serves_reads_says_full_and_recovers() {
    if !needs::have(needs::TMPFS) {
        return;
    }
    let disk = Tmpfs::mount(DISK_MEGABYTES);
    // What the server says goes to a full disk too: a line that cannot be written must not end the thread that wanted to
    // write it. A disk of its own, as every file that goes would leave room on the other.
    let said = Tmpfs::mount(1);
    fill_to_the_last_byte(&said, &said.path().join("filler"));
    let setup = Setup::at(&disk.path().join("data")).logging_in(said.path());
    let server = setup.start();
    visit(&server, &plain("before"));
    let setup = server.kill();
    let filler = disk.path().join("filler");
    fill_to_the_last_byte(&disk, &filler);

    let server = setup.start();
    for _ in 0..5 {
        let refused = server.post_json(VISITS, &plain("before")).expect(507);
        assert!(!refused.header("retry-after").is_empty(), "{:?}", refused.headers);
        assert_eq!(visit_count(&server, "before"), 1);
        // Past the moment in which it refuses without asking the log.
        wait::pass(Duration::from_millis(150));
    }
    server.get("/healthz").expect(200);
    let server = server.terminate().start();
    server.post_json(VISITS, &plain("before")).expect(507);

    fs::remove_file(&filler).expect("the filler goes");
    wait::until("a visit that is taken again", || {
        (server.post_json(VISITS, &plain("before")).status == 200).then_some(())
    });
    assert_eq!(visit_count(&server, "before"), 2);
    assert_eq!(server.log(), "", "it was to have no room for its log");
    let server = server.kill().start();
    assert_eq!(visit_count(&server, "before"), 2);
    drop(server);
}
