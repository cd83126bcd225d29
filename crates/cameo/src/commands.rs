//! The command line: what commands there are, and the exit codes that scripts can rely on.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::StandaloneArgs;
use crate::standalone;

/// Cameo: an event-sourced profile store.
#[derive(Debug, Parser)]
#[command(name = "cameo", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the whole store in one process: visits, profiles, bulk files, one port
    Standalone(Box<StandaloneArgs>),
    /// Print the settings that `cameo standalone` would run with, as TOML
    Config(Box<StandaloneArgs>),
}

/// Runs a command to its end.
pub(crate) fn run(cli: Cli) -> ExitCode {
    let done = match cli.command {
        Command::Standalone(args) => standalone::run(*args),
        Command::Config(args) => args.resolve().and_then(|config| {
            print!("{}", config.to_toml()?);
            Ok(())
        }),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
