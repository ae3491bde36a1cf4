//! Talks to the agent: HTTP/1.1 over its unix socket, or over TCP with a bearer token.
//!
//! One connection for each request: there are few, and minutes may lie between them.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use pitr::api::{
    AgentStatus, ApiError, BackupJob, BackupRequest, ExpireJob, ExpireRequest, FinishRequest, MarkReply, MarkRequest,
};
use pitr::repository::marker::Marker;
use pitr::secret::Secret;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::args::AgentAddress;
use crate::output::table::printable;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// On top of what the agent was told to wait: for the restore point itself, and the way there and back.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// No answer of the agent is larger.
const MAX_ANSWER_BYTES: usize = 4 << 20;

/// Why the agent did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("could not connect to the agent at {address}")]
    Unreachable { address: String, source: io::Error },
    #[error("the connection to the agent at {address} broke")]
    Broken { address: String, source: hyper::Error },
    #[error("the agent at {address} did not answer for {} s", after.as_secs())]
    NoAnswer { address: String, after: Duration },
    #[error("the agent at {address} gave an answer that makes no sense, status {status}: {reason}")]
    Senseless { address: String, status: StatusCode, reason: String },
    #[error("{}", error.message)]
    Refused { status: StatusCode, error: Box<ApiError> },
}

impl AgentError {
    /// What a person can do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Unreachable { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "run this as the user that the agent runs as, or use --agent http://HOST:PORT with --token-file"
                    .to_owned()
            }
            Self::Unreachable { .. } => {
                "check that the agent runs, and [http] socket in its configuration; from another host use \
                 --agent http://HOST:PORT with --token-file"
                    .to_owned()
            }
            Self::Broken { .. } | Self::NoAnswer { .. } => {
                "it may have done it all the same: \"pitr status\" and \"pitr markers\" tell".to_owned()
            }
            Self::Senseless { .. } => {
                "is there another program at that address, or an agent of another version?".to_owned()
            }
            Self::Refused { error, .. } if !error.markers.is_empty() => {
                let picks: Vec<String> = error.markers.iter().map(|found| pick(&found.marker)).collect();
                format!("pick one: {}", picks.join(", "))
            }
            Self::Refused { error, .. } => return error.hint.clone(),
        })
    }

    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

/// As a person names one of several markers.
fn pick(marker: &Marker) -> String {
    format!("{}@{} of {}", printable(&marker.name), marker.lsn, marker.time.format("%F %T UTC"))
}

pub type Result<T> = std::result::Result<T, AgentError>;

/// Knows where the agent is.
#[derive(Debug, Clone)]
pub struct AgentClient {
    address: AgentAddress,
    token: Option<Secret<String>>,
}

impl AgentClient {
    pub fn new(address: AgentAddress, token: Option<Secret<String>>) -> Self {
        Self { address, token }
    }

    pub fn address(&self) -> &AgentAddress {
        &self.address
    }

    pub async fn status(&self) -> Result<AgentStatus> {
        self.call(Method::GET, "/v1/status", None::<&()>, Duration::ZERO).await
    }

    pub async fn mark(&self, request: &MarkRequest) -> Result<MarkReply> {
        let wait = Duration::from_millis(request.timeout_ms);
        self.call(Method::POST, "/v1/markers", Some(request), wait).await
    }

    pub async fn finish(&self, request: &FinishRequest) -> Result<MarkReply> {
        let wait = Duration::from_millis(request.timeout_ms);
        self.call(Method::POST, "/v1/markers/finish", Some(request), wait).await
    }

    pub async fn start_backup(&self, request: &BackupRequest) -> Result<BackupJob> {
        self.call(Method::POST, "/v1/backups", Some(request), Duration::ZERO).await
    }

    pub async fn current_backup(&self) -> Result<BackupJob> {
        self.call(Method::GET, "/v1/backups/current", None::<&()>, Duration::ZERO).await
    }

    pub async fn start_expire(&self, request: &ExpireRequest) -> Result<ExpireJob> {
        self.call(Method::POST, "/v1/expire", Some(request), Duration::ZERO).await
    }

    pub async fn current_expire(&self) -> Result<ExpireJob> {
        self.call(Method::GET, "/v1/expire/current", None::<&()>, Duration::ZERO).await
    }

    /// `wait` is how long the agent itself may take by its order.
    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
        wait: Duration,
    ) -> Result<T> {
        let request = self.request(method, path, body)?;
        let after = wait + ANSWER_TIMEOUT;
        match tokio::time::timeout(after, self.exchange(request)).await {
            Ok(answer) => {
                let (status, body) = answer?;
                self.read_answer(status, &body)
            }
            Err(_) => Err(AgentError::NoAnswer { address: self.address.to_string(), after }),
        }
    }

    fn request(&self, method: Method, path: &str, body: Option<&impl Serialize>) -> Result<Request<Full<Bytes>>> {
        let body =
            body.map(|body| serde_json::to_vec(body).expect("requests always have a JSON form")).unwrap_or_default();
        let host = match &self.address {
            AgentAddress::Socket(_) => "localhost",
            AgentAddress::Tcp(authority) => authority,
        };
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, host)
            .header(header::USER_AGENT, concat!("pitr/", env!("CARGO_PKG_VERSION")))
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.expose()));
        }
        request.body(Full::new(Bytes::from(body))).map_err(|_| {
            // The token is the only part that a person chose freely.
            let source = io::Error::new(io::ErrorKind::InvalidInput, "the token cannot stand in a header");
            AgentError::Unreachable { address: self.address.to_string(), source }
        })
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes)> {
        match &self.address {
            AgentAddress::Socket(path) => self.converse(self.connect(UnixStream::connect(path)).await?, request).await,
            AgentAddress::Tcp(authority) => {
                self.converse(self.connect(TcpStream::connect(authority)).await?, request).await
            }
        }
    }

    async fn connect<S>(&self, connecting: impl Future<Output = io::Result<S>>) -> Result<S> {
        let connected = match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")),
        };
        connected.map_err(|source| AgentError::Unreachable { address: self.address.to_string(), source })
    }

    async fn converse<S>(&self, stream: S, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let broken = |source| AgentError::Broken { address: self.address.to_string(), source };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(broken)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await.map_err(|source| {
                let reason = format!("its body cannot be read: {source}");
                AgentError::Senseless { address: self.address.to_string(), status, reason }
            })?;
            Ok((status, body.to_bytes()))
        };
        // The connection only moves while it is polled; when it ends first, the exchange fails by itself.
        let mut exchange = std::pin::pin!(exchange);
        tokio::select! {
            answer = &mut exchange => return answer,
            _ = connection => {}
        }
        exchange.await
    }

    fn read_answer<T: DeserializeOwned>(&self, status: StatusCode, body: &[u8]) -> Result<T> {
        let senseless = |reason: String| AgentError::Senseless { address: self.address.to_string(), status, reason };
        if status.is_success() {
            return serde_json::from_slice(body).map_err(|error| senseless(error.to_string()));
        }
        match serde_json::from_slice::<ApiError>(body) {
            Ok(error) => Err(AgentError::Refused { status, error: Box::new(error) }),
            Err(_) => Err(senseless(excerpt(body))),
        }
    }
}

fn excerpt(body: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(body).chars().take(200).collect();
    printable(text.trim())
}

#[cfg(test)]
mod tests;
