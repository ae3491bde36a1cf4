//! How to reach the server: libpq's connection strings and URIs.
//!
//! The words and rules are libpq's ("Connection Strings" in the manual), so that a string that works with `psql` works
//! here. A keyword that libpq has and we do not serve is refused, never ignored. Nothing is read from the process's
//! environment: what counts there comes in as [`Environment`].

mod keywords;
mod passfile;
mod uri;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use pitr::secret::Secret;

pub use passfile::{PassfileError, find_password};

const DEFAULT_PORT: u16 = 5432;
/// Debian's place of the socket.
const DEFAULT_HOST: &str = "/var/run/postgresql";
/// The functions that the agent calls are granted there; every server has it.
const DEFAULT_DATABASE: &str = "postgres";
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What libpq would take from the process.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// `PGPASSWORD`.
    pub password: Option<Secret<String>>,
    /// `PGPASSFILE`.
    pub passfile: Option<PathBuf>,
    /// `HOME`.
    pub home: Option<PathBuf>,
    /// The name of the user that the process runs as.
    pub user: Option<String>,
}

/// Where one server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// A host name or address, or the directory of the socket where it begins with `/`.
    pub host: String,
    /// Saves the look-up of `host`, which then only names the server for TLS and the passfile.
    pub hostaddr: Option<IpAddr>,
    pub port: u16,
}

impl Endpoint {
    #[must_use]
    pub fn is_socket(&self) -> bool {
        self.hostaddr.is_none() && self.host.starts_with('/')
    }

    /// The socket's file.
    #[must_use]
    pub fn socket_path(&self) -> Option<PathBuf> {
        self.is_socket().then(|| PathBuf::from(&self.host).join(format!(".s.PGSQL.{}", self.port)))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.socket_path() {
            Some(path) => write!(f, "{}", path.display()),
            None if self.host.contains(':') => write!(f, "[{}]:{}", self.host, self.port),
            None => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// `sslmode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// `sslrootcert`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootCertificates {
    /// What the machine trusts.
    System,
    File(PathBuf),
}

/// `target_session_attrs`: which of several servers is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetSession {
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
    /// A standby where there is one, else any.
    PreferStandby,
}

impl TargetSession {
    /// As it is written in a connection string.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::ReadWrite => "read-write",
            Self::ReadOnly => "read-only",
            Self::Primary => "primary",
            Self::Standby => "standby",
            Self::PreferStandby => "prefer-standby",
        }
    }
}

/// A connection string that was understood.
#[derive(Clone, Debug)]
pub struct ConnInfo {
    /// Tried in this order; at least one.
    pub endpoints: Vec<Endpoint>,
    pub user: String,
    pub dbname: String,
    /// Given outright; otherwise the passfile is asked at each connect, so that a new password needs no restart.
    pub password: Option<Secret<String>>,
    pub passfile: Option<PathBuf>,
    pub sslmode: SslMode,
    pub sslrootcert: Option<RootCertificates>,
    pub sslcert: Option<PathBuf>,
    pub sslkey: Option<PathBuf>,
    pub connect_timeout: Duration,
    pub application_name: Option<String>,
    pub options: Option<String>,
    pub target_session: TargetSession,
}

/// Why a connection string is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnInfoError {
    #[error("unknown connection keyword \"{keyword}\"{}", suggestion.as_ref().map(|s| format!(", did you mean \"{s}\"?")).unwrap_or_default())]
    UnknownKeyword { keyword: String, suggestion: Option<String> },
    #[error("the connection keyword \"{0}\" is not supported")]
    Unsupported(String),
    #[error("invalid value \"{value}\" of the connection keyword \"{keyword}\", expected {expected}")]
    InvalidValue { keyword: &'static str, value: String, expected: &'static str },
    #[error("malformed connection string: {0}")]
    Malformed(String),
    #[error("{0}")]
    Contradiction(String),
}

type Result<T> = std::result::Result<T, ConnInfoError>;

impl ConnInfo {
    /// Reads `keyword = value` pairs, or a `postgresql://` URI.
    ///
    /// # Errors
    /// What libpq would refuse, and what is not supported here.
    pub fn parse(text: &str, environment: &Environment) -> Result<Self> {
        let pairs = if uri::is_uri(text) { uri::parse(text)? } else { keywords::parse(text)? };
        Settings::collect(pairs)?.resolve(environment)
    }

    /// The same server seen from the session of another purpose.
    #[must_use]
    pub fn with_application_name(mut self, name: &str) -> Self {
        self.application_name = Some(name.to_owned());
        self
    }

    /// That one server of the list, whatever it is by now.
    #[must_use]
    pub fn only(mut self, endpoint: &Endpoint) -> Self {
        self.endpoints = vec![endpoint.clone()];
        self.target_session = TargetSession::Any;
        self
    }
}

