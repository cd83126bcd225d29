//! `cameo restore`: a new cluster, or a new standalone server, from what was taken away before the old one was lost.
//!
//! Positions in a snapshot are those of its log. A new log has others, so whoever restores gives each snapshot the place
//! before the first position of the new one. Snapshots of partitions are of different moments, so all are read first, to find
//! what they said to each other about links, and then copied with that made to fit (cameo-profile, state/moments.rs).

use std::fs;
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use cameo_auth::backup::Backup;
use cameo_auth::bucket::{LocalBucket, NatsBucket};
use cameo_auth::seal::Sealer;
use cameo_eventlog::frame::Lineage;
use cameo_eventlog::{
    EmbeddedLog, EmbeddedOptions, EventLog, JetStreamLog, JetStreamOptions, LogId, LogTime, Partition, PartitionCount,
    Position,
};
use cameo_nats::Nats;
use cameo_profile::state::{Agreed, Moments};
use cameo_snapshot::{Folder, Head, Listed, Name, Objects, Plan, Reader, Store, Writer};
use clap::Args;
use clap::builder::RangedU64ValueParser;

use super::Done;
use super::snapshot::{CONTROL, contents, intact, tempfile_dir};
use crate::cluster::NAME;
use crate::cluster::config::tool::NatsArgs;
use crate::out::{remark, say};

/// Where a log begins that was restored: after this position, which the snapshots have.
const BEGINNING: Position = Position(1);

/// The variable that a control plane takes the same file by.
const SIGNING_KEY_FILE: &str = "CAMEO_SIGNING_KEY_FILE";

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
    #[arg(long, env = "CAMEO_LOG_REPLICAS", value_name = "N", default_value_t = 3,
        value_parser = RangedU64ValueParser::<usize>::new().range(1..=5))]
    log_replicas: usize,
    /// The signing key of the control plane that is lost: with it clients, tokens, users and admin keys come back too, as
    /// they were when they were exported
    #[arg(long, env = SIGNING_KEY_FILE, value_name = "FILE")]
    signing_key_file: Option<PathBuf>,
    #[command(flatten)]
    nats: NatsArgs,
}

pub(crate) async fn run(args: RestoreArgs) -> anyhow::Result<Done> {
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
    // Before anything is written.
    let (control, remark) = control(&args)?;
    let done = if args.nats.is_given() {
        restore_cluster(args, &store, &plan, partitions, control).await?
    } else {
        let data_dir = args.data_dir.clone();
        let control_dir = data_dir.join("control");
        ensure!(
            control.is_none() || !control_dir.exists(),
            "{} is there already: a server is restored into a new data directory",
            control_dir.display()
        );
        let profiles = restore_standalone(&args.from, &data_dir, &store, &plan, partitions).await?;
        if let Some(control) = &control {
            restore_control(&control_dir, control).await?;
        }
        say!("{} has {profiles} profiles now. Start it: cameo standalone --data-dir {0}", data_dir.display())?;
        Done::Whole
    };
    remark!("{remark}");
    Ok(done)
}

/// Control records, and the key that has signed them.
struct Control {
    backup: Backup,
    key: Sealer,
}

/// What is restored of clients, tokens and users, with what to say of it when all is done.
fn control(args: &RestoreArgs) -> anyhow::Result<(Option<Control>, String)> {
    let path = args.from.join(CONTROL);
    if !path.exists() {
        // The variable is there in every container of a control plane, also for folders of a standalone server.
        let by_variable = std::env::var_os(SIGNING_KEY_FILE).map(PathBuf::from);
        ensure!(
            args.signing_key_file.is_none() || args.signing_key_file == by_variable,
            "there is no {}, which a signing key is wanted for",
            path.display()
        );
        let remark = format!(
            "profiles and batches alone are restored: {} has no {CONTROL}. Clients, tokens and users are made anew",
            args.from.display()
        );
        return Ok((None, remark));
    }
    let used = || format!("{} cannot be used", path.display());
    let backup = Backup::decode(&fs::read(&path).with_context(used)?).with_context(used)?;
    let as_of = jiff::Timestamp::from_millisecond(i64::try_from(backup.at_ms).unwrap_or_default()).unwrap_or_default();
    let Some(key) = &args.signing_key_file else {
        let remark = format!(
            "profiles and batches alone are restored. The {} of {as_of:.0} are not: --signing-key-file names the key of the \
             control plane that signed them",
            contents(&backup)
        );
        return Ok((None, remark));
    };
    ensure!(key.exists(), "there is no signing key {}", key.display());
    let key = cameo_control::signing_key(key)?;
    backup.check(&key.verifying()).with_context(used)?;
    let remark = format!(
        "the {} are as of {as_of:.0}: what was rotated, revoked or removed after that is good again. Do it once more",
        contents(&backup)
    );
    Ok((Some(Control { backup, key }), remark))
}

/// The control store of a standalone server.
async fn restore_control(dir: &Path, Control { backup, key }: &Control) -> anyhow::Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let path = dir.join("signing.key");
    let write = || {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(format!("{}\n", *key.to_hex()).as_bytes())?;
        file.sync_all()
    };
    write().with_context(|| format!("cannot write {}", path.display()))?;
    backup.write(&LocalBucket::open(&dir.join("records"))?).await?;
    Ok(())
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

