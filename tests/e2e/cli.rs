//! The command line for people and scripts: what it does, its exit codes, its JSON.

use std::io::Write as _;
use std::process::Output;

use cameo_tests::process::{self, said};
use cameo_tests::server::Server;
use serde_json::{Value, json};

use crate::common::attribute;

/// Exit codes as `cameo --help` names them.
const FAILED: i32 = 1;
const WRONG_USAGE: i32 = 2;
const UNREACHABLE: i32 = 3;
const NOT_FOUND: i32 = 4;
const IN_PART: i32 = 5;

/// Runs a client command against a server.
fn run(server: &Server, args: &[&str]) -> Output {
    let url = server.url();
    process::run(&[args, &["--url", &url]].concat())
}

/// The JSON a command prints; it must succeed.
fn json_of(server: &Server, args: &[&str]) -> Value {
    let output = run(server, &[args, &["--json"]].concat());
    assert!(output.status.success(), "{args:?}: {}: {}", output.status, said(&output));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{args:?}: {e} in {}", said(&output)))
}

fn assert_exit(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "{}", said(output));
    assert!(!said(output).trim().is_empty(), "an exit code {code} without a word");
}

/// A file in a directory of its own.
fn file(name: &str, contents: &[u8]) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join(name);
    std::fs::File::create(&path).and_then(|mut f| f.write_all(contents)).expect("a file");
    let path = path.to_str().expect("a path that is text").to_owned();
    (dir, path)
}

#[test]
fn health_says_by_its_exit_code_whether_a_server_is_ready() {
    let server = Server::start();
    let ready = run(&server, &["health"]);
    assert!(ready.status.success() && said(&ready).contains("ready"), "{}", said(&ready));
    let url = server.url();
    server.kill();
    assert_exit(&process::run(&["health", "--url", &url]), UNREACHABLE);
}

#[test]
fn visits_and_profiles_by_hand() {
    let server = Server::start();
    let sent = json_of(&server, &["visit", "send", "--tnt-id", "c1", "--session", "s1", "--profile", "plan=gold"]);
    assert_eq!(sent["tntId"], "c1", "{sent}");
    assert_eq!(attribute(&server, "c1", "plan").as_deref(), Some("gold"));

    json_of(&server, &["profile", "set", "tnt", "c1", "plan=silver", "town=Köln"]);
    let profile = json_of(&server, &["profile", "get", "tnt", "c1"]);
    assert_eq!(profile["profileAttributes"]["plan"]["value"], "silver", "{profile}");
    assert_eq!(profile["profileAttributes"]["town"]["value"], "Köln", "{profile}");
    json_of(&server, &["profile", "set", "tnt", "c1", "--unset", "town"]);
    assert_eq!(attribute(&server, "c1", "town"), None);

    let shown = run(&server, &["profile", "get", "tnt", "c1"]);
    assert!(shown.status.success() && said(&shown).contains("silver"), "{}", said(&shown));
    assert!(run(&server, &["profile", "delete", "tnt", "c1"]).status.success());
    assert_exit(&run(&server, &["profile", "get", "tnt", "c1"]), NOT_FOUND);
    assert_exit(&run(&server, &["profile", "delete", "tnt", "c1"]), NOT_FOUND);
}

#[test]
fn what_a_profile_is_made_of_is_shown_and_a_device_is_taken_out() {
    let server = Server::start();
    let visit = |rest: &[&str]| json_of(&server, &[&["visit", "send", "--session", "s"], rest].concat());
    visit(&["--tnt-id", "d1", "--profile", "tier=bronze", "--profile", "city=Lyon"]);
    visit(&["--third-party-id", "ann", "--profile", "tier=gold"]);
    visit(&["--tnt-id", "d1", "--third-party-id", "ann"]);
    visit(&["--tnt-id", "d2", "--third-party-id", "ann", "--profile", "page=x"]);
    visit(&["--tnt-id", "d2", "--third-party-id", "bob", "--profile", "hobby=chess"]);

    let shown = run(&server, &["profile", "get", "tp", "ann"]);
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    let line = |start: &[&str], end: &str| {
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        text.lines().any(|line| {
            words(line).starts_with(&start.iter().map(|s| (*s).into()).collect::<Vec<_>>()) && line.ends_with(end)
        })
    };
    for (start, end) in [
        (&["tp", "ann", "since"][..], "1 visit"),
        (&["tnt", "d1", "since"], "2 visits"),
        (&["tnt", "d2", "since"], "has left"),
        (&["tier", "gold"], "tp ann"),
        (&["city", "Lyon"], "tnt d1"),
        (&["tier", "bronze"], "tnt d1"),
        (&["page", "x"], "tnt d2"),
    ] {
        assert!(line(start, end), "no line {start:?} … {end:?} in\n{text}");
    }
    assert!(!text.contains("bob") && !text.contains("hobby"), "{text}");

    assert_exit(&run(&server, &["profile", "unlink", "tp", "ann", "tnt", "d2"]), NOT_FOUND);
    assert_exit(&run(&server, &["profile", "unlink", "tp", "ann", "tp", "ann"]), FAILED);
    let device = json_of(&server, &["profile", "unlink", "tp", "ann", "tnt", "d1"]);
    assert_eq!(
        (&device["ids"], &device["profileAttributes"]["tier"]["value"]),
        (&json!({"tntId": ["d1"]}), &json!("bronze"))
    );
    let ann = json_of(&server, &["profile", "get", "tp", "ann"]);
    assert_eq!((&ann["profileAttributes"]["city"], ann["ids"]["tntId"].as_array()), (&Value::Null, None), "{ann}");

    for command in [&["profile", "get", "thirdPartyId", "x"][..], &["profile", "unlink", "tp", "ann", "fax", "1"]] {
        let wrong = run(&server, command);
        assert_exit(&wrong, WRONG_USAGE);
        for word in ["tnt", "tp", "ecid", "cust:CODE"] {
            assert!(said(&wrong).contains(word), "{}", said(&wrong));
        }
    }
}

