//! Users and admin keys: made, listed, changed, removed.

use std::collections::BTreeMap;
use std::net::IpAddr;

use cameo_auth::bucket::{Expected, Key, PutError};
use cameo_auth::record::{EXPIRY_SECONDS, EXPIRY_SECONDS_DEFAULT};
use cameo_auth::token::{Digest, SecretKind};
use cameo_auth::{Action, Role, Secret};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::change::Changing;
use super::view::View;
use super::{Deed, NotSignedIn, OpenError, Plane, Problem};
use crate::password;
use crate::principal::{Grant, Principal, Proof};

/// Kind of the keys of users: `user.{name in hexadecimal digits}`.
pub(super) const USER_KIND: &str = "user";
/// Kind of the keys of admin keys: `key.{id}`.
pub(super) const KEY_KIND: &str = "key";
/// Users, and admin keys, at most. Ours.
const USERS_MAX: usize = 1000;
/// Characters of a user's name, and of a key's.
const NAME_CHARS: usize = 64;
/// Grants of one user or key.
const GRANTS_MAX: usize = 100;
/// Name of the first user.
pub(crate) const FIRST_ADMIN: &str = "admin";
/// Length of the password that is made up for it: 20 of 32 characters are 100 bit.
const MADE_UP_CHARS: usize = 20;

/// A user, as the control plane has stored it. Sealed JSON.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct UserRecord {
    pub(crate) name: String,
    /// Rises by one with every change, which ends the user's sessions.
    pub(crate) version: u64,
    /// argon2id, as a PHC string.
    pub(crate) password: String,
    pub(crate) roles: Vec<Grant>,
    pub(crate) created_ms: u64,
}

/// An admin key, as the control plane has stored it. Sealed JSON.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct KeyRecord {
    pub(crate) id: String,
    pub(crate) name: String,
    /// SHA-256 of the secret, in hexadecimal digits.
    pub(crate) digest: String,
    pub(crate) roles: Vec<Grant>,
    pub(crate) created_by: String,
    pub(crate) created_ms: u64,
    pub(crate) expires_ms: u64,
}

/// An admin key with its secret, for the one reply that shows it.
#[derive(Debug)]
pub(crate) struct MadeKey {
    pub(crate) key: KeyRecord,
    pub(crate) secret: Secret,
}

impl std::fmt::Debug for UserRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserRecord").field("name", &self.name).field("version", &self.version).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for KeyRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyRecord").field("id", &self.id).field("name", &self.name).finish_non_exhaustive()
    }
}

/// The entry of a user.
pub(super) fn user_key(name: &str) -> Result<Key, Problem> {
    let hex: String = name.bytes().map(|byte| format!("{byte:02x}")).collect();
    Key::new(format!("{USER_KIND}.{hex}")).map_err(|_| no_user(name))
}

fn no_user(name: &str) -> Problem {
    Problem::Missing(format!("user {:?}", crate::audit::text(name)))
}

fn check_name(field: &'static str, name: &str) -> Result<(), Problem> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '@');
    if name.is_empty() || name.len() > NAME_CHARS || !name.chars().all(plain) {
        let text = format!("{field} has 1 to {NAME_CHARS} of a-z A-Z 0-9 . _ - @");
        return Err(Problem::Invalid { field, text });
    }
    Ok(())
}

fn check_password(password: &str, user: &str) -> Result<(), Problem> {
    let weak = |weak| Problem::Invalid { field: "password", text: format!("a password {weak}") };
    password::check(password, user).map_err(|reason| match reason {
        password::Weak::Short | password::Weak::Long => weak(reason.to_string()),
        _ => Problem::Invalid { field: "password", text: format!("the password {reason}") },
    })
}

impl Changing for UserRecord {
    fn version_mut(&mut self) -> &mut u64 {
        &mut self.version
    }

    fn among(view: &View) -> &BTreeMap<String, Self> {
        &view.users
    }

    fn missing(handle: &str) -> Problem {
        no_user(handle)
    }
}

