//! The service layer by itself: who may, what is confirmed and how, what is noted, what happens side by side.

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cameo_auth::bucket::{Bucket as _, Change, Durability, Expected, Key};
use cameo_auth::record::{ClientRecord, EXPIRY_SECONDS, PROFILE_API_TOKEN, TokenId};
use cameo_auth::{Role, Scope, lease};
use cameo_profile::ClientCode;

use super::*;
use crate::password::PASSWORD_CHARS_MIN;
use crate::principal::{Grant, Proof};
use crate::session::Presence;
use crate::stage::{PASSWORD, Stage};

const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 9));

fn password(text: &str) -> zeroize::Zeroizing<String> {
    zeroize::Zeroizing::new(text.to_owned())
}

fn switch(on: bool) -> Settings {
    Settings { require_authentication: Some(on), ..Settings::default() }
}

async fn token(stage: &Stage, by: &Principal, name: &str) -> Made {
    stage.plane.create_token(by, "demo", name.into(), vec![Scope::ProfileRead], None).await.unwrap()
}

/// The record of `demo` as nodes read it.
async fn demo(stage: &Stage) -> ClientRecord {
    let key = ClientRecord::key(&ClientCode::new("demo").unwrap());
    let entry = stage.bucket.get(&key).await.unwrap().unwrap();
    stage.sealer.verifying().open(&key, &entry.value).unwrap()
}

#[tokio::test]
async fn every_change_is_confirmed_by_every_node_and_noted() {
    let stage = Stage::with_clients().await;
    let ada = stage.user("ada", &[("demo", Role::Approver)]).await;
    let nodes = [stage.node("edge-1").await, stage.node("edge-2").await];
    let made = token(&stage, &ada, "pos").await;
    let id = made.token.record.id.clone();
    let progress = made.rollout.confirmed().await;
    let names: Vec<_> = progress.nodes.iter().map(|line| (line.node.as_str(), line.how)).collect();
    assert_eq!(names, [("edge-1", "reported"), ("edge-2", "reported")]);
    assert!(nodes.iter().all(|node| node.verifier().state().revision() == progress.revision), "{progress:?}");

    let grace = Rotation { grace_seconds: 600, expires_in: None };
    stage.plane.rotate_token(&ada, "demo", &id, grace).await.unwrap().rollout.confirmed().await;
    let killed = stage.plane.kill_grace(&ada, "demo", &id).await.unwrap().confirmed().await;
    assert!(killed.done && killed.nodes.len() == 2);
    let again = stage.plane.kill_grace(&ada, "demo", &id).await.unwrap_err();
    assert!(matches!(again, Problem::Conflict(_)), "{again}");
    let (_, flipped) = stage.plane.set(&ada, "demo", switch(true)).await.unwrap();
    assert_eq!(flipped.confirmed().await.nodes.len(), 2);
    stage.plane.revoke_token(&ada, "demo", &id).await.unwrap().confirmed().await;
    assert!(nodes.iter().all(|node| node.verifier().client("demo").unwrap().record.tokens.is_empty()));
    assert_eq!(
        stage.audit.lines(),
        [
            "ada token.create pos done".to_owned(),
            format!("ada token.rotate {} done", id.0),
            format!("ada token.revoke {} done", id.0),
            format!("ada token.revoke {} refused", id.0),
            "ada auth.switch - done".to_owned(),
            format!("ada token.revoke {} done", id.0),
        ]
    );
    for node in nodes {
        node.leave().await;
    }
}

