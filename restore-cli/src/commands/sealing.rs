//! What `mark` and `finish` share: waiting until the agent has sealed what it made.

use std::time::Duration;

use pitr::api::{ApiErrorKind, MarkReply};

use crate::agent_client::AgentError;
use crate::failure::Failure;

/// For the request; 0 does not wait.
pub fn timeout_ms(timeout: Option<Duration>) -> u64 {
    timeout.map_or(0, |timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX))
}

/// What was made and is not durable in time. The document is printed all the same.
pub fn check_sealed(reply: &MarkReply, timeout: Option<Duration>) -> Result<(), Failure> {
    match timeout {
        Some(timeout) if !reply.sealed => Err(not_sealed(&reply.marker.marker.name, timeout)),
        _ => Ok(()),
    }
}

/// Whether this refusal is what one who does not wait has asked for: the restore point is made, and nothing else is known yet.
pub fn is_made(error: &AgentError, timeout: Option<Duration>) -> bool {
    matches!(error, AgentError::Refused { error, .. } if timeout.is_none() && error.kind == ApiErrorKind::TimedOut)
}

/// The agent may say the same as a refusal.
pub fn map_timeout(error: AgentError, name: &str, timeout: Option<Duration>) -> Failure {
    match (&error, timeout) {
        (AgentError::Refused { error, .. }, Some(timeout)) if error.kind == ApiErrorKind::TimedOut => {
            not_sealed(name, timeout)
        }
        _ => error.into(),
    }
}

fn not_sealed(name: &str, timeout: Duration) -> Failure {
    Failure::NotSealedInTime(format!(
        "\"{name}\" was not sealed within {} s: its restore point is in the server's WAL, and it will be sealed as soon as \
         the repository has that WAL",
        timeout.as_secs_f64()
    ))
}
