//! A certificate authority of the server's own, and what it signed.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, Error, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// PEM files: the authority, a server certificate for `localhost` and 127.0.0.1, a client certificate.
#[derive(Debug)]
pub(crate) struct Certificates {
    pub(crate) authority: PathBuf,
    pub(crate) server: PathBuf,
    pub(crate) server_key: PathBuf,
    pub(crate) client: PathBuf,
    pub(crate) client_key: PathBuf,
}

impl Certificates {
    pub(crate) fn create(directory: &Path) -> Self {
        let files = Self {
            authority: directory.join("ca.pem"),
            server: directory.join("server.pem"),
            server_key: directory.join("server.key"),
            client: directory.join("client.pem"),
            client_key: directory.join("client.key"),
        };
        files.sign().unwrap_or_else(|error| panic!("cannot make test certificates: {error}"));
        files
    }

    fn sign(&self) -> Result<(), Error> {
        let mut params = named("redsync testkit CA", &[])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        write(&self.authority, &params.self_signed(&key)?.pem());
        let authority = Issuer::new(params, key);

        let mut params = named("redsync testkit server", &["localhost", "127.0.0.1"])?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        issue(params, &authority, &self.server, &self.server_key)?;

        let mut params = named("redsync testkit client", &[])?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        issue(params, &authority, &self.client, &self.client_key)
    }
}

fn named(common_name: &str, hosts: &[&str]) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::new(hosts.iter().map(|&host| host.to_owned()).collect::<Vec<_>>())?;
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn issue(
    mut params: CertificateParams,
    authority: &Issuer<'_, KeyPair>,
    certificate_file: &Path,
    key_file: &Path,
) -> Result<(), Error> {
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate()?;
    write(certificate_file, &params.signed_by(&key, authority)?.pem());
    write(key_file, &key.serialize_pem());
    Ok(())
}

fn write(file: &Path, pem: &str) {
    fs::write(file, pem).unwrap_or_else(|error| panic!("cannot write {}: {error}", file.display()));
}
