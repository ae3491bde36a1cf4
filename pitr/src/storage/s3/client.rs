//! The SDK's client, as the options ask for it.

use std::path::Path;
use std::time::Duration;

use aws_config::environment::region::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::region::ProfileFileRegionProvider;
use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_credential_types::Credentials;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{RequestChecksumCalculation, ResponseChecksumValidation};
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::{self, TlsContext, TrustStore};
use aws_smithy_http_client::{Builder, Connector};
use aws_smithy_runtime_api::client::http::{HttpConnectorSettings, SharedHttpClient};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::super::{Error, ErrorKind, Operation, Result, S3Options};
use super::parts;

/// Stores and load balancers close idle connections after some tens of seconds; one that is gone when it is used again costs
/// an attempt.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);
/// Where credentials of instances and containers come from is never behind a proxy.
const NO_PROXY: &str = "localhost,127.0.0.1,::1,169.254.169.254,169.254.170.2,169.254.170.23";
const DEFAULT_REGION: &str = "us-east-1";

fn invalid(bucket: &str, reason: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, Operation::Open, format!("s3://{bucket}"), reason)
}

pub(super) async fn connect(bucket: &str, options: &S3Options) -> Result<Client> {
    check(bucket, options)?;
    let http_client = http_client(bucket, options).await?;
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http_client)
        .region(region(options))
        .retry_config(RetryConfig::disabled())
        // A request is watched for progress instead, which these would cut off by time or by a rate.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .timeout_config(TimeoutConfig::builder().connect_timeout(options.connect_timeout).build());
    if let Some(given) = &options.credentials {
        loader = loader.credentials_provider(Credentials::new(
            given.access_key_id.clone(),
            given.secret_access_key.expose().clone(),
            given.session_token.as_ref().map(|token| token.expose().clone()),
            None,
            "pitr",
        ));
    }
    let mut config = aws_sdk_s3::config::Builder::from(&loader.load().await)
        .force_path_style(options.path_style)
        // Checksums are ours: in a header, so that no body needs a trailer.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    if let Some(endpoint) = &options.endpoint {
        config = config.endpoint_url(endpoint.trim_end_matches('/'));
    }
    Ok(Client::from_conf(config.build()))
}

/// What would fail at the first put is refused at once.
fn check(bucket: &str, options: &S3Options) -> Result<()> {
    if let Some(endpoint) = &options.endpoint {
        let url = url::Url::parse(endpoint).ok();
        let is_base = url.is_some_and(|url| {
            matches!(url.scheme(), "http" | "https")
                && url.has_host()
                && url.username().is_empty()
                && url.query().is_none()
        });
        if !is_base {
            return Err(invalid(bucket, "endpoint must be a URL like \"https://s3.example.com:9000\""));
        }
    }
    if !(parts::MIN_PART_BYTES..=parts::MAX_PART_BYTES).contains(&options.part_size_bytes) {
        return Err(invalid(bucket, "the size of parts must be between 5 MiB and 5 GiB"));
    }
    if !(1..=parts::MAX_PARTS).contains(&options.max_parts) {
        return Err(invalid(bucket, format!("the number of parts must be between 1 and {}", parts::MAX_PARTS)));
    }
    let class = options.storage_class.as_deref().unwrap_or_default().to_ascii_uppercase();
    if matches!(class.as_str(), "GLACIER" | "DEEP_ARCHIVE") {
        return Err(invalid(bucket, format!("storage class {class} has to be thawed before it can be read")));
    }
    if options.tags.len() > 10 {
        return Err(invalid(bucket, "an object can have at most 10 tags"));
    }
    Ok(())
}

/// Without a region of its own a custom endpoint does not make us ask the instance for one, which takes seconds elsewhere.
fn region(options: &S3Options) -> RegionProviderChain {
    let given = RegionProviderChain::first_try(options.region.clone().map(Region::new));
    let chain = if options.endpoint.is_some() {
        given.or_else(EnvironmentVariableRegionProvider::new()).or_else(ProfileFileRegionProvider::new())
    } else {
        given.or_default_provider()
    };
    chain.or_else(Region::from_static(DEFAULT_REGION))
}

