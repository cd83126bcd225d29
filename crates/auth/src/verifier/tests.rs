//! Every answer of the verifier, and whose request it takes one for.

use axum::body::Body;
use axum::http::{Method, StatusCode};
use axum::routing::get;
use axum::{Extension, Router};
use cameo_profile::ClientCode;
use http::header::RETRY_AFTER;
use http_body_util::BodyExt;
use tower::ServiceExt;

use super::*;
use crate::record::{ClientRecord, NewToken, Rotate, TokenId};
use crate::token::Secret;

const HOUR_MS: u64 = 3_600_000;
/// When the tests take place.
const TODAY_MS: u64 = 1_800_000_000_000;

#[derive(Debug)]
struct Stopped {
    unix_ms: u64,
}

impl Clock for Stopped {
    fn mono(&self) -> Mono {
        Mono(1000)
    }

    fn unix_ms(&self) -> u64 {
        self.unix_ms
    }
}

fn secret() -> Secret {
    Secret::generate(SecretKind::ProfileToken).unwrap()
}

/// A client that requires authentication, with one token.
fn client(code: &str, scopes: &[Scope]) -> (ClientRecord, Secret) {
    let mut record = ClientRecord::new(&ClientCode::new(code).unwrap(), TODAY_MS).unwrap();
    record.require_authentication = true;
    let secret = secret();
    let new = NewToken { name: "a".into(), scopes: scopes.to_vec(), expires_in_seconds: 3600, by: "ann".into() };
    record.create_token(TokenId(format!("t-{code}")), &secret, new, TODAY_MS).unwrap();
    (record, secret)
}

fn verifier(records: Vec<ClientRecord>, until_ms: u64, unix_ms: u64) -> Verifier {
    let state = ArcSwap::from_pointee(AuthState::fixed(records));
    Verifier(Arc::new(Shared {
        state,
        until_ms: AtomicU64::new(until_ms),
        clock: Arc::new(Stopped { unix_ms }),
        control: None,
    }))
}

const LEASED: u64 = 1001;
const NOT_LEASED: u64 = 1000;

fn app(verifier: &Verifier) -> Router {
    let route = |scope| get(|| async { "in" }).post(|| async { "in" }).layer(verifier.layer(scope));
    Router::new()
        .route("/v1/{client}/profiles/{kind}/{id}", route(Scope::ProfileRead))
        .route("/v1/{client}/visits", route(Scope::VisitsWrite))
        .route("/m2/{client}/profile/update", route(Scope::ProfileWrite))
        .route("/rest/v1/profiles/{id}", route(Scope::ProfileRead))
}

struct Answer {
    status: u16,
    challenge: String,
    retry_after: Option<String>,
    content_type: String,
    body: String,
}

async fn ask_with(app: Router, method: Method, uri: &str, authorization: &[&str]) -> Answer {
    let mut request = Request::builder().method(method).uri(uri);
    for value in authorization {
        request = request.header(AUTHORIZATION, *value);
    }
    let response = app.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let header = |name| parts.headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap().to_owned());
    Answer {
        status: parts.status.as_u16(),
        challenge: header(WWW_AUTHENTICATE).unwrap_or_default(),
        retry_after: header(RETRY_AFTER),
        content_type: header(http::header::CONTENT_TYPE).unwrap_or_default(),
        body: String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap(),
    }
}

async fn ask(verifier: &Verifier, uri: &str, authorization: &[&str]) -> Answer {
    ask_with(app(verifier), Method::GET, uri, authorization).await
}

const NATIVE: &str = "/v1/demo/profiles/tnt/1";
const REST: &str = "/rest/v1/profiles/1?client=demo";
const M2: &str = "/m2/demo/profile/update";

