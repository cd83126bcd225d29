//! The configuration of the roles of a cluster: flags, `CAMEO_*` variables and a TOML file with the same names. A flag
//! wins over a variable, a variable over the file, the file over the default.

/// Fields that are not given here are taken from the file. It stands first, as only what comes after it can use it.
macro_rules! or_file {
    ($args:ident, $file:ident: $($field:ident)*) => { $( $args.$field = $args.$field.take().or($file.$field.take()); )* };
}

mod servers;
pub(crate) mod tool;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use cameo_auth::lease::{LEASE_DEFAULT, LEASE_SECONDS};
use cameo_auth::seal::Verifying;
use cameo_edge::{SPOOL_BYTES_DEFAULT, SpoolConfig};
use cameo_http::tls::TlsFiles;
use cameo_nats::NatsOptions;
use cameo_profile::PartitionCount;
use clap::Args;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use servers::Servers;

use crate::config::{
    ClientConfig, Hidden, LOG, LogFormat, client, default_lifetime, not_valid, parse_client, retention, snapshot_every,
    tls_files,
};

/// Seconds that a process goes on serving after SIGTERM.
const DRAIN_SECONDS: u64 = 5;
/// How old the snapshots of a cluster become by default: an edge that joins replays as much of the log.
const SNAPSHOT_SECONDS: u64 = 300;

/// What may wait for the edges by default, in bytes: as in an edge's spool. NATS sets so much of its disk aside.
const VISITS_BYTES_DEFAULT: i64 = 1 << 30;

/// The least that spool, log and waiting visits may be limited to, in bytes: the largest event fits.
const MEGABYTE: u64 = 1_000_000;

/// What every role is told.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct CommonArgs {
    /// TOML file with the same settings, keys in snake_case
    #[arg(long, env = "CAMEO_CONFIG", value_name = "FILE")]
    #[serde(skip)]
    config: Option<PathBuf>,
    /// Address and port to listen on [default: 127.0.0.1:8080]
    #[arg(long, env = "CAMEO_LISTEN", value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// PEM file of the certificate to serve https:// with, followed by those between it and its authority
    #[arg(long, env = "CAMEO_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// PEM file of that certificate's key; both files may be replaced while it serves
    #[arg(long, env = "CAMEO_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Directory for what this node keeps [default: ./data]
    #[arg(long, env = "CAMEO_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Name of this node, one of a kind in the cluster, of a-z A-Z 0-9 - _
    #[arg(long, env = "CAMEO_NODE", value_name = "NAME")]
    node: Option<String>,
    /// Seconds for which a node may judge tokens after it last proved to know the latest, 1–60 [default: 10]
    #[arg(long, env = "CAMEO_AUTH_LEASE_SECONDS", value_name = "SECONDS")]
    auth_lease_seconds: Option<u64>,
    /// Seconds to go on serving after SIGTERM, with /readyz saying no, 0–300 [default: 5]
    #[arg(long, env = "CAMEO_DRAIN_SECONDS", value_name = "SECONDS")]
    drain_seconds: Option<u64>,
    /// How log lines look [default: human]
    #[arg(long, env = "CAMEO_LOG_FORMAT", value_enum)]
    log_format: Option<LogFormat>,
    /// What is logged, as a filter: info, debug, cameo_edge=debug,warn [default: info,fjall=warn,lsm_tree=warn,async_nats=warn]
    #[arg(long, env = "CAMEO_LOG", value_name = "FILTER")]
    log: Option<String>,
}

/// What an edge is told.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct EdgeArgs {
    #[command(flatten)]
    #[serde(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    #[serde(flatten)]
    nats: Servers,
    /// Keys of the file that nothing here knows.
    #[arg(skip)]
    #[serde(flatten)]
    unknown: Unknown,
    /// The control plane's public key, 64 hexadecimal digits
    #[arg(long, env = "CAMEO_CONTROL_KEY", value_name = "HEX")]
    control_key: Option<String>,
    /// File with the control plane's public key
    #[arg(long, env = "CAMEO_CONTROL_KEY_FILE", value_name = "FILE", conflicts_with = "control_key")]
    control_key_file: Option<PathBuf>,
    /// Seconds between checkpoints, 1–3600 [default: 5]
    #[arg(long, env = "CAMEO_CHECKPOINT_SECONDS", value_name = "SECONDS")]
    checkpoint_seconds: Option<u64>,
    /// Seconds after which some edge takes a new snapshot of a partition, 1–86400; 0: none is taken unasked [default: 300]
    #[arg(long, env = "CAMEO_SNAPSHOT_SECONDS", value_name = "SECONDS")]
    snapshot_seconds: Option<u64>,
    /// Directory for visits that come while the log does not take any: they are answered 202, and go into the log when it
    /// is back. It belongs to this node's data; without one they are answered 503
    #[arg(long, env = "CAMEO_SPOOL", value_name = "DIR")]
    spool: Option<PathBuf>,
    /// Most bytes of visits in the spool; further ones are answered 503 [default: 1073741824]
    #[arg(long, env = "CAMEO_SPOOL_MAX_BYTES", value_name = "BYTES")]
    spool_max_bytes: Option<u64>,
}

