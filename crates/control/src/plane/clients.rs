//! Clients (tenants): created, listed, changed; what changes is confirmed by every node.

use std::collections::BTreeMap;

use cameo_auth::bucket::Expected;
use cameo_auth::record::{ClientRecord, Refused};
use cameo_auth::{Action, Revision};
use cameo_profile::ClientCode;

use super::change::Changing;
use super::view::View;
use super::{Deed, OpenError, Plane, Problem, Rollout};
use crate::principal::Principal;

/// What may be changed of a client; what is `None` stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) require_authentication: Option<bool>,
    pub(crate) require_visit_tokens: Option<bool>,
    pub(crate) require_identity_signature: Option<bool>,
    pub(crate) lifetime_days: Option<u16>,
    pub(crate) allowed_origins: Option<Vec<String>>,
    /// `Some(None)` takes it away.
    pub(crate) ims_org_id: Option<Option<String>>,
    pub(crate) disabled: Option<bool>,
}

/// A client to create.
#[derive(Clone, Debug)]
pub(crate) struct NewClient {
    pub(crate) code: String,
    pub(crate) settings: Settings,
}

impl Settings {
    /// What one must be allowed to do to change this.
    fn actions(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.require_authentication.is_some()
            || self.require_visit_tokens.is_some()
            || self.require_identity_signature.is_some()
        {
            actions.push(Action::AuthSwitch);
        }
        if self.disabled.is_some() || self.ims_org_id.is_some() {
            // An organisation decides which client the calls of SDKs belong to.
            actions.push(Action::ClientManage);
        }
        if self.lifetime_days.is_some() || self.allowed_origins.is_some() || actions.is_empty() {
            actions.push(Action::SettingsWrite);
        }
        actions
    }

    fn apply(&self, record: &mut ClientRecord) -> Result<(), Refused> {
        fn set<T: Clone>(place: &mut T, value: Option<&T>) {
            if let Some(value) = value {
                place.clone_from(value);
            }
        }
        set(&mut record.require_authentication, self.require_authentication.as_ref());
        set(&mut record.require_visit_tokens, self.require_visit_tokens.as_ref());
        set(&mut record.require_identity_signature, self.require_identity_signature.as_ref());
        set(&mut record.lifetime_days, self.lifetime_days.as_ref());
        set(&mut record.allowed_origins, self.allowed_origins.as_ref());
        set(&mut record.ims_org_id, self.ims_org_id.as_ref());
        set(&mut record.disabled, self.disabled.as_ref());
        record.check_settings()
    }

    /// For the audit log.
    fn describe(&self) -> String {
        let mut said = Vec::new();
        let mut say = |name: &str, value: Option<String>| said.extend(value.map(|value| format!("{name}={value}")));
        say("requireAuthentication", self.require_authentication.map(|v| v.to_string()));
        say("requireVisitTokens", self.require_visit_tokens.map(|v| v.to_string()));
        say("requireIdentitySignature", self.require_identity_signature.map(|v| v.to_string()));
        say("lifetimeDays", self.lifetime_days.map(|v| v.to_string()));
        say("allowedOrigins", self.allowed_origins.as_ref().map(|v| v.join(" ")));
        say("imsOrgId", self.ims_org_id.as_ref().map(|v| v.clone().unwrap_or_else(|| "none".into())));
        say("disabled", self.disabled.map(|v| v.to_string()));
        said.join(", ")
    }
}

fn code(text: &str) -> Result<ClientCode, Problem> {
    ClientCode::new(text).map_err(|invalid| Problem::Invalid { field: "code", text: invalid.to_string() })
}

/// As callers may hear it, whether or not they may see it.
pub(super) fn no_client(code: &str) -> Problem {
    Problem::Missing(format!("client {:?} here", crate::audit::text(code)))
}

impl Changing for ClientRecord {
    fn version_mut(&mut self) -> &mut u64 {
        &mut self.version
    }

    fn among(view: &View) -> &BTreeMap<String, Self> {
        &view.clients
    }

    fn missing(handle: &str) -> Problem {
        no_client(handle)
    }
}

impl Plane {
    /// The clients that a principal may see.
    pub(crate) async fn clients(&self, by: &Principal) -> Result<Vec<ClientRecord>, Problem> {
        self.allow(by, Deed::of(Action::ClientList, None)).await?;
        let view = self.0.view.read();
        Ok(view.clients.values().filter(|record| by.sees(&record.code)).cloned().collect())
    }

