//! An authority of a test's own, and certificates that it has signed, as PEM files.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

/// Signs certificates.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    ca: PathBuf,
}

impl Authority {
    /// A new one, whose certificate is written to `{name}.pem`.
    ///
    /// # Panics
    /// When the file cannot be written.
    #[must_use]
    pub fn new(dir: &Path, name: &str) -> Self {
        let mut params = params(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key can be made");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("an authority signs itself");
        let ca = dir.join(format!("{name}.pem"));
        std::fs::write(&ca, issuer.as_ref().pem()).expect("a file can be written");
        Self { issuer, ca }
    }

    /// Its certificate.
    #[must_use]
    pub fn ca(&self) -> &Path {
        &self.ca
    }

    /// A certificate for these names and addresses, and its key, in `{name}.pem` and `{name}.key` beside the authority's.
    ///
    /// # Panics
    /// When the files cannot be written.
    #[must_use]
    pub fn issue(&self, name: &str, hosts: &[&str]) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().expect("a key can be made");
        let signed = params(name, hosts).signed_by(&key, &self.issuer).expect("an authority signs");
        let (certificate_file, key_file) =
            (self.ca.with_file_name(format!("{name}.pem")), self.ca.with_file_name(format!("{name}.key")));
        std::fs::write(&certificate_file, signed.pem()).expect("a file can be written");
        std::fs::write(&key_file, key.serialize_pem()).expect("a file can be written");
        (certificate_file, key_file)
    }
}

fn params(name: &str, hosts: &[&str]) -> CertificateParams {
    let hosts: Vec<_> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut params = CertificateParams::new(hosts).expect("names of hosts");
    params.distinguished_name.push(DnType::CommonName, name);
    params
}
