//! The admin API, as its first admin calls it.

use serde_json::Value;

use crate::http::{Request, Response};
use crate::server::{Server, Setup};

/// The first admin's password in these tests.
pub const ADMIN_PASSWORD: &str = "seven green bicycles";

/// A server whose first admin has [`ADMIN_PASSWORD`].
#[must_use]
pub fn server() -> Server {
    setup().start()
}

/// How to start one.
#[must_use]
pub fn setup() -> Setup {
    Setup::default().with(&["--admin-password", ADMIN_PASSWORD])
}

/// Calls a server's admin API by name and password.
#[derive(Clone, Copy, Debug)]
pub struct Admin<'a> {
    server: &'a Server,
}

impl<'a> Admin<'a> {
    /// Of this server.
    #[must_use]
    pub const fn new(server: &'a Server) -> Self {
        Self { server }
    }

    /// Any call.
    #[must_use]
    pub fn call(&self, request: Request) -> Response {
        self.server.send(&request.header("Authorization", &basic("admin", ADMIN_PASSWORD)))
    }

    /// GET.
    #[must_use]
    pub fn get(&self, path: &str) -> Response {
        self.call(Request::get(path))
    }

    /// POST of a JSON document.
    #[must_use]
    pub fn post(&self, path: &str, body: &Value) -> Response {
        self.call(Request::post(path, "application/json", body.to_string()))
    }

    /// PATCH with a JSON document.
    #[must_use]
    pub fn patch(&self, path: &str, body: &Value) -> Response {
        self.call(Request::new("PATCH", path).header("Content-Type", "application/json").body(body.to_string()))
    }

    /// DELETE.
    #[must_use]
    pub fn delete(&self, path: &str) -> Response {
        self.call(Request::new("DELETE", path))
    }
}

/// The value of an `Authorization` header with name and password (RFC 7617).
#[must_use]
pub fn basic(name: &str, password: &str) -> String {
    use base64::Engine as _;
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{name}:{password}")))
}
