//! The binary among other programs: readers that leave, input from a pipe, input that is given twice.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Output, Stdio};

use cameo_tests::http::{Connection, Request};
use cameo_tests::process::{self, said};
use cameo_tests::server::Server;
use cameo_tests::wait;
use serde_json::{Value, json};

use crate::common::{attribute, plain, visit, visit_count};

/// An output that nobody reads any more, as after `| head`.
fn left() -> Stdio {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    writer.into()
}

fn with_input(mut command: Command, input: &[u8]) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary starts");
    child.stdin.take().expect("a pipe").write_all(input).expect("it reads its input");
    child.wait_with_output().expect("it ends")
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_server_that_nobody_listens_to_goes_on_serving() {
    let address: SocketAddr = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port");
    let data = tempfile::tempdir().expect("a directory");
    let path = data.path().to_str().expect("text");
    // `buffered` and `debug`, so that there is much to say.
    let mut command = process::cameo(&["standalone", "--listen", &address.to_string(), "--data-dir", path]);
    command.args(["--durability", "buffered", "--log", "debug"]).stdout(left()).stderr(left());
    let mut server = Killed(command.spawn().expect("the binary starts"));
    let request = Request::post("/v1/demo/visits", "application/json", "{\"ids\":{\"tntId\":\"a\"}}");
    let status = wait::until("a server that answers", || {
        assert!(server.0.try_wait().expect("a child").is_none(), "it ended as nobody reads its output");
        Connection::open(address).and_then(|mut connection| connection.send(&request)).ok().map(|reply| reply.status)
    });
    assert_eq!(status, 200);
}

#[test]
fn a_reader_that_leaves_changes_no_exit_code() {
    let server = Server::start();
    visit(&server, &plain("a"));
    let url = server.url();
    for (args, code) in [(["profile", "get", "tnt", "a"], 0), (["profile", "get", "tnt", "nobody"], 4)] {
        let status = process::cameo(&args).args(["--url", &url]).stdout(left()).stderr(left()).status();
        assert_eq!(status.expect("the binary starts").code(), Some(code), "{args:?}");
    }
}

#[test]
fn what_would_be_dropped_is_wrong_usage() {
    let server = Server::start();
    let url = server.url();
    for args in [
        &["visit", "send", "-", "--event-id", "e1"][..],
        &["visit", "send", "-", "--occurred-at", "1"],
        &["visit", "send", "something"],
        &["visit", "send", "--profile", "no-value"],
        &["profile", "set", "tnt", "a"],
        &["profile", "set", "tnt", "a", "no-value"],
        &["profile", "get", "tnt", "a", "--token", "a\nb"],
    ] {
        let output = process::run(&[args, &["--url", &url]].concat());
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", said(&output));
    }
}

#[test]
fn a_bulk_file_comes_from_a_pipe() {
    let server = Server::start();
    let command = process::cameo(&["bulk", "upload", "-", "--watch", "--json", "--url", &server.url()]);
    let output = with_input(command, b"batch=pcId,a\np1,1\np2,2\n");
    assert!(output.status.success(), "{}", said(&output));
    let done: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&done["status"], &done["successfulUpdates"]), (&json!("complete"), &json!(2)), "{done}");
    assert_eq!(attribute(&server, "p2", "a").as_deref(), Some("2"));
}

#[test]
fn a_log_that_has_grown_is_imported_again_and_old_lines_count_once() {
    let server = Server::start();
    let line = |second: u32| {
        format!("1.2.3.4 - - [17/May/2015:10:05:{second:02} +0000] \"GET /shop/a HTTP/1.1\" 200 1 \"-\" \"x\"\n")
    };
    let import = |text: &str| -> Value {
        let command = process::cameo(&["visit", "import", "-", "--shift-to-now", "--json", "--url", &server.url()]);
        let output = with_input(command, text.as_bytes());
        assert!(output.status.success(), "{}", said(&output));
        serde_json::from_slice(&output.stdout).expect("JSON")
    };
    let short = [line(1), line(2)].concat();
    let busiest = import(&short)["busiest"]["tntId"].as_str().expect("a visitor").to_owned();
    assert_eq!(visit_count(&server, &busiest), 2);
    import(&format!("{short}{}", line(3)));
    assert_eq!(visit_count(&server, &busiest), 3);
}

#[test]
fn a_file_that_is_no_log_is_said_to_be_none() {
    let server = Server::start();
    let command = process::cameo(&["visit", "import", "-", "--url", &server.url()]);
    let output = with_input(command, b"\x00\xff\n{\"a\":1}\n");
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("2 malformed") && said(&output).contains("line 1"), "{}", said(&output));
}
