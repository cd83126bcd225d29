//! README as readers have it: what it prints is what tests run, so that it cannot become wrong unnoticed.

use crate::process;

/// Its text.
///
/// # Panics
/// When it is not there.
#[must_use]
pub fn text() -> String {
    std::fs::read_to_string(process::workspace().join("README.md")).expect("README.md")
}

/// The one code block of a language (`python`, or none) that has `marker` in it.
///
/// # Panics
/// When there is none, or more than one.
#[must_use]
pub fn block(language: &str, marker: &str) -> String {
    let text = text();
    let fence = format!("```{language}\n");
    let mut lines = text.split_inclusive('\n');
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        if !line.starts_with("```") {
            continue;
        }
        let block: String = lines.by_ref().take_while(|line| !line.starts_with("```")).collect();
        if line == fence && block.contains(marker) {
            found.push(block);
        }
    }
    assert_eq!(found.len(), 1, "README has so many blocks of {language:?} with {marker:?}");
    found.remove(0)
}

/// The one command at a prompt (`$ …`, with its further lines) that begins with `start`.
///
/// # Panics
/// When there is none, or more than one.
#[must_use]
pub fn command(start: &str) -> String {
    let text = text();
    let mut lines = text.lines();
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        let Some(command) = line.strip_prefix("$ ").filter(|command| command.starts_with(start)) else { continue };
        let mut command = command.to_owned();
        while command.ends_with('\\') {
            command.push('\n');
            command.push_str(lines.next().expect("a line that was announced"));
        }
        found.push(command);
    }
    assert_eq!(found.len(), 1, "README has so many commands that begin with {start:?}");
    found.remove(0)
}
