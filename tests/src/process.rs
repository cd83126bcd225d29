//! The binary under test: where it is, and how to run one of its commands to the end.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// The `cameo` binary: `CAMEO_BIN`, which `cargo xtask test` sets to the release build; otherwise built here, once.
///
/// # Panics
/// When there is none and it does not build.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(path) = std::env::var_os("CAMEO_BIN") {
            return path.into();
        }
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let status = Command::new(cargo).args(["build", "--package", "cameo"]).current_dir(workspace()).status();
        assert!(status.is_ok_and(|s| s.success()), "cargo build --package cameo failed");
        // This test binary is TARGET/debug/deps/e2e-…
        let exe = std::env::current_exe().expect("the path of this test");
        exe.ancestors().nth(2).expect("TARGET/debug").join("cameo")
    })
}

/// The root of the repository.
#[must_use]
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ has a parent")
}

/// The binary with `args`, in an environment without settings of ours, from no input.
#[must_use]
pub fn cameo(args: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(args).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CAMEO_") {
            command.env_remove(name);
        }
    }
    command
}

/// Runs a command of the binary to its end.
///
/// # Panics
/// When it does not start.
#[must_use]
pub fn run(args: &[&str]) -> Output {
    cameo(args).output().expect("the binary starts")
}

/// Standard output and standard error as one text, for messages.
#[must_use]
pub fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