/// Snapshots that are restored, one of each partition.
struct Whole {
    folder: PathBuf,
    partitions: PartitionCount,
    /// The newest intact one of each partition, if it has any.
    of: Vec<Option<Name>>,
    agreed: Agreed,
}

impl Whole {
    /// Finds them, and what their partitions said to each other. `work` is for files that are gone afterwards.
    async fn find(
        folder: &Path,
        store: &Store,
        plan: &Plan,
        partitions: PartitionCount,
        work: &Path,
    ) -> anyhow::Result<Self> {
        let mut moments = Moments::new(partitions);
        let mut of = Vec::with_capacity(plan.of.len());
        for (partition, of_it) in partitions.iter().zip(&plan.of) {
            let Some((one, path)) = intact(store, of_it, work, partition).await? else {
                remark!("partition {partition} has no snapshot: it begins empty");
                of.push(None);
                continue;
            };
            let name = one.name;
            note(&mut moments, &name, partitions, &path).with_context(|| format!("{name} cannot be used"))?;
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
            of.push(Some(name));
        }
        let agreed = moments.agree();
        if agreed.is_lossy() {
            remark!(
                "the snapshots are of different moments: addresses that were linked, or unlinked, in between may begin anew"
            );
        }
        Ok(Self { folder: folder.to_owned(), partitions, of, agreed })
    }

    /// Whether a partition has nothing to begin with, not even numbers.
    fn is_empty(&self, partition: Partition) -> bool {
        self.of[partition.index()].is_none() && self.agreed.numbers(partition).is_none()
    }

    /// Writes what a partition begins with as a snapshot of another log.
    fn write(&self, name: &Name, to: &Path) -> anyhow::Result<()> {
        let (log, partition, position) = (name.log, name.partition, name.position);
        let from = self.of[partition.index()].as_ref();
        let mut reader = from.map(|name| Reader::open_as(&self.folder.join(name.to_string()), name)).transpose()?;
        let (at, made_at_ms, lineage) = match &reader {
            Some(reader) => (reader.head().at, reader.head().made_at_ms, reader.head().lineage.clone()),
            None => (LogTime(0), 0, Lineage::new().encode()),
        };
        let head = Head { log, partitions: self.partitions, partition, position, at, made_at_ms, lineage };
        let mut writer = Writer::new(BufWriter::new(fs::File::create(to)?), &head)?;
        let mut numbers = self.agreed.numbers(partition);
        let (mut key, mut value) = (Vec::new(), Vec::new());
        while let Some(reader) = &mut reader
            && reader.next(&mut key, &mut value)?
        {
            // Keys rise.
            if let Some((own, numbers)) = numbers.take_if(|(own, _)| *own <= key) {
                writer.pair(&own, &numbers)?;
            }
            if self.agreed.keeps(partition, &key, &value) {
                writer.pair(&key, &value)?;
            }
        }
        if let Some((own, numbers)) = numbers {
            writer.pair(&own, &numbers)?;
        }
        writer.finish()?;
        Ok(())
    }
}

/// Takes note of what a snapshot says about its partition's links.
fn note(moments: &mut Moments, name: &Name, partitions: PartitionCount, path: &Path) -> anyhow::Result<()> {
    let mut reader = Reader::open_as(path, name)?;
    ensure!(reader.head().partitions == partitions, "it is of a log with other partitions");
    let (mut key, mut value) = (Vec::new(), Vec::new());
    while reader.next(&mut key, &mut value)? && moments.note(name.partition, &key, &value)? {}
    Ok(())
}

async fn restore_standalone(
    from: &Path,
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
    let whole = Whole::find(from, store, plan, partitions, &work).await?;
    let mut profiles = 0;
    for partition in partitions.iter().filter(|partition| !whole.is_empty(*partition)) {
        let name = Name { partition, position: Position::START, log: log.id() };
        let path = work.join(format!("restored-{partition}"));
        whole.write(&name, &path).with_context(|| format!("cannot prepare partition {partition}"))?;
        let mut reader = Reader::open_as(&path, &name)?;
        profiles += cameo_edge::restore_partition(data_dir.join("checkpoint"), &log, &mut reader)?;
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    fs::remove_dir_all(&work).with_context(|| format!("cannot remove {}", work.display()))?;
    Ok(profiles)
}

async fn restore_cluster(
    args: RestoreArgs,
    from: &Store,
    plan: &Plan,
    partitions: PartitionCount,
    control: Option<Control>,
) -> anyhow::Result<Done> {
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
    if let Some(control) = &control {
        NatsBucket::create(&nats, NAME, args.log_replicas).await?;
        let bucket = NatsBucket::open(&nats, NAME).await?.context("the control bucket is not there")?;
        control.backup.write(&bucket).await?;
    }
    let to = Store::Objects(Objects::new(&nats, NAME));
    let work = tempfile_dir(&args.from)?;
    let whole = Whole::find(&args.from, from, plan, partitions, &work).await?;
    for partition in partitions.iter() {
        let path = work.join(format!("restored-{partition}"));
        let name = Name { partition, position: BEGINNING, log: log.id() };
        whole.write(&name, &path).with_context(|| format!("cannot prepare {name}"))?;
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
    if control.is_some() {
        say!("Its control plane needs the same signing key, and nodes have the same control key as before.")?;
    }
    Ok(Done::Whole)
}

#[cfg(test)]
mod tests {
    use super::*;

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
