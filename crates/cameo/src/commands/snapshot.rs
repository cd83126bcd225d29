//! `cameo cluster`, `cameo snapshot`, `cameo restore`: what operators do about what nodes have, and about its loss.
//!
//! Positions in a snapshot are those of its log. A new log has others, so whoever restores gives each snapshot the place
//! before the first position of the new one.

use std::collections::BTreeMap;
use std::fs;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use cameo_eventlog::frame::Lineage;
use cameo_eventlog::{
    EmbeddedLog, EmbeddedOptions, EventLog, JetStreamLog, JetStreamOptions, LogId, LogTime, Partition, PartitionCount,
    Position,
};
use cameo_nats::Nats;
use cameo_snapshot::{Folder, Head, Listed, Name, Objects, Plan, Put, Reader, Store, Writer};
use clap::{Args, Subcommand};
use serde_json::Value;

use super::admin::AdminTarget;
use super::{Done, print_json};
use crate::cluster::NAME;
use crate::cluster::config::tool::NatsArgs;
use crate::out::{remark, say};

/// Where a log begins that was restored: after this position, which the snapshots have.
const BEGINNING: Position = Position(1);

/// Nodes, and whether they have the same.
#[derive(Args, Debug)]
pub(crate) struct ClusterArgs {
    #[command(flatten)]
    target: AdminTarget,
    /// Ask every edge for position and digest of each partition, and compare them
    #[arg(long)]
    digests: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotCommand {
    /// Take a snapshot of every partition now
    Take(AdminTarget),
    /// List the snapshots that are there
    List(AdminTarget),
    /// Copy the newest intact snapshot of every partition out of a cluster, into a folder
    Export {
        /// The folder; it is made if it is not there
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
        #[command(flatten)]
        nats: NatsArgs,
    },
}

/// From where, and to where.
#[derive(Args, Debug)]
pub(crate) struct RestoreArgs {
    /// Folder of snapshots: of `cameo snapshot export`, or of `cameo standalone`
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// Of which log, if the folder has snapshots of several
    #[arg(long, value_name = "HEX")]
    log: Option<String>,
    /// Data directory of a standalone server that is made; without `--nats`
    #[arg(long, env = "CAMEO_DATA_DIR", value_name = "DIR", default_value = "./data")]
    data_dir: PathBuf,
    /// Servers that hold each frame of a cluster that is made, 1–5
    #[arg(long, env = "CAMEO_LOG_REPLICAS", value_name = "N", default_value_t = 3)]
    log_replicas: usize,
    #[command(flatten)]
    nats: NatsArgs,
}

fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or_default()
}

fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value[name].as_str().unwrap_or_default()
}

fn list<'v>(value: &'v Value, name: &str) -> &'v [Value] {
    value[name].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Shows the nodes; with digests it fails when two edges differ at the same position.
pub(crate) async fn cluster(args: ClusterArgs) -> anyhow::Result<Done> {
    let cluster = args.target.connect()?.cluster(args.digests).await?;
    let nodes = list(&cluster, "nodes");
    let differ = differing(nodes);
    if args.target.json {
        print_json(&cluster)?;
    } else {
        for node in nodes {
            let roles: Vec<_> = list(node, "roles").iter().filter_map(Value::as_str).collect();
            let state = match (node["silent"].as_bool(), node["ready"].as_bool()) {
                (Some(true), _) => "silent",
                (_, Some(true)) => "ready",
                _ => "not ready",
            };
            let (lag, profiles) = (number(node, "lagFrames"), number(node, "profiles"));
            say!("{}  {}  {state}  {profiles} profiles, {lag} frames behind", text(node, "node"), roles.join(","))?;
            for partition in list(node, "partitions") {
                let (n, position) = (number(partition, "partition"), number(partition, "position"));
                let stopped = partition["stopped"].as_str().map(|why| format!("  STOPPED: {why}")).unwrap_or_default();
                say!("  partition {n:>4}  position {position:>12}  {}{stopped}", text(partition, "digest"))?;
            }
            if let Some(error) = node["partitionsError"].as_str() {
                say!("  its partitions are not known: {error}")?;
            }
        }
        for (partition, position) in &differ {
            say!("DIFFERENT: partition {partition} at position {position} is not the same everywhere")?;
        }
    }
    Ok(if differ.is_empty() { Done::Whole } else { Done::Failed })
}

