//! What can go wrong between the agent and the server.

use std::fmt;
use std::io;

/// What the server said in an `ErrorResponse`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerMessage {
    pub sqlstate: String,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

impl fmt::Display for ServerMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(detail) = &self.detail {
            write!(f, " ({detail})")?;
        }
        Ok(())
    }
}

/// A failed conversation with the server, by what the caller or a person does about it. `Display` leaves out the source.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("could not connect to the server at {server}")]
    Unreachable { server: String, source: io::Error },
    #[error("the server at {server} did not answer within {seconds} s")]
    TimedOut { server: String, seconds: u64 },
    #[error("could not make the connection to {server} secure: {reason}")]
    Tls { server: String, reason: String, source: Option<Box<dyn std::error::Error + Send + Sync>> },
    /// The server knows the role, or not, and does not accept who we say we are.
    #[error("the server at {server} did not accept the role \"{user}\": {message}")]
    AuthenticationFailed { server: String, user: String, message: ServerMessage },
    /// No line of `pg_hba.conf` lets this connection in.
    #[error("the server at {server} does not admit this connection: {message}")]
    NotAdmitted { server: String, user: String, replication: bool, message: ServerMessage },
    #[error("{what} needs a password, and none is known for the role \"{user}\"")]
    NoPassword { what: String, user: String },
    #[error("a file of the connection's configuration cannot be used: {reason}")]
    Credentials { reason: String, source: Option<io::Error> },
    #[error("the role lacks a privilege: {0}")]
    MissingPrivilege(ServerMessage),
    /// Starting, stopping or recovering: worth another try.
    #[error("the server does not take connections now: {0}")]
    NotReady(ServerMessage),
    #[error("the server has no free connection: {0}")]
    TooManyConnections(ServerMessage),
    /// It answers, and is not the one that `target_session_attrs` asks for. That can change.
    #[error("the server at {server} is {found}, and target_session_attrs asks for {wanted}")]
    Unwanted { server: String, found: &'static str, wanted: &'static str },
    #[error("the server answered: {0}")]
    Server(ServerMessage),
    #[error("the connection to the server was closed")]
    Closed(#[source] Option<io::Error>),
    #[error("the server answered what this version does not understand: {0}")]
    Protocol(String),
}

pub type Result<T> = std::result::Result<T, Error>;

/// Where and as whom a connection was tried: for messages.
#[derive(Clone, Debug)]
pub(crate) struct Attempted {
    pub server: String,
    pub user: String,
    pub replication: bool,
}

impl Error {
    /// What the server's answer means while a connection is being made.
    pub(crate) fn from_startup(message: ServerMessage, attempted: &Attempted) -> Self {
        let Attempted { server, user, replication } = attempted.clone();
        match message.sqlstate.as_str() {
            "28000" if message.message.contains("pg_hba.conf") => {
                Self::NotAdmitted { server, user, replication, message }
            }
            "28P01" | "28000" => Self::AuthenticationFailed { server, user, message },
            _ => Self::from_server(message),
        }
    }

    /// What the server's answer means to a command.
    pub(crate) fn from_server(message: ServerMessage) -> Self {
        match message.sqlstate.as_str() {
            "42501" => Self::MissingPrivilege(message),
            "57P01" | "57P02" | "57P03" => Self::NotReady(message),
            "53300" => Self::TooManyConnections(message),
            _ => Self::Server(message),
        }
    }

    #[must_use]
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::AuthenticationFailed { message, .. }
            | Self::NotAdmitted { message, .. }
            | Self::MissingPrivilege(message)
            | Self::NotReady(message)
            | Self::TooManyConnections(message)
            | Self::Server(message) => Some(&message.sqlstate),
            _ => None,
        }
    }

    /// Whether the server refused before it let us in, so that another kind of encryption may be tried.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Self::AuthenticationFailed { .. } | Self::NotAdmitted { .. } | Self::Tls { .. })
    }

    /// Whether another try may succeed without a person doing anything.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::TimedOut { .. }
                | Self::NotReady(_)
                | Self::TooManyConnections(_)
                | Self::Unwanted { .. }
                | Self::Closed(_)
        )
    }

    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let text = |text: &str| Some(text.to_owned());
        match self {
            Self::Unreachable { .. } | Self::TimedOut { .. } => text(
                "check that the server runs, and host and port (or the socket's directory) in [postgres] connection",
            ),
            Self::Tls { .. } => text(
                "check sslmode, sslrootcert, sslcert and sslkey in [postgres] connection; for verify-full the \
                 certificate must name the host as it is written there",
            ),
            Self::AuthenticationFailed { user, message, .. } => Some(if message.sqlstate == "28P01" {
                format!("check the password of \"{user}\": passfile, ~/.pgpass or PGPASSWORD of the agent's user")
            } else if message.message.contains("replication") {
                format!("as a superuser: ALTER ROLE \"{user}\" REPLICATION;")
            } else {
                format!("check that the role exists and may log in: CREATE ROLE \"{user}\" LOGIN REPLICATION;")
            }),
            Self::NotAdmitted { user, replication, .. } => {
                let database = if *replication { "replication" } else { "postgres" };
                Some(format!(
                    "add a line to pg_hba.conf and reload the server, such as \"local {database} {user} peer\" for the \
                     socket or \"hostssl {database} {user} ADDRESS scram-sha-256\" for a host"
                ))
            }
            Self::NoPassword { .. } => text(
                "put it into ~/.pgpass of the agent's user (mode 0600), or name a passfile in [postgres] connection",
            ),
            Self::MissingPrivilege(message) => Some(privilege_hint(&message.to_string())),
            Self::TooManyConnections(_) => {
                text("raise max_wal_senders or max_connections, or end what holds the connections")
            }
            Self::Server(message) => message.hint.clone().or_else(|| state_hint(message)),
            Self::Unwanted { .. } => text("list every server that can take over as a host in [postgres] connection"),
            Self::Credentials { .. } | Self::NotReady(_) | Self::Closed(_) | Self::Protocol(_) => None,
        }
    }
}

