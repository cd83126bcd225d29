//! `cameo token|auth|user|client|audit`: what operators do with the control plane.

use std::io::{BufRead as _, IsTerminal as _};
use std::path::PathBuf;

use anyhow::Context;
use cameo_client::{Admin, Grant};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{Done, Usage, print_json};
use crate::out::{remark, say};

/// Where an admin command goes, and as whom.
#[derive(Args, Clone)]
pub(crate) struct AdminTarget {
    /// URL of the server
    #[arg(long, env = "CAMEO_URL", default_value = "http://127.0.0.1:8080")]
    url: String,
    /// Client (tenant) code
    #[arg(long, env = "CAMEO_CLIENT", default_value = "demo")]
    client: String,
    /// PEM file of the authorities that an https:// server is trusted by [default: the system's]
    #[arg(long, env = "CAMEO_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// User; the password comes from CAMEO_PASSWORD, or is asked for
    #[arg(long, env = "CAMEO_USER", default_value = "admin")]
    user: String,
    /// Admin API key, instead of user and password
    #[arg(long, env = "CAMEO_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// Print JSON for scripts
    #[arg(long)]
    pub(super) json: bool,
}

impl std::fmt::Debug for AdminTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdminTarget").field("url", &self.url).field("user", &self.user).finish_non_exhaustive()
    }
}

impl AdminTarget {
    pub(super) fn connect(&self) -> anyhow::Result<Admin> {
        let admin = Admin::trusting(&self.url, &self.client, self.ca.as_deref())?;
        if let Some(key) = &self.api_key {
            return Ok(admin.with_key(key)?);
        }
        let password = match std::env::var("CAMEO_PASSWORD") {
            Ok(password) => Zeroizing::new(password),
            Err(_) => ask(&format!("Password of {}: ", self.user), "CAMEO_PASSWORD or --api-key")?,
        };
        Ok(admin.with_password(&self.user, &password)?)
    }

    /// Prints a reply: as it is for scripts, or what `people` says of it with how every node was confirmed.
    fn show(&self, reply: &Value, people: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Done> {
        if self.json {
            print_json(reply)?;
        } else {
            people()?;
            confirmed(&reply["confirmation"])?;
        }
        Ok(Done::Whole)
    }
}

/// Reads a secret without showing it; from a pipe, its first line.
fn ask(prompt: &str, instead: &str) -> anyhow::Result<Zeroizing<String>> {
    if std::io::stdin().is_terminal() {
        return rpassword::prompt_password(prompt).map(Zeroizing::new).context("cannot read the password");
    }
    let mut line = Zeroizing::new(String::new());
    std::io::stdin().lock().read_line(&mut line).context("cannot read the password")?;
    let text = line.trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        return Err(Usage(format!("a password is needed: give {instead}, or write it to standard input")).into());
    }
    Ok(Zeroizing::new(text.to_owned()))
}

fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value[name].as_str().unwrap_or_default()
}

/// How every node was confirmed.
fn confirmed(confirmation: &Value) -> anyhow::Result<()> {
    let Some(nodes) = confirmation["nodes"].as_array() else { return Ok(()) };
    for node in nodes {
        let after = node["afterMs"].as_u64().unwrap_or(0);
        let how = match text(node, "how") {
            "reported" => format!("has reported it, after {after} ms"),
            "left" => "has left".to_owned(),
            _ => format!("is silent; its lease was over after {after} ms"),
        };
        say!("  {} {how}", text(node, "node"))?;
    }
    say!("Confirmed by every node after {} ms.", confirmation["tookMs"].as_u64().unwrap_or(0))
}

/// `90d`, `12h`, `30m`, `45s` or plain seconds.
fn seconds(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a time like 30d, 12h, 15m or 3600");
    let (number, unit) = match text.char_indices().find(|(_, c)| !c.is_ascii_digit()) {
        None => (text, 1),
        Some((at, _)) => match &text[at..] {
            "s" => (&text[..at], 1),
            "m" => (&text[..at], 60),
            "h" => (&text[..at], 3600),
            "d" => (&text[..at], 86_400),
            _ => return Err(wrong()),
        },
    };
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).ok_or_else(wrong)
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token; its secret is printed once
    Create {
        #[command(flatten)]
        target: AdminTarget,
        /// What it is called
        name: String,
        /// What it opens: profile:read, profile:write, bulk:write, visits:write; may be given several times
        #[arg(long = "scope", required = true, value_delimiter = ',')]
        scopes: Vec<String>,
        /// How long it is good: 1h to 365d [default: 30d]
        #[arg(long, value_parser = seconds)]
        expires_in: Option<u64>,
    },
    /// List tokens, never their secrets
    List {
        #[command(flatten)]
        target: AdminTarget,
    },
    /// Replace the secret of a token; when this returns, no node accepts the old one
    Rotate {
        #[command(flatten)]
        target: AdminTarget,
        /// Name or id
        token: String,
        /// Keep the old secret good for so long, at most 7d
        #[arg(long, value_parser = seconds, default_value = "0")]
        grace: u64,
        /// How long the new secret is good: 1h to 365d [default: as long as the old one was]
        #[arg(long, value_parser = seconds)]
        expires_in: Option<u64>,
    },
    /// End a token, or with --old-only the old secret whose grace still runs
    Revoke {
        #[command(flatten)]
        target: AdminTarget,
        /// Name or id
        token: String,
        /// Only the old secret; the new one lives
        #[arg(long)]
        old_only: bool,
    },
}

