//! Routers that cannot have a route without saying who may use it, and that print what they have.
//!
//! Edge, gateway and control plane build theirs with [`Routes`]; a test of the binary compares all lines with a golden
//! file, so a new route changes that file under a reviewer's eyes (STYLE 7).

use std::fmt;

use axum::Router;
use axum::handler::Handler;
use axum::routing::{MethodFilter, MethodRouter, on};
use http::Method;

use crate::role::{Action, Scope};
use crate::verifier::Verifier;

/// Who may use a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    Public,
    /// Who holds a token with this scope, once the client requires authentication.
    Token(Scope),
    /// Who is signed in, or holds an admin key, with a role that may do this.
    Role(Action),
    /// Who is signed in, whatever the role.
    SignedIn,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Public => f.write_str("public"),
            Self::Token(scope) => write!(f, "token {}", scope.as_str()),
            Self::Role(action) => write!(f, "role {} ({})", action.least().as_str(), action.as_str()),
            Self::SignedIn => f.write_str("signed in"),
        }
    }
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteAccess {
    /// GET, POST, …
    pub method: Method,
    /// As the router has it.
    pub path: &'static str,
    /// Who may.
    pub access: Access,
}

impl fmt::Display for RouteAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<6} {:<52} {}", self.method.as_str(), self.path, self.access)
    }
}

/// Puts a guard in front of a route.
pub trait Guard<S> {
    /// The route, behind what its access asks for.
    fn guard(&self, access: Access, route: MethodRouter<S>) -> MethodRouter<S>;
}

/// Token routes behind the verifier. It knows no people: role routes are the control plane's.
impl<S: Clone + Send + Sync + 'static> Guard<S> for Verifier {
    fn guard(&self, access: Access, route: MethodRouter<S>) -> MethodRouter<S> {
        match access {
            Access::Public => route,
            Access::Token(scope) => route.layer(self.layer(scope)),
            Access::Role(_) | Access::SignedIn => {
                panic!("a route for people needs the control plane's guard")
            }
        }
    }
}

/// A router in the making.
pub struct Routes<S, G> {
    router: Router<S>,
    guard: G,
    table: Vec<RouteAccess>,
}

impl<S: Clone + Send + Sync + 'static, G: Guard<S>> Routes<S, G> {
    /// Without a route yet.
    pub fn new(guard: G) -> Self {
        Self { router: Router::new(), guard, table: Vec::new() }
    }

    /// Adds a route for one method. A GET route answers HEAD as well.
    ///
    /// # Panics
    /// When the router has it already, or the method is none that a router knows: at start, and in every test.
    pub fn on<H, T>(mut self, method: Method, path: &'static str, access: Access, handler: H) -> Self
    where
        H: Handler<T, S>,
        T: 'static,
    {
        #[expect(clippy::expect_used, reason = "methods are literals in the route tables")]
        let filter = MethodFilter::try_from(method.clone()).expect("a method of HTTP");
        let route = self.guard.guard(access, on(filter, handler));
        self.router = self.router.route(path, route);
        self.table.push(RouteAccess { method, path, access });
        self
    }

    /// Adds a GET route.
    pub fn get<H: Handler<T, S>, T: 'static>(self, path: &'static str, access: Access, handler: H) -> Self {
        self.on(Method::GET, path, access, handler)
    }

    /// Adds a POST route.
    pub fn post<H: Handler<T, S>, T: 'static>(self, path: &'static str, access: Access, handler: H) -> Self {
        self.on(Method::POST, path, access, handler)
    }

    /// Adds a PATCH route.
    pub fn patch<H: Handler<T, S>, T: 'static>(self, path: &'static str, access: Access, handler: H) -> Self {
        self.on(Method::PATCH, path, access, handler)
    }

    /// Adds a DELETE route.
    pub fn delete<H: Handler<T, S>, T: 'static>(self, path: &'static str, access: Access, handler: H) -> Self {
        self.on(Method::DELETE, path, access, handler)
    }

    /// The router and its table.
    pub fn finish(self) -> (Router<S>, Vec<RouteAccess>) {
        (self.router, self.table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Notes what it is asked to guard.
    #[derive(Clone, Default)]
    struct Noting(std::sync::Arc<parking_lot::Mutex<Vec<Access>>>);

    impl Guard<()> for Noting {
        fn guard(&self, access: Access, route: MethodRouter) -> MethodRouter {
            self.0.lock().push(access);
            route
        }
    }

    #[test]
    fn every_route_is_guarded_and_stands_in_the_table() {
        let guard = Noting::default();
        let routes = Routes::<(), _>::new(guard.clone())
            .get("/healthz", Access::Public, || async {})
            .post("/v1/{client}/visits", Access::Token(Scope::VisitsWrite), || async {})
            .patch("/v1/users/{name}", Access::Role(Action::UserManage), || async {})
            .delete("/v1/session", Access::SignedIn, || async {});
        let (_, table) = routes.finish();
        assert_eq!(table.iter().map(|route| route.access).collect::<Vec<_>>(), *guard.0.lock());
        let lines: Vec<_> =
            table.iter().map(|route| route.to_string().split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        let expected = [
            "GET /healthz public",
            "POST /v1/{client}/visits token visits:write",
            "PATCH /v1/users/{name} role admin (user.manage)",
            "DELETE /v1/session signed in",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    #[should_panic(expected = "needs the control plane's guard")]
    fn a_route_for_people_is_not_left_open_behind_the_verifier() {
        let verifier = Verifier::fixed(Vec::new());
        let _ = Routes::<(), _>::new(verifier).get("/v1/users", Access::Role(Action::UserManage), || async {});
    }
}
