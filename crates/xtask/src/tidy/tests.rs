//! The tree itself, and that each rule can fail.

use super::*;

#[test]
fn the_tree_is_tidy() {
    let root = crate::root();
    if let Err(findings) = run(&root) {
        panic!("{findings}");
    }
}

fn findings_of(path: &str, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    check_file(path, text, &mut findings);
    findings
}

#[test]
fn a_tidy_file_has_no_findings() {
    assert_eq!(findings_of("crates/a/src/lib.rs", "//! It does a thing.\n"), Vec::<String>::new());
}

#[test]
fn every_rule_finds_its_breach() {
    let long = format!("//! x\n{}", "\n".repeat(FILE_LINES));
    let main = format!("//! x\n{}", "\n".repeat(MAIN_LINES));
    let cases = [
        ("crates/a/src/lib.rs", "fn a() {}\n".to_owned(), "does not start"),
        ("crates/a/src/lib.rs", long, "601 lines"),
        ("crates/a/src/main.rs", main, "61 lines"),
        ("crates/a/src/b/mod.rs", "//! x\n".to_owned(), "mod.rs"),
        ("crates/a/src/lib.rs", format!("//! x\n// {} later\n", LEFT_OVERS[0]), "line 2: left over"),
        ("crates/a/src/lib.rs", format!("//! x\nlet c = {}();\n", UNBOUNDED[0]), "every queue has a bound"),
        ("README.md", format!("see {}main\n", MACHINE_PATHS[0]), "a path of one machine"),
        ("tests/e2e/a.rs", format!("//! x\nthread::{}(d);\n", "sleep"), "wait for a state"),
        ("crates/a/Cargo.toml", "[dependencies]\nserde = \"1\"\n[lints]\n".to_owned(), "line 2: versions"),
        ("crates/a/Cargo.toml", "[dependencies]\nserde.workspace = true\n".to_owned(), "[lints]"),
    ];
    for (path, text, expected) in cases {
        let findings = findings_of(path, &text);
        assert!(findings.len() == 1 && findings[0].contains(expected), "{path}: {expected}: {findings:?}");
    }
}

#[test]
fn workspace_dependencies_are_tidy_in_every_spelling() {
    let text =
        "[dependencies]\na.workspace = true\nb = { workspace = true, features = [\"x\"] }\n[lints]\nworkspace = true\n";
    assert_eq!(findings_of("crates/a/Cargo.toml", text), Vec::<String>::new());
}