#[tokio::test]
async fn a_silent_node_is_waited_for_until_its_lease_is_over_and_the_others_are_told_meanwhile() {
    let stage = Stage::with_clients().await;
    let lease = Duration::from_secs(10);
    stage.silent_node("edge-9", lease).await;
    let node = stage.node("edge-1").await;
    let admin = Principal::system();
    let made = token(&stage, &admin, "pos").await;
    let followed = stage.plane.rollout(made.rollout.number).expect("it can be followed by number");
    let mut progress = made.rollout.progress();
    let lines = |progress: &Progress| -> Vec<(String, &'static str)> {
        progress.nodes.iter().map(|line| (line.node.clone(), line.how)).collect()
    };
    let partial = progress.wait_for(|progress| progress.nodes.iter().any(|line| line.how == "reported")).await;
    let partial = partial.unwrap().clone();
    assert_eq!(lines(&partial), [("edge-1".into(), "reported"), ("edge-9".into(), "waiting")]);
    assert!(!partial.done && partial.nodes[1].after_ms.is_none());

    // One moment before nothing is known of it, not one before.
    stage.clock.forward(lease::lapse(lease) - Duration::from_millis(1));
    let early = tokio::time::timeout(Duration::from_millis(600), followed.clone().confirmed()).await;
    assert!(early.is_err(), "{early:?}");
    stage.clock.forward(Duration::from_millis(1));
    let done = followed.confirmed().await;
    assert_eq!(lines(&done), [("edge-1".into(), "reported"), ("edge-9".into(), "lapsed")]);
    assert!(u128::from(done.nodes[1].after_ms.unwrap()) >= lease.as_millis());
    node.leave().await;
}

#[tokio::test]
async fn a_node_that_names_an_endless_lease_is_waited_for_no_longer_than_a_lease_may_be() {
    let stage = Stage::with_clients().await;
    stage.silent_node("edge-9", Duration::from_millis(u64::MAX)).await;
    let made = token(&stage, &Principal::system(), "pos").await;
    let longest = Duration::from_secs(*lease::LEASE_SECONDS.end());
    stage.clock.forward(lease::lapse(longest));
    let done = tokio::time::timeout(Duration::from_secs(20), made.rollout.confirmed()).await.expect("it ends");
    assert_eq!(done.nodes[0].how, "lapsed");
}

#[tokio::test]
async fn what_the_role_does_not_allow_changes_nothing_and_is_noted() {
    let stage = Stage::with_clients().await;
    let eve = stage.user("eve", &[("demo", Role::Editor), ("shop", Role::Approver)]).await;
    let id = TokenId("0011223344556677".into());
    let plane = &stage.plane;
    let before = demo(&stage).await;
    let forbidden = |problem: Problem| assert!(matches!(problem, Problem::Forbidden(_)), "{problem}");
    forbidden(plane.create_token(&eve, "demo", "x".into(), vec![Scope::BulkWrite], None).await.unwrap_err());
    forbidden(plane.generate(&eve, "demo").await.unwrap_err());
    forbidden(plane.rotate_token(&eve, "demo", &id, Rotation::default()).await.unwrap_err());
    forbidden(plane.revoke_token(&eve, "demo", &id).await.unwrap_err());
    forbidden(plane.kill_grace(&eve, "demo", &id).await.unwrap_err());
    forbidden(plane.set(&eve, "demo", switch(true)).await.unwrap_err());
    let disabled = Settings { disabled: Some(true), ..Settings::default() };
    forbidden(plane.set(&eve, "shop", disabled).await.unwrap_err());
    let new = NewClient { code: "mine".into(), settings: Settings::default() };
    forbidden(plane.create_client(&eve, new).await.unwrap_err());
    forbidden(plane.users(&eve).await.unwrap_err());
    forbidden(plane.create_user(&eve, "two", password(PASSWORD), Vec::new()).await.unwrap_err());
    forbidden(plane.set_roles(&eve, "eve", vec![Grant::everywhere(Role::Admin)]).await.unwrap_err());
    forbidden(plane.set_password(&eve, "ada", None, password(PASSWORD)).await.unwrap_err());
    forbidden(plane.remove_user(&eve, "eve").await.unwrap_err());
    forbidden(plane.keys(&eve).await.unwrap_err());
    forbidden(plane.create_key(&eve, "k", Vec::new(), None).await.unwrap_err());
    forbidden(plane.remove_key(&eve, "k").await.unwrap_err());
    forbidden(plane.audit(&eve, Filter { limit: 1, ..Filter::default() }).await.unwrap_err());
    // Whether there is such a client is not said to who may not see it.
    forbidden(plane.tokens(&stage.user("tim", &[("shop", Role::Admin)]).await, "nosuch").await.unwrap_err());
    assert_eq!(demo(&stage).await, before);
    let entries = stage.audit.entries();
    assert_eq!(entries.len(), 18, "{:?}", stage.audit.lines());
    assert!(entries.iter().all(|entry| entry.result == AuditResult::Refused && entry.from == "10.0.0.9"));
    assert!(entries[0].detail.as_deref().unwrap().contains("needs the role approver"), "{:?}", entries[0]);
}

