//! What the end-to-end suites share: the real server as a child process, an HTTP client that can also misbehave,
//! waiting for a state, seeded randomness. No test stands here; they are in `e2e/`, one module a promise.

pub mod admin;
pub mod balancer;
pub mod browser;
pub mod cluster;
pub mod compose;
pub mod http;
pub mod needs;
pub mod port;
pub mod process;
pub mod proxy;
pub mod random;
pub mod readme;
pub mod server;
pub mod targets;
pub mod tmpfs;
pub mod wait;
pub mod xml;
