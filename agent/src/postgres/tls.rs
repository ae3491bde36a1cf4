//! TLS to the server, by libpq's `sslmode`s.
//!
//! | mode | certificate chain | name |
//! |---|---|---|
//! | `allow`, `prefer`, `require` | any | any |
//! | `verify-ca` | must lead to `sslrootcert` | any |
//! | `verify-full` | must lead to `sslrootcert` | must be the host's |
//!
//! A server certificate that itself stands in `sslrootcert` is trusted, as in OpenSSL: many servers have a self-signed one.
//! The provider is named here and never taken from the process.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::Digest;
use x509_cert::der::Decode;
use x509_cert::der::oid::ObjectIdentifier;

use super::conninfo::{ConnInfo, RootCertificates, SslMode};
use super::error::{Error, Result};

/// What a TLS connection to the server of `conninfo` needs. Reads files: blocks.
///
/// # Errors
/// A file that cannot be read or does not hold what it should.
pub fn client_config(conninfo: &ConnInfo) -> Result<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let verifier: Arc<dyn ServerCertVerifier> = match conninfo.sslmode {
        SslMode::VerifyCa => Arc::new(ChainVerifier::new(conninfo, Arc::clone(&provider), NameCheck::Any)?),
        SslMode::VerifyFull => Arc::new(ChainVerifier::new(conninfo, Arc::clone(&provider), NameCheck::Host)?),
        SslMode::Disable | SslMode::Allow | SslMode::Prefer | SslMode::Require => {
            Arc::new(AnyCertificate { algorithms })
        }
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| credentials(format!("no TLS version can be used: {error}")))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    match (&conninfo.sslcert, &conninfo.sslkey) {
        (None, None) => Ok(builder.with_no_client_auth()),
        (Some(certificate), Some(key)) => {
            let chain = certificates(certificate)?;
            let key = private_key(key)?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| credentials(format!("sslcert and sslkey do not go together: {error}")))
        }
        _ => Err(credentials("sslcert and sslkey must be given together".to_owned())),
    }
}

fn credentials(reason: String) -> Error {
    Error::Credentials { reason, source: None }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let unreadable = |error| credentials(format!("no certificates can be read from \"{}\": {error}", path.display()));
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error: rustls::pki_types::pem::Error| unreadable(error.to_string()))?;
    if found.is_empty() { Err(unreadable("there is none".to_owned())) } else { Ok(found) }
}

/// As libpq, refuses a key that others can read.
fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    let failed = |reason: String| credentials(format!("the private key \"{}\" {reason}", path.display()));
    let metadata = std::fs::metadata(path).map_err(|source| Error::Credentials {
        reason: format!("the private key \"{}\" cannot be read", path.display()),
        source: Some(source),
    })?;
    let forbidden = if metadata.uid() == 0 { 0o027 } else { 0o077 };
    if metadata.permissions().mode() & forbidden != 0 {
        return Err(failed("can be read by others, its mode must be 0600 or less".to_owned()));
    }
    PrivateKeyDer::from_pem_file(path).map_err(|error| failed(format!("cannot be read: {error}")))
}

fn roots(conninfo: &ConnInfo) -> Result<(RootCertStore, Vec<CertificateDer<'static>>)> {
    let found = match &conninfo.sslrootcert {
        None => return Err(credentials("sslmode verify-ca and verify-full need sslrootcert".to_owned())),
        Some(RootCertificates::File(path)) => certificates(path)?,
        Some(RootCertificates::System) => rustls_native_certs::load_native_certs().certs,
    };
    let mut store = RootCertStore::empty();
    let (added, _) = store.add_parsable_certificates(found.iter().cloned());
    if added == 0 {
        return Err(credentials("sslrootcert holds no certificate that can be used".to_owned()));
    }
    Ok((store, found))
}

/// For modes that only encrypt.
#[derive(Debug)]
struct AnyCertificate {
    algorithms: WebPkiSupportedAlgorithms,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NameCheck {
    Any,
    Host,
}

/// Demands a chain to the configured roots and, where asked, the host's name.
#[derive(Debug)]
struct ChainVerifier {
    inner: Arc<WebPkiServerVerifier>,
    /// Trusted also as a server's own certificate.
    pinned: Vec<CertificateDer<'static>>,
    name_check: NameCheck,
}

impl ChainVerifier {
    fn new(conninfo: &ConnInfo, provider: Arc<CryptoProvider>, name_check: NameCheck) -> Result<Self> {
        let (store, pinned) = roots(conninfo)?;
        let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider)
            .build()
            .map_err(|error| credentials(format!("sslrootcert cannot be used: {error}")))?;
        Ok(Self { inner, pinned, name_check })
    }

    fn check_pinned(
        &self,
        certificate: &CertificateDer<'_>,
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        let parsed = x509_cert::Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
        let validity = parsed.tbs_certificate.validity;
        if now.as_secs() > validity.not_after.to_unix_duration().as_secs() {
            return Err(CertificateError::Expired.into());
        }
        if now.as_secs() < validity.not_before.to_unix_duration().as_secs() {
            return Err(CertificateError::NotValidYet.into());
        }
        if self.name_check == NameCheck::Host {
            rustls::client::verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
        }
        Ok(ServerCertVerified::assertion())
    }
}

impl ServerCertVerifier for ChainVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        if self.pinned.iter().any(|pinned| pinned.as_ref() == end_entity.as_ref()) {
            return self.check_pinned(end_entity, server_name, now);
        }
        // The name is looked at last, so an error about it means that the chain is right.
        match self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.name_check == NameCheck::Any => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    // The signatures are still checked: they prove that the server has the key of the certificate it shows.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// What binds a SCRAM exchange to this TLS connection (`tls-server-end-point`, RFC 5929): the certificate's hash by the
/// function of its signature, where MD5 and SHA-1 count as SHA-256. None where the signature has no such function.
pub(super) fn server_end_point(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    const SHA256: [&str; 5] = [
        "1.2.840.113549.1.1.4",  // md5WithRSAEncryption
        "1.2.840.113549.1.1.5",  // sha1WithRSAEncryption
        "1.2.840.10045.4.1",     // ecdsa-with-SHA1
        "1.2.840.113549.1.1.11", // sha256WithRSAEncryption
        "1.2.840.10045.4.3.2",   // ecdsa-with-SHA256
    ];
    const SHA384: [&str; 2] = ["1.2.840.113549.1.1.12", "1.2.840.10045.4.3.3"];
    const SHA512: [&str; 2] = ["1.2.840.113549.1.1.13", "1.2.840.10045.4.3.4"];
    let parsed = x509_cert::Certificate::from_der(certificate).ok()?;
    let signature = parsed.signature_algorithm.oid;
    let is_one_of = |names: &[&str]| names.iter().any(|name| ObjectIdentifier::new_unwrap(name) == signature);
    if is_one_of(&SHA256) {
        Some(sha2::Sha256::digest(certificate).to_vec())
    } else if is_one_of(&SHA384) {
        Some(sha2::Sha384::digest(certificate).to_vec())
    } else if is_one_of(&SHA512) {
        Some(sha2::Sha512::digest(certificate).to_vec())
    } else {
        None
    }
}
