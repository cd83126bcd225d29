//! The configuration of `cameo standalone`: flags, `CAMEO_*` variables and one TOML file say the same things. A flag
//! wins over a variable, a variable over the file, the file over the default. Read and checked whole before anything
//! starts.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use cameo_auth::lease::{LEASE_DEFAULT, LEASE_SECONDS};
use cameo_eventlog::Durability;
use cameo_http::tls::TlsFiles;
use cameo_profile::{ClientCode, PartitionCount, limits};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// What is logged unless told otherwise: the libraries under the checkpoint tell their steps at `info`.
pub(crate) const LOG: &str = "info,fjall=warn,lsm_tree=warn,async_nats=warn";

/// How old snapshots of a single process become by default: they only matter when its checkpoint is lost.
const SNAPSHOT_SECONDS: u64 = 3600;

/// What can be given on the command line or in the environment.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct StandaloneArgs {
    /// TOML file with the same settings, keys in snake_case
    #[arg(long, env = "CAMEO_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Address and port to listen on [default: 127.0.0.1:8080]
    #[arg(long, env = "CAMEO_LISTEN", value_name = "ADDRESS")]
    pub(crate) listen: Option<SocketAddr>,
    /// PEM file of the certificate to serve https:// with, followed by those between it and its authority
    #[arg(long, env = "CAMEO_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// PEM file of that certificate's key; both files may be replaced while it serves
    #[arg(long, env = "CAMEO_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Directory for log, checkpoint and spool [default: ./data]
    #[arg(long, env = "CAMEO_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// A client (tenant) to create if it is not there, CODE or CODE:LIFETIME_DAYS; may be given several times [default: demo]
    #[arg(long = "client", env = "CAMEO_CLIENTS", value_name = "CODE[:DAYS]", value_delimiter = ',')]
    pub(crate) clients: Vec<String>,
    /// Partitions of a new log, 1–1024; fixed once it exists [default: 16]
    #[arg(long, env = "CAMEO_PARTITIONS", value_name = "P")]
    pub(crate) partitions: Option<u32>,
    /// When an answer is given: after the disk has it, or after the system has it [default: fsync]
    #[arg(long, env = "CAMEO_DURABILITY", value_enum)]
    pub(crate) durability: Option<DurabilityArg>,
    /// Seconds between checkpoints, 1–3600 [default: 5]
    #[arg(long, env = "CAMEO_CHECKPOINT_SECONDS", value_name = "SECONDS")]
    pub(crate) checkpoint_seconds: Option<u64>,
    /// Seconds after which a partition gets a new snapshot, 1–86400; 0: none is taken unasked [default: 3600]
    #[arg(long, env = "CAMEO_SNAPSHOT_SECONDS", value_name = "SECONDS")]
    pub(crate) snapshot_seconds: Option<u64>,
    /// Directory for snapshots, best on another disk [default: DATA_DIR/snapshots]
    #[arg(long, env = "CAMEO_SNAPSHOT_DIR", value_name = "DIR")]
    pub(crate) snapshot_dir: Option<PathBuf>,
    /// Days that the log keeps what checkpoint and snapshots have, 0–3650 [default: 30]
    #[arg(long, env = "CAMEO_RETENTION_DAYS", value_name = "DAYS")]
    pub(crate) retention_days: Option<u64>,
    /// Seconds for which a node may judge tokens after it last proved to know the latest, 1–60 [default: 10]
    #[arg(long, env = "CAMEO_AUTH_LEASE_SECONDS", value_name = "SECONDS")]
    pub(crate) auth_lease_seconds: Option<u64>,
    /// Password of the first user, `admin`, of a new control store; without one, one is made up and printed once.
    /// Better given as a variable: others can see flags
    #[arg(long, env = "CAMEO_ADMIN_PASSWORD", value_name = "PASSWORD", hide_env_values = true)]
    pub(crate) admin_password: Option<Hidden>,
    /// How log lines look [default: human]
    #[arg(long, env = "CAMEO_LOG_FORMAT", value_enum)]
    pub(crate) log_format: Option<LogFormat>,
    /// What is logged, as a filter: info, debug, cameo_edge=debug,warn [default: info,fjall=warn,lsm_tree=warn,async_nats=warn]
    #[arg(long, env = "CAMEO_LOG", value_name = "FILTER")]
    pub(crate) log: Option<String>,
}

