//! `cargo xtask test`: everything that can be proven on this machine, with one command.
//!
//! Two builds, no more: the release binary that the end-to-end tests drive, and the workspace's tests in the dev
//! profile, where overflow checks and debug assertions are on. The end-to-end suite comes last, and its summary ends
//! the output.

use std::path::Path;
use std::process::Command;

use crate::needs;

/// Builds, then runs doc tests and all test binaries; `args` go to the latter.
pub(crate) fn run(root: &Path, args: &[String]) -> Result<(), String> {
    let survey = needs::survey(root);
    survey.print();
    if survey.leaves_out() && std::env::var("CI").is_ok_and(|ci| ci == "true") {
        return Err("CI=true: nothing may be left out".into());
    }

    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let command = |args: &[&str]| {
        let mut command = Command::new(&cargo);
        command.current_dir(root).args(args);
        command
    };

    run_step(&mut command(&["build", "--release", "--package", "cameo"]))?;
    let binary = target_dir(root).join("release").join(format!("cameo{}", std::env::consts::EXE_SUFFIX));

    let docs = run_step(&mut command(&["test", "--workspace", "--doc", "--quiet"]));
    let mut tests = command(&["test", "--workspace", "--all-targets", "--no-fail-fast", "--"]);
    tests.args(args).env("CAMEO_BIN", binary).env("CAMEO_HAVE", survey.have());
    tests.env("CAMEO_NATS_SERVER", needs::nats_server(root)).env("CAMEO_NATS_PY", needs::nats_py_dir(root));
    run_step(&mut tests)?;
    docs
}

/// Where this build of xtask came from is where cargo builds the rest: `TARGET/debug/xtask`.
fn target_dir(root: &Path) -> std::path::PathBuf {
    let exe = std::env::current_exe().ok();
    exe.as_deref().and_then(|exe| exe.ancestors().nth(2)).map_or_else(|| root.join("target"), Path::to_owned)
}

fn run_step(command: &mut Command) -> Result<(), String> {
    let words: Vec<_> = command.get_args().map(|a| a.to_string_lossy().into_owned()).collect();
    let line = format!("cargo {}", words.join(" "));
    eprintln!("$ {line}");
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("`{line}` failed: {status}")),
        Err(error) => Err(format!("`{line}` did not start: {error}")),
    }
}
