//! Calls of the admin API: tokens, settings, clients, users, keys, audit.

use std::path::Path;

use http::Method;
use serde_json::{Value, json};

use crate::encode;
use crate::error::Error;
use crate::transport::{Call, Transport};

/// Talks to a control plane, as a user or with an admin key. Cheap to clone; clones share connections.
///
/// Changes are answered when every node has confirmed them, which takes milliseconds, or as long as the lease of a node
/// that is cut off. None is retried: a rotation that was answered late would make another secret.
#[derive(Clone, Debug)]
pub struct Admin {
    transport: Transport,
    code: String,
}

/// A role for a client; `*` is all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Client code or `*`.
    pub client: String,
    /// `observer`, `editor`, `approver` or `admin`.
    pub role: String,
}

fn roles(grants: &[Grant]) -> Value {
    grants.iter().map(|grant| json!({"client": grant.client, "role": grant.role})).collect()
}

impl Admin {
    /// For the control plane at `url` and the client code `code`, without credentials yet.
    ///
    /// # Errors
    /// When the URL is none, or of https where the system has no authorities to trust it by.
    pub fn new(url: &str, code: &str) -> Result<Self, Error> {
        Self::trusting(url, code, None)
    }

    /// As [`Self::new`]; with `ca`, a PEM file, only its authorities are trusted.
    ///
    /// # Errors
    /// Also when the file holds none.
    pub fn trusting(url: &str, code: &str, ca: Option<&Path>) -> Result<Self, Error> {
        Ok(Self { transport: Transport::new(url, ca)?, code: code.to_owned() })
    }

    /// Calls as a user (HTTP Basic).
    ///
    /// # Errors
    /// When name or password cannot stand in a header.
    pub fn with_password(mut self, user: &str, password: &str) -> Result<Self, Error> {
        self.transport.set_basic(user, password)?;
        Ok(self)
    }

    /// Calls with an admin key.
    ///
    /// # Errors
    /// When the key cannot stand in a header.
    pub fn with_key(mut self, key: &str) -> Result<Self, Error> {
        self.transport.set_token(key)?;
        Ok(self)
    }

    async fn get(&self, path: String) -> Result<Value, Error> {
        self.transport.json(Call::new(Method::GET, path).retry(true)).await
    }

    async fn call(&self, method: Method, path: String, body: &Value) -> Result<Value, Error> {
        self.transport.json(Call::new(method, path).json(body.to_string().into_bytes())).await
    }

    fn of_client(&self, rest: &str) -> String {
        format!("/v1/{}/{rest}", encode(&self.code))
    }

    /// The nodes: `{revision, nodes: […]}`; with `digests` each edge also says what it has of every partition.
    ///
    /// # Errors
    /// As [`Self::tokens`].
    pub async fn cluster(&self, digests: bool) -> Result<Value, Error> {
        self.get(if digests { "/v1/cluster?digests=true" } else { "/v1/cluster" }.to_owned()).await
    }

    /// Snapshots of partitions that are there: `{snapshots: […]}`.
    ///
    /// # Errors
    /// As [`Self::tokens`].
    pub async fn snapshots(&self) -> Result<Value, Error> {
        self.get("/v1/cluster/snapshots".to_owned()).await
    }

    /// Takes a snapshot of every partition that moved since its last one: `{node, partitions: […]}`.
    ///
    /// # Errors
    /// As [`Self::tokens`].
    pub async fn take_snapshots(&self) -> Result<Value, Error> {
        self.call(Method::POST, "/v1/cluster/snapshots".to_owned(), &json!({})).await
    }

    /// The client's tokens: `{tokens: […]}`.
    ///
    /// # Errors
    /// When it was refused, or the server could not be reached; so for all calls here.
    pub async fn tokens(&self) -> Result<Value, Error> {
        self.get(self.of_client("tokens")).await
    }

    /// Makes a token; the reply has its secret as `accessToken`.
    ///
    /// # Errors
    /// As [`Self::tokens`].
    pub async fn create_token(&self, name: &str, scopes: &[String], expires_in: Option<u64>) -> Result<Value, Error> {
        let body = json!({"name": name, "scopes": scopes, "expiresIn": expires_in});
        self.call(Method::POST, self.of_client("tokens"), &body).await
    }

    /// Replaces the secret of a token; the old one dies, or stays good for `grace_seconds`.
    ///
    /// # Errors
    /// As [`Self::tokens`].
    pub async fn rotate_token(&self, id: &str, grace_seconds: u64, expires_in: Option<u64>) -> Result<Value, Error> {
        let body = json!({"graceSeconds": grace_seconds, "expiresIn": expires_in});
        self.call(Method::POST, self.of_client(&format!("tokens/{}/rotate", encode(id))), &body).await
    }