#[test]
fn a_visit_from_standard_input_is_sent_as_it_is() {
    let server = Server::start();
    let visit = json!({"eventId": "e1", "ids": {"thirdPartyId": "p1"}, "profile": {"a": "1"}});
    let (_dir, path) = file("visit.json", visit.to_string().as_bytes());
    let mut command = process::cameo(&["visit", "send", "-", "--json", "--url", &server.url()]);
    let output = command.stdin(std::fs::File::open(path).expect("the file")).output().expect("the binary starts");
    assert!(output.status.success(), "{}", said(&output));
    server.get("/rest/v1/profiles/thirdPartyId/p1?client=demo").expect(200);
}

#[test]
fn bulk_files_are_uploaded_watched_and_summed_up() {
    let server = Server::start();
    let (_dir, good) = file("good.txt", b"batch=pcId,a\nb1,1\nb2,2\n");
    let done = json_of(&server, &["bulk", "upload", &good, "--watch"]);
    assert_eq!(done["status"], "complete", "{done}");
    assert_eq!(done["successfulUpdates"], 2, "{done}");
    let id = done["batchId"].as_str().unwrap_or_else(|| panic!("no batchId in {done}"));
    let status = json_of(&server, &["bulk", "status", id]);
    assert_eq!(status["batchSize"], 2, "{status}");

    let (_dir, bad) = file("bad.txt", b"batch=pcId,a\nb3,1\nb4,%zz\n");
    let output = run(&server, &["bulk", "upload", &bad, "--watch"]);
    assert_exit(&output, IN_PART);
    assert!(said(&output).contains('3'), "the failed line is not named: {}", said(&output));

    let (_dir, none) = file("none.txt", b"pcId,a\nb5,1\n");
    let output = run(&server, &["bulk", "upload", &none]);
    assert_exit(&output, FAILED);
    assert!(said(&output).contains("batch="), "{}", said(&output));

    let dry = run(&server, &["bulk", "upload", &good, "--dry-run", "--json"]);
    assert!(serde_json::from_slice::<Value>(&dry.stdout).is_ok(), "{}", said(&dry));
    assert_exit(&run(&server, &["bulk", "status", "demo-1-none"]), NOT_FOUND);
}

#[test]
fn packed_bulk_files_are_recognised() {
    let server = Server::start();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(b"batch=pcId,a\ngz-1,1\n").expect("memory");
    let (_dir, path) = file("packed.txt.gz", &gzip.finish().expect("memory"));
    let done = json_of(&server, &["bulk", "upload", &path, "--watch"]);
    assert_eq!(done["successfulUpdates"], 1, "{done}");
    let zstd = zstd::encode_all(&b"batch=pcId,a\nzst-1,1\n"[..], 1).expect("memory");
    let (_dir, path) = file("packed.txt.zst", &zstd);
    json_of(&server, &["bulk", "upload", &path, "--watch"]);
    assert_eq!(attribute(&server, "zst-1", "a").as_deref(), Some("1"));
}

#[test]
fn exit_codes_mean_something() {
    let server = Server::start();
    assert_exit(&process::run(&["nonsense"]), WRONG_USAGE);
    assert_exit(&process::run(&["visit", "import"]), WRONG_USAGE);
    assert_exit(&process::run(&["standalone", "--partitions", "many"]), WRONG_USAGE);
    assert_exit(&process::run(&["standalone", "--partitions", "5000"]), WRONG_USAGE);
    assert_exit(&process::run(&["edge", "--nats", "nats://127.0.0.1:1"]), WRONG_USAGE);
    assert_exit(&process::run(&["config", "--config", "no-such-file.toml"]), WRONG_USAGE);
    assert_exit(&run(&server, &["visit", "send", "--session", "a b"]), FAILED);
    assert_exit(&run(&server, &["visit", "import", "no-such-file.log"]), FAILED);
    assert_exit(&run(&server, &["visit", "send", "--client", "nobody"]), NOT_FOUND);

    let url = server.url();
    drop(server);
    let output = process::run(&["profile", "get", "tnt", "a", "--url", &url]);
    assert_exit(&output, UNREACHABLE);
    assert!(said(&output).contains(&url), "{}", said(&output));
}

#[test]
fn the_effective_settings_are_printed() {
    let output = process::run(&["config", "--listen", "127.0.0.1:9999", "--client", "shop:30"]);
    assert!(output.status.success(), "{}", said(&output));
    let text = said(&output);
    for part in ["127.0.0.1:9999", "shop", "30"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

#[test]
fn a_short_bench_reports_percentiles() {
    let server = Server::start();
    let short = ["--seconds", "1", "--connections", "4", "--profiles", "100"];
    for kind in ["visits", "reads", "mixed"] {
        let report = json_of(&server, &[&["bench", "--kind", kind], &short[..]].concat());
        assert!(report.to_string().contains("p99"), "{report}");
    }
    let open = json_of(&server, &[&["bench", "--rate", "200"], &short[..]].concat());
    assert!(open.to_string().contains("p99"), "{open}");
}