/// A secret of the configuration; prints as `***`.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub(crate) struct Hidden(pub(crate) Zeroizing<String>);

impl std::str::FromStr for Hidden {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(Zeroizing::new(text.to_owned())))
    }
}

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// When an append is acknowledged.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DurabilityArg {
    /// After fsync: a power cut loses nothing acknowledged
    Fsync,
    /// Before it: a power cut may lose the last seconds
    Buffered,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people
    Human,
    /// One JSON object a line
    Json,
}

/// The same in the file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    listen: Option<SocketAddr>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    data_dir: Option<PathBuf>,
    clients: Vec<FileClient>,
    partitions: Option<u32>,
    durability: Option<DurabilityArg>,
    checkpoint_seconds: Option<u64>,
    snapshot_seconds: Option<u64>,
    snapshot_dir: Option<PathBuf>,
    retention_days: Option<u64>,
    auth_lease_seconds: Option<u64>,
    admin_password: Option<Hidden>,
    log_format: Option<LogFormat>,
    log: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileClient {
    code: String,
    #[serde(default = "default_lifetime")]
    lifetime_days: u16,
}

pub(crate) const fn default_lifetime() -> u16 {
    limits::LIFETIME_DAYS_DEFAULT
}

/// A client (tenant) to create when it is not there yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClientConfig {
    pub(crate) code: ClientCode,
    pub(crate) lifetime_days: u16,
}

/// What holds.
#[derive(Clone, Debug)]
pub(crate) struct Standalone {
    pub(crate) listen: SocketAddr,
    pub(crate) tls: Option<TlsFiles>,
    pub(crate) data_dir: PathBuf,
    pub(crate) clients: Vec<ClientConfig>,
    /// `None`: what the log has, or the default for a new one.
    pub(crate) partitions: Option<PartitionCount>,
    pub(crate) durability: DurabilityArg,
    pub(crate) checkpoint_every: Duration,
    /// Zero: no snapshot is taken unasked.
    pub(crate) snapshot_every: Duration,
    pub(crate) snapshot_dir: PathBuf,
    pub(crate) retention: Duration,
    pub(crate) auth_lease: Duration,
    pub(crate) admin_password: Option<Hidden>,
    pub(crate) log_format: LogFormat,
    pub(crate) log: String,
}

impl From<DurabilityArg> for Durability {
    fn from(durability: DurabilityArg) -> Self {
        match durability {
            DurabilityArg::Fsync => Self::Fsync,
            DurabilityArg::Buffered => Self::Buffered,
        }
    }
}

impl StandaloneArgs {
    /// Puts flags, variables, file and defaults together, and checks all of it.
    pub(crate) fn resolve(self) -> anyhow::Result<Standalone> {
        let file = match &self.config {
            None => File::default(),
            Some(path) => {
                let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
                toml::from_str(&text).map_err(|error| not_valid(path, &text, &error))?
            }
        };
        let clients = if self.clients.is_empty() {
            let from_file: Vec<_> =
                file.clients.iter().map(|c| client(&c.code, c.lifetime_days)).collect::<Result<_, _>>()?;
            if from_file.is_empty() { vec![client("demo", default_lifetime())?] } else { from_file }
        } else {
            self.clients.iter().map(|text| parse_client(text)).collect::<Result<_, _>>()?
        };
        for (n, one) in clients.iter().enumerate() {
            ensure!(!clients[..n].iter().any(|other| other.code == one.code), "client {} is named twice", one.code);
        }
        let checkpoint_seconds = self.checkpoint_seconds.or(file.checkpoint_seconds).unwrap_or(5);
        ensure!((1..=3600).contains(&checkpoint_seconds), "checkpoint_seconds is 1 to 3600, not {checkpoint_seconds}");
        let snapshot_every = snapshot_every(self.snapshot_seconds.or(file.snapshot_seconds), SNAPSHOT_SECONDS)?;
        let retention = retention(self.retention_days.or(file.retention_days))?;
        let data_dir = self.data_dir.or(file.data_dir).unwrap_or_else(|| "./data".into());
        let lease_seconds = self.auth_lease_seconds.or(file.auth_lease_seconds).unwrap_or(LEASE_DEFAULT.as_secs());
        ensure!(LEASE_SECONDS.contains(&lease_seconds), "auth_lease_seconds is 1 to 60, not {lease_seconds}");
        let tls = match (self.tls_cert, self.tls_key) {
            (None, None) => tls_files(file.tls_cert, file.tls_key)?,
            (certificate, key) => tls_files(certificate, key)?,
        };
        Ok(Standalone {
            tls,
            listen: self.listen.or(file.listen).unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8080))),
            snapshot_dir: self.snapshot_dir.or(file.snapshot_dir).unwrap_or_else(|| data_dir.join("snapshots")),
            data_dir,
            clients,
            partitions: self.partitions.or(file.partitions).map(PartitionCount::new).transpose()?,
            durability: self.durability.or(file.durability).unwrap_or(DurabilityArg::Fsync),
            checkpoint_every: Duration::from_secs(checkpoint_seconds),
            snapshot_every,
            retention,
            auth_lease: Duration::from_secs(lease_seconds),
            admin_password: self.admin_password.or(file.admin_password),
            log_format: self.log_format.or(file.log_format).unwrap_or(LogFormat::Human),
            log: self.log.or(file.log).unwrap_or_else(|| LOG.into()),
        })
    }
}

