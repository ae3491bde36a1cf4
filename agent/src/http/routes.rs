//! Paths and what answers them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::extract::rejection::JsonRejection;
use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use pitr::api::{
    AgentStatus, ApiErrorKind, BackupJob, BackupRequest, ExpireJob, ExpireRequest, ExpireState, FinishRequest,
    MarkReply, MarkRequest, WalPushReply, WalPushRequest,
};

use super::answer::Failure;
use super::server::Peer;
use crate::mark::{FinishOrder, MarkOrder, Marks};
use crate::wal_push::Pushes;

/// How long an order waits for an agent that has just started.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// Tells how the agent is.
pub trait StatusSource: fmt::Debug + Send + Sync + 'static {
    fn status(&self) -> AgentStatus;
}

/// Where backups are asked for.
#[async_trait]
pub trait BackupDoor: fmt::Debug + Send + Sync + 'static {
    /// Starts a backup, or gives back the one that runs as an error. A `fresh` one shares nothing with earlier ones.
    async fn request(&self, fresh: bool) -> Result<BackupJob, BackupJob>;
    /// The one that runs, else the last.
    fn current(&self) -> Option<BackupJob>;
}

/// Where retention is asked for.
#[async_trait]
pub trait ExpireDoor: fmt::Debug + Send + Sync + 'static {
    /// Whether a rule says that anything goes.
    fn applies(&self) -> bool;
    /// Starts a run, or gives back the one that runs as an error.
    async fn request(&self, order: ExpireRequest) -> Result<ExpireJob, ExpireJob>;
    /// The one that runs, else the last.
    fn current(&self) -> Option<ExpireJob>;
}

/// What the routes stand on.
#[derive(Clone, Debug)]
pub struct ApiState {
    pub status: Arc<dyn StatusSource>,
    /// None while the agent has not reached its server and repository yet.
    pub doors: tokio::sync::watch::Receiver<Option<Doors>>,
}

/// What is there once the agent has reached its server and repository.
#[derive(Clone, Debug)]
pub struct Doors {
    pub marks: Marks,
    pub backups: Arc<dyn BackupDoor>,
    pub expiry: Arc<dyn ExpireDoor>,
    pub pushes: Pushes,
}

/// Everything: for the socket.
pub fn full(state: ApiState) -> Router {
    reading()
        .route("/v1/markers", post(mark))
        .route("/v1/markers/finish", post(finish))
        .route("/v1/backups", post(start_backup))
        .route("/v1/expire", post(start_expire))
        .route("/v1/wal", post(push_wal))
        .fallback(no_such_path)
        .with_state(state)
}

/// What changes nothing: for TCP.
pub fn read_only(state: ApiState) -> Router {
    reading().fallback(no_such_path).with_state(state)
}

fn reading() -> Router<ApiState> {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/backups/current", get(current_backup))
        .route("/v1/expire/current", get(current_expire))
}

async fn no_such_path() -> Failure {
    Failure::new(ApiErrorKind::NotFound, "there is no such path", None)
}

async fn status(State(state): State<ApiState>) -> Json<AgentStatus> {
    Json(state.status.status())
}

type Body<T> = Result<Json<T>, JsonRejection>;

fn body<T>(body: Body<T>) -> Result<T, Failure> {
    match body {
        Ok(Json(value)) => Ok(value),
        Err(rejection) => Err(Failure::new(ApiErrorKind::Invalid, rejection.body_text(), None)),
    }
}

/// How long one who waits so long for the whole waits for the agent to be ready; 0 waits for nothing but that.
fn patience(timeout: Duration) -> Duration {
    if timeout.is_zero() { START_PATIENCE } else { timeout.min(START_PATIENCE) }
}

/// An agent that has just started is given a moment to reach its server and repository.
async fn doors(state: &ApiState, patience: Duration) -> Result<Doors, Failure> {
    let mut doors = state.doors.clone();
    if let Ok(Ok(open)) = tokio::time::timeout(patience, doors.wait_for(Option::is_some)).await
        && let Some(doors) = open.clone()
    {
        return Ok(doors);
    }
    let problems = state.status.status().problems;
    let message = match problems.first() {
        Some(problem) => format!("the agent is not ready: {problem}"),
        None => "the agent is not ready: it has just started".to_owned(),
    };
    let hint = "nothing was done; try again once that is mended".to_owned();
    Err(Failure::new(ApiErrorKind::Unavailable, message, Some(hint)))
}