#[tokio::test]
async fn every_denial_has_its_status_challenge_and_text_in_every_family() {
    let (record, good) = client("demo", &[Scope::ProfileRead, Scope::ProfileWrite]);
    let (visits, other) = client("shop", &[Scope::VisitsWrite]);
    let mut narrow = record.clone();
    narrow.tokens[0].scopes = vec![Scope::BulkWrite];
    let disabled = ClientRecord { disabled: true, ..record.clone() };
    let bearer = |secret: &Secret| vec![format!("Bearer {}", secret.reveal())];
    let twice = vec![bearer(&good)[0].clone(), bearer(&good)[0].clone()];
    let invalid = "Bearer error=\"invalid_token\", error_description=";
    let scope = "Bearer error=\"insufficient_scope\", scope=\"profile:";
    let later = TODAY_MS + HOUR_MS;
    type Case = (&'static str, Vec<ClientRecord>, u64, u64, Vec<String>, u16, String, &'static str);
    let all = || vec![record.clone(), visits.clone()];
    let cases: Vec<Case> = vec![
        ("good", all(), LEASED, TODAY_MS, bearer(&good), 200, String::new(), "in"),
        ("no lease", all(), NOT_LEASED, TODAY_MS, bearer(&good), 503, String::new(), "cannot prove"),
        ("disabled", vec![disabled], LEASED, TODAY_MS, bearer(&good), 403, String::new(), "disabled"),
        ("missing", all(), LEASED, TODAY_MS, vec![], 401, format!("{invalid}\"no bearer"), "a token is required"),
        ("basic", all(), LEASED, TODAY_MS, vec!["Basic eA==".into()], 401, format!("{invalid}\"no bearer"), "required"),
        ("unknown", all(), LEASED, TODAY_MS, bearer(&secret()), 401, format!("{invalid}\"the token is unk"), "unknown"),
        ("other's", all(), LEASED, TODAY_MS, bearer(&other), 401, format!("{invalid}\"the token is unk"), "unknown"),
        ("malformed", all(), LEASED, TODAY_MS, vec!["Bearer x".into()], 401, format!("{invalid}\"the"), "unknown"),
        ("empty", all(), LEASED, TODAY_MS, vec!["Bearer".into()], 401, format!("{invalid}\"the token"), "unknown"),
        ("expired", all(), LEASED, later, bearer(&good), 401, format!("{invalid}\"the token has exp"), "has expired"),
        ("scope", vec![narrow], LEASED, TODAY_MS, bearer(&good), 403, scope.into(), "does not have the scope profile:"),
        ("twice", all(), LEASED, TODAY_MS, twice, 400, "Bearer error=\"invalid_request\"".into(), "more than one"),
    ];
    let families =
        [(NATIVE, "application/problem+json"), (REST, "application/json"), (M2, "application/xml; charset=UTF-8")];
    for (name, records, until, now, authorization, status, challenge, text) in cases {
        let verifier = verifier(records, until, now);
        let authorization: Vec<_> = authorization.iter().map(String::as_str).collect();
        for (uri, content_type) in families {
            let answer = ask(&verifier, uri, &authorization).await;
            assert_eq!(answer.status, status, "{name} {uri} {}", answer.body);
            assert!(answer.challenge.starts_with(&challenge), "{name} {uri}: {}", answer.challenge);
            assert_eq!(answer.challenge.is_empty(), challenge.is_empty(), "{name} {uri}: {}", answer.challenge);
            assert!(answer.body.contains(text), "{name} {uri}: {}", answer.body);
            assert_eq!(answer.retry_after.is_some(), status == 503, "{name} {uri}");
            if status != 200 {
                assert_eq!(answer.content_type, content_type, "{name} {uri}");
                assert!(!answer.body.contains(good.reveal()) && !answer.challenge.contains(good.reveal()));
            }
        }
    }
}

#[tokio::test]
async fn the_scheme_is_read_as_http_has_it() {
    let (record, secret) = client("demo", &[Scope::ProfileRead]);
    let verifier = verifier(vec![record], LEASED, TODAY_MS);
    for (start, status) in [("bearer ", 200), ("BEARER   ", 200), ("Bearer", 401), ("Bearer\t", 401), ("Token ", 401)] {
        let answer = ask(&verifier, NATIVE, &[&format!("{start}{}", secret.reveal())]).await;
        assert_eq!(answer.status, status, "{start:?}");
    }
    let long = format!("Bearer {}", "a".repeat(60_000));
    assert_eq!(ask(&verifier, NATIVE, &[&long]).await.status, 401);
}

#[tokio::test]
async fn a_token_in_the_query_is_refused_however_it_is_written() {
    let (record, secret) = client("demo", &[Scope::ProfileRead]);
    let verifier = verifier(vec![record], LEASED, TODAY_MS);
    let bearer = format!("Bearer {}", secret.reveal());
    for name in ["access_token", "%61ccess_token", "access%5Ftoken"] {
        for query in [format!("?{name}={}", secret.reveal()), format!("?x=1&{name}"), format!("?{name}=&y")] {
            let answer = ask(&verifier, &format!("{NATIVE}{query}"), &[&bearer]).await;
            assert_eq!(answer.status, 400, "{query}");
            assert!(answer.body.contains("URLs end up in logs") && !answer.body.contains(secret.reveal()));
        }
    }
    assert_eq!(ask(&verifier, &format!("{NATIVE}?access_tokens=1&%zz"), &[&bearer]).await.status, 200);
}

#[tokio::test]
async fn a_request_names_its_client_once_and_plainly() {
    let (demo, secret) = client("demo", &[Scope::ProfileRead]);
    let (shop, _) = client("shop", &[Scope::ProfileRead]);
    let verifier = verifier(vec![demo, shop], LEASED, TODAY_MS);
    let bearer = format!("Bearer {}", secret.reveal());
    let queries = [
        ("client=demo", 200),
        ("x=1&client=demo&y=%20", 200),
        ("client=shop", 401),
        // Handlers decode names and values, and may take the first or the last of two.
        ("client=demo&client=shop", 400),
        ("client=demo&client=demo", 400),
        ("client=demo&%63lient=shop", 400),
        ("%63lient=shop&client=demo", 400),
        ("client=demo&clien%74=shop", 400),
        ("client&client=demo", 400),
        ("%63lient=demo", 400),
        ("client=de%6Do", 400),
        ("client=demo+", 400),
        ("client=", 200),
        ("Client=demo", 400),
        ("", 400),
    ];
    for (query, status) in queries {
        let answer = ask(&verifier, &format!("/rest/v1/profiles/1?{query}"), &[&bearer]).await;
        // An empty code is nobody's, as an unknown one is: the handler says so.
        assert_eq!(answer.status, status, "{query} {}", answer.body);
    }
    assert_eq!(ask(&verifier, "/rest/v1/profiles/1", &[&bearer]).await.status, 400);
    for (path, status) in [("/v1/de%6Do/profiles/tnt/1", 400), ("/v1/sh%6Fp/profiles/tnt/1", 400)] {
        assert_eq!(ask(&verifier, path, &[&bearer]).await.status, status, "{path}");
    }
}