impl Plane {
    fn check_roles(&self, roles: &[Grant]) -> Result<(), Problem> {
        let invalid = |text: String| Err(Problem::Invalid { field: "roles", text });
        if roles.is_empty() || roles.len() > GRANTS_MAX {
            return invalid(format!("roles are 1 to {GRANTS_MAX}"));
        }
        for (at, grant) in roles.iter().enumerate() {
            if grant.client != "*" && !self.0.view.read().clients.contains_key(&grant.client) {
                return invalid(format!(
                    "roles name a client {:?} that is not here",
                    crate::audit::text(&grant.client)
                ));
            }
            if roles[..at].iter().any(|other| other.client == grant.client) {
                return invalid(format!("roles name the client {} twice", grant.client));
            }
        }
        Ok(())
    }

    /// All users.
    pub(crate) async fn users(&self, by: &Principal) -> Result<Vec<UserRecord>, Problem> {
        self.allow(by, Deed::of(Action::UserManage, None)).await?;
        Ok(self.0.view.read().users.values().cloned().collect())
    }

    /// Makes a user.
    pub(crate) async fn create_user(
        &self,
        by: &Principal,
        name: &str,
        password: Zeroizing<String>,
        roles: Vec<Grant>,
    ) -> Result<UserRecord, Problem> {
        let deed = Deed::of(Action::UserManage, None).on(name);
        self.allow(by, deed).await?;
        let detail = format!("created: {}", describe(&roles));
        let created = self.make_user(name, password, roles).await;
        self.noted(by, deed, Some(detail), created).await
    }

    async fn make_user(
        &self,
        name: &str,
        password: Zeroizing<String>,
        roles: Vec<Grant>,
    ) -> Result<UserRecord, Problem> {
        check_name("name", name)?;
        check_password(&password, name)?;
        self.check_roles(&roles)?;
        let password = password::hash(password).await.map_err(Problem::Unavailable)?;
        let _rules = self.0.rules.lock().await;
        if self.0.view.read().users.len() >= USERS_MAX {
            return Err(Problem::Conflict(format!("there are {USERS_MAX} users, which is the limit")));
        }
        let key = user_key(name)?;
        let now = self.unix_ms();
        // After a removed one of the same name, whatever the clock did meanwhile.
        let version = now.max(self.0.view.read().version_gone(&key) + 1);
        let record = UserRecord { name: name.to_owned(), version, password, roles, created_ms: now };
        let sealed = self.0.config.sealer.seal(&key, &record);
        match self.put(key, sealed, Expected::Absent).await? {
            Some(_) => Ok(record),
            None => Err(Problem::Conflict(format!("there is a user {name} already"))),
        }
    }

    async fn change_user(
        &self,
        name: &str,
        decide: impl FnMut(&mut UserRecord) -> Result<(), Problem>,
    ) -> Result<UserRecord, Problem> {
        let (record, _) = self.change_record(user_key(name)?, name, decide).await?;
        Ok(record)
    }

    /// Whether there is an admin of everything besides this user.
    fn has_other_admin(&self, name: &str) -> bool {
        let view = self.0.view.read();
        view.users.values().any(|user| user.name != name && is_admin(&user.roles))
    }

    /// Gives a user other roles; its sessions end.
    pub(crate) async fn set_roles(&self, by: &Principal, name: &str, roles: Vec<Grant>) -> Result<UserRecord, Problem> {
        let deed = Deed::of(Action::UserManage, None).on(name);
        self.allow(by, deed).await?;
        let changed = async {
            self.check_roles(&roles)?;
            let _rules = self.0.rules.lock().await;
            if !is_admin(&roles) && !self.has_other_admin(name) {
                return Err(Problem::Conflict(format!("{name} is the last admin of everything")));
            }
            let change = |record: &mut UserRecord| {
                record.roles.clone_from(&roles);
                Ok(())
            };
            self.change_user(name, change).await
        };
        self.noted(by, deed, Some(format!("roles: {}", describe(&roles))), changed.await).await
    }