async fn mark(
    State(state): State<ApiState>,
    request: Body<MarkRequest>,
) -> Result<(StatusCode, Json<MarkReply>), Failure> {
    let MarkRequest { name, meta, key, who, timeout_ms } = body(request)?;
    let order = MarkOrder { name, meta, key, who, timeout: Duration::from_millis(timeout_ms) };
    let reply = doors(&state, patience(order.timeout)).await?.marks.mark(order).await?;
    Ok((StatusCode::CREATED, Json(reply)))
}

async fn finish(
    State(state): State<ApiState>,
    request: Body<FinishRequest>,
) -> Result<(StatusCode, Json<MarkReply>), Failure> {
    let FinishRequest { name, lsn, outcome, meta, who, timeout_ms } = body(request)?;
    let order = FinishOrder { name, lsn, outcome, meta, who, timeout: Duration::from_millis(timeout_ms) };
    let reply = doors(&state, patience(order.timeout)).await?.marks.finish(order).await?;
    Ok((StatusCode::CREATED, Json(reply)))
}

async fn start_backup(
    State(state): State<ApiState>,
    request: Body<BackupRequest>,
) -> Result<(StatusCode, Json<BackupJob>), Failure> {
    let BackupRequest { who: _, fresh } = body(request)?;
    match doors(&state, START_PATIENCE).await?.backups.request(fresh).await {
        Ok(job) => Ok((StatusCode::ACCEPTED, Json(job))),
        Err(running) => {
            let message = format!("backup {} is running", running.id);
            Err(Failure::new(ApiErrorKind::Conflict, message, Some("wait until it ends".to_owned())))
        }
    }
}

/// A run takes what is asked only when the one before is over: it is answered at once whether one runs.
async fn start_expire(
    State(state): State<ApiState>,
    request: Body<ExpireRequest>,
) -> Result<(StatusCode, Json<ExpireJob>), Failure> {
    let request = body(request)?;
    let door = doors(&state, START_PATIENCE).await?.expiry;
    if request.backups.is_empty() && !door.applies() {
        let hint = "set [retention] window in the agent's configuration, and start the agent anew".to_owned();
        return Err(Failure::new(ApiErrorKind::Invalid, "no rule says that anything is to be deleted", Some(hint)));
    }
    if door.current().is_some_and(|job| job.state == ExpireState::Running) {
        let hint = "wait until it ends".to_owned();
        return Err(Failure::new(ApiErrorKind::Conflict, "retention is being applied", Some(hint)));
    }
    match door.request(request).await {
        Ok(job) | Err(job) => Ok((StatusCode::ACCEPTED, Json(job))),
    }
}

async fn current_expire(State(state): State<ApiState>) -> Result<Json<ExpireJob>, Failure> {
    let none = || Failure::new(ApiErrorKind::NotFound, "retention was not applied since the agent started", None);
    let current = state.doors.borrow().as_ref().and_then(|doors| doors.expiry.current());
    current.map(Json).ok_or_else(none)
}

/// Only the server's own archiver has a business here: the user that the agent and the server run as.
async fn push_wal(
    State(state): State<ApiState>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Body<WalPushRequest>,
) -> Result<Json<WalPushReply>, Failure> {
    if !peer.is_ours() {
        return Err(Failure::new(ApiErrorKind::Invalid, "WAL is taken from the agent's own user only", None));
    }
    let request = body(request)?;
    Ok(Json(doors(&state, START_PATIENCE).await?.pushes.push(request).await?))
}

async fn current_backup(State(state): State<ApiState>) -> Result<Json<BackupJob>, Failure> {
    let none = || Failure::new(ApiErrorKind::NotFound, "no backup ran since the agent started", None);
    let current = state.doors.borrow().as_ref().and_then(|doors| doors.backups.current());
    current.map(Json).ok_or_else(none)
}
