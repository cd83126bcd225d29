//! A full disk: writes are refused with a status that says so, reads go on, and it recovers when there is room.

use std::fs;
use std::path::Path;

use cameo_tests::http::{Request, Response};
use cameo_tests::server::{Server, Setup};
use cameo_tests::tmpfs::Tmpfs;
use cameo_tests::{needs, wait};

use crate::common::{BULK_V2, VISITS, fetch, plain, visit, visit_count};

/// The disk: room for the log's first segment and a checkpoint, and quickly filled.
const DISK_MEGABYTES: u32 = 160;
/// One visit of these takes a good part of what is left, so that few of them fill the disk.
const PADDING: usize = 5000;
/// Far more visits than the room that is left can hold.
const VISITS_MAX: usize = 200_000;

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
