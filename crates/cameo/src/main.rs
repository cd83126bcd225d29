//! The one binary: parses the command line and hands over. What a command does lives in its module.

mod cluster;
mod commands;
mod config;
mod ledger;
mod nodes;
mod observe;
mod out;
mod process;
mod standalone;

use std::process::ExitCode;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    commands::run(commands::Cli::parse())
}