/// Partitions of which two nodes have different states at one position.
fn differing(nodes: &[Value]) -> Vec<(u64, u64)> {
    let mut seen: BTreeMap<(u64, u64), &str> = BTreeMap::new();
    let mut differ = Vec::new();
    for partition in nodes.iter().flat_map(|node| list(node, "partitions")) {
        let place = (number(partition, "partition"), number(partition, "position"));
        let digest = text(partition, "digest");
        if *seen.entry(place).or_insert(digest) != digest {
            differ.push(place);
        }
    }
    differ
}

pub(crate) async fn run(command: SnapshotCommand) -> anyhow::Result<Done> {
    match command {
        SnapshotCommand::Take(target) => {
            let taken = target.connect()?.take_snapshots().await?;
            let partitions = list(&taken, "partitions");
            if target.json {
                print_json(&taken)?;
            } else {
                for one in partitions {
                    let (n, position, outcome) =
                        (number(one, "partition"), number(one, "position"), text(one, "outcome"));
                    let error = one["error"].as_str().map(|error| format!(": {error}")).unwrap_or_default();
                    say!("partition {n:>4}  position {position:>12}  {outcome}{error}")?;
                }
                say!("Taken by {}.", text(&taken, "node"))?;
            }
            let failed = partitions.iter().any(|one| text(one, "outcome") == "failed");
            Ok(if failed { Done::InPart } else { Done::Whole })
        }
        SnapshotCommand::List(target) => {
            let there = target.connect()?.snapshots().await?;
            if target.json {
                print_json(&there)?;
            } else {
                for one in list(&there, "snapshots") {
                    let (n, position, bytes) =
                        (number(one, "partition"), number(one, "position"), number(one, "bytes"));
                    say!("partition {n:>4}  position {position:>12}  {}  {bytes:>12} bytes", text(one, "at"))?;
                }
            }
            Ok(Done::Whole)
        }
        SnapshotCommand::Export { to, nats } => export(&to, nats).await,
    }
}

async fn export(to: &Path, nats: NatsArgs) -> anyhow::Result<Done> {
    let nats = Nats::connect(&nats.resolve()?).await?;
    let log = JetStreamLog::open(&nats, NAME).await?.context("there is no log of a cluster at this NATS")?;
    let store = Store::Objects(Objects::new(&nats, NAME));
    let plan = Plan::new(log.id(), log.partitions(), store.list().await?);
    let folder = Store::Folder(Folder::new(to));
    let work = tempfile_dir(to)?;
    let (mut copied, mut bytes) = (0, 0);
    for (partition, of_it) in log.partitions().iter().zip(&plan.of) {
        let Some((one, path)) = intact(&store, of_it, &work, partition).await? else {
            remark!("partition {partition} has no snapshot: take one first if it has profiles (`cameo snapshot take`)");
            continue;
        };
        if folder.put(&one.name, &path).await? == Put::Stored {
            bytes += one.bytes;
        }
        copied += 1;
    }
    fs::remove_dir_all(&work).with_context(|| format!("cannot remove {}", work.display()))?;
    say!("{copied} of {} partitions are in {}, {bytes} bytes new.", log.partitions().get(), to.display())?;
    Ok(if copied < usize::from(log.partitions().get()) { Done::InPart } else { Done::Whole })
}

/// A directory for files on their way, in another one.
fn tempfile_dir(within: &Path) -> anyhow::Result<PathBuf> {
    let dir = within.join("tmp");
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    Ok(dir)
}

