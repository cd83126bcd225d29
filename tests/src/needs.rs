//! Whether this machine has an optional part; `cargo xtask` looks for them and names them in `CAMEO_HAVE`.

/// A file system of the test's own can be mounted.
pub const TMPFS: &str = "tmpfs";
/// A Chromium and its chromedriver.
pub const BROWSER: &str = "browser";
/// A NATS server that tests can start: `CAMEO_NATS_SERVER`.
pub const NATS: &str = "nats";
/// The Python client of NATS: in `CAMEO_NATS_PY`, for `PYTHONPATH`.
pub const NATS_PY: &str = "nats-py";
/// Docker with Compose, and images for `docker-compose.yml`: real ones, or stand-ins built here.
pub const DOCKER: &str = "docker";
/// The whole real access log lies beside the repository.
pub const ACCESS_LOG: &str = "access-log";

/// Whether `name` is here. When not, the test that asks is left out, and says so.
///
/// # Panics
/// With `CI=true`, where nothing may be left out.
#[must_use]
pub fn have(name: &str) -> bool {
    let listed = std::env::var("CAMEO_HAVE").unwrap_or_default();
    if listed.split(' ').any(|n| n == name) {
        return true;
    }
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "CI=true, and `{name}` is missing: start with cargo xtask test"
    );
    eprintln!("LEFT OUT: needs {name}; `cargo xtask needs` says why");
    false
}

/// Where the Python client of NATS is.
#[must_use]
pub fn nats_py() -> std::ffi::OsString {
    std::env::var_os("CAMEO_NATS_PY").unwrap_or_default()
}