    /// Codes of the clients that a principal may see.
    pub(crate) fn visible_clients(&self, by: &Principal) -> Vec<String> {
        self.0.view.read().clients.keys().filter(|code| by.sees(code)).cloned().collect()
    }

    /// A client's record as it is, for who may do `action` with it.
    pub(crate) async fn client(&self, by: &Principal, action: Action, client: &str) -> Result<ClientRecord, Problem> {
        self.allow(by, Deed::of(action, Some(client))).await?;
        self.0.view.read().clients.get(client).cloned().ok_or_else(|| no_client(client))
    }

    /// Creates a client.
    pub(crate) async fn create_client(
        &self,
        by: &Principal,
        new: NewClient,
    ) -> Result<(ClientRecord, Rollout), Problem> {
        let deed = Deed::of(Action::ClientManage, None).on(&new.code);
        self.allow(by, deed).await?;
        let created = self.create(&new).await;
        self.noted(by, deed, Some(format!("created {}", new.settings.describe())), created).await
    }

    async fn create(&self, new: &NewClient) -> Result<(ClientRecord, Rollout), Problem> {
        let code = code(&new.code)?;
        let mut record = ClientRecord::new(&code, self.unix_ms())?;
        new.settings.apply(&mut record)?;
        let _rules = self.0.rules.lock().await;
        self.check_org(&record)?;
        let key = ClientRecord::key(&code);
        let sealed = self.0.config.sealer.seal(&key, &record);
        match self.put(key, sealed, Expected::Absent).await? {
            Some(revision) => Ok((record, self.roll_out(&new.code, revision))),
            None => Err(Problem::Conflict(format!("there is a client {code} already"))),
        }
    }

    /// Two clients with one organisation could not be told apart.
    fn check_org(&self, record: &ClientRecord) -> Result<(), Problem> {
        let Some(org) = &record.ims_org_id else { return Ok(()) };
        let view = self.0.view.read();
        let other =
            view.clients.values().find(|other| other.code != record.code && other.ims_org_id.as_ref() == Some(org));
        match other {
            Some(other) => Err(Problem::Conflict(format!("imsOrgId is that of client {} already", other.code))),
            None => Ok(()),
        }
    }

    /// Changes settings of a client.
    pub(crate) async fn set(
        &self,
        by: &Principal,
        client: &str,
        settings: Settings,
    ) -> Result<(ClientRecord, Rollout), Problem> {
        let actions = settings.actions();
        for action in &actions {
            self.allow(by, Deed::of(*action, Some(client))).await?;
        }
        let rules = if settings.ims_org_id.is_some() { Some(self.0.rules.lock().await) } else { None };
        let changed = self
            .change(client, |record| {
                settings.apply(record)?;
                self.check_org(record)
            })
            .await;
        drop(rules);
        let changed = changed.map(|(record, revision)| (record, self.roll_out(client, revision)));
        for action in &actions[1..] {
            let deed = Deed::of(*action, Some(client));
            self.note(by, deed, changed.as_ref().map(|_| Some(settings.describe()))).await;
        }
        self.noted(by, Deed::of(actions[0], Some(client)), Some(settings.describe()), changed).await
    }

    /// Changes a client's record, and says at which revision.
    pub(super) async fn change(
        &self,
        client: &str,
        decide: impl FnMut(&mut ClientRecord) -> Result<(), Problem>,
    ) -> Result<(ClientRecord, Revision), Problem> {
        let code = ClientCode::new(client).map_err(|_| no_client(client))?;
        self.change_record(ClientRecord::key(&code), client, decide).await
    }

    /// Creates a client of the configuration, unless it is there. What is there stays as it is.
    ///
    /// # Errors
    /// When it cannot be one, or the store does not work.
    pub async fn ensure_client(&self, code: &ClientCode, lifetime_days: u16) -> Result<(), OpenError> {
        if self.0.view.read().clients.contains_key(code.as_str()) {
            return Ok(());
        }
        let settings = Settings { lifetime_days: Some(lifetime_days), ..Settings::default() };
        let new = NewClient { code: code.to_string(), settings };
        match self.create_client(&Principal::system(), new).await {
            Ok(_) => Ok(()),
            Err(problem) => Err(OpenError::Client { code: code.to_string(), reason: problem.to_string() }),
        }
    }
}