/// The newest snapshot of a partition that is intact, with its file; `None` when there is none at all.
async fn intact(
    store: &Store,
    of_it: &[Listed],
    work: &Path,
    partition: Partition,
) -> anyhow::Result<Option<(Listed, PathBuf)>> {
    let path = work.join(format!("partition-{partition}"));
    let mut last = None;
    for one in of_it {
        let fetched = match store.get(&one.name, &path).await {
            Ok(()) => Reader::open_as(&path, &one.name).map(drop).map_err(anyhow::Error::new),
            Err(error) => Err(anyhow::Error::new(error)),
        };
        match fetched {
            Ok(()) => return Ok(Some((*one, path))),
            Err(error) => {
                remark!("{} cannot be used: {error:#}", one.name);
                last = Some(error);
            }
        }
    }
    match last {
        None => Ok(None),
        Some(error) => Err(error.context(format!("no snapshot of partition {partition} is intact"))),
    }
}

pub(crate) async fn restore(args: RestoreArgs) -> anyhow::Result<Done> {
    let store = Store::Folder(Folder::new(&args.from));
    let listed = store.list().await?;
    let log = chosen(&listed, args.log.as_deref())
        .with_context(|| format!("{} cannot be restored from", args.from.display()))?;
    let first = listed.iter().find(|one| one.name.log == log).context("there is no snapshot")?;
    // Every file says how many there are.
    let partitions = Reader::open_as(&args.from.join(first.name.to_string()), &first.name)
        .map(|reader| reader.head().partitions)
        .with_context(|| format!("{} cannot be used", first.name))?;
    let plan = Plan::new(log, partitions, listed);
    if args.nats.is_given() {
        restore_cluster(args, &store, &plan, partitions).await
    } else {
        let data_dir = args.data_dir.clone();
        let profiles = restore_standalone(&data_dir, &store, &plan, partitions).await?;
        say!("{} has {profiles} profiles now. Start it: cameo standalone --data-dir {0}", data_dir.display())?;
        Ok(Done::Whole)
    }
}

/// Of which log the snapshots shall be.
fn chosen(listed: &[Listed], asked: Option<&str>) -> anyhow::Result<LogId> {
    let mut logs: Vec<_> = listed.iter().map(|one| one.name.log).collect();
    logs.sort_unstable_by_key(|log| log.0);
    logs.dedup();
    match (asked, logs.as_slice()) {
        (_, []) => bail!("there is no snapshot in it"),
        (None, [log]) => Ok(*log),
        (None, several) => {
            let names: Vec<_> = several.iter().map(ToString::to_string).collect();
            bail!("it has snapshots of several logs: name one by --log, of {}", names.join(", "))
        }
        (Some(asked), logs) => {
            let log = u128::from_str_radix(asked, 16).map(LogId).ok().filter(|log| logs.contains(log));
            log.with_context(|| format!("it has no snapshot of log {asked}"))
        }
    }
}

async fn restore_standalone(
    data_dir: &Path,
    store: &Store,
    plan: &Plan,
    partitions: PartitionCount,
) -> anyhow::Result<usize> {
    for name in ["log", "checkpoint"] {
        let path = data_dir.join(name);
        ensure!(!path.exists(), "{} is there already: a server is restored into a new data directory", path.display());
    }
    let options = EmbeddedOptions { partitions: Some(partitions), ..EmbeddedOptions::new(data_dir.join("log")) };
    let log = EmbeddedLog::open(options).context("cannot make the log")?;
    let work = tempfile_dir(data_dir)?;
    let mut profiles = 0;
    for (partition, of_it) in partitions.iter().zip(&plan.of) {
        let Some((one, path)) = intact(store, of_it, &work, partition).await? else {
            remark!("partition {partition} has no snapshot: it begins empty");
            continue;
        };
        let mut reader = Reader::open_as(&path, &one.name)?;
        ensure!(reader.head().partitions == partitions, "{} is of a log with other partitions", one.name);
        profiles += cameo_edge::restore_partition(data_dir.join("checkpoint"), &log, &mut reader)?;
    }
    fs::remove_dir_all(&work).with_context(|| format!("cannot remove {}", work.display()))?;
    Ok(profiles)
}

