//! TLS: whom we trust, what we show, and why a handshake failed, in words.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use rustls::server::ParsedCertificate;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore,
    SignatureScheme,
};

/// PEM files, as they were read.
pub(super) struct Files {
    /// `ca=FILE`, in place of the system's authorities.
    pub(super) authorities: Option<Pem>,
    /// `cert=FILE&key=FILE`
    pub(super) client: Option<(Pem, Pem)>,
}

/// A file's name and its text.
pub(super) struct Pem {
    pub(super) path: String,
    pub(super) text: Vec<u8>,
}

/// The settings for connections to a server. The error is for people, and names the file.
pub(super) fn config(files: &Files) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let trusted = match &files.authorities {
        Some(pem) => certificates(pem)?,
        None => of_the_system()?,
    };
    let mut roots = RootCertStore::empty();
    match &files.authorities {
        // One that cannot be an authority can still be the server's own.
        Some(pem) => {
            let (added, _) = roots.add_parsable_certificates(trusted.iter().cloned());
            if added == 0 {
                let path = &pem.path;
                return Err(format!("{path} holds no certificate that can be trusted as an authority"));
            }
        }
        None => _ = roots.add_parsable_certificates(trusted.iter().cloned()),
    }
    let signed = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let signed = signed.build().map_err(|error| error.to_string())?;
    let pinned = if files.authorities.is_some() { trusted } else { Vec::new() };
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(SignedOrPinned { signed, pinned }));
    Ok(match &files.client {
        None => config.with_no_client_auth(),
        Some((certificate, key)) => config.with_client_cert_resolver(shown(certificate, key, &provider)?),
    })
}

/// The settings for a handshake that is to fail: it only shows whether the server speaks TLS.
pub(super) fn trusting_nobody() -> Result<ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(config.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

fn of_the_system() -> Result<Vec<CertificateDer<'static>>, String> {
    let found = rustls_native_certs::load_native_certs();
    match found.errors.first() {
        Some(error) if found.certs.is_empty() => {
            Err(format!("the system's certificate authorities cannot be read: {error}"))
        }
        None if found.certs.is_empty() => {
            Err("this system has no certificate authorities; name one: ca=FILE".to_owned())
        }
        _ => Ok(found.certs),
    }
}

fn certificates(pem: &Pem) -> Result<Vec<CertificateDer<'static>>, String> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem.text).collect();
    match read {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(format!("{} holds no certificate in PEM form", pem.path)),
    }
}

/// The certificate that we show when we are asked for one.
fn shown(
    certificate: &Pem,
    key: &Pem,
    provider: &CryptoProvider,
) -> Result<Arc<dyn ResolvesClientCert>, String> {
    let chain = certificates(certificate)?;
    let read = PrivateKeyDer::from_pem_slice(&key.text);
    let read = read.map_err(|_| format!("{} holds no private key in PEM form", key.path))?;
    let certified = match CertifiedKey::from_der(chain.clone(), read.clone_key(), provider) {
        Ok(certified) => certified,
        Err(Error::InconsistentKeys(_)) => {
            return Err(format!("{} and {} do not belong together", certificate.path, key.path));
        }
        // A certificate of version 1 is none that could be checked here. What it is worth, the server decides.
        Err(Error::InvalidCertificate(_)) => {
            let signing = provider.key_provider.load_private_key(read);
            CertifiedKey::new(chain, signing.map_err(|error| format!("{}: {error}", key.path))?)
        }
        Err(error) => return Err(format!("{}: {error}", certificate.path)),
    };
    Ok(Arc::new(SingleCertAndKey::from(certified)))
}

/// Trusts what an authority has signed; and the very certificate that `ca=` names, though it is an authority's own.
///
/// `openssl req -x509` makes such certificates: self-signed, and marked as an authority's. The usual rules let no authority
/// stand for a server. Where a URL names this certificate, byte for byte, nobody else can have signed another in its
/// place, and who has its key is whom the URL means. All other checks stay: its dates, the host's name, the proof that the
/// server has the key.
#[derive(Debug)]
struct SignedOrPinned {
    signed: Arc<WebPkiServerVerifier>,
    pinned: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for SignedOrPinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.signed.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // Its dates were looked at before this was found.
            Err(error) if is_authority_as_server(&error) && self.pinned.contains(end_entity) => {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signed.supported_verify_schemes()
    }
}

fn is_authority_as_server(error: &Error) -> bool {
    matches!(error, Error::InvalidCertificate(CertificateError::Other(other)) if other.to_string().contains("CaUsedAsEndEntity"))
}

/// Why TLS failed.
pub(super) enum Failure {
    /// The server's certificate is not trusted, with what to do.
    Distrusted(&'static str),
    /// The server does not trust us, with what to do.
    Refused(&'static str),
    /// What the server says is no TLS.
    NoTls,
}

impl Failure {
    /// The failure in what an input or output failed with, if TLS failed and waiting does not help.
    pub(super) fn of(error: &std::io::Error) -> Option<Self> {
        let error = error.get_ref()?.downcast_ref::<Error>()?;
        Some(match error {
            Error::InvalidCertificate(why) => Self::Distrusted(match why {
                CertificateError::UnknownIssuer => {
                    "; if it is the right server, name the authority that signed its certificate: ca=FILE"
                }
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                    "; write the host as its certificate has it, or make one with this name (subjectAltName)"
                }
                _ if is_authority_as_server(error) => {
                    "; it is self-signed: if it is the right server, name its certificate itself: ca=FILE"
                }
                CertificateError::Other(other) if other.to_string().contains("UnsupportedCertVersion") => {
                    "; the server's certificate is of version 1, which names no host: make one of version 3, with \
                     subjectAltName"
                }
                _ => "; see to the server's certificate",
            }),
            Error::AlertReceived(AlertDescription::CertificateRequired) => {
                Self::Refused("; give it a client certificate: cert=FILE&key=FILE")
            }
            Error::AlertReceived(
                AlertDescription::UnknownCA
                | AlertDescription::BadCertificate
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateUnknown
                | AlertDescription::AccessDenied,
            ) => Self::Refused("; the server does not accept the client certificate in cert=FILE"),
            Error::InvalidMessage(_) => Self::NoTls,
            _ => return None,
        })
    }
}
