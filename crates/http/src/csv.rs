//! Cells of CSV replies (RFC 4180) that do no harm in a spreadsheet.

/// Appends a cell. Spreadsheets run what begins like a formula, so an apostrophe keeps such a text a text.
pub fn cell(out: &mut String, text: &str) {
    let guard = if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { "'" } else { "" };
    if text.contains([',', '"', '\n', '\r']) {
        out.push('"');
        out.push_str(guard);
        out.push_str(&text.replace('"', "\"\""));
        out.push('"');
    } else {
        out.push_str(guard);
        out.push_str(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_runs_nothing_and_breaks_nothing() {
        let written = |text: &str| {
            let mut out = String::new();
            cell(&mut out, text);
            out
        };
        assert_eq!(written("plain"), "plain");
        assert_eq!(written("=1+1"), "'=1+1");
        assert_eq!(written("a,\"b\"\n"), "\"a,\"\"b\"\"\n\"");
        assert_eq!(written("@x,y"), "\"'@x,y\"");
    }
}
