//! Who asks: a person or an admin key, with the roles it has, and where it asks from.

use std::fmt;

use cameo_auth::{Action, Role};
use serde::{Deserialize, Serialize};

/// A role for one client, or for all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Grant {
    /// The client's code; `*` for all clients, and for what concerns none.
    pub(crate) client: String,
    /// What may be done there.
    pub(crate) role: Role,
}

impl Grant {
    /// For all clients.
    pub(crate) fn everywhere(role: Role) -> Self {
        Self { client: "*".into(), role }
    }
}

/// How somebody proved who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    /// Name and password with every call.
    Basic,
    /// An admin API key.
    Key,
    /// A session of the pages.
    Session,
    /// This process, for itself.
    System,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Principal {
    /// The user's name, or `key:NAME`.
    pub(crate) who: String,
    pub(crate) grants: Vec<Grant>,
    pub(crate) proof: Proof,
    /// Address that the call came from.
    pub(crate) from: String,
}

impl Principal {
    /// The process itself, at its start.
    pub(crate) fn system() -> Self {
        Self {
            who: "system".into(),
            grants: vec![Grant::everywhere(Role::Admin)],
            proof: Proof::System,
            from: "local".into(),
        }
    }

    /// Its role for a client (or, without one, for what concerns all).
    pub(crate) fn role(&self, client: Option<&str>) -> Option<Role> {
        let here = |grant: &&Grant| grant.client == "*" || client.is_some_and(|client| client == grant.client);
        self.grants.iter().filter(here).map(|grant| grant.role).max()
    }

    /// Its highest role anywhere.
    pub(crate) fn highest(&self) -> Option<Role> {
        self.grants.iter().map(|grant| grant.role).max()
    }

    /// Whether it may do that. What everybody who is signed in may see somewhere needs no particular client.
    pub(crate) fn may(&self, action: Action, client: Option<&str>) -> bool {
        let role = match action {
            Action::ClusterRead | Action::ClientList | Action::PasswordChange => self.highest(),
            _ => self.role(client),
        };
        role.is_some_and(|role| role.may(action))
    }

    /// Whether it may see that a client exists.
    pub(crate) fn sees(&self, client: &str) -> bool {
        self.role(Some(client)).is_some()
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.who)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(grants: &[(&str, Role)]) -> Principal {
        let grants = grants.iter().map(|(client, role)| Grant { client: (*client).into(), role: *role });
        Principal { grants: grants.collect(), ..Principal::system() }
    }

    #[test]
    fn a_role_counts_where_it_was_given() {
        let mixed = with(&[("*", Role::Observer), ("shop", Role::Approver)]);
        assert!(mixed.may(Action::TokenRotate, Some("shop")) && !mixed.may(Action::TokenRotate, Some("demo")));
        assert!(mixed.may(Action::TokenList, Some("demo")) && mixed.sees("demo"));
        let one = with(&[("shop", Role::Admin)]);
        assert!(one.may(Action::TokenRotate, Some("shop")) && !one.may(Action::SettingsRead, Some("demo")));
        assert!(!one.may(Action::UserManage, None), "an admin of one client manages no users");
        assert!(one.may(Action::ClusterRead, None) && !one.sees("demo"));
        assert!(!with(&[]).may(Action::PasswordChange, None));
    }
}