/// What a gateway is told.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct GatewayArgs {
    #[command(flatten)]
    #[serde(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    #[serde(flatten)]
    nats: Servers,
    /// Keys of the file that nothing here knows.
    #[arg(skip)]
    #[serde(flatten)]
    unknown: Unknown,
    /// The control plane's public key, 64 hexadecimal digits
    #[arg(long, env = "CAMEO_CONTROL_KEY", value_name = "HEX")]
    control_key: Option<String>,
    /// File with the control plane's public key
    #[arg(long, env = "CAMEO_CONTROL_KEY_FILE", value_name = "FILE", conflicts_with = "control_key")]
    control_key_file: Option<PathBuf>,
}

/// What a control plane is told.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ControlArgs {
    #[command(flatten)]
    #[serde(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    #[serde(flatten)]
    nats: Servers,
    /// Keys of the file that nothing here knows.
    #[arg(skip)]
    #[serde(flatten)]
    unknown: Unknown,
    /// File with the key that signs records; made if it is not there [default: DATA_DIR/signing.key]
    #[arg(long, env = "CAMEO_SIGNING_KEY_FILE", value_name = "FILE")]
    signing_key_file: Option<PathBuf>,
    /// URL by which the admin pages reach the edges [default: http://127.0.0.1:8081]
    #[arg(long, env = "CAMEO_EDGE_URL", value_name = "URL")]
    edge_url: Option<String>,
    /// URL by which the admin pages reach the gateway [default: http://127.0.0.1:8082]
    #[arg(long, env = "CAMEO_GATEWAY_URL", value_name = "URL")]
    gateway_url: Option<String>,
    /// PEM file of the authorities that edges and gateway at https:// are trusted by [default: the system's]
    #[arg(long, env = "CAMEO_NODE_CA", value_name = "FILE")]
    node_ca: Option<PathBuf>,
    /// A client (tenant) to create if it is not there, CODE or CODE:LIFETIME_DAYS; may be given several times [default: demo]
    #[arg(long = "client", env = "CAMEO_CLIENTS", value_name = "CODE[:DAYS]", value_delimiter = ',')]
    clients: Vec<String>,
    /// Password of the first user, `admin`, of a new control store; without one, one is made up and printed once.
    /// Better given as a variable or in a file: others can see flags
    #[arg(long, env = "CAMEO_ADMIN_PASSWORD", value_name = "PASSWORD", hide_env_values = true)]
    admin_password: Option<Hidden>,
    /// File with that password
    #[arg(long, env = "CAMEO_ADMIN_PASSWORD_FILE", value_name = "FILE", conflicts_with = "admin_password")]
    admin_password_file: Option<PathBuf>,
    /// NATS servers that hold each frame and record, 1–5; fixed once the streams exist [default: 3]
    #[arg(long, env = "CAMEO_LOG_REPLICAS", value_name = "N")]
    log_replicas: Option<usize>,
    /// Most bytes of the log; a full log refuses visits, it forgets nothing [default: the disks' size]
    #[arg(long, env = "CAMEO_LOG_MAX_BYTES", value_name = "BYTES")]
    log_max_bytes: Option<i64>,
    /// Most bytes of visits of NATS producers that wait for the edges, and as many of them as that has kilobytes; then
    /// NATS refuses further ones [default: 1073741824]
    #[arg(long, env = "CAMEO_VISITS_MAX_BYTES", value_name = "BYTES")]
    visits_max_bytes: Option<i64>,
    /// Partitions of a new log, 1–1024; fixed once it exists [default: 16]
    #[arg(long, env = "CAMEO_PARTITIONS", value_name = "P")]
    partitions: Option<u32>,
    /// Days that the log keeps what two snapshots of each partition have, 0–3650 [default: 30]
    #[arg(long, env = "CAMEO_RETENTION_DAYS", value_name = "DAYS")]
    retention_days: Option<u64>,
}