/// One word of a connection string.
type Pair = (String, String);

/// The values of all keywords, as text.
#[derive(Debug, Default)]
struct Settings {
    host: Option<String>,
    hostaddr: Option<String>,
    port: Option<String>,
    user: Option<String>,
    dbname: Option<String>,
    password: Option<String>,
    passfile: Option<String>,
    connect_timeout: Option<String>,
    application_name: Option<String>,
    options: Option<String>,
    sslmode: Option<String>,
    sslrootcert: Option<String>,
    sslcert: Option<String>,
    sslkey: Option<String>,
    target_session_attrs: Option<String>,
}

const SUPPORTED: [&str; 15] = [
    "host",
    "hostaddr",
    "port",
    "user",
    "dbname",
    "password",
    "passfile",
    "connect_timeout",
    "application_name",
    "options",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "target_session_attrs",
];

/// libpq's other keywords.
const UNSUPPORTED: [&str; 26] = [
    "channel_binding",
    "client_encoding",
    "fallback_application_name",
    "gssdelegation",
    "gssencmode",
    "gsslib",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "krbsrvname",
    "load_balance_hosts",
    "max_protocol_version",
    "min_protocol_version",
    "replication",
    "require_auth",
    "requirepeer",
    "service",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslcompression",
    "sslcrl",
    "sslnegotiation",
    "sslpassword",
    "sslsni",
    "tcp_user_timeout",
];

impl Settings {
    fn collect(pairs: Vec<Pair>) -> Result<Self> {
        let mut settings = Self::default();
        for (keyword, value) in pairs {
            *settings.slot(&keyword)? = Some(value);
        }
        Ok(settings)
    }

    fn slot(&mut self, keyword: &str) -> Result<&mut Option<String>> {
        Ok(match keyword {
            "host" => &mut self.host,
            "hostaddr" => &mut self.hostaddr,
            "port" => &mut self.port,
            "user" => &mut self.user,
            "dbname" => &mut self.dbname,
            "password" => &mut self.password,
            "passfile" => &mut self.passfile,
            "connect_timeout" => &mut self.connect_timeout,
            "application_name" => &mut self.application_name,
            "options" => &mut self.options,
            "sslmode" => &mut self.sslmode,
            "sslrootcert" => &mut self.sslrootcert,
            "sslcert" => &mut self.sslcert,
            "sslkey" => &mut self.sslkey,
            "target_session_attrs" => &mut self.target_session_attrs,
            _ => return Err(unknown(keyword)),
        })
    }

    fn resolve(self, environment: &Environment) -> Result<ConnInfo> {
        let endpoints = endpoints(&self)?;
        let target_session = target_session(self.target_session_attrs)?;
        let sslrootcert = self.sslrootcert.filter(|path| !path.is_empty()).map(|path| match path.as_str() {
            "system" => RootCertificates::System,
            _ => RootCertificates::File(path.into()),
        });
        let sslmode = sslmode(self.sslmode.as_deref(), sslrootcert.as_ref())?;
        let user = self.user.filter(|user| !user.is_empty()).or_else(|| environment.user.clone());
        let given = |value: Option<String>| value.filter(|value| !value.is_empty());
        Ok(ConnInfo {
            endpoints,
            user: user.ok_or_else(|| ConnInfoError::Contradiction("the connection names no user".to_owned()))?,
            dbname: given(self.dbname).unwrap_or_else(|| DEFAULT_DATABASE.to_owned()),
            password: given(self.password).map(Secret::new).or_else(|| environment.password.clone()),
            passfile: given(self.passfile)
                .map(PathBuf::from)
                .or_else(|| environment.passfile.clone())
                .or_else(|| environment.home.as_ref().map(|home| home.join(".pgpass"))),
            sslmode,
            sslrootcert: sslrootcert.or_else(|| default_root(environment, sslmode)),
            sslcert: given(self.sslcert).map(PathBuf::from),
            sslkey: given(self.sslkey).map(PathBuf::from),
            connect_timeout: connect_timeout(self.connect_timeout.as_deref())?,
            application_name: given(self.application_name),
            options: given(self.options),
            target_session,
        })
    }
}

fn unknown(keyword: &str) -> ConnInfoError {
    if UNSUPPORTED.contains(&keyword) {
        return ConnInfoError::Unsupported(keyword.to_owned());
    }
    let suggestion = SUPPORTED
        .iter()
        .map(|known| (strsim::jaro_winkler(keyword, known), *known))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known.to_owned());
    ConnInfoError::UnknownKeyword { keyword: keyword.to_owned(), suggestion }
}

