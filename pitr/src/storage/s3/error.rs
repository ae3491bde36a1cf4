//! What an answer of the store, or the lack of one, means for the caller.

use std::error::Error as StdError;
use std::fmt;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::RequestId;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use super::super::{Error, ErrorKind, Operation};
use super::stall::Stalled;

/// A request that failed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) kind: ErrorKind,
    /// S3's own name of the error, where the store gave one.
    pub(super) code: Option<String>,
    pub(super) status: Option<u16>,
    reason: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Failure {
    pub(super) fn of<E>(error: SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        match error {
            SdkError::ServiceError(_) => Self::of_answer(&error),
            SdkError::ResponseError(_) => {
                let status = error.raw_response().map(|response| response.status().as_u16());
                let kind = status.map_or(ErrorKind::Transient, |status| classify(Some(status), None));
                // What cannot be understood is not believed, whatever its status says.
                let kind = if kind == ErrorKind::NotFound { ErrorKind::Transient } else { kind };
                Self { status, ..Self::without_answer(kind, "the answer cannot be understood", error) }
            }
            SdkError::TimeoutError(_) => Self::without_answer(ErrorKind::Transient, "timed out", error),
            error => Self::of_no_answer(error),
        }
    }

    fn of_answer<E>(error: &SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        let status = error.raw_response().map(|response| response.status().as_u16());
        let meta = error.as_service_error().map(ProvideErrorMetadata::meta);
        let code = meta.and_then(|meta| meta.code()).map(str::to_owned);
        let message = meta.and_then(|meta| meta.message()).unwrap_or_default();
        let mut reason = match (&code, status) {
            (Some(code), _) if message.is_empty() => code.clone(),
            (Some(code), _) => format!("{code}: {message}"),
            (None, Some(status)) => format!("the store answered with HTTP status {status}"),
            (None, None) => "the store refused".to_owned(),
        };
        if let Some(advice) = advice(status, code.as_deref()) {
            reason = format!("{reason} ({advice})");
        }
        if let Some(id) = error.request_id() {
            reason = format!("{reason} [request {id}]");
        }
        Self { kind: classify(status, code.as_deref()), code, status, reason, source: None }
    }

    fn of_no_answer<E>(error: SdkError<E, HttpResponse>) -> Self
    where
        E: StdError + Send + Sync + 'static,
    {
        let credentials = find(&error, |cause| match cause.downcast_ref::<CredentialsError>() {
            Some(CredentialsError::CredentialsNotLoaded(_)) => Some((ErrorKind::Denied, "no credentials were found")),
            Some(CredentialsError::InvalidConfiguration(_)) => {
                Some((ErrorKind::Invalid, "the configuration of the credentials is invalid"))
            }
            Some(_) => Some((ErrorKind::Transient, "the credentials could not be fetched")),
            None => None,
        });
        let certificate = find(&error, |cause| match cause.downcast_ref::<rustls::Error>() {
            Some(rustls::Error::InvalidCertificate(_)) => {
                Some((ErrorKind::Invalid, "the store's certificate is not trusted; is the CA file right?"))
            }
            _ => None,
        });
        let user = matches!(&error, SdkError::DispatchFailure(failure) if failure.is_user());
        let constructed = matches!(&error, SdkError::ConstructionFailure(_));
        let other = if constructed || user {
            (ErrorKind::Invalid, "the request cannot be made")
        } else {
            (ErrorKind::Transient, "the store cannot be reached")
        };
        let (kind, reason) = credentials.or(certificate).unwrap_or(other);
        Self::without_answer(kind, reason, error)
    }

    fn without_answer<E>(kind: ErrorKind, reason: &str, error: SdkError<E, HttpResponse>) -> Self
    where
        E: StdError + Send + Sync + 'static,
    {
        let source = error.into_source().unwrap_or_else(|error| Box::new(error));
        Self { kind, code: None, status: None, reason: reason.to_owned(), source: Some(source) }
    }

    pub(super) fn is(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }

    pub(super) fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.kind = kind;
        self
    }

    pub(super) fn into_error(self, operation: Operation, key: impl fmt::Display) -> Error {
        let error = Error::new(self.kind, operation, key, self.reason);
        match self.source {
            Some(source) => error.with_source(source),
            None => error,
        }
    }
}

impl From<Stalled> for Failure {
    fn from(stalled: Stalled) -> Self {
        Self { kind: ErrorKind::Transient, code: None, status: None, reason: stalled.to_string(), source: None }
    }
}

/// The first of the causes of an error in which `look` finds something. The payload of an `io::Error` is a cause too.
fn find<T>(error: &(dyn StdError + 'static), look: impl Fn(&(dyn StdError + 'static)) -> Option<T>) -> Option<T> {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(found) = look(cause) {
            return Some(found);
        }
        let payload = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = match payload {
            Some(payload) => Some(payload),
            None => cause.source(),
        };
    }
    None
}