async fn restore_cluster(
    args: RestoreArgs,
    from: &Store,
    plan: &Plan,
    partitions: PartitionCount,
) -> anyhow::Result<Done> {
    ensure!((1..=5).contains(&args.log_replicas), "log_replicas is 1 to 5, not {}", args.log_replicas);
    let nats = Nats::connect(&args.nats.resolve()?).await?;
    let options =
        JetStreamOptions { partitions: Some(partitions), replicas: args.log_replicas, ..JetStreamOptions::new(NAME) };
    JetStreamLog::create(&nats, &options).await?;
    Objects::create(&nats, NAME, args.log_replicas).await?;
    let log = JetStreamLog::open(&nats, NAME).await?.context("the streams of the log are not there")?;
    ensure!(
        log.is_new().await?,
        "something was stored in this cluster's log already: snapshots are restored into a new one, before its edges start"
    );
    let to = Store::Objects(Objects::new(&nats, NAME));
    let work = tempfile_dir(&args.from)?;
    for (partition, of_it) in partitions.iter().zip(&plan.of) {
        let found = intact(from, of_it, &work, partition).await?;
        if found.is_none() {
            remark!("partition {partition} has no snapshot: it begins empty");
        }
        let path = work.join(format!("restored-{partition}"));
        let name = Name { partition, position: BEGINNING, log: log.id() };
        let found = found.map(|(one, path)| (one.name, path));
        move_to(&name, partitions, found, &path).with_context(|| format!("cannot prepare {name}"))?;
        to.put(&name, &path).await?;
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    // The last step: from here on nobody takes this log for one that begins with nothing.
    log.begin_after(BEGINNING).await?;
    fs::remove_dir_all(&work).with_context(|| format!("cannot remove {}", work.display()))?;
    say!(
        "The cluster's log begins with {} partitions from {}. Start its nodes.",
        partitions.get(),
        args.from.display()
    )?;
    Ok(Done::Whole)
}

/// Writes a snapshot with the pairs of another one, or none, as one of another log.
fn move_to(name: &Name, partitions: PartitionCount, from: Option<(Name, PathBuf)>, to: &Path) -> anyhow::Result<()> {
    let mut reader = from.map(|(name, path)| Reader::open_as(&path, &name)).transpose()?;
    let (at, made_at_ms, lineage) = match &reader {
        Some(reader) => {
            let head = reader.head();
            ensure!(head.partitions == partitions, "it is of a log with other partitions");
            (head.at, head.made_at_ms, head.lineage.clone())
        }
        None => (LogTime(0), 0, Lineage::new().encode()),
    };
    let (log, partition, position) = (name.log, name.partition, name.position);
    let head = Head { log, partitions, partition, position, at, made_at_ms, lineage };
    let mut writer = Writer::new(BufWriter::new(fs::File::create(to)?), &head)?;
    let (mut key, mut value) = (Vec::new(), Vec::new());
    while let Some(reader) = &mut reader {
        if !reader.next(&mut key, &mut value)? {
            break;
        }
        writer.pair(&key, &value)?;
    }
    writer.finish()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_two_states_of_one_position_are_different() {
        let node = |position: u64, digest: &str| json!({"partitions": [{"partition": 1, "position": position, "digest": digest}]});
        assert_eq!(differing(&[node(5, "a"), node(5, "a"), node(6, "b"), json!({"node": "gateway"})]), []);
        assert_eq!(differing(&[node(5, "a"), node(6, "b"), node(5, "c")]), [(1, 5)]);
    }

    #[test]
    fn a_folder_of_several_logs_needs_a_name() {
        let listed = |log: u128| Listed {
            name: Name { partition: Partition(0), position: Position(1), log: LogId(log) },
            at_ms: 1,
            bytes: 1,
        };
        assert_eq!(chosen(&[listed(1), listed(1)], None).unwrap(), LogId(1));
        assert!(chosen(&[], None).unwrap_err().to_string().contains("no snapshot"));
        assert!(chosen(&[listed(1), listed(2)], None).unwrap_err().to_string().contains("--log"));
        assert_eq!(chosen(&[listed(1), listed(2)], Some("2")).unwrap(), LogId(2));
        assert!(chosen(&[listed(1)], Some("3")).is_err());
    }
}