#[tokio::test]
async fn changes_side_by_side_all_happen() {
    let stage = Stage::with_clients().await;
    let admin = Principal::system();
    let tasks: Vec<_> = (0..12)
        .map(|n| {
            let (plane, admin) = (stage.plane.clone(), admin.clone());
            tokio::spawn(async move {
                plane.create_token(&admin, "demo", format!("t{n}"), vec![Scope::ProfileRead], None).await
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(demo(&stage).await.tokens.len(), 12);
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_looked_up_and_not_made_twice() {
    let stage = Stage::with_clients().await;
    let admin = Principal::system();
    stage.bucket.lose.store(1, Ordering::SeqCst);
    let made = token(&stage, &admin, "pos").await;
    assert_eq!(demo(&stage).await.token(&made.token.record.id).unwrap().digest, made.secret.digest());
    assert_eq!(demo(&stage).await.version, 2, "one change");
}

#[tokio::test]
async fn generating_leaves_one_token_of_that_name_whatever_was_there() {
    let stage = Stage::with_clients().await;
    let admin = Principal::system();
    let first = stage.plane.generate(&admin, "demo").await.unwrap();
    stage.clock.forward(Duration::from_secs(31 * 86_400));
    // The generated one has expired, so the name is free.
    let native = stage.plane.create_token(&admin, "demo", PROFILE_API_TOKEN.into(), vec![Scope::VisitsWrite], None);
    let native = native.await.unwrap();
    let second = stage.plane.generate(&admin, "demo").await.unwrap();
    let record = demo(&stage).await;
    assert_eq!(record.tokens.len(), 1, "{record:?}");
    assert_eq!((record.tokens[0].digest, &*record.tokens[0].scopes), (second.secret.digest(), &Scope::PROFILE_API[..]));
    assert!(record.tokens[0].grace.is_none() && native.secret.digest() != first.secret.digest());
    let shown = stage.plane.generated(&admin, "demo").await.unwrap().unwrap();
    assert_eq!((shown.expires_in, shown.expired), (30 * 86_400, false));
}

#[tokio::test]
async fn an_expired_token_does_not_come_back_beside_another_of_its_name() {
    let stage = Stage::with_clients().await;
    let admin = Principal::system();
    let hour = Some(*EXPIRY_SECONDS.start());
    let old = stage.plane.create_token(&admin, "demo", "pos".into(), vec![Scope::ProfileRead], hour).await.unwrap();
    stage.clock.forward(Duration::from_secs(3601));
    let listed = stage.plane.tokens(&admin, "demo").await.unwrap();
    assert!(listed[0].expired && listed[0].expires_in == 0);
    token(&stage, &admin, "pos").await;
    let revived = stage.plane.rotate_token(&admin, "demo", &old.token.record.id, Rotation::default()).await;
    assert!(matches!(revived.unwrap_err(), Problem::Conflict(_)));
}

#[tokio::test]
async fn two_admins_who_dismiss_each_other_leave_one() {
    let stage = Stage::with_clients().await;
    let everywhere: &[(&str, Role)] = &[("*", Role::Admin)];
    let (ada, bob) = (stage.user("ada", everywhere).await, stage.user("bob", everywhere).await);
    let observer = || vec![Grant::everywhere(Role::Observer)];
    // The write of the first is held up, so that the second decides meanwhile.
    let closed = stage.bucket.gate.acquire().await.unwrap();
    let mut both = std::pin::pin!(async {
        tokio::join!(stage.plane.set_roles(&ada, "bob", observer()), stage.plane.remove_user(&bob, "ada"))
    });
    assert!(tokio::time::timeout(Duration::from_millis(50), both.as_mut()).await.is_err());
    drop(closed);
    let (first, second) = both.await;
    assert!(first.is_ok() && matches!(second.unwrap_err(), Problem::Conflict(_)));
    let left = stage.plane.remove_user(&ada, "ada").await.unwrap_err();
    assert!(left.to_string().contains("last admin"), "{left}");
}

#[tokio::test]
async fn an_organisation_belongs_to_one_client() {
    let stage = Stage::with_clients().await;
    let admin = Principal::system();
    let org = || Settings { ims_org_id: Some(Some("ABC@AdobeOrg".into())), ..Settings::default() };
    let closed = stage.bucket.gate.acquire().await.unwrap();
    let mut both = std::pin::pin!(async {
        tokio::join!(stage.plane.set(&admin, "demo", org()), stage.plane.set(&admin, "shop", org()))
    });
    assert!(tokio::time::timeout(Duration::from_millis(50), both.as_mut()).await.is_err());
    drop(closed);
    let (first, second) = both.await;
    assert!(first.is_ok());
    assert!(second.unwrap_err().to_string().contains("that of client demo"));
}

#[tokio::test]
async fn a_session_ends_with_the_password_or_the_roles_it_began_with() {
    let stage = Stage::with_clients().await;
    let ada = stage.user("ada", &[("*", Role::Admin)]).await;
    stage.user("bob", &[("demo", Role::Editor)]).await;
    let plane = &stage.plane;
    let id = plane.sign_in("bob", password(PASSWORD), HERE).await.unwrap();
    let (bob, _) = plane.session(&id, Presence::Acting, HERE).expect("signed in");
    assert_eq!((bob.who.as_str(), bob.role(Some("demo"))), ("bob", Some(Role::Editor)));
    plane.set_roles(&ada, "bob", vec![Grant { client: "demo".into(), role: Role::Approver }]).await.unwrap();
    assert!(plane.session(&id, Presence::Acting, HERE).is_none(), "other roles");
    let id = plane.sign_in("bob", password(PASSWORD), HERE).await.unwrap();
    plane.set_password(&ada, "bob", None, password("eleven blue tricycles")).await.unwrap();
    assert!(plane.session(&id, Presence::Acting, HERE).is_none(), "another password");
    assert!(plane.sign_in("bob", password(PASSWORD), HERE).await.is_err(), "a right one of a moment ago is no more");
    let id = plane.sign_in("bob", password("eleven blue tricycles"), HERE).await.unwrap();
    plane.remove_user(&ada, "bob").await.unwrap();
    assert!(plane.session(&id, Presence::Acting, HERE).is_none(), "no user");
    let lines = stage.audit.lines();
    assert!(lines.contains(&"bob sign.in - done".into()) && lines.contains(&"bob sign.in - refused".into()));
}

#[tokio::test]
async fn one_s_own_password_is_not_guessed_from_a_session() {
    let stage = Stage::with_clients().await;
    let ada = stage.user("ada", &[("*", Role::Admin)]).await;
    let session = Principal { proof: Proof::Session, ..ada };
    let next = || password("eleven blue tricycles");
    let mut wrong = 0;
    let wait = loop {
        let guess = password(&format!("guess number {wrong}"));
        match stage.plane.set_password(&session, "ada", Some(guess), next()).await.unwrap_err() {
            Problem::Invalid { field: "current", .. } => wrong += 1,
            Problem::Throttled(seconds) => break seconds,
            other => panic!("{other}"),
        }
    };
    assert!(wrong == 10 && wait > 0, "{wrong} guesses, then {wait} s");
    let missing = stage.plane.set_password(&session, "ada", None, next()).await;
    assert!(missing.is_err(), "none is not a password");
    stage.clock.forward(Duration::from_secs(60));
    stage.plane.set_password(&session, "ada", Some(password(PASSWORD)), next()).await.unwrap();
}

#[tokio::test]
async fn guessing_from_one_network_is_counted_as_from_one_place() {
    let stage = Stage::with_clients().await;
    let mut refused = 0;
    for n in 0..31_u16 {
        let from = IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, n));
        let signed = stage.plane.sign_in(&format!("user{n}"), password("wrong and long enough"), from).await;
        refused += u32::from(matches!(signed, Err(NotSignedIn::Throttled(_))));
    }
    assert_eq!(refused, 1, "the last of 31");
    let other = IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 2, 0, 0, 0, 1));
    let signed = stage.plane.sign_in("user99", password("wrong and long enough"), other).await;
    assert_eq!(signed.unwrap_err(), NotSignedIn::Wrong);
}

#[tokio::test]
async fn the_first_admin_is_made_once_and_never_with_a_weak_password() {
    let stage = Stage::empty().await;
    let weak = "a".repeat(PASSWORD_CHARS_MIN);
    for bad in ["admin", "changeme", "Password1234", weak.as_str()] {
        let error = stage.plane.ensure_admin(Some(password(bad))).await.unwrap_err().to_string();
        assert!(error.starts_with("CAMEO_ADMIN_PASSWORD") && !error.contains(bad), "{error}");
    }
    let made_up = stage.plane.ensure_admin(None).await.unwrap().expect("a password is made up");
    assert_eq!(made_up.len(), 23, "20 characters in four groups");
    let id = stage.plane.sign_in("admin", made_up, HERE).await.unwrap();
    let (admin, _) = stage.plane.session(&id, Presence::Acting, HERE).unwrap();
    assert_eq!(admin.role(None), Some(Role::Admin));
    assert!(stage.plane.ensure_admin(None).await.unwrap().is_none(), "there is one");
    assert!(stage.plane.ensure_admin(Some(password(PASSWORD))).await.unwrap().is_none());
    assert!(stage.plane.sign_in("admin", password(PASSWORD), HERE).await.is_err(), "a restart changes no password");
    assert!(stage.plane.ensure_admin(Some(password("admin"))).await.is_err(), "refused at every start");
}

#[tokio::test]
async fn keys_end_by_themselves_and_when_they_are_revoked() {
    let stage = Stage::with_clients().await;
    let admin = Principal::system();
    let roles = || vec![Grant { client: "demo".into(), role: Role::Editor }];
    let made = stage.plane.create_key(&admin, "ci", roles(), Some(3600)).await.unwrap();
    let secret = || Credential::Key(zeroize::Zeroizing::new(made.secret.reveal().to_owned()));
    let by = stage.plane.principal(secret(), HERE).await.unwrap();
    assert_eq!((by.who.as_str(), by.role(Some("demo")), by.role(None)), ("key:ci", Some(Role::Editor), None));
    stage.clock.forward(Duration::from_secs(3600));
    assert_eq!(stage.plane.principal(secret(), HERE).await.unwrap_err(), NotSignedIn::Wrong);
    stage.plane.remove_key(&admin, &made.key.id).await.unwrap();

    let made = stage.plane.create_key(&admin, "ci", roles(), None).await.unwrap();
    let secret = || Credential::Key(zeroize::Zeroizing::new(made.secret.reveal().to_owned()));
    stage.plane.principal(secret(), HERE).await.unwrap();
    let same = stage.plane.create_key(&admin, "ci", roles(), None).await.unwrap_err();
    assert!(matches!(same, Problem::Conflict(_)));
    stage.plane.remove_key(&admin, &made.key.id).await.unwrap();
    assert_eq!(stage.plane.principal(secret(), HERE).await.unwrap_err(), NotSignedIn::Wrong);
    let gone = stage.plane.remove_key(&admin, &made.key.id).await.unwrap_err();
    assert!(matches!(gone, Problem::Missing(_)));
}

#[tokio::test]
async fn nodes_are_shown_with_what_they_said_and_whether_they_are_heard() {
    let stage = Stage::with_clients().await;
    let watcher = stage.user("ivy", &[("shop", Role::Observer)]).await;
    stage.silent_node("edge-9", Duration::from_secs(10)).await;
    let shown = stage.plane.cluster(&watcher).await.unwrap();
    assert_eq!(
        (shown.nodes[0].node.as_str(), shown.nodes[0].lease_ms, shown.nodes[0].silent),
        ("edge-9", 10_000, false)
    );
    stage.clock.forward(Duration::from_secs(13));
    let shown = stage.plane.cluster(&watcher).await.unwrap();
    assert_eq!((shown.nodes[0].heard_ms_ago, shown.nodes[0].silent), (13_000, true));
}

#[tokio::test]
async fn a_revision_counts_as_read_only_where_the_watch_had_caught_up() {
    let stage = Stage::with_clients().await;
    let inner = &stage.plane.0;
    let key = Key::new("used.replaced").unwrap();
    let before = *inner.read.borrow();
    // Nothing is awaited from here on, so nothing else is read meanwhile.
    let change = |ahead: u64, last: bool| Change {
        revision: Revision(before.0 + ahead),
        key: key.clone(),
        value: Some(Bytes::from_static(b"1")),
        last,
    };
    inner.take(&change(2, false), 0);
    assert_eq!(*inner.read.borrow(), before);
    inner.take(&change(3, true), 0);
    assert_eq!(*inner.read.borrow(), Revision(before.0 + 3));
}

#[tokio::test]
async fn last_use_is_what_a_node_told_and_never_goes_back() {
    let stage = Stage::with_clients().await;
    let admin = Principal::system();
    let id = token(&stage, &admin, "pos").await.token.record.id;
    for (minute, shown) in [("30000000", 30_000_000), ("29999999", 30_000_000), ("rubbish", 30_000_000)] {
        let key = Key::new(format!("used.{}", id.0)).unwrap();
        let put = stage.bucket.put(key, minute.into(), Expected::Any, Durability::Durable);
        stage.plane.caught_up(put.await.unwrap()).await;
        assert_eq!(stage.plane.tokens(&admin, "demo").await.unwrap()[0].last_used, Some(shown), "{minute}");
    }
}

#[tokio::test]
async fn the_last_use_of_a_token_goes_with_it() {
    let stage = Stage::with_clients().await;
    let (admin, inner) = (Principal::system(), &stage.plane.0);
    let (kept, gone) = (token(&stage, &admin, "kept").await, token(&stage, &admin, "gone").await);
    let ids = [&kept, &gone].map(|made| made.token.record.id.clone());
    let entry = |id: &TokenId| Key::new(format!("used.{}", id.0)).unwrap();
    let tell = async |id: &TokenId| put_back(&stage, entry(id).as_str(), Bytes::from_static(b"30000000")).await;
    let told = async || {
        let mut told = Vec::new();
        for id in &ids {
            told.push(stage.bucket.get(&entry(id)).await.unwrap().is_some());
        }
        told
    };
    // The view follows what the sweep deletes by its watch.
    let swept = async || {
        inner.sweep().await;
        let revision = stage.bucket.put(entry(&ids[0]), "30000000".into(), Expected::Any, Durability::Durable).await;
        stage.plane.caught_up(revision.unwrap()).await;
        let view = inner.view.read();
        ids.iter().map(|id| view.used.contains_key(id)).collect::<Vec<_>>()
    };
    tell(&ids[0]).await;
    tell(&ids[1]).await;
    assert_eq!((swept().await, told().await), (vec![true, true], vec![true, true]), "both tokens are there");
    stage.plane.revoke_token(&admin, "demo", &ids[1]).await.unwrap();
    assert_eq!((swept().await, told().await), (vec![true, false], vec![true, false]));
    // A node that had not heard of it yet.
    tell(&ids[1]).await;
    assert_eq!((swept().await, told().await), (vec![true, false], vec![true, false]));

    // Where the watch had not caught up, the record with the token may still be to come.
    let read = *inner.read.borrow();
    let ahead = Change { key: entry(&ids[1]), value: Some("1".into()), revision: Revision(read.0 + 1), last: false };
    let before = stage.bucket.writes.load(Ordering::SeqCst);
    inner.take(&ahead, 0);
    inner.sweep().await;
    assert_eq!(stage.bucket.writes.load(Ordering::SeqCst), before);
}

#[tokio::test]
async fn a_record_of_somebody_else_s_stops_the_start() {
    let stage = Stage::with_clients().await;
    let config = PlaneConfig { sealer: Sealer::generate().unwrap(), ..stage.plane.0.config.clone() };
    let error = Plane::open(config).await.unwrap_err().to_string();
    assert!(error.contains("client.demo") && error.contains("signing key"), "{error}");
}

/// Puts bytes where the control plane would, as somebody who can write to the bucket.
async fn put_back(stage: &Stage, name: &str, value: Bytes) {
    let put = stage.bucket.put(Key::new(name).unwrap(), value, Expected::Any, Durability::Durable);
    stage.plane.caught_up(put.await.unwrap()).await;
}

async fn stored(stage: &Stage, name: &str) -> Bytes {
    stage.bucket.get(&Key::new(name).unwrap()).await.unwrap().unwrap().value
}

#[tokio::test]
async fn what_was_signed_once_and_put_back_later_opens_nothing() {
    let stage = Stage::with_clients().await;
    let admin = Principal::system();
    stage.user("ada", &[("*", Role::Admin)]).await;
    stage.user("bob", &[("*", Role::Admin)]).await;
    let key = stage.plane.create_key(&admin, "ci", vec![Grant::everywhere(Role::Admin)], None).await.unwrap();
    let entry = format!("key.{}", key.key.id);
    let (old_key, old_bob) = (stored(&stage, &entry).await, stored(&stage, "user.626f62").await);
    stage.plane.remove_key(&admin, &key.key.id).await.unwrap();
    put_back(&stage, &entry, old_key).await;
    let secret = Credential::Key(zeroize::Zeroizing::new(key.secret.reveal().to_owned()));
    assert_eq!(stage.plane.principal(secret, HERE).await.unwrap_err(), NotSignedIn::Wrong);

    stage.plane.set_roles(&admin, "bob", vec![Grant::everywhere(Role::Observer)]).await.unwrap();
    put_back(&stage, "user.626f62", old_bob.clone()).await;
    let bob = |users: Vec<UserRecord>| users.into_iter().find(|user| user.name == "bob");
    let role = |user: UserRecord| user.roles[0].role;
    assert_eq!(bob(stage.plane.users(&admin).await.unwrap()).map(role), Some(Role::Observer));
    stage.plane.set_password(&admin, "bob", None, password("eleven blue tricycles")).await.unwrap();
    assert_eq!(
        bob(stage.plane.users(&admin).await.unwrap()).map(role),
        Some(Role::Observer),
        "not built on the old one"
    );
    let sound = stored(&stage, "user.626f62").await;
    put_back(&stage, "user.626f62", Bytes::from_static(b"{}")).await;
    let spoilt = stage.plane.set_roles(&admin, "bob", vec![Grant::everywhere(Role::Editor)]).await.unwrap_err();
    assert!(matches!(spoilt, Problem::Unavailable(_)), "a user may have been removed, so nothing is written anew");
    put_back(&stage, "user.626f62", sound).await;
    stage.plane.remove_user(&admin, "bob").await.unwrap();
    let missing = stage.plane.set_roles(&admin, "bob", vec![Grant::everywhere(Role::Editor)]).await.unwrap_err();
    assert!(matches!(missing, Problem::Missing(_)), "{missing}");
    put_back(&stage, "user.626f62", old_bob).await;
    assert!(bob(stage.plane.users(&admin).await.unwrap()).is_none());
    let missing = stage.plane.set_password(&admin, "bob", None, password("eleven blue tricycles")).await.unwrap_err();
    assert!(matches!(missing, Problem::Missing(_)), "a change does not bring back who was removed: {missing}");
    assert!(bob(stage.plane.users(&admin).await.unwrap()).is_none());

    // A name may be given again, also in the millisecond in which it became free.
    let roles = || vec![Grant { client: "demo".into(), role: Role::Editor }];
    for _ in 0..2 {
        stage.plane.create_user(&admin, "cleo", password(PASSWORD), roles()).await.unwrap();
        stage.plane.remove_user(&admin, "cleo").await.unwrap();
    }
    stage.plane.create_user(&admin, "cleo", password(PASSWORD), roles()).await.unwrap();
    stage.plane.sign_in("cleo", password(PASSWORD), HERE).await.unwrap();
}

#[tokio::test]
async fn a_change_over_a_record_that_was_put_back_spoilt_or_deleted_goes_on_from_what_was_last_seen() {
    let stage = Stage::with_clients().await;
    let node = stage.node("edge-1").await;
    let admin = Principal::system();
    let id = token(&stage, &admin, "pos").await.token.record.id;
    let with_token = stored(&stage, "client.demo").await;
    stage.plane.revoke_token(&admin, "demo", &id).await.unwrap();
    for (spoil, days) in [(Some(with_token), 20), (Some(Bytes::from_static(b"{}")), 21), (None, 22)] {
        let before = demo(&stage).await;
        match spoil {
            Some(bytes) => put_back(&stage, "client.demo", bytes).await,
            None => {
                let gone = stage.bucket.delete(Key::new("client.demo").unwrap(), Expected::Any);
                stage.plane.caught_up(gone.await.unwrap()).await;
            }
        }
        let settings = Settings { lifetime_days: Some(days), ..Settings::default() };
        let (record, rollout) = stage.plane.set(&admin, "demo", settings).await.unwrap();
        rollout.confirmed().await;
        assert_eq!(record, ClientRecord { lifetime_days: days, version: before.version + 1, ..before });
        assert!(record.tokens.is_empty(), "revoked, and still is");
        assert_eq!(node.verifier().client("demo").unwrap().record, record);
    }
    let nobody = stage.plane.set(&admin, "nosuch", switch(true)).await.unwrap_err();
    assert!(matches!(nobody, Problem::Missing(_)));
    node.leave().await;
}

#[tokio::test]
async fn secrets_are_in_no_record_no_audit_entry_and_no_debug_output() {
    let stage = Stage::with_clients().await;
    let admin = Principal::system();
    let made = token(&stage, &admin, "pos").await;
    let rotation = Rotation { grace_seconds: 60, expires_in: None };
    let rotated = stage.plane.rotate_token(&admin, "demo", &made.token.record.id, rotation).await.unwrap();
    let key = stage.plane.create_key(&admin, "ci", vec![Grant::everywhere(Role::Admin)], None).await.unwrap();
    let roles = vec![Grant { client: "demo".into(), role: Role::Observer }];
    let user = stage.plane.create_user(&admin, "ada", password(PASSWORD), roles).await.unwrap();
    let _ = stage.plane.sign_in("ada", password("a wrong one, long enough"), HERE).await;
    let secrets = [
        made.secret.reveal(),
        rotated.secret.reveal(),
        key.secret.reveal(),
        PASSWORD,
        "a wrong one",
        // Digests are no secrets, and no business of logs either.
        &made.secret.digest().to_hex(),
        &key.secret.digest().to_hex(),
        &user.password,
    ];
    let mut said = format!("{made:?} {rotated:?} {key:?} {user:?} {:?} {:?}", stage.plane, demo(&stage).await);
    said.push_str(&serde_json::to_string(&stage.audit.entries()).unwrap());
    said.push_str(&crate::audit::csv(&stage.audit.entries()));
    for secret in secrets {
        assert!(!said.contains(secret), "{secret} in {said}");
    }
    let mut records = String::new();
    for name in ["client.demo".to_owned(), format!("key.{}", key.key.id), "user.616461".to_owned()] {
        let entry = stage.bucket.get(&Key::new(name).unwrap()).await.unwrap().unwrap();
        records.push_str(std::str::from_utf8(&entry.value).unwrap());
    }
    assert!(records.contains(&key.secret.digest().to_hex()) && records.contains("argon2id"));
    assert!(secrets[..5].iter().all(|secret| !records.contains(secret)));
}