/// What holds for every role.
#[derive(Clone, Debug)]
pub(crate) struct Common {
    pub(crate) listen: SocketAddr,
    pub(crate) tls: Option<TlsFiles>,
    pub(crate) data_dir: PathBuf,
    pub(crate) nats: NatsOptions,
    pub(crate) auth_lease: Duration,
    pub(crate) drain: Duration,
    pub(crate) log_format: LogFormat,
    pub(crate) log: String,
}

/// What holds for an edge.
#[derive(Clone, Debug)]
pub(crate) struct EdgeConfig {
    pub(crate) common: Common,
    pub(crate) control_key: Verifying,
    pub(crate) checkpoint_every: Duration,
    /// Zero: no snapshot is taken unasked.
    pub(crate) snapshot_every: Duration,
    pub(crate) spool: Option<SpoolConfig>,
}

/// What holds for a gateway.
#[derive(Clone, Debug)]
pub(crate) struct GatewayConfig {
    pub(crate) common: Common,
    pub(crate) control_key: Verifying,
}

/// What holds for a control plane.
#[derive(Clone, Debug)]
pub(crate) struct ControlConfig {
    pub(crate) common: Common,
    pub(crate) signing_key_file: PathBuf,
    pub(crate) edge_url: String,
    pub(crate) gateway_url: String,
    pub(crate) node_ca: Option<PathBuf>,
    pub(crate) clients: Vec<ClientConfig>,
    pub(crate) admin_password: Option<Hidden>,
    pub(crate) log_replicas: usize,
    pub(crate) log_max_bytes: i64,
    pub(crate) visits_max_bytes: i64,
    pub(crate) partitions: Option<PartitionCount>,
    pub(crate) retention: Duration,
}

/// Keys of a file, with what they hold.
type Unknown = BTreeMap<String, toml::Value>;

fn file<T: DeserializeOwned + Default>(path: Option<&Path>, unknown: impl FnOnce(&T) -> &Unknown) -> anyhow::Result<T> {
    let Some(path) = path else { return Ok(T::default()) };
    let text = read(path)?;
    let parsed = toml::from_str(&text).map_err(|error| not_valid(path, &text, &error))?;
    if let Some(key) = unknown(&parsed).keys().next() {
        bail!("{} is not a valid configuration: unknown field `{key}`", path.display());
    }
    Ok(parsed)
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// A secret of one line.
fn secret(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    let text = Zeroizing::new(read(path)?);
    let line = text.trim_end_matches(['\r', '\n']);
    ensure!(!line.is_empty(), "{} is empty", path.display());
    Ok(Zeroizing::new(line.to_owned()))
}

impl CommonArgs {
    fn or(&mut self, mut file: Self) {
        if self.tls_cert.is_none() && self.tls_key.is_none() {
            or_file!(self, file: tls_cert tls_key);
        }
        or_file!(self, file: listen data_dir node auth_lease_seconds drain_seconds log_format log);
    }

    fn resolve(self, nats: Servers) -> anyhow::Result<Common> {
        let name = self.node.context("a node of a cluster needs a name: --node or CAMEO_NODE")?;
        let nats = nats.resolve(&name)?;
        let lease_seconds = self.auth_lease_seconds.unwrap_or(LEASE_DEFAULT.as_secs());
        ensure!(LEASE_SECONDS.contains(&lease_seconds), "auth_lease_seconds is 1 to 60, not {lease_seconds}");
        let drain_seconds = self.drain_seconds.unwrap_or(DRAIN_SECONDS);
        ensure!(drain_seconds <= 300, "drain_seconds is 0 to 300, not {drain_seconds}");
        Ok(Common {
            tls: tls_files(self.tls_cert, self.tls_key)?,
            listen: self.listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8080))),
            data_dir: self.data_dir.unwrap_or_else(|| "./data".into()),
            nats,
            auth_lease: Duration::from_secs(lease_seconds),
            drain: Duration::from_secs(drain_seconds),
            log_format: self.log_format.unwrap_or(LogFormat::Human),
            log: self.log.unwrap_or_else(|| LOG.into()),
        })
    }
}

