//! A bulk file passes through a bounded spool: memory does not grow with it before it reaches the replica.

use std::time::Duration;

use cameo_tests::http::Request;
use cameo_tests::server::Server;
use cameo_tests::wait;

use crate::common::{BULK_V2, plain, visit};

/// What an upload may take above idle, in bytes.
const ABOVE_IDLE: u64 = 32 << 20;
/// Nearly the longest file that is taken.
const FILE: usize = 49 << 20;
/// Sent between two looks at the memory.
const PIECE: usize = 1 << 20;

fn file() -> Vec<u8> {
    let mut file = b"batch=pcId,a,b,c\n".to_vec();
    let mut row = 0;
    while file.len() < FILE {
        row += 1;
        file.extend_from_slice(format!("memory-{row},{},{row},some%20value\n", "v".repeat(120)).as_bytes());
    }
    file
}

/// Sends `file` in pieces and returns the highest memory seen until the answer has come, above what it was before.
fn upload_in_pieces(server: &Server, path: &str, file: &[u8]) -> u64 {
    let idle = server.resident_bytes();
    let head = Request::post(path, "text/csv", "").header("Content-Length", &file.len().to_string());
    let head = head.head().replace("Content-Length: 0\r\n", "");
    let mut connection = server.connect();
    connection.write(head.as_bytes()).expect("the head");
    let mut highest = idle;
    for piece in file.chunks(PIECE) {
        connection.write(piece).expect("the server takes a piece");
        highest = highest.max(server.resident_bytes());
    }
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    std::thread::scope(|scope| {
        scope.spawn(move || sender.send(connection.read().expect("an answer")));
        let answer = wait::until("the answer to the upload", || {
            highest = highest.max(server.resident_bytes());
            receiver.try_recv().ok()
        });
        answer.expect(200);
    });
    highest - idle
}

#[test]
fn fifty_megabytes_are_validated_in_less_than_thirty_two() {
    let server = Server::start();
    // Whatever is allocated once, at the first call of each kind, is not the upload's.
    visit(&server, &plain("warm"));
    wait::pass(Duration::from_millis(100));
    let above = upload_in_pieces(&server, &format!("{BULK_V2}?dryRun=true"), &file());
    assert!(above < ABOVE_IDLE, "{} MB above idle", above >> 20);
}
