//! `cameo cluster`, `cameo snapshot`: what operators look at and take away, before it is lost (`restore.rs` brings it back).

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context;
use cameo_auth::backup::Backup;
use cameo_auth::bucket::NatsBucket;
use cameo_eventlog::{EventLog, JetStreamLog, Partition};
use cameo_nats::Nats;
use cameo_snapshot::{Folder, Listed, Objects, Plan, Put, Reader, Store};
use clap::{Args, Subcommand};
use serde_json::Value;

use super::admin::AdminTarget;
use super::{Done, print_json};
use crate::cluster::NAME;
use crate::cluster::config::tool::NatsArgs;
use crate::out::{remark, say};

/// In a folder of exported snapshots: clients, tokens, users and admin keys.
pub(super) const CONTROL: &str = "control.json";

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
    /// Copy the newest intact snapshot of every partition out of a cluster, into a folder, and clients, tokens and users
    Export {
        /// The folder; it is made if it is not there
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
        #[command(flatten)]
        nats: NatsArgs,
    },
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
    let (mut copied, mut empty, mut lacking, mut bytes) = (0, 0, 0, 0);
    for (partition, of_it) in log.partitions().iter().zip(&plan.of) {
        let Some((one, path)) = intact(&store, of_it, &work, partition).await? else {
            if log.has_frames(partition).await? {
                remark!("partition {partition} has no snapshot yet: `cameo snapshot take` takes one");
                lacking += 1;
            } else {
                empty += 1;
            }
            continue;
        };
        if folder.put(&one.name, &path).await? == Put::Stored {
            bytes += one.bytes;
        }
        copied += 1;
    }
    fs::remove_dir_all(&work).with_context(|| format!("cannot remove {}", work.display()))?;
    let nothing = if empty > 0 { format!(" {empty} have never had anything.") } else { String::new() };
    say!("{copied} of {} partitions are in {}, {bytes} bytes new.{nothing}", log.partitions().get(), to.display())?;
    export_control(&nats, log.now().ms(), &to.join(CONTROL)).await?;
    Ok(if lacking > 0 { Done::InPart } else { Done::Whole })
}

/// Copies what the control plane has signed. The file has digests of passwords in it: it is for its owner alone.
async fn export_control(nats: &Nats, at_ms: u64, to: &Path) -> anyhow::Result<()> {
    let bucket = NatsBucket::open(nats, NAME).await?.context("there is no control bucket at this NATS")?;
    let backup = Backup::read(&bucket, at_ms).await?;
    let write = || {
        // Whole or not at all: the one of an earlier export is better than half of this one.
        let draft = to.with_extension("new");
        let _ = fs::remove_file(&draft);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(&backup.encode())?;
        file.sync_all()?;
        fs::rename(&draft, to)
    };
    write().with_context(|| format!("cannot write {}", to.display()))?;
    say!(
        "{} are in {}: keep it like passwords, and keep the control plane's signing key.",
        contents(&backup),
        to.display()
    )?;
    Ok(())
}

/// What a copy of control records has, in words.
pub(super) fn contents(backup: &Backup) -> String {
    let counted = |kind: &str, name: &str| {
        let count = backup.count(kind);
        format!("{count} {name}{}", if count == 1 { "" } else { "s" })
    };
    let [clients, users, keys] =
        [("client", "client"), ("user", "user"), ("key", "admin key")].map(|(kind, name)| counted(kind, name));
    format!("{clients} with tokens, {users} and {keys}")
}

/// A directory for files on their way, in another one.
pub(super) fn tempfile_dir(within: &Path) -> anyhow::Result<PathBuf> {
    let dir = within.join("tmp");
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    Ok(dir)
}

/// The newest snapshot of a partition that is intact, with its file; `None` when there is none at all.
pub(super) async fn intact(
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
}