    /// Gives a user another password; its sessions end. One's own needs the present one as well.
    pub(crate) async fn set_password(
        &self,
        by: &Principal,
        name: &str,
        current: Option<Zeroizing<String>>,
        password: Zeroizing<String>,
    ) -> Result<(), Problem> {
        let own = by.proof != Proof::Key && by.who == name;
        let action = if own { Action::PasswordChange } else { Action::UserManage };
        let deed = Deed::of(action, None).on(name);
        self.allow(by, deed).await?;
        let changed = async {
            if own {
                // Throttled as a sign-in is: a session that was left open must not be a place to guess it.
                self.check_password(name, current.unwrap_or_default(), &by.from).await.map_err(|why| match why {
                    NotSignedIn::Throttled(seconds) => Problem::Throttled(seconds),
                    NotSignedIn::Wrong => {
                        Problem::Invalid { field: "current", text: "the present password is not right".into() }
                    }
                })?;
            }
            check_password(&password, name)?;
            let hashed = password::hash(password).await.map_err(Problem::Unavailable)?;
            let change = |record: &mut UserRecord| {
                record.password.clone_from(&hashed);
                Ok(())
            };
            self.change_user(name, change).await.map(drop)
        };
        self.noted(by, deed, Some("password".into()), changed.await).await
    }

    /// Removes a user; its sessions end. Never the last admin of everything.
    pub(crate) async fn remove_user(&self, by: &Principal, name: &str) -> Result<(), Problem> {
        let deed = Deed::of(Action::UserManage, None).on(name);
        self.allow(by, deed).await?;
        let removed = async {
            let _rules = self.0.rules.lock().await;
            if !self.0.view.read().users.contains_key(name) {
                return Err(no_user(name));
            }
            if !self.has_other_admin(name) {
                return Err(Problem::Conflict(format!("{name} is the last admin of everything")));
            }
            self.delete(user_key(name)?).await
        };
        self.noted(by, deed, Some("removed".into()), removed.await).await
    }

    async fn delete(&self, key: Key) -> Result<(), Problem> {
        let place = self.place();
        match self.0.config.bucket.delete(key.clone(), Expected::Any).await {
            Ok(revision) => {
                if !self.stands(place, revision).await && self.0.config.bucket.get(&key).await?.is_some() {
                    return Err(Problem::Unknown(super::anew::LOST.into()));
                }
                Ok(())
            }
            Err(PutError::Conflict) => Err(Problem::Unavailable("somebody else has changed it meanwhile".into())),
            Err(PutError::Unavailable(why)) => Err(Problem::Unavailable(why)),
            Err(PutError::Unknown(why)) => Err(Problem::Unknown(why)),
        }
    }

    /// All admin keys.
    pub(crate) async fn keys(&self, by: &Principal) -> Result<Vec<KeyRecord>, Problem> {
        self.allow(by, Deed::of(Action::KeyManage, None)).await?;
        Ok(self.0.view.read().keys.values().cloned().collect())
    }

    /// Makes an admin key.
    pub(crate) async fn create_key(
        &self,
        by: &Principal,
        name: &str,
        roles: Vec<Grant>,
        expires_in: Option<u64>,
    ) -> Result<MadeKey, Problem> {
        let deed = Deed::of(Action::KeyManage, None).on(name);
        self.allow(by, deed).await?;
        let detail = format!("created: {}", describe(&roles));
        let made = self.make_key(by, name, roles, expires_in).await;
        self.noted(by, deed, Some(detail), made).await
    }

    async fn make_key(
        &self,
        by: &Principal,
        name: &str,
        roles: Vec<Grant>,
        expires_in: Option<u64>,
    ) -> Result<MadeKey, Problem> {
        check_name("name", name)?;
        self.check_roles(&roles)?;
        let seconds = expires_in.unwrap_or(EXPIRY_SECONDS_DEFAULT);
        if !EXPIRY_SECONDS.contains(&seconds) {
            let text = format!("expiresIn is {} to {}", EXPIRY_SECONDS.start(), EXPIRY_SECONDS.end());
            return Err(Problem::Invalid { field: "expiresIn", text });
        }
        let _rules = self.0.rules.lock().await;
        let taken = |view: &View| (view.keys.len(), view.keys.values().any(|key| key.name == name));
        match taken(&self.0.view.read()) {
            (_, true) => return Err(Problem::Conflict(format!("there is a key {name} already"))),
            (count, _) if count >= USERS_MAX => {
                return Err(Problem::Conflict(format!("there are {USERS_MAX} keys, which is the limit")));
            }
            _ => {}
        }
        let random = |error: getrandom::Error| Problem::Unavailable(error.to_string());
        let secret = Secret::generate(SecretKind::AdminKey).map_err(random)?;
        let now = self.unix_ms();
        let record = KeyRecord {
            id: super::tokens::random_id()?,
            name: name.to_owned(),
            digest: secret.digest().to_hex(),
            roles,
            created_by: by.who.clone(),
            created_ms: now,
            expires_ms: now.saturating_add(seconds * 1000),
        };
        let key = Key::new(format!("{KEY_KIND}.{}", record.id)).map_err(|e| Problem::Unavailable(e.to_string()))?;
        let sealed = self.0.config.sealer.seal(&key, &record);
        match self.put(key, sealed, Expected::Absent).await? {
            Some(_) => Ok(MadeKey { key: record, secret }),
            None => Err(Problem::Unavailable("two keys were made at once; try again".into())),
        }
    }

