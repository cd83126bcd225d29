//! TLS to real NATS servers that ask for a certificate.

use super::*;
use crate::testing::Authority;
use crate::{ConnectError, NatsOptions};

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_over_tls_publishes_and_who_is_not_trusted_is_told() {
    let Some(servers) = Servers::start_secured(1, "", None).await else { return };
    let nats = servers.connect("secured").await;
    let stream = made(&nats, "SECURED", 1).await;
    assert_eq!(publish(&nats, "SECURED", 1).await, 1);
    read(&mut feed(&nats, &stream, "SECURED", 0), 0, 1).await;

    let dir = tempfile::tempdir().unwrap();
    let stranger = Authority::new(dir.path(), "stranger");
    let good = servers.options("another", None);
    // Another authority than the one that signed the server's certificate.
    let wrong_ca = NatsOptions { ca: Some(stranger.ca().to_owned()), ..good.clone() };
    let error = Nats::connect(&wrong_ca).await.unwrap_err();
    assert!(matches!(&error, ConnectError::Untrusted { .. }), "{error:?}");
    let said = error.to_string();
    assert!(said.contains("cannot be trusted") && said.contains("UnknownIssuer"), "{said}");
    // A certificate that the server does not trust, and none at all.
    let wrong_identity = NatsOptions { identity: Some(stranger.issue("node", &["node"])), ..good.clone() };
    for options in [wrong_identity, NatsOptions { identity: None, ..good.clone() }] {
        let error = Nats::connect(&options).await.unwrap_err();
        assert!(matches!(&error, ConnectError::Connect { .. }), "{error:?}");
    }
    assert!(Nats::connect(&good).await.is_ok());
}
