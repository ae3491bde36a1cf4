//! A session for SQL.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::time::Duration;

use tokio_postgres::config::{SslMode, SslNegotiation};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};
use tokio_postgres::types::ToSql;
use tokio_postgres::{CancelToken, Client, Config, Row, SimpleQueryMessage};
use tokio_util::task::AbortOnDropHandle;

use super::conninfo::{ConnInfo, Endpoint, TargetSession};
use super::error::{Error, Result, ServerMessage};
use super::transport::{self, Login, Purpose, Transport};

/// How long a session that is closed may take to say good-bye.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// One session, with the task that moves its bytes; dropping it ends both.
pub struct SqlSession {
    client: Client,
    /// As the server counts: what `pg_stat_activity` and `pg_terminate_backend` know.
    backend_pid: i32,
    endpoint: Endpoint,
    connection: AbortOnDropHandle<Result<()>>,
}

impl std::fmt::Debug for SqlSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqlSession").field("backend_pid", &self.backend_pid).finish_non_exhaustive()
    }
}

/// Connects and logs in, to the first server that is what `target_session_attrs` asks for.
///
/// # Errors
/// No server of `conninfo` lets us in, or is the one.
pub async fn connect(conninfo: &ConnInfo) -> Result<SqlSession> {
    if conninfo.target_session == TargetSession::PreferStandby {
        let standby = connect_to(conninfo, TargetSession::Standby).await;
        if standby.is_ok() {
            return standby;
        }
    }
    connect_to(conninfo, conninfo.target_session).await
}

async fn connect_to(conninfo: &ConnInfo, target: TargetSession) -> Result<SqlSession> {
    transport::connect(conninfo, Purpose::Sql, async |transport, login| {
        let session = SqlSession::start(conninfo, transport, login).await?;
        session.demand(target).await?;
        Ok(session)
    })
    .await
}

impl SqlSession {
    async fn start(conninfo: &ConnInfo, transport: Transport, login: Login) -> Result<Self> {
        let config = config(conninfo, &transport, &login);
        let (client, connection) = match config.connect_raw(transport, Established).await {
            Ok(connected) => connected,
            Err(error) => return Err(startup_error(error, &login)),
        };
        let task = tokio::spawn(async move { connection.await.map_err(Error::from) });
        let endpoint = login.endpoint;
        let mut session = Self { client, backend_pid: 0, endpoint, connection: AbortOnDropHandle::new(task) };
        session.backend_pid = session.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
        Ok(session)
    }

    /// Leaves a server that is not the one: the rules are those of "target_session_attrs" in the manual.
    async fn demand(&self, target: TargetSession) -> Result<()> {
        if matches!(target, TargetSession::Any | TargetSession::PreferStandby) {
            return Ok(());
        }
        let sql = "SELECT pg_is_in_recovery(), current_setting('transaction_read_only') = 'on'";
        let row = self.query_one(sql, &[]).await?;
        let (in_recovery, read_only): (bool, bool) = (row.get(0), row.get(1));
        let found = match target {
            TargetSession::Primary if in_recovery => "a standby",
            TargetSession::Standby if !in_recovery => "a primary",
            TargetSession::ReadWrite if in_recovery || read_only => "read-only",
            TargetSession::ReadOnly if !in_recovery && !read_only => "open for writes",
            _ => return Ok(()),
        };
        Err(Error::Unwanted { server: self.endpoint.to_string(), found, wanted: target.as_str() })
    }

    /// The server of the connection string that let us in.
    #[must_use]
    pub const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// For transactions and other calls that borrow the client alone.
    #[must_use]
    pub fn client_mut(&mut self) -> &mut Client {
        &mut self.client
    }

    #[must_use]
    pub const fn backend_pid(&self) -> i32 {
        self.backend_pid
    }

    /// Whether the connection has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// # Errors
    /// The server refuses, or the connection ends.
    pub async fn query(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>> {
        Ok(self.client.query(sql, parameters).await?)
    }

    /// # Errors
    /// As [`SqlSession::query`], and when the answer has not exactly one row.
    pub async fn query_one(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Row> {
        Ok(self.client.query_one(sql, parameters).await?)
    }

    /// Statements by the simple protocol; values come as text.
    ///
    /// # Errors
    /// As [`SqlSession::query`].
    pub async fn simple(&self, sql: &str) -> Result<Vec<SimpleQueryMessage>> {
        Ok(self.client.simple_query(sql).await?)
    }

    /// Asks the server to end the statement that runs. Dropping a query's future does not do that.
    ///
    /// # Errors
    /// The request did not reach the server.
    pub async fn cancel(&self, conninfo: &ConnInfo) -> Result<()> {
        let token = self.client.cancel_token();
        transport::connect(conninfo, Purpose::Sql, |transport, _| cancel(token.clone(), transport)).await
    }

    /// Ends the session and waits until the server has been told.
    ///
    /// # Errors
    /// The connection had failed before.
    pub async fn close(self) -> Result<()> {
        drop(self.client);
        match tokio::time::timeout(CLOSE_TIMEOUT, self.connection).await {
            Ok(Ok(ended)) => ended,
            Ok(Err(_)) | Err(_) => Ok(()),
        }
    }
}

async fn cancel(token: CancelToken, transport: Transport) -> Result<()> {
    Ok(token.cancel_query_raw(transport, Established).await?)
}

fn config(conninfo: &ConnInfo, transport: &Transport, login: &Login) -> Config {
    let mut config = Config::new();
    config.user(&conninfo.user).dbname(&conninfo.dbname);
    config.application_name(conninfo.application_name.as_deref().unwrap_or("pitr-agent"));
    if let Some(password) = &login.password {
        config.password(password.expose());
    }
    if let Some(options) = &conninfo.options {
        config.options(options);
    }
    if transport.is_encrypted() {
        // "Direct" hands the stream to our connector without asking the server for TLS again.
        config.ssl_mode(SslMode::Require).ssl_negotiation(SslNegotiation::Direct);
    } else {
        config.ssl_mode(SslMode::Disable);
    }
    config
}

fn startup_error(error: tokio_postgres::Error, login: &Login) -> Error {
    if let Some(answer) = error.as_db_error() {
        return Error::from_startup(ServerMessage::from(answer), &login.attempted);
    }
    if login.password.is_none() && error.to_string().starts_with("invalid configuration") {
        let what = format!("the server at {}", login.attempted.server);
        return Error::NoPassword { what, user: login.attempted.user.clone() };
    }
    error.into()
}

/// Passes on a stream on which TLS is established already.
struct Established;

impl TlsConnect<Transport> for Established {
    type Stream = Transport;
    type Error = Infallible;
    type Future = Ready<std::result::Result<Transport, Infallible>>;

    fn connect(self, stream: Transport) -> Self::Future {
        ready(Ok(stream))
    }
}

impl TlsStream for Transport {
    fn channel_binding(&self) -> ChannelBinding {
        match self.server_end_point() {
            Some(end_point) => ChannelBinding::tls_server_end_point(end_point.to_vec()),
            None => ChannelBinding::none(),
        }
    }
}
