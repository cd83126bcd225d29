//! The rules of the tree that no compiler knows, checked as an ordinary test (STYLE 1, 9, 10, 11).

use std::path::Path;
use std::process::Command;

#[cfg(test)]
mod tests;

/// Lines of a source file; past it a file wants to be two.
const FILE_LINES: usize = 600;
/// Lines of the binary's `main.rs`: parse, build, serve, drain.
const MAIN_LINES: usize = 60;
/// Words that stand for unfinished work. Spelt in halves, as this file is checked as well.
const LEFT_OVERS: [&str; 6] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X:"),
    concat!("todo", "!("),
    concat!("unimplemented", "!("),
    concat!("#[ig", "nore"),
];
/// Channels without a bound.
const UNBOUNDED: [&str; 2] = [concat!("unbounded", "_channel"), concat!("mpsc::", "unbounded")];
/// Paths that exist on one machine only.
const MACHINE_PATHS: [&str; 4] =
    [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/fa", "rm/"), concat!("/tmp/", "cameo/")];
/// What the pure core may never pull in: clocks, randomness, runtimes, the network.
const IMPURE: [&str; 16] = [
    "tokio",
    "async-std",
    "smol",
    "futures",
    "futures-util",
    "mio",
    "rand",
    "getrandom",
    "fastrand",
    "time",
    "chrono",
    "jiff",
    "hyper",
    "http",
    "reqwest",
    "axum",
];
/// The one file of the tests that may sleep: everything else waits for a state with it.
const SLEEPS_IN: &str = "tests/src/wait.rs";

/// Checks the whole tree; the error lists every finding.
pub(crate) fn run(root: &Path) -> Result<(), String> {
    let mut findings = Vec::new();
    for path in tracked_files(root)? {
        // Binary files (golden frames, archives) have no lines to judge.
        if let Ok(text) = std::fs::read_to_string(root.join(&path)) {
            check_file(&path, &text, &mut findings);
        }
    }
    check_core(root, &mut findings)?;
    if findings.is_empty() { Ok(()) } else { Err(format!("the tree is not tidy:\n{}", findings.join("\n"))) }
}

/// Tracked files, and new ones that are not ignored.
fn tracked_files(root: &Path) -> Result<Vec<String>, String> {
    let listed = output(Command::new("git").current_dir(root).args(["ls-files", "-co", "--exclude-standard"]))?;
    Ok(listed.lines().filter(|path| root.join(path).is_file()).map(str::to_owned).collect())
}

fn check_file(path: &str, text: &str, findings: &mut Vec<String>) {
    let mut note = |what: String| findings.push(format!("{path}: {what}"));
    if path != "Cargo.lock" {
        for (number, line) in text.lines().enumerate() {
            if let Some(found) = MACHINE_PATHS.iter().find(|p| line.contains(*p)) {
                note(format!("line {}: a path of one machine ({found})", number + 1));
            }
        }
    }
    if path.starts_with("crates/") && path.ends_with("/Cargo.toml") || path == "tests/Cargo.toml" {
        check_manifest(text, &mut note);
    }
    if !path.ends_with(".rs") {
        return;
    }
    if !text.starts_with("//!") {
        note("does not start with //! and what it is".into());
    }
    let lines = text.lines().count();
    if lines > FILE_LINES {
        note(format!("{lines} lines; the limit is {FILE_LINES}"));
    }
    if path.ends_with("/main.rs") && path.starts_with("crates/") && lines > MAIN_LINES {
        note(format!("{lines} lines; a main.rs has at most {MAIN_LINES}"));
    }
    if path.ends_with("/mod.rs") {
        note("a module is foo.rs beside foo/, not foo/mod.rs".into());
    }
    for (number, line) in text.lines().enumerate() {
        let number = number + 1;
        if let Some(word) = LEFT_OVERS.iter().find(|w| line.contains(*w)) {
            note(format!("line {number}: left over: {word}"));
        }
        if let Some(word) = UNBOUNDED.iter().find(|w| line.contains(*w)) {
            note(format!("line {number}: {word}: every queue has a bound"));
        }
        if path.starts_with("tests/") && path != SLEEPS_IN && line.contains("sleep(") {
            note(format!("line {number}: tests wait for a state (see {SLEEPS_IN}), not for time"));
        }
    }
}

/// Every version stands in the root manifest, and every crate takes the workspace's lints.
fn check_manifest(text: &str, note: &mut impl FnMut(String)) {
    let mut in_dependencies = false;
    let mut lints = false;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(section) = line.strip_prefix('[') {
            in_dependencies = section.trim_end_matches(']').ends_with("dependencies");
            lints |= line == "[lints]";
        } else if in_dependencies && line.contains('=') && !line.starts_with('#') && line.contains(['"', '{']) {
            let names_version = line.contains("version") || !line.contains('{');
            if names_version && !line.contains("workspace") {
                note(format!("line {}: versions stand in [workspace.dependencies]", number + 1));
            }
        }
    }
    if !lints {
        note("has no [lints] workspace = true".into());
    }
}

/// The dependency tree of the pure core (STYLE 1).
fn check_core(root: &Path, findings: &mut Vec<String>) -> Result<(), String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = ["tree", "--package", "cameo-profile", "--edges", "normal", "--prefix", "none", "--format", "{p}"];
    let tree = output(Command::new(cargo).current_dir(root).args(arguments))?;
    for name in tree.lines().filter_map(|line| line.split(' ').next()) {
        if IMPURE.contains(&name) {
            findings.push(format!("crates/profile: depends on {name}; the core has no IO, clock or randomness"));
        }
    }
    Ok(())
}

fn output(command: &mut Command) -> Result<String, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|e| format!("{program}: {e}"))?;
    if !output.status.success() {
        return Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