/// Codes are those of <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html> and of common other stores. A
/// 404 without a code is never an answer about an object: the callers that can find out more do.
pub(super) fn classify(status: Option<u16>, code: Option<&str>) -> ErrorKind {
    match code {
        Some("NoSuchKey") => ErrorKind::NotFound,
        Some("NoSuchBucket") => ErrorKind::NoContainer,
        Some("PreconditionFailed") => ErrorKind::Changed,
        Some(
            "SlowDown"
            | "InternalError"
            | "ServiceUnavailable"
            | "RequestTimeout"
            | "RequestTimeTooShort"
            | "Throttling"
            | "ThrottlingException"
            | "RequestLimitExceeded"
            | "RequestThrottled"
            | "TooManyRequests"
            | "BandwidthLimitExceeded"
            | "ConditionalRequestConflict"
            | "OperationAborted"
            | "BadDigest"
            | "XAmzContentSHA256Mismatch"
            | "XAmzContentChecksumMismatch"
            | "IncompleteBody"
            | "NoSuchUpload"
            | "ServerBusy"
            | "KMS.ThrottlingException"
            | "XMinioServerNotInitialized",
        ) => ErrorKind::Transient,
        Some(
            "AccessDenied"
            | "AllAccessDisabled"
            | "AccountProblem"
            | "InvalidAccessKeyId"
            | "SignatureDoesNotMatch"
            | "ExpiredToken"
            | "InvalidToken"
            | "TokenRefreshRequired"
            | "NotSignedUp"
            | "InvalidSecurity"
            | "RequestTimeTooSkewed"
            | "UnauthorizedAccess"
            | "Forbidden"
            | "KMS.DisabledException"
            | "KMS.NotFoundException",
        ) => ErrorKind::Denied,
        Some(
            "QuotaExceeded"
            | "XMinioStorageFull"
            | "XMinioAdminBucketQuotaExceeded"
            | "InsufficientStorage"
            | "InsufficientStorageSpace"
            | "EntityStorageFull",
        ) => ErrorKind::Full,
        Some("InvalidRange" | "InvalidObjectState" | "NotImplemented") => ErrorKind::Invalid,
        _ => classify_status(status),
    }
}

fn classify_status(status: Option<u16>) -> ErrorKind {
    match status {
        Some(401 | 403) => ErrorKind::Denied,
        Some(412) => ErrorKind::Changed,
        Some(507) => ErrorKind::Full,
        Some(501) => ErrorKind::Invalid,
        // A 404 that is not S3's comes from something in between.
        Some(404 | 408 | 409 | 425 | 429 | 500..=599) | None => ErrorKind::Transient,
        Some(_) => ErrorKind::Invalid,
    }
}

fn advice(status: Option<u16>, code: Option<&str>) -> Option<&'static str> {
    match (status, code) {
        (_, Some("PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException"))
        | (Some(301 | 307), None) => Some("is the region right?"),
        (_, Some("RequestTimeTooSkewed")) => Some("the clock of this machine is wrong"),
        (_, Some("InvalidObjectState")) => Some("the object is archived and has to be thawed first"),
        (Some(400), None) => Some("often a wrong region or an expired token"),
        (_, Some("NotImplemented")) => Some("this store lacks something that the options ask for"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_follow_what_the_caller_does_next() {
        for (status, code, kind) in [
            (404, Some("NoSuchKey"), ErrorKind::NotFound),
            (404, Some("NoSuchBucket"), ErrorKind::NoContainer),
            (404, Some("NotFound"), ErrorKind::Transient),
            (404, None, ErrorKind::Transient),
            (403, None, ErrorKind::Denied),
            (403, Some("SignatureDoesNotMatch"), ErrorKind::Denied),
            (400, Some("ExpiredToken"), ErrorKind::Denied),
            (412, Some("PreconditionFailed"), ErrorKind::Changed),
            (412, None, ErrorKind::Changed),
            (409, Some("ConditionalRequestConflict"), ErrorKind::Transient),
            (503, Some("SlowDown"), ErrorKind::Transient),
            (500, None, ErrorKind::Transient),
            (502, Some("SomethingNew"), ErrorKind::Transient),
            (429, None, ErrorKind::Transient),
            (400, Some("BadDigest"), ErrorKind::Transient),
            (400, Some("InvalidArgument"), ErrorKind::Invalid),
            (416, Some("InvalidRange"), ErrorKind::Invalid),
            (501, Some("NotImplemented"), ErrorKind::Invalid),
            (301, None, ErrorKind::Invalid),
            (507, None, ErrorKind::Full),
        ] {
            assert_eq!(classify(Some(status), code), kind, "{status} {code:?}");
        }
    }

    #[test]
    fn finds_a_cause_behind_io_errors() {
        let tls = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let nested = std::io::Error::other(std::io::Error::other(tls));
        assert!(find(&nested, |cause| cause.downcast_ref::<rustls::Error>().map(|_| ())).is_some());
    }
}
