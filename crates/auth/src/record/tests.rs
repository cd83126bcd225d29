//! Every limit of a record, what becomes of old secrets, and the bytes of format 1.

use proptest::prelude::*;

use super::*;
use crate::bucket::VALUE_BYTES;
use crate::seal::Sealer;
use crate::token::SecretKind;

const NOW: u64 = 1_800_000_000_000;
const HOUR: u64 = 3600;

fn secret() -> Secret {
    Secret::generate(SecretKind::ProfileToken).unwrap()
}

fn record() -> ClientRecord {
    ClientRecord::new(&ClientCode::new("demo").unwrap(), NOW).unwrap()
}

fn id(text: &str) -> TokenId {
    TokenId(text.into())
}

fn new(name: &str) -> NewToken {
    NewToken { name: name.into(), scopes: vec![Scope::ProfileRead], expires_in_seconds: HOUR, by: "ann".into() }
}

fn rotate(grace_seconds: u64, expires_in_seconds: Option<u64>) -> Rotate {
    Rotate { grace_seconds, expires_in_seconds, by: "bob".into() }
}

/// A record with one token that lives an hour, and its secret.
fn with_token() -> (ClientRecord, Secret) {
    let (mut record, secret) = (record(), secret());
    record.create_token(id("t"), &secret, new("a"), NOW).unwrap();
    (record, secret)
}

#[test]
fn reserved_codes_are_no_clients() {
    for code in RESERVED_CODES {
        let refused = ClientRecord::new(&ClientCode::new(code).unwrap(), NOW).unwrap_err();
        assert_eq!((refused.field, refused.conflict), ("code", false), "{code}");
    }
    assert!(!record().require_authentication && record().check_settings().is_ok());
}

#[test]
fn every_setting_has_its_limits() {
    let field = |change: &dyn Fn(&mut ClientRecord)| {
        let mut record = record();
        change(&mut record);
        record.check_settings().err().map(|refused| refused.field)
    };
    for (days, fits) in [(0, false), (1, true), (LIFETIME_DAYS_MAX, true), (LIFETIME_DAYS_MAX + 1, false)] {
        let expected = (!fits).then_some("lifetimeDays");
        assert_eq!(field(&|record| record.lifetime_days = days), expected, "{days}");
    }
    let orgs = [("A@AdobeOrg", true), (&"x".repeat(ORG_CHARS), true), (&"x".repeat(ORG_CHARS + 1), false)];
    for (org, fits) in orgs.into_iter().chain([("", false), ("a b", false), ("a\n", false), ("é", false)]) {
        assert_eq!(field(&|record| record.ims_org_id = Some(org.into())), (!fits).then_some("imsOrgId"), "{org}");
    }
    let long = |chars: usize| format!("https://{}", "a".repeat(chars - 8));
    let (most, more) = (long(ORIGIN_CHARS), long(ORIGIN_CHARS + 1));
    let good = ["*", "https://a.example", "http://localhost:3000", "https://[::1]:8443", &most];
    let bad = ["", "a.example", "https://", "https://a/", "https://A", "https://a b", "ftp://a", "https://*.a", &more];
    for (origin, fits) in good.iter().map(|origin| (origin, true)).chain(bad.iter().map(|origin| (origin, false))) {
        let found = field(&|record| record.allowed_origins = vec![(*origin).into()]);
        assert_eq!(found, (!fits).then_some("allowedOrigins"), "{origin}");
    }
    for (count, fits) in [(ORIGINS_MAX, true), (ORIGINS_MAX + 1, false)] {
        let found = field(&|record| record.allowed_origins = vec!["*".into(); count]);
        assert_eq!(found, (!fits).then_some("allowedOrigins"));
    }
}

#[test]
fn every_part_of_a_new_token_has_its_limits() {
    let create = |new: NewToken| {
        let mut record = record();
        let created = record.create_token(id("t"), &secret(), new, NOW);
        created.map(|()| record.tokens.remove(0)).map_err(|refused| (refused.field, refused.conflict))
    };
    for name in ["", &"x".repeat(TOKEN_NAME_CHARS + 1), "a\tb", "a\u{7f}"] {
        assert_eq!(create(new(name)), Err(("name", false)), "{name:?}");
    }
    assert!(create(new(&"é".repeat(TOKEN_NAME_CHARS))).is_ok());
    let (least, most) = EXPIRY_SECONDS.into_inner();
    for (seconds, fits) in [(least - 1, false), (least, true), (most, true), (most + 1, false), (u64::MAX, false)] {
        let expires = create(NewToken { expires_in_seconds: seconds, ..new("a") }).map(|token| token.expires_ms);
        let expected = if fits { Ok(NOW + seconds * 1000) } else { Err(("expiresIn", false)) };
        assert_eq!(expires, expected, "{seconds}");
    }
    assert_eq!(create(NewToken { scopes: vec![], ..new("a") }), Err(("scopes", false)));
    let scopes = vec![Scope::BulkWrite, Scope::ProfileRead, Scope::BulkWrite];
    let created = create(NewToken { scopes, ..new("a") }).unwrap();
    assert_eq!(created.scopes, [Scope::ProfileRead, Scope::BulkWrite]);
}

