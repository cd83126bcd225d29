//! TLS: what is served over it, who is trusted, and a cluster that speaks nothing else.

use std::path::Path;
use std::process::Output;

use cameo_nats::testing::Authority;
use cameo_tests::cluster::{Cluster, Plan};
use cameo_tests::http::{Connection, Request};
use cameo_tests::server::{Server, Setup};
use cameo_tests::{admin, process, wait};
use serde_json::json;

use crate::common::sign_in;

/// A visit by the command line; a CA as given, and no other variables.
fn send_visit(server: &Server, ca: Option<&Path>) -> Output {
    let url = server.url();
    let mut command = process::cameo(&["visit", "send", "--url", &url, "--tnt-id", "a1", "--session", "s1"]);
    // Whatever this machine trusts has not signed this.
    command.env("SSL_CERT_DIR", "/nonexistent").env("SSL_CERT_FILE", "/nonexistent");
    if let Some(ca) = ca {
        command.arg("--ca").arg(ca);
    }
    command.output().expect("the binary starts")
}

#[test]
fn a_server_with_a_certificate_serves_https_and_who_cannot_trust_it_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path(), "ca");
    let pair = authority.issue("server", &["127.0.0.1"]);
    let server = Setup::default().with(&["--admin-password", admin::ADMIN_PASSWORD]);
    let server = server.secured(authority.ca(), &pair).start();
    assert!(server.log().contains(&format!("Cameo is ready at https://{}", server.address())), "{}", server.log());

    let done = send_visit(&server, Some(authority.ca()));
    assert!(done.status.success(), "{}", process::said(&done));
    server.get("/v1/demo/profiles/tnt/a1").expect(200);
    // Without the authority, and with another.
    let done = send_visit(&server, None);
    assert_eq!(done.status.code(), Some(2), "{}", process::said(&done));
    assert!(process::said(&done).contains("--ca"), "{}", process::said(&done));
    let done = send_visit(&server, Some(Authority::new(dir.path(), "stranger").ca()));
    let said = process::said(&done);
    assert_eq!(done.status.code(), Some(3), "{said}");
    assert!(said.contains("cannot be trusted") && said.contains("no authority that is trusted here"), "{said}");
    // Without TLS.
    let mut plain = Connection::open(server.address()).unwrap();
    let answer = plain.send(&Request::get("/healthz")).unwrap().expect(400);
    assert!(answer.text().contains("https://"), "{}", answer.text());

    let form = format!("name=admin&password={}", admin::ADMIN_PASSWORD.replace(' ', "+"));
    let signed_in = server.send(&Request::post("/admin/sign-in", "application/x-www-form-urlencoded", form));
    assert!(signed_in.header("set-cookie").contains("; Secure"), "{:?}", signed_in.headers);

    // A certificate of another authority, put in its place: who trusts that one gets in, without a restart.
    let other = Authority::new(dir.path(), "other");
    let renewed = other.issue("renewed", &["127.0.0.1"]);
    std::fs::copy(renewed.0, pair.0).unwrap();
    std::fs::copy(renewed.1, pair.1).unwrap();
    wait::until("the new certificate", || send_visit(&server, Some(other.ca())).status.success().then_some(()));
}

#[test]
fn a_certificate_without_its_key_is_refused_at_start() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path(), "ca");
    let (certificate, _) = authority.issue("server", &["127.0.0.1"]);
    let (_, key) = authority.issue("other", &["127.0.0.1"]);
    let refusal = Setup::default().secured(authority.ca(), &(certificate, key)).try_start().unwrap_err();
    assert!(refusal.log.contains("cannot be used together"), "{}", refusal.log);
}

#[test]
fn a_cluster_speaks_tls_everywhere() {
    let Some(cluster) = Cluster::planned(Plan { secured: true, ..Plan::of(1, 2) }) else { return };
    cluster.visit(0, "t1", "secured");
    let read = cluster.agreed(&["t1".to_owned()]);
    assert_eq!(read[0]["profileAttributes"]["last"]["value"], "secured", "{}", read[0]);
    // The control plane reaches the edge at https, by the authority it was told.
    let control = cluster.control.as_ref().expect("the control plane runs");
    let cookie = sign_in(control);
    let page = control.send(&Request::get("/admin/c/demo/profiles?kind=tnt&id=t1").header("Cookie", &cookie));
    assert!(page.text().contains("secured"), "{}", page.text());
    // A rotation is confirmed by nodes that have nothing but TLS.
    cluster.admin("PATCH", "/v1/demo/settings", &json!({"enableProfileApiAuthentication": true})).expect(200);
    cluster.ask(1, &Request::get("/v1/demo/profiles/tnt/t1")).expect(401);
}