impl EdgeArgs {
    /// Puts flags, variables, file and defaults together, and checks all of it.
    pub(crate) fn resolve(mut self) -> anyhow::Result<EdgeConfig> {
        let mut file: Self = file(self.common.config.as_deref(), |file: &Self| &file.unknown)?;
        if self.control_key.is_none() && self.control_key_file.is_none() {
            or_file!(self, file: control_key control_key_file);
        }
        or_file!(self, file: checkpoint_seconds snapshot_seconds spool spool_max_bytes);
        self.common.or(file.common);
        self.nats.or(file.nats);
        let common = self.common.resolve(self.nats)?;
        let control_key = control_key(self.control_key, self.control_key_file.as_deref())?;
        let checkpoint_seconds = self.checkpoint_seconds.unwrap_or(5);
        ensure!((1..=3600).contains(&checkpoint_seconds), "checkpoint_seconds is 1 to 3600, not {checkpoint_seconds}");
        let max_bytes = self.spool_max_bytes.unwrap_or(SPOOL_BYTES_DEFAULT);
        ensure!(max_bytes >= MEGABYTE, "spool_max_bytes is a megabyte (1000000) or more, not {max_bytes}");
        let spool = self.spool.map(|dir| SpoolConfig { dir, max_bytes });
        ensure!(
            spool.is_some() || self.spool_max_bytes.is_none(),
            "spool_max_bytes says how large the spool may be: it needs --spool, its directory"
        );
        let snapshot_every = snapshot_every(self.snapshot_seconds, SNAPSHOT_SECONDS)?;
        Ok(EdgeConfig {
            common,
            control_key,
            checkpoint_every: Duration::from_secs(checkpoint_seconds),
            snapshot_every,
            spool,
        })
    }
}

impl GatewayArgs {
    /// Puts flags, variables, file and defaults together, and checks all of it.
    pub(crate) fn resolve(mut self) -> anyhow::Result<GatewayConfig> {
        let mut file: Self = file(self.common.config.as_deref(), |file: &Self| &file.unknown)?;
        if self.control_key.is_none() && self.control_key_file.is_none() {
            or_file!(self, file: control_key control_key_file);
        }
        self.common.or(file.common);
        self.nats.or(file.nats);
        let common = self.common.resolve(self.nats)?;
        let control_key = control_key(self.control_key, self.control_key_file.as_deref())?;
        Ok(GatewayConfig { common, control_key })
    }
}

fn control_key(key: Option<String>, file: Option<&Path>) -> anyhow::Result<Verifying> {
    let key = match (key, file) {
        (Some(key), _) => key,
        (None, Some(path)) => read(path)?,
        (None, None) => bail!("a node needs the control plane's public key: --control-key or --control-key-file"),
    };
    Verifying::from_hex(&key).context("the control plane's public key")
}

