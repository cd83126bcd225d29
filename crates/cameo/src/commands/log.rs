//! `cameo log reappend`: an operator gives the streams of a cluster back the end that NATS has lost, out of what edges have
//! kept on their disks. Nothing is stored before the very positions have been confirmed.

use std::path::PathBuf;

use anyhow::{Context, ensure};
use cameo_control::OperatorNote;
use cameo_eventlog::{JetStreamLog, Missing};
use cameo_nats::Nats;
use clap::{Args, Subcommand};

use super::Done;
use crate::cluster::config::tool::NatsArgs;
use crate::cluster::{NAME, RECENT, audit};
use crate::out::{remark, say};

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
    /// Go on also when the control plane cannot note it in its audit log
    #[arg(long, requires = "confirm")]
    unaudited: bool,
    #[command(flatten)]
    nats: NatsArgs,
}

pub(crate) async fn run(LogCommand::Reappend(args): LogCommand) -> anyhow::Result<Done> {
    let options = args.nats.resolve()?;
    let user = options.user.as_ref().map_or(&options.name, |(user, _)| user).clone();
    let nats = Nats::connect(&options).await?;
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
    let note = |failed, detail: String| OperatorNote {
        user: user.clone(),
        from: audit::here(),
        action: "log.reappend".into(),
        target: positions.clone(),
        failed,
        detail,
    };
    // Before anything is stored: what nobody knows of has not begun.
    let begins = audit::note(&nats, NAME, &note(false, format!("begins: {}", counts(&missing)))).await;
    if let Err(error) = begins {
        ensure!(args.unaudited, "{error:#}. Nothing was appended; --unaudited goes on without");
        remark!("{error:#}; going on without");
    }
    let mut done = Ok(());
    for one in &missing {
        done = append(&log, one).await;
        if done.is_err() {
            break;
        }
    }
    let outcome = match &done {
        Ok(()) => note(false, format!("appended: {}", counts(&missing))),
        Err(error) => note(true, format!("{error:#}")),
    };
    if let Err(error) = audit::note(&nats, NAME, &outcome).await {
        remark!("{error:#}");
    }
    done?;
    say!("Restart the edges that have stopped: they go on from where they were.")?;
    Ok(Done::Whole)
}

async fn append(log: &JetStreamLog, missing: &Missing) -> anyhow::Result<()> {
    let appended = log.reappend(missing).await?;
    let (first, last) = missing.span();
    say!("stream {}: {appended} frames appended again, {first} to {last}.", missing.stream)
}

/// How many frames of which partition.
fn counts(missing: &[Missing]) -> String {
    let partitions = missing.iter().flat_map(|one| one.partitions());
    let each = partitions.map(|(partition, (frames, ..))| format!("{frames} frames of partition {partition}"));
    each.collect::<Vec<_>>().join(", ")
}

/// Stream, first and last position of everything that is missing.
fn confirmation(missing: &[Missing]) -> String {
    let one = |missing: &Missing| {
        let (first, last) = missing.span();
        format!("{}:{first}-{last}", missing.stream)
    };
    missing.iter().map(one).collect::<Vec<_>>().join(",")
}
