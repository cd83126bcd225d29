//! `cameo log reappend`: an operator gives the streams of a cluster back the end that NATS has lost, out of what edges have
//! kept on their disks. Nothing is stored before the very positions have been confirmed.

use std::path::PathBuf;

use anyhow::{Context, ensure};
use cameo_eventlog::{JetStreamLog, Missing};
use cameo_nats::Nats;
use clap::{Args, Subcommand};

use super::Done;
use crate::cluster::config::tool::NatsArgs;
use crate::cluster::{NAME, RECENT};
use crate::out::say;

#[derive(Debug, Subcommand)]
pub(crate) enum LogCommand {
    /// Say what the streams have lost, and append it again in its old places once that is confirmed
    Reappend(Box<ReappendArgs>),
}

/// From what, and what.
#[derive(Args, Debug)]
pub(crate) struct ReappendArgs {
    /// Data directory of an edge, which may run or not; of several, what either has kept is used
    #[arg(long, value_name = "DIR", required = true)]
    from: Vec<PathBuf>,
    /// What shall be appended again, as this command says without it: STREAM:FIRST-LAST, separated by commas
    #[arg(long, value_name = "POSITIONS")]
    confirm: Option<String>,
    #[command(flatten)]
    nats: NatsArgs,
}

pub(crate) async fn run(LogCommand::Reappend(args): LogCommand) -> anyhow::Result<Done> {
    let nats = Nats::connect(&args.nats.resolve()?).await?;
    let log = JetStreamLog::open(&nats, NAME).await?.context("there is no log of a cluster at this NATS")?;
    let dirs: Vec<_> = args.from.iter().map(|dir| dir.join(RECENT)).collect();
    let missing = log.missing(&dirs).await?;
    if missing.is_empty() {
        say!("The streams have everything that was kept: nothing is missing.")?;
        ensure!(args.confirm.is_none(), "there is nothing to confirm");
        return Ok(Done::Whole);
    }
    let positions = confirmation(&missing);
    let Some(confirmed) = args.confirm else {
        for one in &missing {
            let (first, last) = one.span();
            say!("stream {} ends at position {}; {first} to {last} were read and are missing:", one.stream, one.last)?;
            for (partition, (frames, first, last)) in one.partitions() {
                say!("  partition {partition:>4}  {frames:>8} frames, position {first} to {last}")?;
            }
        }
        say!("All of it has been kept. To append it again, add: --confirm {positions}")?;
        return Ok(Done::Failed);
    };
    ensure!(
        confirmed == positions,
        "what is missing now is {positions}, not {confirmed}: nothing was appended; look at it without --confirm first"
    );
    for one in &missing {
        let appended = log.reappend(one).await?;
        let (first, last) = one.span();
        tracing::warn!(
            eventlog.stream = one.stream,
            frames = appended,
            first = first.0,
            last = last.0,
            "appended again"
        );
        say!("stream {}: {appended} frames appended again, {first} to {last}.", one.stream)?;
    }
    say!("Restart the edges that have stopped: they go on from where they were.")?;
    Ok(Done::Whole)
}

/// Stream, first and last position of everything that is missing.
fn confirmation(missing: &[Missing]) -> String {
    let one = |missing: &Missing| {
        let (first, last) = missing.span();
        format!("{}:{first}-{last}", missing.stream)
    };
    missing.iter().map(one).collect::<Vec<_>>().join(",")
}
