//! The description against the router: what is described answers, and what the router takes is described.

use std::collections::BTreeSet;

use axum::body::Body;
use http::{Method, Request};

use super::Rig;

fn described() -> BTreeSet<(String, String)> {
    let description = serde_json::to_value(crate::openapi()).unwrap();
    let paths = description["paths"].as_object().unwrap().clone();
    let methods = |(path, item): (String, serde_json::Value)| {
        item.as_object().unwrap().keys().map(|method| (method.clone(), path.clone())).collect::<Vec<_>>()
    };
    paths.into_iter().flat_map(methods).collect()
}

#[tokio::test]
async fn every_route_is_described_and_nothing_else_is() {
    let routes = Rig::new().await.edge.routes().into_iter();
    let routed: BTreeSet<_> =
        routes.map(|route| (route.method.as_str().to_ascii_lowercase(), route.path.to_owned())).collect();
    assert_eq!(described(), routed);
}

#[tokio::test]
async fn every_described_route_answers() {
    let rig = Rig::new().await;
    for (method, path) in described() {
        let path = path.replace("{client}", "demo").replace("{kind}", "tnt").replace(['{', '}'], "");
        let method: Method = method.to_uppercase().parse().unwrap();
        let reply = rig.send(Request::builder().method(&method).uri(&path).body(Body::empty()).unwrap()).await;
        assert!(reply.status != 405 && !reply.text.contains("there is nothing at"), "{method} {path}: {}", reply.text);
    }
}

#[tokio::test]
async fn what_is_not_there_is_answered_in_the_words_of_its_family() {
    let rig = Rig::new().await;
    for (path, content_type) in [
        ("/v1/demo/nothing", "application/problem+json"),
        ("/rest/v2/nothing", "application/json"),
        ("/m2/demo/nothing", "application/xml; charset=UTF-8"),
    ] {
        assert_eq!(rig.get(path).await.expect(404).content_type, content_type, "{path}");
    }
    for (path, content_type) in [
        ("/v1/demo/visits", "application/problem+json"),
        ("/rest/v1/profiles/a?client=demo", "application/json"),
        ("/m2/demo/profile/update", "application/xml; charset=UTF-8"),
    ] {
        let reply = rig.call(Method::PUT, path, "", Body::empty()).await.expect(405);
        assert_eq!(reply.content_type, content_type, "{path}");
    }
}