/// Certificate and key: both, or none.
pub(crate) fn tls_files(certificate: Option<PathBuf>, key: Option<PathBuf>) -> anyhow::Result<Option<TlsFiles>> {
    match (certificate, key) {
        (Some(certificate), Some(key)) => Ok(Some(TlsFiles { certificate, key })),
        (None, None) => Ok(None),
        _ => bail!("tls_cert and tls_key go together"),
    }
}

/// How old a partition's newest snapshot becomes; zero: none is taken unasked.
pub(crate) fn snapshot_every(seconds: Option<u64>, default: u64) -> anyhow::Result<Duration> {
    let seconds = seconds.unwrap_or(default);
    ensure!(seconds <= 86_400, "snapshot_seconds is 0 to 86400, not {seconds}");
    Ok(Duration::from_secs(seconds))
}

/// How long the log keeps what is needed no more.
pub(crate) fn retention(days: Option<u64>) -> anyhow::Result<Duration> {
    let days = days.unwrap_or(30);
    ensure!(days <= 3650, "retention_days is 0 to 3650, not {days}");
    Ok(Duration::from_secs(days * 86_400))
}

/// Where and what, on one line: the library's own words draw the place over several.
pub(crate) fn not_valid(path: &Path, text: &str, error: &toml::de::Error) -> anyhow::Error {
    let line = error.span().map_or(1, |span| 1 + text.bytes().take(span.start).filter(|b| *b == b'\n').count());
    let message = error.message().lines().collect::<Vec<_>>().join(" ");
    anyhow!("{} is not a valid configuration: line {line}: {message}", path.display())
}

pub(crate) fn parse_client(text: &str) -> anyhow::Result<ClientConfig> {
    match text.split_once(':') {
        None => client(text, default_lifetime()),
        Some((code, days)) => {
            let days = days.parse().with_context(|| format!("the lifetime in {text:?} is not a number of days"))?;
            client(code, days)
        }
    }
}

pub(crate) fn client(code: &str, lifetime_days: u16) -> anyhow::Result<ClientConfig> {
    let range = 1..=limits::LIFETIME_DAYS_MAX;
    ensure!(range.contains(&lifetime_days), "the lifetime of client {code} is 1 to 90 days, not {lifetime_days}");
    let code = ClientCode::new(code).with_context(|| format!("{code:?} cannot be a client"))?;
    Ok(ClientConfig { code, lifetime_days })
}