    /// Ends an admin key.
    pub(crate) async fn remove_key(&self, by: &Principal, id: &str) -> Result<(), Problem> {
        let deed = Deed::of(Action::KeyManage, None).on(id);
        self.allow(by, deed).await?;
        let removed = async {
            let missing = || Problem::Missing(format!("key {:?}", crate::audit::text(id)));
            if !self.0.view.read().keys.contains_key(id) {
                return Err(missing());
            }
            self.delete(Key::new(format!("{KEY_KIND}.{id}")).map_err(|_| missing())?).await
        };
        self.noted(by, deed, Some("revoked".into()), removed.await).await
    }

    /// The admin key of a digest, if it is still good.
    pub(super) fn key_of(&self, digest: &Digest, from: IpAddr) -> Option<Principal> {
        let now = self.unix_ms();
        let view = self.0.view.read();
        let known = view.keys.values().find(|key| Digest::from_hex(&key.digest).is_some_and(|held| held == *digest));
        let key = known.filter(|key| now < key.expires_ms)?;
        Some(Principal {
            who: format!("key:{}", key.name),
            grants: key.roles.clone(),
            proof: Proof::Key,
            from: from.to_string(),
        })
    }

    /// Makes the first admin when there is no user at all. With no password given, one is made up and returned, to be
    /// shown once.
    ///
    /// # Errors
    /// When the password is one that everybody tries first, or the store does not work.
    pub async fn ensure_admin(
        &self,
        password: Option<Zeroizing<String>>,
    ) -> Result<Option<Zeroizing<String>>, OpenError> {
        // Checked at every start: a weak one in the configuration would be used by the next empty store.
        if let Some(password) = &password {
            password::check(password, FIRST_ADMIN).map_err(|weak| OpenError::Password(weak.to_string()))?;
        }
        if !self.0.view.read().users.is_empty() {
            return Ok(None);
        }
        let given = password.is_some();
        let unwritable = |problem: Problem| OpenError::Unwritable(problem.to_string());
        let password = match password {
            Some(password) => password,
            None => make_up().map_err(|error| OpenError::Unwritable(error.to_string()))?,
        };
        let roles = vec![Grant::everywhere(Role::Admin)];
        self.create_user(&Principal::system(), FIRST_ADMIN, password.clone(), roles).await.map_err(unwritable)?;
        Ok((!given).then_some(password))
    }
}

fn is_admin(roles: &[Grant]) -> bool {
    roles.iter().any(|grant| grant.client == "*" && grant.role == Role::Admin)
}

fn describe(roles: &[Grant]) -> String {
    roles.iter().map(|grant| format!("{}:{}", grant.client, grant.role.as_str())).collect::<Vec<_>>().join(" ")
}

/// A password that can be read out: no 0 and O, no 1 and l.
fn make_up() -> Result<Zeroizing<String>, getrandom::Error> {
    const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut bytes = Zeroizing::new([0_u8; MADE_UP_CHARS]);
    getrandom::fill(&mut *bytes)?;
    let mut text = Zeroizing::new(String::with_capacity(MADE_UP_CHARS + 3));
    for (at, byte) in bytes.iter().enumerate() {
        if at > 0 && at % 5 == 0 {
            text.push('-');
        }
        text.push(char::from(ALPHABET[usize::from(byte % 32)]));
    }
    Ok(text)
}
