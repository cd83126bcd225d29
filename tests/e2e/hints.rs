//! What people get wrong at first, and that they are told what is right.

use std::collections::BTreeSet;

use cameo_tests::cluster::Cluster;
use cameo_tests::http::Request;
use cameo_tests::server::{Server, Setup};
use cameo_tests::{process, readme, wait};

use crate::common::{BULK_V2, upload};

#[test]
fn whoever_asks_the_wrong_role_is_told_the_right_one_and_whoever_lacks_a_user_which_flag() {
    let Some(cluster) = Cluster::start(1, 1) else { return };
    let (edge, gateway) = (cluster.edge(0), cluster.gateway.as_ref().expect("the gateway runs"));
    let control = cluster.control.as_ref().expect("the control plane runs");
    let answer = upload(edge, BULK_V2, "batch=pcId,a\na1,1\n").expect(404);
    assert!(answer.text().contains("the gateway serves it"), "{}", answer.text());
    for (node, path, who) in [
        (gateway, "/v1/demo/profiles/tnt/a1", "an edge"),
        (control, "/rest/v1/profiles/a1?client=demo", "an edge"),
        (edge, "/v1/demo/tokens", "the control plane"),
        (gateway, "/admin", "the control plane"),
    ] {
        let answer = node.get(path).expect(404).text();
        assert!(answer.contains(&format!("{who} serves it")), "{path}: {answer}");
    }
    let nowhere = edge.get("/v1/nowhere").expect(404).text();
    assert!(!nowhere.contains("serves it"), "{nowhere}");

    let dir = tempfile::tempdir().unwrap();
    let (url, _) = cluster.producer();
    let (to, file) = (dir.path().join("to"), dir.path().join("password"));
    std::fs::write(&file, "nine wrong herons\n").unwrap();
    let export = ["snapshot", "export", "--to", &to.to_string_lossy(), "--nats", &url];
    let without = process::run(&export);
    let said = process::said(&without);
    assert_eq!(without.status.code(), Some(1), "{said}");
    assert!(said.contains("a connection without a user") && said.contains("--nats-password-file"), "{said}");
    let wrong = process::run(&[&export[..], &["--nats-password-file", &file.to_string_lossy()]].concat());
    let said = process::said(&wrong);
    assert!(said.contains("the user control-1 with this password") && !said.contains("herons"), "{said}");
    let nobody = process::run(&["snapshot", "export", "--to", "x", "--nats", "nats://127.0.0.1:1"]);
    assert_eq!(nobody.status.code(), Some(3), "{}", process::said(&nobody));
}

#[test]
fn one_nats_server_is_no_place_for_three_replicas() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let Some(servers) = runtime.block_on(cameo_nats::testing::Servers::start(1)) else { return };
    let url = servers.urls().swap_remove(0);
    let control = Setup::default().role("control").with(&["--node", "control-1", "--nats", &url]).spawn();
    wait::until("a hint", || control.log().contains("a single NATS server takes --log-replicas 1").then_some(()));
}

#[test]
fn https_to_a_port_of_plain_http_is_called_so() {
    let dir = tempfile::tempdir().unwrap();
    let authority = cameo_nats::testing::Authority::new(dir.path(), "ca");
    let server = Server::start();
    let (url, ca) = (server.url().replace("http://", "https://"), authority.ca().to_string_lossy().into_owned());
    let done = process::run(&["visit", "send", "--url", &url, "--ca", &ca, "--tnt-id", "a1"]);
    let said = process::said(&done);
    assert_eq!(done.status.code(), Some(3), "{said}");
    assert!(said.contains("does not speak TLS: is it http:// there?"), "{said}");
    server.get("/v1/demo/profiles/tnt/a1").expect(404);
}

#[test]
fn a_file_that_is_not_there_is_named_before_anything_about_the_server() {
    // Neither is this server, nor the authority of it.
    let url = "https://127.0.0.1:1";
    let done = process::run(&["bulk", "upload", "nosuch.csv", "--url", url, "--ca", "nosuch.pem"]);
    let said = process::said(&done);
    assert_eq!(done.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot open nosuch.csv"), "{said}");
    assert!(!said.contains("nosuch.pem") && !said.contains("idempotency"), "{said}");
}

#[test]
fn a_bulk_file_that_curl_has_joined_into_one_line_is_refused_with_the_right_flag() {
    let server = Server::start();
    // As `curl -d @file` sends it.
    let joined = "batch=pcId,tier\na1,gold\nb2,silver\n".replace('\n', "");
    let answer = upload(&server, BULK_V2, &joined).expect(400).text();
    assert!(answer.contains("--data-binary"), "{answer}");
    // Without rows, and meant.
    let none = Request::post(BULK_V2, "text/csv", "batch=pcId,tier\n".to_owned());
    server.send(&none).expect(200);
}

/// Flags of a command, as its help has them.
fn flags(command: &str) -> BTreeSet<String> {
    let help = process::run(&[command, "--help"]);
    assert!(help.status.success(), "{}", process::said(&help));
    let text = String::from_utf8_lossy(&help.stdout).into_owned();
    let words = text.lines().filter_map(|line| line.trim_start().split([',', ' ']).find(|word| word.starts_with("--")));
    words.map(str::to_owned).filter(|flag| flag != "--help").collect()
}

#[test]
fn readme_names_every_flag_of_every_role() {
    let readme = readme::text();
    let rows_of = |role: &str| -> String {
        let is_of = |line: &&str| match role {
            "standalone" => line.starts_with("| `--"),
            role => line.split('|').nth(1).is_some_and(|cell| cell.contains("all") || cell.contains(role)),
        };
        readme.lines().filter(|line| line.starts_with("| ")).filter(is_of).collect()
    };
    for role in ["standalone", "edge", "gateway", "control"] {
        let flags = flags(role);
        assert!(flags.len() > 10, "{role}: {flags:?}");
        let rows = rows_of(role);
        let missing: Vec<_> = flags.iter().filter(|flag| !rows.contains(&format!("`{flag}`"))).collect();
        assert!(missing.is_empty(), "README's tables lack of {role}: {missing:?}");
    }
}
