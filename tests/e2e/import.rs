//! Real input: a web server's access log becomes profiles in one command.

use std::path::Path;

use cameo_tests::server::Server;
use cameo_tests::{needs, process};
use serde_json::Value;

use crate::common::{fetch, profiles_become};

/// What an import must report, and what it must leave in the store.
struct Expected {
    visits: u64,
    visitors: u64,
    malformed_line: u64,
    /// Visits of the busiest visitor.
    busiest: u64,
}

fn import(server: &Server, file: &Path) -> Value {
    let file = file.to_str().expect("a path that is text");
    let output = process::run(&["visit", "import", file, "--url", &server.url(), "--shift-to-now", "--json"]);
    assert!(output.status.success(), "{}: {}", output.status, process::said(&output));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e} in {}", process::said(&output)))
}

fn check(file: &Path, expected: &Expected) {
    let server = Server::start();
    let summary = import(&server, file);
    let text = summary.to_string();
    assert_eq!(summary["visits"], expected.visits, "{text}");
    assert_eq!(summary["visitors"], expected.visitors, "{text}");
    assert_eq!(summary["malformed"][0]["line"], expected.malformed_line, "{text}");
    assert_eq!(summary["malformed"].as_array().map(Vec::len), Some(1), "{text}");
    profiles_become(&server, expected.visitors);

    let busiest = summary["busiest"]["tntId"].as_str().unwrap_or_else(|| panic!("no busiest visitor: {text}"));
    let profile = fetch(&server, busiest).expect(200).json();
    let visits = profile["profileAttributes"]["visitCount"]["value"].as_str().map(str::to_owned);
    assert_eq!(visits, Some(expected.busiest.to_string()), "{profile}");
}

#[test]
fn an_excerpt_is_imported_with_its_malformed_line_named() {
    let file = process::workspace().join("tests/data/access-500.log");
    check(&file, &Expected { visits: 500, visitors: 119, malformed_line: 251, busiest: 41 });
}

#[test]
fn the_whole_log_is_imported_packed() {
    if !needs::have(needs::ACCESS_LOG) {
        return;
    }
    let file = process::workspace().join("../shared/data/access.log.gz");
    check(&file, &Expected { visits: 9999, visitors: 1861, malformed_line: 8899, busiest: 364 });
}