impl ControlArgs {
    /// Puts flags, variables, file and defaults together, and checks all of it.
    pub(crate) fn resolve(mut self) -> anyhow::Result<ControlConfig> {
        let mut file: Self = file(self.common.config.as_deref(), |file: &Self| &file.unknown)?;
        or_file!(self, file: signing_key_file edge_url gateway_url node_ca log_replicas log_max_bytes visits_max_bytes partitions);
        or_file!(self, file: retention_days);
        if self.admin_password.is_none() && self.admin_password_file.is_none() {
            or_file!(self, file: admin_password admin_password_file);
        }
        if self.clients.is_empty() {
            self.clients = file.clients;
        }
        self.common.or(file.common);
        self.nats.or(file.nats);
        let common = self.common.resolve(self.nats)?;
        let clients = if self.clients.is_empty() {
            vec![client("demo", default_lifetime())?]
        } else {
            self.clients.iter().map(|text| parse_client(text)).collect::<Result<_, _>>()?
        };
        let admin_password = match (self.admin_password, self.admin_password_file) {
            (Some(_), Some(_)) => bail!("admin_password and admin_password_file say the same: give one of them"),
            (None, Some(path)) => Some(Hidden(secret(&path)?)),
            (given, None) => given,
        };
        let log_replicas = self.log_replicas.unwrap_or(3);
        ensure!((1..=5).contains(&log_replicas), "log_replicas is 1 to 5, not {log_replicas}");
        let log_max_bytes = self.log_max_bytes.unwrap_or(-1);
        ensure!(
            log_max_bytes == -1 || log_max_bytes >= MEGABYTE as i64,
            "log_max_bytes is a megabyte (1000000) or more, or -1"
        );
        let visits_max_bytes = self.visits_max_bytes.unwrap_or(VISITS_BYTES_DEFAULT);
        ensure!(
            visits_max_bytes >= MEGABYTE as i64,
            "visits_max_bytes is a megabyte (1000000) or more, not {visits_max_bytes}"
        );
        Ok(ControlConfig {
            signing_key_file: self.signing_key_file.unwrap_or_else(|| common.data_dir.join("signing.key")),
            edge_url: self.edge_url.unwrap_or_else(|| "http://127.0.0.1:8081".into()),
            gateway_url: self.gateway_url.unwrap_or_else(|| "http://127.0.0.1:8082".into()),
            node_ca: self.node_ca,
            clients,
            admin_password,
            log_replicas,
            log_max_bytes,
            visits_max_bytes,
            partitions: self.partitions.map(PartitionCount::new).transpose()?,
            retention: retention(self.retention_days)?,
            common,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge(text: &str, args: EdgeArgs) -> anyhow::Result<EdgeConfig> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("edge.toml");
        std::fs::write(&path, text).unwrap();
        let common = CommonArgs { config: Some(path), ..args.common };
        EdgeArgs { common, ..args }.resolve()
    }

    const KEY: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let text = format!("node = \"e1\"\nnats = [\"nats://a:1\", \"nats://b:2\"]\ncontrol_key = \"{KEY}\"\n");
        let from_file = edge(&text, EdgeArgs::default()).unwrap();
        assert_eq!((from_file.common.nats.name.as_str(), from_file.common.nats.urls.len()), ("e1", 2));
        assert_eq!(from_file.common.drain.as_secs(), 5);
        let args = EdgeArgs {
            common: CommonArgs { node: Some("e2".into()), ..Default::default() },
            nats: Servers::at("nats://c:3"),
            ..Default::default()
        };
        let from_flags = edge(&text, args).unwrap();
        assert_eq!(from_flags.common.nats.name, "e2");
        assert_eq!(from_flags.common.nats.urls, ["nats://c:3"]);
    }

    #[test]
    fn a_control_plane_takes_its_first_password_as_it_is_or_in_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        std::fs::write(&path, "in a file it is\n").unwrap();
        let config = dir.path().join("control.toml");
        std::fs::write(&config, "node = \"c\"\nnats = [\"nats://x\"]\nadmin_password = \"of the file\"\n").unwrap();
        let resolve = |password: Option<&str>, file: Option<&Path>| {
            let common = CommonArgs { config: Some(config.clone()), ..Default::default() };
            let admin_password = password.map(|text| text.parse().unwrap());
            let file = file.map(Path::to_owned);
            ControlArgs { common, admin_password, admin_password_file: file, ..Default::default() }.resolve()
        };
        let taken = |password, file| resolve(password, file).unwrap().admin_password.map(|taken| taken.0.to_string());
        assert_eq!(taken(None, None).as_deref(), Some("of the file"));
        assert_eq!(taken(Some("given itself"), None).as_deref(), Some("given itself"));
        assert_eq!(taken(None, Some(&path)).as_deref(), Some("in a file it is"));
        assert!(resolve(Some("both"), Some(&path)).unwrap_err().to_string().contains("one of them"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let failure = |text: &str| format!("{:#}", edge(text, EdgeArgs::default()).unwrap_err());
        let good = format!("node = \"e1\"\nnats = [\"nats://a:1\"]\ncontrol_key = \"{KEY}\"\n");
        assert!(failure("lisen = 1").contains("unknown field `lisen`"));
        assert!(failure("nats = [\"nats://x\"]\n").contains("--node"));
        assert!(failure("node = \"e1\"\nnats = [\"nats://x\"]\n").contains("--control-key"));
        assert!(failure("node = \"e1\"\nnats = [\"http://x\"]\n").contains("\"http://x\" is no NATS server"));
        assert!(failure(&good.replace("\"e1\"", "\"e 1\"")).contains("\"e 1\" has not"));
        assert!(failure(&good.replace("nats =", "nats_user = \"x\"\nnats =")).contains("--nats-password-file"));
        assert!(failure(&good.replace(KEY, "00")).contains("64 hexadecimal digits"));
        assert!(failure(&good.replace(KEY, &"4".repeat(64))).contains("damaged"));
        assert!(failure(&format!("{good}drain_seconds = 301")).contains("0 to 300"));
        assert!(failure(&format!("{good}spool_max_bytes = 2000000")).contains("needs --spool"));
        assert!(
            failure(&format!("{good}spool = \"s\"\nspool_max_bytes = 999999")).contains("a megabyte (1000000) or more")
        );
        assert!(edge(&format!("{good}spool = \"s\"\nspool_max_bytes = 1000000"), EdgeArgs::default()).is_ok());
        assert!(failure(&format!("{good}nats_ca = \"/none/such\"")).contains("cannot read /none/such"));
    }
}