fn sslmode(value: Option<&str>, root: Option<&RootCertificates>) -> Result<SslMode> {
    let system = matches!(root, Some(RootCertificates::System));
    let mode = match value.filter(|value| !value.is_empty()) {
        None if system => SslMode::VerifyFull,
        None => SslMode::Prefer,
        Some("disable") => SslMode::Disable,
        Some("allow") => SslMode::Allow,
        Some("prefer") => SslMode::Prefer,
        // With a file of roots, libpq lets this mean that they are looked at.
        Some("require") if matches!(root, Some(RootCertificates::File(_))) => SslMode::VerifyCa,
        Some("require") => SslMode::Require,
        Some("verify-ca") => SslMode::VerifyCa,
        Some("verify-full") => SslMode::VerifyFull,
        Some(value) => {
            let expected = "disable, allow, prefer, require, verify-ca or verify-full";
            return Err(ConnInfoError::InvalidValue { keyword: "sslmode", value: value.to_owned(), expected });
        }
    };
    if system && mode != SslMode::VerifyFull {
        // Anybody can have a certificate of a public authority: without the name it proves nothing.
        let reason = "sslrootcert=system needs sslmode=verify-full".to_owned();
        return Err(ConnInfoError::Contradiction(reason));
    }
    Ok(mode)
}

fn target_session(value: Option<String>) -> Result<TargetSession> {
    use TargetSession as T;
    let Some(value) = value.filter(|value| !value.is_empty()) else { return Ok(T::Any) };
    let known = [T::Any, T::ReadWrite, T::ReadOnly, T::Primary, T::Standby, T::PreferStandby];
    known.into_iter().find(|known| known.as_str() == value).ok_or(ConnInfoError::InvalidValue {
        keyword: "target_session_attrs",
        value,
        expected: "any, read-write, read-only, primary, standby or prefer-standby",
    })
}

fn default_root(environment: &Environment, mode: SslMode) -> Option<RootCertificates> {
    let file = environment.home.as_ref()?.join(".postgresql/root.crt");
    (mode >= SslMode::VerifyCa).then_some(RootCertificates::File(file))
}

/// As in libpq, zero, a negative number and absence mean no limit there; here ten seconds, because a daemon must go on.
fn connect_timeout(value: Option<&str>) -> Result<Duration> {
    let Some(value) = value.filter(|value| !value.is_empty()) else { return Ok(DEFAULT_CONNECT_TIMEOUT) };
    let invalid =
        || ConnInfoError::InvalidValue { keyword: "connect_timeout", value: value.to_owned(), expected: "seconds" };
    let seconds: i64 = value.trim().parse().map_err(|_| invalid())?;
    match u64::try_from(seconds) {
        Ok(0) | Err(_) => Ok(DEFAULT_CONNECT_TIMEOUT),
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
    }
}

fn endpoints(settings: &Settings) -> Result<Vec<Endpoint>> {
    let list = |value: &Option<String>| -> Vec<String> {
        let value = value.as_deref().unwrap_or_default();
        value.split(',').map(|item| item.trim().to_owned()).collect()
    };
    let (hosts, addresses, ports) = (list(&settings.host), list(&settings.hostaddr), list(&settings.port));
    let count = hosts.len().max(addresses.len());
    let fits = |items: &[String]| items.len() == count || items == [""];
    if !fits(&hosts) || !fits(&addresses) || (!fits(&ports) && ports.len() != 1) {
        let reason = format!("{count} hosts do not go with {} addresses and {} ports", addresses.len(), ports.len());
        return Err(ConnInfoError::Contradiction(reason));
    }
    let one = ports.len() == 1;
    (0..count)
        .map(|index| {
            let item = |items: &[String]| items.get(index).cloned().unwrap_or_default();
            let hostaddr = match item(&addresses).as_str() {
                "" => None,
                text => Some(text.parse::<IpAddr>().map_err(|_| ConnInfoError::InvalidValue {
                    keyword: "hostaddr",
                    value: text.to_owned(),
                    expected: "an IP address",
                })?),
            };
            let host = match (item(&hosts), hostaddr) {
                (host, None) if host.is_empty() => DEFAULT_HOST.to_owned(),
                (host, Some(address)) if host.is_empty() => address.to_string(),
                (host, _) => host,
            };
            let port = port(&if one { ports.first().cloned().unwrap_or_default() } else { item(&ports) })?;
            Ok(Endpoint { host, hostaddr, port })
        })
        .collect()
}

fn port(text: &str) -> Result<u16> {
    match text {
        "" => Ok(DEFAULT_PORT),
        _ => text.parse().ok().filter(|port| *port > 0).ok_or_else(|| ConnInfoError::InvalidValue {
            keyword: "port",
            value: text.to_owned(),
            expected: "a number from 1 to 65535",
        }),
    }
}

#[cfg(test)]
mod tests;
