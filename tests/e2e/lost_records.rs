//! The control bucket loses its end: NATS comes back with an older disk, and places that every node has read are given again.
//! No token that was rotated or revoked comes back to life by that, on no node, and rotations still mean what they say.

use cameo_tests::cluster::Cluster;
use cameo_tests::http::Request;
use cameo_tests::wait;
use serde_json::{Value, json};

use crate::lost_tail::copy;

const BUCKET: &str = "KV_CAMEO_CONTROL";
/// Entries that are lost: far more than heartbeats write again before the next rotation.
const LOST: u64 = 40;

fn made(cluster: &Cluster, name: &str) -> (String, String) {
    let body = json!({"name": name, "scopes": ["profile:read"]});
    let made = cluster.admin("POST", "/v1/demo/tokens", &body).expect(201).json();
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    (format!("/v1/demo/tokens/{}", text(&made["token"]["id"])), text(&made["accessToken"]))
}

fn rotated(cluster: &Cluster, token: &str) -> String {
    let path = format!("{token}/rotate");
    let answer = wait::until("a rotation", || {
        let answer = cluster.admin("POST", &path, &json!({}));
        assert!(matches!(answer.status, 200 | 503), "{}", answer.text());
        (answer.status == 200).then(|| answer.json())
    });
    answer["accessToken"].as_str().expect("a token").to_owned()
}

fn request(token: &str) -> Request {
    Request::get("/v1/demo/profiles/tnt/k1").header("Authorization", &format!("Bearer {token}"))
}

/// Waits for an edge that holds its lease and takes this token.
fn is_taken(cluster: &Cluster, edge: usize, token: &str) {
    wait::until("an edge that takes the token", || {
        (cluster.edge(edge).send(&request(token)).status == 404).then_some(())
    });
}

fn is_dead(cluster: &Cluster, edge: usize, token: &str, which: &str) {
    let status = cluster.edge(edge).send(&request(token)).status;
    assert!(matches!(status, 401 | 503), "the token {which} was answered with {status} at edge {edge}");
}

#[test]
fn what_was_rotated_and_revoked_stays_dead_when_the_control_bucket_loses_its_end() {
    let Some(mut cluster) = Cluster::start(1, 2) else { return };
    cluster.admin("PATCH", "/v1/demo/settings", &json!({"enableProfileApiAuthentication": true})).expect(200);
    let (token, first) = made(&cluster, "rotated");
    let (other, revoked) = made(&cluster, "revoked");
    let bucket = cluster.nats.store(0).join("jetstream/CAMEO/streams").join(BUCKET);
    let older = tempfile::tempdir().expect("a temporary directory");
    cluster.nats.kill(0);
    copy(&bucket, older.path());
    cluster.nats.restart(0);
    (0..2).for_each(|n| is_taken(&cluster, n, &first));
    let end = cluster.last_of(BUCKET);
    let second = rotated(&cluster, &token);
    cluster.admin("DELETE", &other, &Value::Null).expect(200);
    wait::until("heartbeats", || (cluster.last_of(BUCKET) > end + LOST).then_some(()));

    cluster.nats.kill(0);
    std::fs::remove_dir_all(&bucket).expect("a directory can be removed");
    copy(older.path(), &bucket);
    cluster.nats.restart(0);
    // Its place is one that every node has read before.
    let third = rotated(&cluster, &token);
    let dead = [(&first, "of before the loss"), (&second, "of the lost part"), (&revoked, "revoked in the lost part")];
    for n in 0..2 {
        dead.iter().for_each(|(token, which)| is_dead(&cluster, n, token, which));
    }
    for n in 0..2 {
        is_taken(&cluster, n, &third);
        dead.iter().for_each(|(token, which)| is_dead(&cluster, n, token, which));
    }
    // One that knows nothing but what is in the bucket.
    cluster.join_edge(2);
    is_taken(&cluster, 2, &third);
    dead.iter().for_each(|(token, which)| is_dead(&cluster, 2, token, which));
    // And it all goes on as before: a rotation is reported by everybody.
    let answer = cluster.admin("POST", &format!("{token}/rotate"), &json!({})).expect(200).json();
    let nodes = answer["confirmation"]["nodes"].as_array().expect("nodes");
    assert!(nodes.len() >= 4 && nodes.iter().all(|node| node["how"] == "reported"), "{answer}");
    (0..3).for_each(|n| is_dead(&cluster, n, &third, "of before the last rotation"));
}
