//! What a node takes for a record, and what it makes of a secret.

use bytes::Bytes;

use super::*;
use crate::bucket::Key;
use crate::record::{Grace, NewToken};
use crate::seal::Sealer;
use crate::token::{Secret, SecretKind};

const NOW: u64 = 1_800_000_000_000;
const HOUR_MS: u64 = 3_600_000;

struct World {
    sealer: Sealer,
    state: AuthState,
    revision: u64,
}

impl World {
    fn new() -> Self {
        Self { sealer: Sealer::generate().unwrap(), state: AuthState::default(), revision: 0 }
    }

    fn change(&mut self, key: &str, value: Option<Bytes>) -> Result<(), String> {
        self.revision += 1;
        let change = Change { key: Key::new(key).unwrap(), value, revision: Revision(self.revision), last: true };
        assert!(AuthState::concerns(&change));
        self.state = self.state.with(&change, &self.sealer.verifying()).map_err(|error| error.to_string())?;
        Ok(())
    }

    fn put(&mut self, record: &ClientRecord) -> Result<(), String> {
        let key = ClientRecord::key(&ClientCode::new(&record.code).unwrap());
        let sealed = self.sealer.seal(&key, record);
        self.change(key.as_str(), Some(sealed))
    }

    fn judge(&self, client: &str, secret: &Secret, scope: Scope, now_ms: u64) -> Verdict {
        self.state.judge(client, &secret.digest(), scope, now_ms)
    }
}

fn secret() -> Secret {
    Secret::generate(SecretKind::ProfileToken).unwrap()
}

fn record(code: &str, secret: &Secret) -> ClientRecord {
    let mut record = ClientRecord::new(&ClientCode::new(code).unwrap(), NOW).unwrap();
    let scopes = vec![Scope::ProfileRead];
    let new = NewToken { name: "a".into(), scopes, expires_in_seconds: 3600, by: "ann".into() };
    record.create_token(TokenId(format!("t-{code}")), secret, new, NOW).unwrap();
    record
}

#[test]
fn a_secret_is_good_for_its_client_its_scopes_and_its_time() {
    let (mut world, demo, shop) = (World::new(), secret(), secret());
    world.put(&record("demo", &demo)).unwrap();
    world.put(&record("shop", &shop)).unwrap();
    let read = Scope::ProfileRead;
    assert_eq!(world.judge("demo", &demo, read, NOW), Verdict::Good);
    assert_eq!(world.judge("demo", &secret(), read, NOW), Verdict::Unknown);
    assert_eq!(world.judge("demo", &shop, read, NOW), Verdict::Unknown);
    assert_eq!(world.judge("nobody", &demo, read, NOW), Verdict::Unknown);
    for scope in [Scope::ProfileWrite, Scope::BulkWrite, Scope::VisitsWrite] {
        assert_eq!(world.judge("demo", &demo, scope, NOW), Verdict::WrongScope);
    }
    assert_eq!(world.judge("demo", &demo, read, NOW + HOUR_MS - 1), Verdict::Good);
    assert_eq!(world.judge("demo", &demo, read, NOW + HOUR_MS), Verdict::Expired);
    let codes: Vec<_> = world.state.clients().map(|client| client.code.as_str()).collect();
    assert_eq!((codes, world.state.revision()), (vec!["demo", "shop"], Revision(2)));
}

#[test]
fn an_old_secret_ends_with_its_grace_and_with_the_next_record() {
    let (mut world, old, new) = (World::new(), secret(), secret());
    let mut record = record("demo", &new);
    record.tokens[0].grace = Some(Grace { digest: old.digest(), until_ms: NOW + 1000 });
    world.put(&record).unwrap();
    let read = Scope::ProfileRead;
    assert_eq!(world.judge("demo", &old, read, NOW + 999), Verdict::Good);
    assert_eq!(world.judge("demo", &old, read, NOW + 1000), Verdict::Expired);
    assert_eq!(world.judge("demo", &old, Scope::BulkWrite, NOW), Verdict::WrongScope);
    record.version += 1;
    record.tokens[0].grace = None;
    world.put(&record).unwrap();
    assert_eq!(world.judge("demo", &old, read, NOW), Verdict::Unknown);
    assert_eq!(world.judge("demo", &new, read, NOW), Verdict::Good);
    record.version += 1;
    record.tokens.clear();
    world.put(&record).unwrap();
    assert_eq!(world.judge("demo", &new, read, NOW), Verdict::Unknown);
    assert_eq!(world.state.used().count(), 0);
}

#[test]
fn last_use_is_kept_to_the_minute_and_over_changes_of_the_record() {
    let (mut world, secret) = (World::new(), secret());
    let mut record = record("demo", &secret);
    world.put(&record).unwrap();
    let minute = |world: &World| world.state.used().map(|(_, used)| used.minute()).max();
    assert_eq!(minute(&world), Some(0));
    // What is refused is no use.
    world.judge("demo", &secret, Scope::BulkWrite, NOW);
    world.judge("demo", &secret, Scope::ProfileRead, NOW + HOUR_MS);
    assert_eq!(minute(&world), Some(0));
    world.judge("demo", &secret, Scope::ProfileRead, NOW + 90_000);
    world.judge("demo", &secret, Scope::ProfileRead, NOW);
    let expected = u32::try_from((NOW + 90_000) / 60_000).unwrap();
    assert_eq!(minute(&world), Some(expected));
    record.version += 1;
    world.put(&record).unwrap();
    assert_eq!(minute(&world), Some(expected));
}

#[test]
fn a_record_that_is_not_the_control_planes_next_one_is_not_taken() {
    let (mut world, secret) = (World::new(), secret());
    let mut record = record("demo", &secret);
    record.version = 5;
    world.put(&record).unwrap();
    let key = Key::new("client.demo").unwrap();
    let forged = Sealer::generate().unwrap().seal(&key, &ClientRecord { version: 6, ..record.clone() });
    let shop = Key::new("client.shop").unwrap();
    let for_shop = world.sealer.seal(&shop, &record);
    let of_shop = world.sealer.seal(&key, &ClientRecord { code: "shop".into(), version: 6, ..record.clone() });
    let old = world.sealer.seal(&key, &ClientRecord { version: 4, ..record.clone() });
    let other = world.sealer.seal(&key, &"no record");
    let cases = [
        ("client.demo", None, "was deleted"),
        ("client.demo", Some(Bytes::from_static(b"{}")), "not a sealed record"),
        ("client.demo", Some(forged), "signature"),
        ("client.demo", Some(for_shop.clone()), "signature"),
        ("client.shop", Some(for_shop), "another client"),
        ("client.demo", Some(of_shop), "another client"),
        ("client.demo", Some(old), "older than 5"),
        ("client.demo", Some(other), "not the record"),
    ];
    for (key, value, reason) in cases {
        let refused = world.change(key, value).unwrap_err();
        assert!(refused.contains(reason) && refused.contains(key), "{refused}");
        assert_eq!(world.judge("demo", &secret, Scope::ProfileRead, NOW), Verdict::Good, "the state stays as it was");
    }
    // The same one again is harmless: a watch may bring it twice. A newer one heals.
    world.put(&record).unwrap();
    world.put(&ClientRecord { version: 6, ..record }).unwrap();
}

#[test]
fn digests_show_in_no_debug_output() {
    let (mut world, secret) = (World::new(), secret());
    world.put(&record("demo", &secret)).unwrap();
    let shown = format!("{:?}", world.state);
    assert!(shown.contains("demo") && !shown.contains(&secret.digest().to_hex()) && !shown.contains(secret.reveal()));
}