fn privilege_hint(message: &str) -> String {
    match message.split_once("permission denied for function ") {
        Some((_, function)) => format!(
            "as a superuser: GRANT EXECUTE ON FUNCTION {}(...) TO the role of [postgres] connection; docs/operations.md \
             lists what the role needs",
            function.split(' ').next().unwrap_or(function).trim_matches('"')
        ),
        None if message.to_ascii_lowercase().contains("replication") => {
            "as a superuser: ALTER ROLE the role of [postgres] connection REPLICATION;".to_owned()
        }
        None => "as a superuser: GRANT pg_monitor, pg_read_all_settings TO the role of [postgres] connection; \
                 docs/operations.md lists what the role needs"
            .to_owned(),
    }
}

fn state_hint(message: &ServerMessage) -> Option<String> {
    let hint = match message.sqlstate.as_str() {
        "3D000" => "name an existing database by dbname in [postgres] connection",
        "53400" if message.message.contains("replication slots") => {
            "raise max_replication_slots (needs a restart) or drop a slot that is not used"
        }
        "55000" if message.message.contains("wal_level") => "set wal_level to replica (needs a restart)",
        _ => return None,
    };
    Some(hint.to_owned())
}

impl From<postgres_protocol::message::backend::ErrorResponseBody> for ServerMessage {
    fn from(body: postgres_protocol::message::backend::ErrorResponseBody) -> Self {
        use fallible_iterator::FallibleIterator;
        let mut message = Self::default();
        let mut fields = body.fields();
        while let Ok(Some(field)) = fields.next() {
            let text = String::from_utf8_lossy(field.value_bytes()).into_owned();
            match field.type_() {
                b'C' => message.sqlstate = text,
                b'M' => message.message = text,
                b'D' => message.detail = Some(text),
                b'H' => message.hint = Some(text),
                _ => {}
            }
        }
        message
    }
}

impl From<&tokio_postgres::error::DbError> for ServerMessage {
    fn from(error: &tokio_postgres::error::DbError) -> Self {
        Self {
            sqlstate: error.code().code().to_owned(),
            message: error.message().to_owned(),
            detail: error.detail().map(str::to_owned),
            hint: error.hint().map(str::to_owned),
        }
    }
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        if let Some(answer) = error.as_db_error() {
            return Self::from_server(answer.into());
        }
        if error.is_closed() {
            return Self::Closed(None);
        }
        let source = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<io::Error>());
        match source {
            Some(source) => Self::Closed(Some(io::Error::new(source.kind(), source.to_string()))),
            None => Self::Protocol(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn startup(sqlstate: &str, message: &str) -> Error {
        let message =
            ServerMessage { sqlstate: sqlstate.to_owned(), message: message.to_owned(), ..ServerMessage::default() };
        let attempted = Attempted { server: "db:5432".to_owned(), user: "backup".to_owned(), replication: true };
        Error::from_startup(message, &attempted)
    }

    #[test]
    fn tells_refusals_apart_and_says_what_to_do() {
        let error = startup("28000", "no pg_hba.conf entry for replication connection from host \"::1\"");
        assert!(error.hint().unwrap().contains("hostssl replication backup"), "{error:?}");
        let error = startup("28P01", "password authentication failed for user \"backup\"");
        assert!(error.hint().unwrap().contains("password"), "{error:?}");
        let error = startup("28000", "must be superuser or replication role to start walsender");
        assert!(error.hint().unwrap().contains("REPLICATION"), "{error:?}");
        let error = startup("42501", "permission denied to start WAL sender");
        assert!(matches!(error, Error::MissingPrivilege(_)));
        let error = startup("42501", "must be superuser or replication role to start walsender");
        assert!(error.hint().unwrap().contains("REPLICATION"), "{error:?}");
        assert!(startup("57P03", "the database system is starting up").is_passing());
        assert!(!startup("28P01", "").is_passing());
    }
}