/// The id of a token by its name or id.
async fn id_of(admin: &Admin, token: &str) -> anyhow::Result<String> {
    let listed = admin.tokens().await?;
    let tokens = listed["tokens"].as_array().map(Vec::as_slice).unwrap_or_default();
    let by_id = tokens.iter().find(|one| text(one, "id") == token);
    // An expired one may have the name of one that lives.
    let by_name = || tokens.iter().rfind(|one| text(one, "name") == token);
    let found = by_id.or_else(by_name).map(|one| text(one, "id").to_owned());
    found.ok_or_else(|| {
        anyhow::Error::new(cameo_client::Error::Refused {
            status: 404,
            message: format!("there is no token {token:?}"),
            retry_after: None,
        })
    })
}

fn secret(reply: &Value) -> anyhow::Result<()> {
    remark!(
        "Token {}, good until {}. Shown this once:",
        text(&reply["token"], "name"),
        text(&reply["token"], "expiresAt")
    );
    say!("{}", text(reply, "accessToken"))
}

pub(crate) async fn token(command: TokenCommand) -> anyhow::Result<Done> {
    match command {
        TokenCommand::Create { target, name, scopes, expires_in } => {
            let reply = target.connect()?.create_token(&name, &scopes, expires_in).await?;
            target.show(&reply, || secret(&reply))
        }
        TokenCommand::List { target } => {
            let reply = target.connect()?.tokens().await?;
            target.show(&reply, || {
                for token in reply["tokens"].as_array().into_iter().flatten() {
                    let scopes: Vec<_> =
                        token["scopes"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
                    let used = token["lastUsedAt"].as_str().unwrap_or("never");
                    let state = if token["expired"] == true { "expired" } else { "good until" };
                    say!(
                        "{}  {}  {state} {}  last used {used}  {}",
                        text(token, "id"),
                        text(token, "name"),
                        text(token, "expiresAt"),
                        scopes.join(" ")
                    )?;
                }
                Ok(())
            })
        }
        TokenCommand::Rotate { target, token, grace, expires_in } => {
            let admin = target.connect()?;
            let id = id_of(&admin, &token).await?;
            let reply = admin.rotate_token(&id, grace, expires_in).await?;
            target.show(&reply, || secret(&reply))
        }
        TokenCommand::Revoke { target, token, old_only } => {
            let admin = target.connect()?;
            let id = id_of(&admin, &token).await?;
            let reply = if old_only { admin.kill_grace(&id).await? } else { admin.revoke_token(&id).await? };
            target
                .show(&reply, || say!("{token} {}", if old_only { "has no old secret any more" } else { "is revoked" }))
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuthCommand {
    /// Switch Require Authentication of a client on or off
    Require {
        #[command(flatten)]
        target: AdminTarget,
        /// on or off
        state: OnOff,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnOff {
    On,
    Off,
}

pub(crate) async fn auth(command: AuthCommand) -> anyhow::Result<Done> {
    let AuthCommand::Require { target, state } = command;
    let on = state == OnOff::On;
    let reply = target.connect()?.change_settings(&json!({"enableProfileApiAuthentication": on})).await?;
    let what = if on { "required" } else { "not required" };
    target.show(&reply, || say!("Authentication of the profile API of {} is {what}.", target.client))
}

#[derive(Debug, Subcommand)]
pub(crate) enum IdentityCommand {
    /// Make a secret that the client's servers sign ids of persons with; it is shown once, and the one before ends
    Rotate {
        #[command(flatten)]
        target: AdminTarget,
        /// Keep the one before good for so long, at most 7d
        #[arg(long, value_parser = seconds, default_value = "0")]
        grace: u64,
    },
}

pub(crate) async fn identity(command: IdentityCommand) -> anyhow::Result<Done> {
    let IdentityCommand::Rotate { target, grace } = command;
    let reply = target.connect()?.rotate_identity_secret(grace).await?;
    target.show(&reply, || {
        remark!("Secret for signatures of {}. Shown this once:", target.client);
        say!("{}", text(&reply, "identitySecret"))
    })
}

#[derive(Debug, Subcommand)]
pub(crate) enum UserCommand {
    /// Make a user; its password comes from CAMEO_NEW_PASSWORD, or is asked for
    Add {
        #[command(flatten)]
        target: AdminTarget,
        /// Name
        name: String,
        /// ROLE for all clients, or CLIENT:ROLE; may be given several times. Roles: observer, editor, approver, admin
        #[arg(long = "role", required = true, value_parser = grant)]
        roles: Vec<Grant>,
    },
    /// Give a user another password; it comes from CAMEO_NEW_PASSWORD, or is asked for
    Passwd {
        #[command(flatten)]
        target: AdminTarget,
        /// Name
        name: String,
    },
    /// Give a user other roles, in the place of those it has
    Roles {
        #[command(flatten)]
        target: AdminTarget,
        /// Name
        name: String,
        /// As for add
        #[arg(long = "role", required = true, value_parser = grant)]
        roles: Vec<Grant>,
    },
    /// Remove a user
    Remove {
        #[command(flatten)]
        target: AdminTarget,
        /// Name
        name: String,
    },
    /// List users
    List {
        #[command(flatten)]
        target: AdminTarget,
    },
}

fn grant(text: &str) -> Result<Grant, String> {
    let (client, role) = text.split_once(':').unwrap_or(("*", text));
    if !["observer", "editor", "approver", "admin"].contains(&role) {
        return Err(format!("{role:?} is none of observer, editor, approver, admin"));
    }
    Ok(Grant { client: client.to_owned(), role: role.to_owned() })
}

fn new_password(name: &str) -> anyhow::Result<Zeroizing<String>> {
    match std::env::var("CAMEO_NEW_PASSWORD") {
        Ok(password) => Ok(Zeroizing::new(password)),
        Err(_) => ask(&format!("New password of {name}: "), "CAMEO_NEW_PASSWORD"),
    }
}

pub(crate) async fn user(command: UserCommand) -> anyhow::Result<Done> {
    match command {
        UserCommand::Add { target, name, roles } => {
            let admin = target.connect()?;
            let reply = admin.create_user(&name, &new_password(&name)?, &roles).await?;
            target.show(&reply, || say!("User {name} is created."))
        }
        UserCommand::Passwd { target, name } => {
            let admin = target.connect()?;
            let own = target.api_key.is_none() && target.user == name;
            let current = match (own, std::env::var("CAMEO_PASSWORD")) {
                (false, _) => None,
                (true, Ok(password)) => Some(Zeroizing::new(password)),
                (true, Err(_)) => Some(ask("Present password: ", "CAMEO_PASSWORD")?),
            };
            let password = new_password(&name)?;
            let reply = admin.set_password(&name, &password, current.as_deref().map(String::as_str)).await?;
            target.show(&reply, || say!("{name} has another password; its sessions have ended."))
        }
        UserCommand::Roles { target, name, roles } => {
            let reply = target.connect()?.set_roles(&name, &roles).await?;
            target.show(&reply, || say!("The roles of {name} are changed; its sessions have ended."))
        }
        UserCommand::Remove { target, name } => {
            let reply = target.connect()?.remove_user(&name).await?;
            target.show(&reply, || say!("User {name} is removed."))
        }
        UserCommand::List { target } => {
            let reply = target.connect()?.users().await?;
            target.show(&reply, || {
                for user in reply["users"].as_array().into_iter().flatten() {
                    let roles = user["roles"].as_array().into_iter().flatten();
                    let roles: Vec<_> =
                        roles.map(|role| format!("{}:{}", text(role, "client"), text(role, "role"))).collect();
                    say!("{}  {}  since {}", text(user, "name"), roles.join(" "), text(user, "createdAt"))?;
                }
                Ok(())
            })
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum ClientCommand {
    /// Make a client (tenant)
    Add {
        #[command(flatten)]
        target: AdminTarget,
        /// Its code
        code: String,
        #[command(flatten)]
        settings: SettingsArgs,
    },
    /// List clients with their settings
    List {
        #[command(flatten)]
        target: AdminTarget,
    },
    /// Change settings of the client that --client names
    Set {
        #[command(flatten)]
        target: AdminTarget,
        #[command(flatten)]
        settings: SettingsArgs,
    },
}

#[derive(Args, Clone, Debug, Default)]
pub(crate) struct SettingsArgs {
    /// Days without activity after which profiles are gone, 1–90
    #[arg(long)]
    lifetime_days: Option<u16>,
    /// Origin whose pages may send visits; may be given several times, `none` for none
    #[arg(long = "origin")]
    origins: Vec<String>,
    /// Organisation that official SDKs name instead of the client; `none` takes it away
    #[arg(long)]
    ims_org_id: Option<String>,
    /// Visits need a token
    #[arg(long)]
    require_visit_tokens: Option<bool>,
    /// Visits may name a thirdPartyId, ECID or customer id only with a signature; make a secret first (`cameo identity rotate`)
    #[arg(long)]
    require_identity_signature: Option<bool>,
    /// Switch the client off or on
    #[arg(long)]
    disabled: Option<bool>,
}

impl SettingsArgs {
    fn json(&self) -> Value {
        let mut settings = json!({});
        if let Some(days) = self.lifetime_days {
            settings["lifetimeDays"] = json!(days);
        }
        if !self.origins.is_empty() {
            let origins: Vec<_> = self.origins.iter().filter(|origin| *origin != "none").collect();
            settings["allowedOrigins"] = json!(origins);
        }
        if let Some(org) = &self.ims_org_id {
            settings["imsOrgId"] = if org == "none" { Value::Null } else { json!(org) };
        }
        if let Some(required) = self.require_visit_tokens {
            settings["requireVisitTokens"] = json!(required);
        }
        if let Some(required) = self.require_identity_signature {
            settings["requireIdentitySignature"] = json!(required);
        }
        if let Some(disabled) = self.disabled {
            settings["disabled"] = json!(disabled);
        }
        settings
    }
}

pub(crate) async fn client(command: ClientCommand) -> anyhow::Result<Done> {
    match command {
        ClientCommand::Add { target, code, settings } => {
            let reply = target.connect()?.create_client(&code, &settings.json()).await?;
            target.show(&reply, || say!("Client {code} is created."))
        }
        ClientCommand::List { target } => {
            let reply = target.connect()?.clients().await?;
            target.show(&reply, || {
                for client in reply["clients"].as_array().into_iter().flatten() {
                    let state = if client["disabled"] == true { "disabled" } else { "enabled" };
                    let auth =
                        if client["enableProfileApiAuthentication"] == true { "required" } else { "not required" };
                    say!(
                        "{}  {state}  lifetime {} days  authentication {auth}",
                        text(client, "client"),
                        client["lifetimeDays"]
                    )?;
                }
                Ok(())
            })
        }
        ClientCommand::Set { target, settings } => {
            let settings = settings.json();
            if settings == json!({}) {
                return Err(Usage("nothing to change: see `cameo client set --help` for what there is".into()).into());
            }
            let reply = target.connect()?.change_settings(&settings).await?;
            target.show(&reply, || say!("The settings of {} are changed.", target.client))
        }
    }
}

#[derive(Args, Debug)]
pub(crate) struct AuditArgs {
    #[command(flatten)]
    target: AdminTarget,
    /// Of all clients, and of what concerns none
    #[arg(long)]
    all: bool,
    /// Entries, newest first, 1–1000
    #[arg(long, default_value_t = 100)]
    limit: usize,
    /// Only what is older than this id
    #[arg(long)]
    before: Option<u64>,
    /// As CSV
    #[arg(long, conflicts_with = "json")]
    csv: bool,
}

pub(crate) async fn audit(args: AuditArgs) -> anyhow::Result<Done> {
    let admin = args.target.connect()?;
    if args.csv {
        let csv = admin.audit_csv(args.all, args.limit, args.before).await?;
        say!("{}", csv.trim_end())?;
        return Ok(Done::Whole);
    }
    let reply = admin.audit(args.all, args.limit, args.before).await?;
    args.target.show(&reply, || {
        for entry in reply["entries"].as_array().into_iter().flatten() {
            let about = [text(entry, "client"), text(entry, "target"), text(entry, "detail")];
            let about: Vec<_> = about.into_iter().filter(|part| !part.is_empty()).collect();
            say!(
                "{}  {}  {}  {}  {}  from {}",
                text(entry, "at"),
                text(entry, "who"),
                text(entry, "action"),
                text(entry, "result"),
                about.join("  "),
                text(entry, "from")
            )?;
        }
        if let Some(next) = reply["next"].as_u64() {
            remark!("older entries: --before {next}");
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_their_units() {
        assert_eq!(seconds("3600"), Ok(3600));
        assert_eq!(seconds("30d"), Ok(30 * 86_400));
        assert_eq!((seconds("12h"), seconds("15m"), seconds("9s")), (Ok(43_200), Ok(900), Ok(9)));
        for wrong in ["", "d", "1w", "-1", "1.5h", "99999999999999999999d"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn roles_are_for_all_clients_or_for_one() {
        assert_eq!(grant("admin"), Ok(Grant { client: "*".into(), role: "admin".into() }));
        assert_eq!(grant("demo:editor"), Ok(Grant { client: "demo".into(), role: "editor".into() }));
        assert!(grant("demo:king").is_err() && grant("demo:").is_err());
    }
}