impl Standalone {
    /// The effective values as a TOML file, secrets masked.
    pub(crate) fn to_toml(&self) -> anyhow::Result<String> {
        #[derive(Serialize)]
        struct Client<'a> {
            code: &'a str,
            lifetime_days: u16,
        }
        #[derive(Serialize)]
        struct Effective<'a> {
            listen: SocketAddr,
            #[serde(skip_serializing_if = "Option::is_none")]
            tls_cert: Option<&'a PathBuf>,
            #[serde(skip_serializing_if = "Option::is_none")]
            tls_key: Option<&'a PathBuf>,
            data_dir: &'a PathBuf,
            partitions: Option<u16>,
            durability: DurabilityArg,
            checkpoint_seconds: u64,
            snapshot_seconds: u64,
            snapshot_dir: &'a PathBuf,
            retention_days: u64,
            auth_lease_seconds: u64,
            #[serde(skip_serializing_if = "Option::is_none")]
            admin_password: Option<&'static str>,
            log_format: LogFormat,
            log: &'a str,
            clients: Vec<Client<'a>>,
        }
        let clients = self.clients.iter().map(|c| Client { code: c.code.as_str(), lifetime_days: c.lifetime_days });
        Ok(toml::to_string(&Effective {
            listen: self.listen,
            tls_cert: self.tls.as_ref().map(|files| &files.certificate),
            tls_key: self.tls.as_ref().map(|files| &files.key),
            data_dir: &self.data_dir,
            partitions: self.partitions.map(PartitionCount::get),
            durability: self.durability,
            checkpoint_seconds: self.checkpoint_every.as_secs(),
            snapshot_seconds: self.snapshot_every.as_secs(),
            snapshot_dir: &self.snapshot_dir,
            retention_days: self.retention.as_secs() / 86_400,
            auth_lease_seconds: self.auth_lease.as_secs(),
            admin_password: self.admin_password.as_ref().map(|_| "***"),
            log_format: self.log_format,
            log: &self.log,
            clients: clients.collect(),
        })?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_file(text: &str, args: StandaloneArgs) -> anyhow::Result<Standalone> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cameo.toml");
        std::fs::write(&path, text).unwrap();
        StandaloneArgs { config: Some(path), ..args }.resolve()
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let text = "listen = \"0.0.0.0:1\"\nretention_days = 7\n[[clients]]\ncode = \"shop\"\nlifetime_days = 90\n";
        let from_file = with_file(text, StandaloneArgs::default()).unwrap();
        assert_eq!((from_file.listen.port(), from_file.retention.as_secs()), (1, 7 * 86_400));
        assert_eq!((from_file.clients[0].code.as_str(), from_file.clients[0].lifetime_days), ("shop", 90));
        assert_eq!(from_file.checkpoint_every.as_secs(), 5);
        let args = StandaloneArgs {
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 2))),
            clients: vec!["a:1".into(), "b".into()],
            ..StandaloneArgs::default()
        };
        let from_flags = with_file(text, args).unwrap();
        assert_eq!(from_flags.listen.port(), 2);
        assert_eq!(from_flags.clients.iter().map(|c| c.lifetime_days).collect::<Vec<_>>(), [1, 14]);
    }

    #[test]
    fn what_is_printed_reads_back_the_same() {
        let tls = |name: &str| Some(PathBuf::from(name));
        let first = StandaloneArgs {
            clients: vec!["a:3".into()],
            tls_cert: tls("a.pem"),
            tls_key: tls("a.key"),
            ..Default::default()
        };
        let first = first.resolve().unwrap();
        assert!(first.to_toml().unwrap().contains("tls_key = \"a.key\""));
        let again = with_file(&first.to_toml().unwrap(), StandaloneArgs::default()).unwrap();
        assert_eq!(first.to_toml().unwrap(), again.to_toml().unwrap());
    }

    #[test]
    fn a_password_is_shown_nowhere() {
        let args =
            StandaloneArgs { admin_password: Some("seven green bicycles".parse().unwrap()), ..Default::default() };
        let said = format!("{args:?}");
        let config = args.resolve().unwrap();
        let said = said + &format!("{config:?}") + &config.to_toml().unwrap();
        assert!(said.contains("admin_password = \"***\"") && !said.contains("bicycles"), "{said}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let failure = |text, args| format!("{:#}", with_file(text, args).unwrap_err());
        let none = StandaloneArgs::default;
        assert!(failure("lisen = 1", none()).contains("lisen"));
        let misspelt = failure("partitions = 3\nlisen = 1\n", none());
        assert!(misspelt.contains("line 2: unknown field `lisen`") && !misspelt.contains('\n'), "{misspelt}");
        assert!(failure("partitions = 2000", none()).contains("1 to 1024 partitions, not 2000"));
        assert!(
            failure("", StandaloneArgs { clients: vec!["a:91".into()], ..none() }).contains("1 to 90 days, not 91")
        );
        assert!(failure("", StandaloneArgs { clients: vec!["a b".into()], ..none() }).contains("forbidden character"));
        assert!(
            failure("", StandaloneArgs { clients: vec!["a".into(), "a".into()], ..none() }).contains("named twice")
        );
        assert!(failure("checkpoint_seconds = 0", none()).contains("1 to 3600"));
        assert!(failure("tls_cert = \"a.pem\"", none()).contains("go together"));
    }
}