async fn http_client(bucket: &str, options: &S3Options) -> Result<SharedHttpClient> {
    let tls = tls_context(bucket, options.ca_file.as_deref()).await?;
    let proxy = match &options.proxy {
        Some(proxy) => proxy_config(proxy.expose()).ok_or_else(|| {
            invalid(bucket, "proxy must be a URL like \"http://user:password@proxy.example.com:3128\"")
        })?,
        None => ProxyConfig::from_env(),
    };
    let build = move |settings: Option<&HttpConnectorSettings>, components: Option<&RuntimeComponents>| {
        let mut connector = Connector::builder()
            .proxy_config(proxy.clone())
            .enable_tcp_nodelay(true)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::AwsLc))
            .tls_context(tls.clone());
        connector.set_connector_settings(settings.cloned());
        connector.set_sleep_impl(components.and_then(RuntimeComponents::sleep_impl));
        connector.build()
    };
    Ok(Builder::new().build_with_connector_fn(build))
}

/// The system's authorities and those of the file. The SDK panics on a certificate that it cannot read, and on a system
/// without any, so both are looked at before.
async fn tls_context(bucket: &str, ca_file: Option<&Path>) -> Result<TlsContext> {
    let native = tokio::task::spawn_blocking(|| !rustls_native_certs::load_native_certs().certs.is_empty());
    let mut trust = TrustStore::empty().with_native_roots(native.await.unwrap_or(false));
    if let Some(path) = ca_file {
        let unusable = |reason: &str| invalid(bucket, format!("CA file \"{}\" {reason}", path.display()));
        let pem = tokio::fs::read(path).await.map_err(|error| unusable("cannot be read").with_source(error))?;
        let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&pem)
            .collect::<std::result::Result<_, _>>()
            .map_err(|error| unusable("is not in PEM format").with_source(error))?;
        if certificates.is_empty() {
            return Err(unusable("holds no certificate"));
        }
        for certificate in certificates {
            let usable = rustls::RootCertStore::empty().add(certificate);
            usable.map_err(|error| unusable("holds a certificate that cannot be used").with_source(error))?;
        }
        trust = trust.with_pem_certificate(pem);
    }
    TlsContext::builder()
        .with_trust_store(trust)
        .build()
        .map_err(|error| invalid(bucket, "the TLS settings cannot be used").with_source(error))
}

fn proxy_config(text: &str) -> Option<ProxyConfig> {
    let mut url = url::Url::parse(text).ok()?;
    let decode = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8().ok().map(String::from);
    let user = decode(url.username())?;
    let password = decode(url.password().unwrap_or_default())?;
    url.set_username("").ok()?;
    url.set_password(None).ok()?;
    let proxy = ProxyConfig::all(url.as_str()).ok()?.no_proxy(NO_PROXY);
    Some(if user.is_empty() { proxy } else { proxy.with_basic_auth(user, password) })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn refused(options: S3Options) -> String {
        let error = connect("bucket", &options).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        error.to_string()
    }

    #[tokio::test]
    async fn options_that_cannot_work_are_refused() {
        let default = S3Options::default;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        for (options, reason) in [
            (S3Options { endpoint: Some("s3.example.com".into()), ..default() }, "endpoint must be"),
            (S3Options { endpoint: Some("ftp://s3.example.com".into()), ..default() }, "endpoint must be"),
            (S3Options { part_size_bytes: 1024, ..default() }, "size of parts"),
            (S3Options { max_parts: 0, ..default() }, "number of parts"),
            (S3Options { storage_class: Some("DEEP_ARCHIVE".into()), ..default() }, "thawed"),
            (S3Options { ca_file: Some("/nonexistent/ca.pem".into()), ..default() }, "cannot be read"),
            (S3Options { ca_file: Some("/dev/null".into()), ..default() }, "holds no certificate"),
            (S3Options { ca_file: Some(file.path().to_owned()), ..default() }, "cannot be used"),
            (S3Options { proxy: Some("not a url".to_owned().into()), ..default() }, "proxy must be"),
        ] {
            let error = refused(options).await;
            assert!(error.contains(reason), "{error}");
        }
    }

    #[tokio::test]
    async fn proxy_that_is_refused_is_not_shown() {
        let options = S3Options { proxy: Some("http//user:hunter2@proxy".to_owned().into()), ..S3Options::default() };
        assert!(!format!("{options:?}").contains("hunter2"));
        assert!(!refused(options).await.contains("hunter2"));
    }
}