#[test]
fn names_are_one_of_a_kind_among_those_that_live_and_tokens_are_bounded() {
    let (mut record, _) = with_token();
    let create = |record: &mut ClientRecord, name: &str, now| {
        let token = id(&format!("{name}{now}"));
        record.create_token(token, &secret(), new(name), now).map_err(|refused| (refused.field, refused.conflict))
    };
    assert_eq!(create(&mut record, "a", NOW + HOUR * 1000 - 1), Err(("name", true)));
    assert_eq!(create(&mut record, "a", NOW + HOUR * 1000), Ok(()));
    for n in 2..TOKENS_MAX {
        assert_eq!(create(&mut record, &format!("n{n}"), NOW), Ok(()));
    }
    assert_eq!(create(&mut record, "one more", NOW), Err(("tokens", true)));
    assert!(record.revoke_token(&id("t")) && !record.revoke_token(&id("t")));
    assert_eq!(create(&mut record, "one more", NOW), Ok(()));
    // Ended ones make room once they are no longer shown.
    let forgotten = NOW + HOUR * 1000 + SHOWN_AFTER_END_MS;
    assert_eq!(create(&mut record, "late", forgotten - 1), Err(("tokens", true)));
    assert_eq!(create(&mut record, "late", forgotten), Ok(()));
    assert_eq!(record.tokens.len(), 2, "the last two have not been over for so long");
}

#[test]
fn a_rotation_keeps_one_old_secret_at_most_and_no_longer_than_it_had() {
    let (mut record, old) = with_token();
    let (second, third) = (secret(), secret());
    let later = NOW + 1000;
    let refused = |record: &mut ClientRecord, name: &str, how| {
        let refused = record.rotate_token(&id(name), &secret(), how, later).unwrap_err();
        (refused.field, refused.conflict)
    };
    let before = record.clone();
    assert_eq!(refused(&mut record, "t", rotate(GRACE_SECONDS_MAX + 1, None)), ("graceSeconds", false));
    assert_eq!(refused(&mut record, "t", rotate(0, Some(HOUR - 1))), ("expiresIn", false));
    assert_eq!(refused(&mut record, "gone", rotate(0, None)), ("token", true));
    assert_eq!(record, before, "what is refused changes nothing");

    record.rotate_token(&id("t"), &second, rotate(GRACE_SECONDS_MAX, Some(2 * HOUR)), later).unwrap();
    let token = record.token(&id("t")).unwrap();
    assert_eq!((token.digest, token.created_ms, token.created_by.as_str()), (second.digest(), later, "bob"));
    assert_eq!(token.expires_ms, later + 2 * HOUR * 1000);
    // A grace of 7 days for a secret that had an hour left is an hour.
    assert_eq!(token.grace, Some(Grace { digest: old.digest(), until_ms: NOW + HOUR * 1000 }));

    record.rotate_token(&id("t"), &third, rotate(60, None), later).unwrap();
    let token = record.token(&id("t")).unwrap();
    assert_eq!(token.grace, Some(Grace { digest: second.digest(), until_ms: later + 60_000 }));
    assert_eq!(token.expires_ms, later + 2 * HOUR * 1000, "it lives as long as the one before it did");

    assert!(record.end_grace(&id("t")) && !record.end_grace(&id("t")) && !record.end_grace(&id("gone")));
    record.rotate_token(&id("t"), &secret(), rotate(60, None), later).unwrap();
    record.rotate_token(&id("t"), &secret(), rotate(0, None), later).unwrap();
    assert_eq!(record.token(&id("t")).unwrap().grace, None, "a rotation without grace ends one that runs");
    let ended = later + 2 * HOUR * 1000;
    record.rotate_token(&id("t"), &secret(), rotate(60, None), ended).unwrap();
    assert_eq!(record.token(&id("t")).unwrap().grace, None, "what has expired gets no grace");
}

#[test]
fn the_fullest_record_fits_into_an_entry() {
    let mut record = record();
    record.ims_org_id = Some("\"".repeat(ORG_CHARS));
    record.allowed_origins = vec![format!("https://{}", "a".repeat(ORIGIN_CHARS - 8)); ORIGINS_MAX];
    for n in 0..TOKENS_MAX {
        let name = format!("{n:02}{}", "\u{10348}".repeat(TOKEN_NAME_CHARS - 2));
        let new = NewToken { scopes: Scope::ALL.to_vec(), by: "u".repeat(100), ..new(&name) };
        record.create_token(id(&format!("t{n:030}")), &secret(), new, NOW).unwrap();
        record.rotate_token(&id(&format!("t{n:030}")), &secret(), rotate(600, None), NOW).unwrap();
    }
    record.check_settings().unwrap();
    let key = ClientRecord::key(&ClientCode::new("demo").unwrap());
    let sealed = Sealer::generate().unwrap().seal(&key, &record);
    assert!(sealed.len() < VALUE_BYTES, "{}", sealed.len());
}