    /// Ends the old secret of a token whose grace runs.
    ///
    /// # Errors
    /// As [`Self::tokens`].
    pub async fn kill_grace(&self, id: &str) -> Result<Value, Error> {
        self.call(Method::POST, self.of_client(&format!("tokens/{}/kill", encode(id))), &json!({})).await
    }

    /// Ends a token.
    ///
    /// # Errors
    /// As [`Self::tokens`].
    pub async fn revoke_token(&self, id: &str) -> Result<Value, Error> {
        self.call(Method::DELETE, self.of_client(&format!("tokens/{}", encode(id))), &json!({})).await
    }

    /// The client's settings.
    ///
    /// # Errors
    /// As [`Self::tokens`].
    pub async fn settings(&self) -> Result<Value, Error> {
        self.get(self.of_client("settings")).await
    }

    /// Changes settings of the client.
    ///
    /// # Errors
    /// As [`Self::tokens`].
    pub async fn change_settings(&self, settings: &Value) -> Result<Value, Error> {
        self.call(Method::PATCH, self.of_client("settings"), settings).await
    }

    /// The clients that the caller may see: `{clients: […]}`.
    ///
    /// # Errors
    /// As [`Self::tokens`].
    pub async fn clients(&self) -> Result<Value, Error> {
        self.get("/v1/clients".into()).await
    }

    /// Makes a client; `settings` may be any of its settings.
    ///
    /// # Errors
    /// As [`Self::tokens`].
    pub async fn create_client(&self, code: &str, settings: &Value) -> Result<Value, Error> {
        let mut body = settings.clone();
        body["code"] = json!(code);
        self.call(Method::POST, "/v1/clients".into(), &body).await
    }

    /// Makes a secret to sign ids of persons with; the reply has it as `identitySecret`. The one before ends, or stays good
    /// for `grace_seconds`.
    ///
    /// # Errors
    /// As [`Self::tokens`].
    pub async fn rotate_identity_secret(&self, grace_seconds: u64) -> Result<Value, Error> {
        let body = json!({"graceSeconds": grace_seconds});
        self.call(Method::POST, self.of_client("identity-secret"), &body).await
    }

    /// All users: `{users: […]}`.
    ///
    /// # Errors
    /// As [`Self::tokens`].
    pub async fn users(&self) -> Result<Value, Error> {
        self.get("/v1/users".into()).await
    }

    /// Makes a user.
    ///
    /// # Errors
    /// As [`Self::tokens`].
    pub async fn create_user(&self, name: &str, password: &str, grants: &[Grant]) -> Result<Value, Error> {
        let body = json!({"name": name, "password": password, "roles": roles(grants)});
        self.call(Method::POST, "/v1/users".into(), &body).await
    }

    /// Gives a user another password; one's own needs the present one too.
    ///
    /// # Errors
    /// As [`Self::tokens`].
    pub async fn set_password(&self, name: &str, password: &str, current: Option<&str>) -> Result<Value, Error> {
        let body = json!({"password": password, "current": current});
        self.call(Method::POST, format!("/v1/users/{}/password", encode(name)), &body).await
    }

    /// Gives a user other roles.
    ///
    /// # Errors
    /// As [`Self::tokens`].
    pub async fn set_roles(&self, name: &str, grants: &[Grant]) -> Result<Value, Error> {
        self.call(Method::PATCH, format!("/v1/users/{}", encode(name)), &json!({"roles": roles(grants)})).await
    }

    /// Removes a user.
    ///
    /// # Errors
    /// As [`Self::tokens`].
    pub async fn remove_user(&self, name: &str) -> Result<Value, Error> {
        self.call(Method::DELETE, format!("/v1/users/{}", encode(name)), &json!({})).await
    }

    /// A page of the audit log, newest first: of the client, or of everything.
    ///
    /// # Errors
    /// As [`Self::tokens`].
    pub async fn audit(&self, of_all: bool, limit: usize, before: Option<u64>) -> Result<Value, Error> {
        self.get(self.audit_path(of_all, limit, before)).await
    }

    /// The same as CSV.
    ///
    /// # Errors
    /// As [`Self::tokens`].
    pub async fn audit_csv(&self, of_all: bool, limit: usize, before: Option<u64>) -> Result<String, Error> {
        let path = format!("{}&format=csv", self.audit_path(of_all, limit, before));
        let reply = self.transport.send(Call::new(Method::GET, path).retry(true)).await?;
        String::from_utf8(reply.body.into()).map_err(|error| Error::BadReply(error.to_string()))
    }

    fn audit_path(&self, of_all: bool, limit: usize, before: Option<u64>) -> String {
        let base = if of_all { "/v1/audit".to_owned() } else { self.of_client("audit") };
        let before = before.map(|before| format!("&before={before}")).unwrap_or_default();
        format!("{base}?limit={limit}{before}")
    }
}