#[tokio::test]
async fn the_switch_opens_what_it_opens_and_visits_stay_served() {
    let (mut record, secret) = client("demo", &[Scope::VisitsWrite]);
    record.require_authentication = false;
    let visits = "/v1/demo/visits";
    let off = verifier(vec![record.clone()], LEASED, TODAY_MS);
    let leaseless = verifier(vec![record.clone()], NOT_LEASED, TODAY_MS);
    for uri in [NATIVE, REST, M2] {
        assert_eq!(ask(&off, uri, &[]).await.status, 200);
        // The switch may have been flipped meanwhile.
        let answer = ask(&leaseless, uri, &[]).await;
        assert_eq!((answer.status, answer.retry_after.as_deref()), (503, Some("1")));
    }
    assert_eq!((ask(&off, visits, &[]).await.status, ask(&leaseless, visits, &[]).await.status), (200, 200));
    record.require_visit_tokens = true;
    let on = verifier(vec![record.clone()], LEASED, TODAY_MS);
    let leaseless = verifier(vec![record.clone()], NOT_LEASED, TODAY_MS);
    let bearer = format!("Bearer {}", secret.reveal());
    assert_eq!((ask(&on, visits, &[]).await.status, ask(&on, visits, &[&bearer]).await.status), (401, 200));
    assert_eq!(ask(&leaseless, visits, &[&bearer]).await.status, 503);
    record.disabled = true;
    let disabled = verifier(vec![record], LEASED, TODAY_MS);
    assert_eq!(ask(&disabled, visits, &[&bearer]).await.status, 403);
    // Nobody's client: the handler says so, and only where the node knows who there is.
    assert_eq!(ask(&on, "/v1/nobody/profiles/tnt/1", &[]).await.status, 200);
    assert_eq!(ask(&leaseless, "/v1/nobody/profiles/tnt/1", &[]).await.status, 503);
}

#[tokio::test]
async fn head_and_post_are_judged_as_get_is() {
    let (record, secret) = client("demo", &[Scope::ProfileRead]);
    let verifier = verifier(vec![record], LEASED, TODAY_MS);
    let bearer = format!("Bearer {}", secret.reveal());
    for method in [Method::HEAD, Method::POST, Method::GET] {
        let status = async |headers: &[&str]| ask_with(app(&verifier), method.clone(), NATIVE, headers).await.status;
        assert_eq!((status(&[]).await, status(&[&bearer]).await), (401, 200), "{method}");
    }
}

#[tokio::test]
async fn only_this_process_marks_a_request_as_its_own() {
    let (record, _) = client("demo", &[Scope::ProfileRead]);
    let verifier = verifier(vec![record], LEASED, TODAY_MS);
    let marked = app(&verifier).layer(Extension(Internal));
    assert_eq!(ask_with(marked, Method::GET, NATIVE, &[]).await.status, 200);
    assert_eq!(ask(&verifier, NATIVE, &[]).await.status, StatusCode::UNAUTHORIZED.as_u16());
}

#[tokio::test]
async fn a_grace_ends_on_the_millisecond_and_a_second_look_sees_it() {
    let (mut record, old) = client("demo", &[Scope::BulkWrite]);
    let new = secret();
    let how = Rotate { grace_seconds: 10, expires_in_seconds: None, by: "ann".into() };
    record.rotate_token(&TokenId("t-demo".into()), &new, how, TODAY_MS).unwrap();
    let check = |secret: &Secret, now| {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, format!("Bearer {}", secret.reveal()).parse().unwrap());
        verifier(vec![record.clone()], LEASED, now).check("demo", Scope::BulkWrite, &headers)
    };
    assert_eq!((check(&old, TODAY_MS + 9999), check(&new, TODAY_MS + 9999)), (Ok(()), Ok(())));
    assert_eq!((check(&old, TODAY_MS + 10_000), check(&new, TODAY_MS + 10_000)), (Err(Denied::Expired), Ok(())));
}

#[test]
fn labels_are_one_of_a_kind() {
    let scope = Denied::Scope(Scope::BulkWrite);
    let all = [
        Denied::NoLease,
        Denied::Disabled,
        Denied::Missing,
        Denied::Unknown,
        Denied::Expired,
        scope,
        Denied::Ambiguous,
        Denied::InQuery,
        Denied::Client,
    ];
    let labels: std::collections::BTreeSet<_> = all.iter().map(|denied| denied.label()).collect();
    assert_eq!(labels.len(), all.len());
}
