//! The file with the control plane's signing key: made at the first start, and nobody else's business.

use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use cameo_auth::seal::Sealer;
use zeroize::Zeroizing;

/// Why there is no signing key.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be read or written.
    #[error("the signing key {} cannot be used", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not one.
    #[error("{} is not a signing key: it must hold 64 hexadecimal digits", path.display())]
    NotAKey {
        /// The file.
        path: PathBuf,
    },
    /// Others than its owner may read or write it.
    #[error("the signing key {} is open to others (mode {mode:o}): chmod 600 it, and replace it if it may have been read", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// There is no randomness to make one of.
    #[error("the system has no randomness for a signing key: {0}")]
    Randomness(getrandom::Error),
}

/// Reads the key, or makes one with mode 0600.
///
/// # Errors
/// Names the file.
pub fn signing_key(path: &Path) -> Result<Sealer, KeyFileError> {
    let io = |source| KeyFileError::Io { path: path.to_owned(), source };
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => make(path),
        Err(error) => Err(io(error)),
        Ok(metadata) => {
            let mode = metadata.permissions().mode() & 0o777;
            if mode & 0o077 != 0 {
                return Err(KeyFileError::Open { path: path.to_owned(), mode });
            }
            let text = Zeroizing::new(std::fs::read_to_string(path).map_err(io)?);
            Sealer::from_hex(&text).map_err(|_| KeyFileError::NotAKey { path: path.to_owned() })
        }
    }
}

fn make(path: &Path) -> Result<Sealer, KeyFileError> {
    let io = |source| KeyFileError::Io { path: path.to_owned(), source };
    let sealer = Sealer::generate().map_err(KeyFileError::Randomness)?;
    // Written whole under another name first: half a key would stop every later start.
    let draft = path.with_extension("new");
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft).map_err(io)?;
    file.write_all(format!("{}\n", *sealer.to_hex()).as_bytes()).and_then(|()| file.sync_all()).map_err(io)?;
    std::fs::rename(&draft, path).map_err(io)?;
    let dir = path.parent().unwrap_or(Path::new("."));
    std::fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(io)?;
    Ok(sealer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_made_once_and_kept_from_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("signing.key");
        let made = signing_key(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(signing_key(&path).unwrap().verifying(), made.verifying());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let open = signing_key(&path).unwrap_err().to_string();
        assert!(open.contains("mode 640") && open.contains("chmod 600"), "{open}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, "rubbish").unwrap();
        let error = signing_key(&path).unwrap_err().to_string();
        assert!(error.contains("64 hexadecimal digits") && !error.contains("rubbish"), "{error}");
    }
}
