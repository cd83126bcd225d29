//! TLS: what is served over it, who is trusted, and a cluster that speaks nothing else.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use cameo_nats::testing::Authority;
use cameo_tests::cluster::{Cluster, Plan};
use cameo_tests::http::{Connection, Request};
use cameo_tests::server::{Server, Setup};
use cameo_tests::{admin, port, process, readme, wait};
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

/// A command of README, in a directory where `cameo` is the binary under test; ended on drop.
struct Line(Child);

impl Drop for Line {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn shell(dir: &Path, line: &str) -> Command {
    let mut command = Command::new("sh");
    // The shell makes room for the command, so that who ends the one ends the other.
    command.arg("-c").arg(format!("exec {line}")).current_dir(dir).stdin(Stdio::null());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CAMEO_")) {
        command.env_remove(name);
    }
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}", dir.display()));
    command
}

/// Runs a command of README to its end.
fn run(dir: &Path, line: &str) -> Output {
    shell(dir, line).output().expect("a shell")
}

/// Starts one that serves at a port; what it says goes to a file.
fn serve(dir: &Path, line: &str, port: u16) -> (Line, std::path::PathBuf) {
    let said = dir.join(format!("said-{port}"));
    let file = std::fs::File::create(&said).expect("a file");
    let mut command = shell(dir, line);
    command.env("CAMEO_LISTEN", format!("127.0.0.1:{port}")).env("CAMEO_DATA_DIR", dir.join(format!("data-{port}")));
    let output = command.stdout(file.try_clone().expect("a second handle")).stderr(file);
    (Line(output.spawn().expect("a shell")), said)
}

fn free_port() -> u16 {
    port::free().port()
}

#[test]
fn the_lines_of_readme_make_certificates_that_servers_clients_and_nats_take() {
    let Ok(nats_server) = std::env::var("CAMEO_NATS_SERVER") else {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "CI=true, and there is no nats-server");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    std::os::unix::fs::symlink(process::binary(), dir.join("cameo")).unwrap();
    std::os::unix::fs::symlink(nats_server, dir.join("nats-server")).unwrap();
    for start in [
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650",
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 ",
    ] {
        let made = run(dir, &readme::command(start));
        assert!(made.status.success(), "{}", process::said(&made));
    }
    let says = |said: &Path, what: &str| {
        wait::until(what, || std::fs::read_to_string(said).is_ok_and(|text| text.contains(what)).then_some(()));
    };

    let port = free_port();
    let (_server, said) = serve(dir, &readme::command("cameo standalone --tls-cert"), port);
    says(&said, "Cameo is ready at https://");
    let visit = readme::command("cameo visit send --url https://").replace("8080", &port.to_string());
    let sent = run(dir, &visit);
    assert!(sent.status.success(), "{}", process::said(&sent));

    // `n1` is a name that this machine does not know; the certificate is for `localhost` too.
    let port = free_port();
    let here = |line: &str| line.replace("n1:4222", &format!("localhost:{port}"));
    let configuration = readme::block("", "tls { cert_file");
    std::fs::write(dir.join("nats.conf"), format!("{configuration}listen: \"127.0.0.1:{port}\"\n")).unwrap();
    let nats = format!("{} -sd nats-data", readme::command("nats-server -c"));
    let (_nats, _) = serve(dir, &nats, free_port());
    let control = readme::command("cameo control --node control-1 --nats tls://");
    let (_control, said) = serve(dir, &here(&control), free_port());
    says(&said, "is ready at http://");
    // The server asks for a certificate.
    let export = here("cameo snapshot export --to x --nats tls://n1:4222 --nats-ca ca.pem");
    let without = run(dir, &export);
    assert!(!without.status.success(), "{}", process::said(&without));
    let with = run(dir, &format!("{export} --nats-cert tls.pem --nats-key tls.key"));
    let said = process::said(&with);
    assert!(with.status.success() && said.contains("16 have never had anything"), "{said}");
}
