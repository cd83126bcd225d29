//! The bucket comes back with less than was read of it.

use std::time::Duration;

use cameo_auth::bucket::{Bucket as _, Key};
use cameo_auth::record::ClientRecord;
use cameo_auth::{Role, Scope};

use super::super::{Rotation, Settings};
use crate::principal::{Grant, Principal};
use crate::stage::Stage;

const PATIENCE: Duration = Duration::from_secs(20);

async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let look = async {
        while !so().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, look).await.is_ok(), "never: {what}");
}

async fn is_there(stage: &Stage, name: &str) -> bool {
    stage.bucket.get(&Key::new(name).unwrap()).await.unwrap().is_some()
}

#[tokio::test]
async fn what_the_bucket_has_lost_comes_back_and_what_was_removed_does_not() {
    let stage = Stage::with_clients().await;
    let (admin, node) = (Principal::system(), stage.node("edge-1").await);
    stage.user("ada", &[("*", Role::Admin)]).await;
    stage.user("bob", &[("*", Role::Admin)]).await;
    let token = stage.plane.create_token(&admin, "demo", "pos".into(), vec![Scope::ProfileRead], None).await.unwrap();
    let id = token.token.record.id;
    let older = stage.bucket.copy().await;

    stage.plane.remove_user(&admin, "bob").await.unwrap();
    let roles = vec![Grant::everywhere(Role::Observer)];
    let key = format!("key.{}", stage.plane.create_key(&admin, "ci", roles, None).await.unwrap().key.id);
    let rotated = stage.plane.rotate_token(&admin, "demo", &id, Rotation::default()).await.unwrap();
    rotated.rollout.confirmed().await;
    stage.bucket.come_back_as(older);

    // Nobody asks for another change of it: it is there again by itself, for who knows nothing but the bucket.
    let name = Key::new("client.demo").unwrap();
    until("the rotation is in the bucket", async || {
        let entry = stage.bucket.get(&name).await.unwrap().unwrap();
        let record: ClientRecord = stage.sealer.verifying().open(&name, &entry.value).unwrap();
        record.token(&id).unwrap().digest == rotated.secret.digest()
    })
    .await;
    until("the key is in the bucket", async || is_there(&stage, &key).await).await;
    until("the user is not", async || !is_there(&stage, "user.626f62").await).await;
    let settings = Settings { lifetime_days: Some(20), ..Settings::default() };
    let (record, rollout) = stage.plane.set(&admin, "demo", settings).await.unwrap();
    let how: Vec<_> = rollout.confirmed().await.nodes.iter().map(|line| line.how).collect();
    assert_eq!(how, ["reported"]);
    assert_eq!(record.token(&id).unwrap().digest, rotated.secret.digest());
    assert_eq!(node.verifier().client("demo").unwrap().record, record);
    node.leave().await;
}

#[tokio::test]
async fn a_change_at_a_place_that_was_read_before_is_reported_by_who_has_read_it_there() {
    let stage = Stage::with_clients().await;
    let (admin, node) = (Principal::system(), stage.node("edge-1").await);
    let token = stage.plane.create_token(&admin, "demo", "pos".into(), vec![Scope::ProfileRead], None).await.unwrap();
    let id = token.token.record.id;
    let older = stage.bucket.copy().await;
    for _ in 0..20 {
        let settings = Settings { lifetime_days: Some(20), ..Settings::default() };
        stage.plane.set(&admin, "shop", settings).await.unwrap();
    }
    stage.bucket.come_back_as(older);
    // Before anybody has noticed.
    let rotated = stage.plane.rotate_token(&admin, "demo", &id, Rotation::default()).await.unwrap();
    rotated.rollout.confirmed().await;
    let record = node.verifier().client("demo").unwrap().record.clone();
    assert_eq!(record.token(&id).unwrap().digest, rotated.secret.digest());
    node.leave().await;
}
