//! What tokens open (scopes), what people may do (roles), and the one place that decides it.

use serde::{Deserialize, Serialize};

/// What a token of the profile API opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Scope {
    /// Fetch profiles.
    #[serde(rename = "profile:read")]
    ProfileRead,
    /// Single updates and erasure.
    #[serde(rename = "profile:write")]
    ProfileWrite,
    /// Bulk files, their status and reports.
    #[serde(rename = "bulk:write")]
    BulkWrite,
    /// Visits, for clients that ask for a token there; they are open otherwise.
    #[serde(rename = "visits:write")]
    VisitsWrite,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::ProfileRead, Self::ProfileWrite, Self::BulkWrite, Self::VisitsWrite];
    /// What the one token of the compatible admin API opens (`profile_api`, TARGET_API §5).
    pub const PROFILE_API: [Self; 3] = [Self::ProfileRead, Self::ProfileWrite, Self::BulkWrite];

    /// As it stands in requests and records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ProfileRead => "profile:read",
            Self::ProfileWrite => "profile:write",
            Self::BulkWrite => "bulk:write",
            Self::VisitsWrite => "visits:write",
        }
    }

    /// By its name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == text)
    }
}

/// What a person or an admin key may do (TARGET_API §5: Observer < Editor < Approver < Admin).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Looks.
    Observer,
    /// Changes profiles and uploads files.
    Editor,
    /// Generates tokens, flips the switch, changes settings.
    Approver,
    /// Manages clients, users and keys.
    Admin,
}

impl Role {
    /// All of them, least first.
    pub const ALL: [Self; 4] = [Self::Observer, Self::Editor, Self::Approver, Self::Admin];

    /// As it stands in requests and records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Observer => "observer",
            Self::Editor => "editor",
            Self::Approver => "approver",
            Self::Admin => "admin",
        }
    }

    /// By its name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == text)
    }

    /// Whether this role may do that.
    #[must_use]
    pub fn may(self, action: Action) -> bool {
        self >= action.least()
    }
}

macro_rules! actions {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $least:ident;)*) => {
        /// Something that a person or an admin key does with the control plane.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Action { $($(#[$doc])* $name,)* }

        impl Action {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// As it stands in the audit log.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The least role that may do it.
            #[must_use]
            pub const fn least(self) -> Role {
                match self { $(Self::$name => Role::$least,)* }
            }
        }
    };
}

actions! {
    /// See the settings of a client, and whether authentication is required.
    SettingsRead = "settings.read", Observer;
    /// See which tokens there are; never a secret.
    TokenList = "token.list", Observer;
    /// See nodes, lag, lease, revision.
    ClusterRead = "cluster.read", Observer;
    /// See the clients that one may see.
    ClientList = "client.list", Observer;
    /// Look up a profile on the pages.
    ProfileRead = "profile.read", Observer;
    /// See batches, their progress and reports.
    BatchRead = "batch.read", Observer;
    /// Change a profile on the pages.
    ProfileWrite = "profile.write", Editor;
    /// Upload a bulk file on the pages.
    BatchUpload = "batch.upload", Editor;
    /// Erase a profile on the pages.
    ProfileErase = "profile.erase", Approver;
    /// Generate a token.
    TokenCreate = "token.create", Approver;
    /// Replace a token.
    TokenRotate = "token.rotate", Approver;
    /// End a token.
    TokenRevoke = "token.revoke", Approver;
    /// Flip *Require Authentication*.
    AuthSwitch = "auth.switch", Approver;
    /// Change lifetime and origins.
    SettingsWrite = "settings.write", Approver;
    /// Read the audit log.
    AuditRead = "audit.read", Approver;
    /// Create, change, disable clients.
    ClientManage = "client.manage", Admin;
    /// Create, change, remove users.
    UserManage = "user.manage", Admin;
    /// Create, list and revoke admin API keys.
    KeyManage = "key.manage", Admin;
    /// Take snapshots of all partitions now.
    SnapshotTake = "snapshot.take", Admin;
    /// Sign in to the pages.
    SignIn = "sign.in", Observer;
    /// Change one's own password.
    PasswordChange = "password.change", Observer;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;

    /// Role × action as a printed matrix (STYLE 7): whoever changes it, changes the file too, and a reviewer sees it.
    #[test]
    fn the_matrix_is_the_golden_one() {
        let mut matrix = String::from("# role x action: who may do what\n");
        let _ = writeln!(matrix, "{:<16} observer editor approver admin", "action");
        for action in Action::ALL {
            let mut line = format!("{:<16}", action.as_str());
            for role in Role::ALL {
                let mark = if role.may(*action) { "yes" } else { "-" };
                let _ = write!(line, " {mark:<width$}", width = role.as_str().len());
            }
            let _ = writeln!(matrix, "{}", line.trim_end());
        }
        assert_eq!(matrix, include_str!("../golden/roles.txt"), "golden/roles.txt differs; new text:\n{matrix}");
    }

    #[test]
    fn names_read_back() {
        assert!(Scope::ALL.iter().all(|scope| Scope::parse(scope.as_str()) == Some(*scope)));
        assert!(Role::ALL.iter().all(|role| Role::parse(role.as_str()) == Some(*role)));
        assert_eq!((Scope::parse("profile:Read"), Role::parse("root")), (None, None));
    }
}