fn golden() -> ClientRecord {
    let digest = |text: &str| Digest::of(text.as_bytes());
    ClientRecord {
        code: "demo".into(),
        version: 7,
        created_ms: NOW,
        disabled: false,
        ims_org_id: Some("1234@AdobeOrg".into()),
        lifetime_days: 14,
        allowed_origins: vec!["https://www.example.com".into()],
        require_authentication: true,
        require_visit_tokens: false,
        tokens: vec![TokenRecord {
            id: id("tok1"),
            name: "nightly \"upload\"".into(),
            scopes: vec![Scope::ProfileRead, Scope::ProfileWrite, Scope::BulkWrite, Scope::VisitsWrite],
            digest: digest("new"),
            created_by: "ann".into(),
            created_ms: NOW,
            expires_ms: NOW + HOUR * 1000,
            grace: Some(Grace { digest: digest("old"), until_ms: NOW + 1000 }),
        }],
        require_identity_signature: false,
        identity_secrets: Vec::new(),
    }
}

/// What was written once is read for ever: a new format gets a new file beside this one.
#[test]
fn format_1_is_the_golden_one() {
    let sealer = Sealer::from_hex(&"07".repeat(32)).unwrap();
    let key = ClientRecord::key(&ClientCode::new("demo").unwrap());
    let sealed = String::from_utf8(sealer.seal(&key, &golden()).to_vec()).unwrap();
    let file = include_str!("../../golden/record-v1.json").trim_end();
    assert_eq!(sealed, file, "golden/record-v1.json differs; new text:\n{sealed}");
    assert_eq!(sealer.verifying().open::<ClientRecord>(&key, file.as_bytes()), Ok(golden()));
}

#[test]
fn secrets_for_signatures_overlap_and_are_needed_while_they_are_asked_for() {
    let mut record = record();
    let fresh = |at| IdentitySecret::new(&Secret::generate(SecretKind::IdentitySecret).unwrap(), "ann", at);
    record.require_identity_signature = true;
    assert!(record.check_settings().is_err_and(|refused| refused.conflict), "nothing to sign with");
    let (first, second, third) = (fresh(NOW), fresh(NOW + 1), fresh(NOW + 2));
    record.rotate_identity_secret(first, 0).unwrap();
    record.check_settings().unwrap();
    assert!(record.rotate_identity_secret(second.clone(), GRACE_SECONDS_MAX + 1).is_err());
    record.rotate_identity_secret(second, 60).unwrap();
    let lives = |record: &ClientRecord, at: u64| record.identity_secrets.iter().filter(|s| s.lives(at)).count();
    assert_eq!((lives(&record, NOW + 60_000), lives(&record, NOW + 60_001)), (2, 1));
    record.rotate_identity_secret(third, 60).unwrap();
    assert_eq!(record.identity_secrets.len(), 2, "the oldest is gone");
    let key = ClientRecord::key(&ClientCode::new("demo").unwrap());
    let sealer = Sealer::from_hex(&"07".repeat(32)).unwrap();
    assert_eq!(sealer.verifying().open::<ClientRecord>(&key, &sealer.seal(&key, &record)), Ok(record.clone()));
    record.rotate_identity_secret(fresh(NOW + 3), 0).unwrap();
    assert_eq!(record.identity_secrets.len(), 1, "without a grace the others end at once");
}

fn any_token() -> impl Strategy<Value = TokenRecord> {
    let grace = proptest::option::of((any::<[u8; 4]>(), any::<u64>()));
    let scopes = proptest::sample::subsequence(Scope::ALL.to_vec(), 0..=4);
    (".{0,20}", scopes, any::<[u8; 4]>(), any::<(u64, u64)>(), grace).prop_map(|(name, scopes, bytes, times, grace)| {
        let grace = grace.map(|(bytes, until_ms)| Grace { digest: Digest::of(&bytes), until_ms });
        let (created_ms, expires_ms) = times;
        let (id, created_by) = (TokenId(name.clone()), name.clone());
        TokenRecord { id, name, scopes, digest: Digest::of(&bytes), created_by, created_ms, expires_ms, grace }
    })
}

proptest! {
    #[test]
    fn a_record_goes_through_json(
        tokens in proptest::collection::vec(any_token(), 0..4),
        org in proptest::option::of(".{0,20}"),
        flags in any::<(bool, bool, bool, u16, u64)>(),
    ) {
        let record = ClientRecord {
            disabled: flags.0,
            require_authentication: flags.1,
            require_visit_tokens: flags.2,
            lifetime_days: flags.3,
            version: flags.4,
            ims_org_id: org,
            tokens,
            ..record()
        };
        let key = ClientRecord::key(&ClientCode::new("demo").unwrap());
        let sealer = Sealer::from_hex(&"07".repeat(32)).unwrap();
        prop_assert_eq!(sealer.verifying().open::<ClientRecord>(&key, &sealer.seal(&key, &record)), Ok(record));
    }
}
