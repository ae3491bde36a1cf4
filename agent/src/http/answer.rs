//! Failures as HTTP answers.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use pitr::api::{ApiError, ApiErrorKind};

use crate::error_text::in_full;
use crate::mark::MarkError;
use crate::wal_push::PushError;

/// An [`ApiError`] with its status.
#[derive(Debug)]
pub struct Failure(pub ApiError);

impl Failure {
    pub fn new(kind: ApiErrorKind, message: impl Into<String>, hint: Option<String>) -> Self {
        Self(ApiError { kind, message: message.into(), hint, markers: Vec::new() })
    }
}

const fn status(kind: ApiErrorKind) -> StatusCode {
    match kind {
        ApiErrorKind::Invalid => StatusCode::BAD_REQUEST,
        ApiErrorKind::NotFound => StatusCode::NOT_FOUND,
        ApiErrorKind::Conflict | ApiErrorKind::Ambiguous => StatusCode::CONFLICT,
        ApiErrorKind::TimedOut => StatusCode::GATEWAY_TIMEOUT,
        ApiErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ApiErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (status(self.0.kind), Json(self.0)).into_response()
    }
}

impl From<PushError> for Failure {
    fn from(error: PushError) -> Self {
        let kind = match &error {
            PushError::Name(_) | PushError::File { .. } | PushError::AnotherFile { .. } => ApiErrorKind::Invalid,
            PushError::ElsewhereThanPgWal { .. } | PushError::Refused { .. } => ApiErrorKind::Invalid,
            PushError::Conflict { .. } => ApiErrorKind::Conflict,
            PushError::TimedOut { .. } => ApiErrorKind::TimedOut,
            PushError::Repository { .. } | PushError::NoLease | PushError::Stopping => ApiErrorKind::Unavailable,
            PushError::Broken(_) => ApiErrorKind::Internal,
        };
        Self::new(kind, in_full(&error), error.hint())
    }
}

impl From<MarkError> for Failure {
    fn from(error: MarkError) -> Self {
        let kind = match &error {
            MarkError::Name(_) => ApiErrorKind::Invalid,
            MarkError::NotFound { .. } => ApiErrorKind::NotFound,
            MarkError::Ambiguous { .. } => ApiErrorKind::Ambiguous,
            MarkError::AlreadyFinished { .. } | MarkError::KeyTaken { .. } => ApiErrorKind::Conflict,
            MarkError::NotSealed { .. } => ApiErrorKind::TimedOut,
            MarkError::RestorePoint { .. }
            | MarkError::NotLookedUp { .. }
            | MarkError::Repository { .. }
            | MarkError::Stopping => ApiErrorKind::Unavailable,
        };
        let mut failure = Self::new(kind, error.to_string(), error.hint());
        if let MarkError::Ambiguous { markers, .. } = error {
            failure.0.markers = markers;
        }
        failure
    }
}
