//! `cargo xtask`: the project's own commands. It only starts other programs; no test lives here but those of the
//! tree itself ([`tidy`]).

mod needs;
mod test;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "\
cargo xtask test [ARGS…]   build the release binary and run every test; ARGS go to the test binaries, e.g. a name
cargo xtask tidy           check the rules of the tree: headers, lengths, dependencies
cargo xtask needs          list what optional tests need and whether it is here";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let result = match args.next().as_deref() {
        Some("test") => test::run(&root(), &args.collect::<Vec<_>>()),
        Some("tidy") => tidy::run(&root()),
        Some("needs") => {
            needs::survey(&root()).print();
            Ok(())
        }
        _ => Err(USAGE.to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

/// The workspace this binary was built from.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}
