//! What callers do over and over: send visits, fetch profiles, upload a bulk file and wait for its end.

use cameo_tests::admin::ADMIN_PASSWORD;
use cameo_tests::http::{Request, Response};
use cameo_tests::server::Server;
use cameo_tests::{wait, xml};
use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Path of native visits.
pub(crate) const VISITS: &str = "/v1/demo/visits";
/// Path of bulk files that create profiles.
pub(crate) const BULK_V2: &str = "/m2/demo/v2/profile/batchUpdate";

/// Sends one visit that must be accepted.
pub(crate) fn visit(server: &Server, visit: &Value) -> Value {
    let reply = server.post_json(VISITS, visit).expect(200).json();
    assert_eq!(reply["status"], "accepted", "{reply}");
    reply
}

/// A visit of a tntId, with nothing else.
pub(crate) fn plain(tnt_id: &str) -> Value {
    json!({"sessionId": "s1", "ids": {"tntId": tnt_id}})
}

/// The fetch of TARGET_API §4 by tntId.
pub(crate) fn fetch(server: &Server, tnt_id: &str) -> Response {
    server.get(&format!("/rest/v1/profiles/{tnt_id}?client=demo"))
}

/// The value of one attribute of a tntId, if it has it.
pub(crate) fn attribute(server: &Server, tnt_id: &str, name: &str) -> Option<String> {
    let profile = fetch(server, tnt_id).expect(200).json();
    profile["profileAttributes"][name]["value"].as_str().map(str::to_owned)
}

/// Visits counted for a tntId; 0 without a profile.
pub(crate) fn visit_count(server: &Server, tnt_id: &str) -> u64 {
    let reply = fetch(server, tnt_id);
    if reply.status == 404 {
        return 0;
    }
    let profile = reply.expect(200).json();
    profile["profileAttributes"]["visitCount"]["value"].as_str().and_then(|v| v.parse().ok()).unwrap_or(0)
}

/// Uploads a bulk file as curl would.
pub(crate) fn upload(server: &Server, path: &str, file: &str) -> Response {
    server.send(&Request::post(path, "application/x-www-form-urlencoded", file))
}

/// The path and query of the status that a submit reply names.
pub(crate) fn status_path(server: &Server, reply: &Response) -> String {
    let text = reply.text();
    let url = xml::text(&text, "batchStatus").unwrap_or_else(|| panic!("no batchStatus in {text}"));
    let path = url.strip_prefix("http://cameo.test").or_else(|| url.strip_prefix(&server.url()));
    path.unwrap_or_else(|| panic!("the status URL {url} does not lead to this server")).replace("&amp;", "&")
}

/// The batch id in a status path.
pub(crate) fn batch_id(status_path: &str) -> &str {
    status_path.split_once("batchId=").map_or("", |(_, id)| id)
}

/// Waits until a batch is complete; its status with details, as XML.
pub(crate) fn complete(server: &Server, status_path: &str) -> String {
    wait::until("a complete batch", || {
        let status = server.get(&format!("{status_path}&showDetails=true")).expect(200).text();
        (xml::text(&status, "status") == Some("complete")).then_some(status)
    })
}

/// Uploads a file and waits for its end; its status with details.
pub(crate) fn upload_all(server: &Server, path: &str, file: &str) -> String {
    let reply = upload(server, path, file).expect(200);
    complete(server, &status_path(server, &reply))
}

/// Waits until the server holds so many profiles; what it counts is a moment behind.
pub(crate) fn profiles_become(server: &Server, expected: u64) {
    wait::until(&format!("{expected} profiles"), || (metric(server, "cameo_profiles") == expected).then_some(()));
}

/// The sum over all samples of a metric.
fn metric(server: &Server, name: &str) -> u64 {
    let metrics = server.get("/metrics").expect(200).text();
    let samples = metrics.lines().filter(|l| l.starts_with(name) && l[name.len()..].starts_with([' ', '{']));
    samples.filter_map(|l| l.rsplit(' ').next()).filter_map(|v| v.parse::<f64>().ok()).sum::<f64>() as u64
}

/// Signs the first admin in, and returns the cookie.
pub(crate) fn sign_in(control: &Server) -> String {
    let form = format!("name=admin&password={}", ADMIN_PASSWORD.replace(' ', "+"));
    let signed_in = control.send(&Request::post("/admin/sign-in", "application/x-www-form-urlencoded", form));
    let cookie = signed_in.expect(303).header("set-cookie").split(';').next().map(str::to_owned);
    cookie.expect("a cookie")
}

/// Visits that a profile has counted.
pub(crate) fn visits(profile: &Value) -> Option<u64> {
    profile["profileAttributes"]["visitCount"]["value"].as_str().and_then(|count| count.parse().ok())
}

/// Visits of all profiles that these addresses (`tnt/ID`, `tp/ID`) lead to, each profile once; nothing while one cannot be read.
pub(crate) fn visits_of(server: &Server, paths: impl IntoIterator<Item = String>) -> Option<u64> {
    let mut homes = BTreeMap::new();
    for path in paths {
        let answer = server.get(&format!("/v1/demo/profiles/{path}"));
        match answer.status {
            404 => {}
            200 => {
                let profile = answer.json();
                let home = profile["ids"]["thirdPartyId"].as_str().map_or(path, str::to_owned);
                homes.insert(home, visits(&profile)?);
            }
            _ => return None,
        }
    }
    Some(homes.values().sum())
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.ok().and_then(|d| i64::try_from(d.as_millis()).ok()).expect("a clock after 1970")
}
