//! Options of every command.

use std::path::{Path, PathBuf};

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args, ValueEnum};
use pitr::repository::layout::ClusterName;
use pitr::storage::StorageUrl;

use super::UsageError;

const WHERE: &str = "Repository";
const AGENT: &str = "Agent";
const OUTPUT: &str = "Output";

#[derive(Debug, Clone, Default, Args)]
pub struct GlobalArgs {
    /// Configuration file
    #[arg(long, global = true, env = "PITR_CONFIG", value_name = "FILE", help_heading = WHERE)]
    pub config: Option<PathBuf>,
    /// Name of the cluster
    #[arg(long, global = true, env = "PITR_CLUSTER", value_name = "NAME", help_heading = WHERE)]
    pub cluster: Option<String>,
    /// Repository, such as s3://backups/pitr or file:///var/lib/pitr; needs no configuration
    #[arg(long, global = true, env = "PITR_REPOSITORY", value_name = "URL", help_heading = WHERE)]
    pub repository: Option<String>,
    /// Endpoint of an S3 store other than AWS
    #[arg(long, global = true, env = "PITR_ENDPOINT", value_name = "URL", help_heading = WHERE)]
    pub endpoint: Option<String>,
    /// Region of the bucket
    #[arg(long, global = true, env = "PITR_REGION", value_name = "NAME", help_heading = WHERE)]
    pub region: Option<String>,
    /// Address buckets as endpoint/bucket
    #[arg(
        long,
        global = true,
        env = "PITR_PATH_STYLE",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_parser = BoolishValueParser::new(),
        help_heading = WHERE
    )]
    pub path_style: Option<bool>,
    /// The agent's socket, or http://HOST:PORT
    #[arg(long, global = true, env = "PITR_AGENT", value_name = "URL", help_heading = AGENT)]
    pub agent: Option<String>,
    /// File with the token that the agent wants over http
    #[arg(long, global = true, env = "PITR_TOKEN_FILE", value_name = "FILE", help_heading = AGENT)]
    pub token_file: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true, help_heading = OUTPUT)]
    pub json: bool,
    /// Tell more on stderr; twice: even more
    #[arg(short, long, global = true, action = ArgAction::Count, help_heading = OUTPUT)]
    pub verbose: u8,
    /// Tell only errors on stderr
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = OUTPUT)]
    pub quiet: bool,
    /// Colours
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN", help_heading = OUTPUT)]
    pub color: ColorChoice,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum ColorChoice {
    /// On a terminal, unless NO_COLOR is set
    #[default]
    Auto,
    Always,
    Never,
}

/// What stderr gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    Quiet,
    Normal,
    Verbose,
    Debug,
}

/// Where the agent listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentAddress {
    Socket(PathBuf),
    /// `host:port`.
    Tcp(String),
}

/// The options of every command, checked.
#[derive(Debug, Clone)]
pub struct Global {
    pub config: Option<PathBuf>,
    pub cluster: Option<ClusterName>,
    pub repository: Option<StorageUrl>,
    pub endpoint: Option<String>,
    pub region: Option<String>,
    pub path_style: Option<bool>,
    pub agent: Option<AgentAddress>,
    pub token_file: Option<PathBuf>,
    pub json: bool,
    pub verbosity: Verbosity,
    pub color: ColorChoice,
}

impl GlobalArgs {
    /// # Errors
    /// A value that cannot be what it should.
    pub fn validate(self) -> Result<Global, UsageError> {
        let cluster = not_empty(self.cluster).map(|text| text.parse::<ClusterName>()).transpose();
        let repository = not_empty(self.repository).map(|text| text.parse::<StorageUrl>()).transpose();
        Ok(Global {
            config: self.config.filter(|path| !path.as_os_str().is_empty()),
            cluster: cluster.map_err(|error| UsageError::new(error.to_string()))?,
            repository: repository.map_err(|error| UsageError::new(error.to_string()))?,
            endpoint: not_empty(self.endpoint).map(check_endpoint).transpose()?,
            region: not_empty(self.region),
            path_style: self.path_style,
            agent: not_empty(self.agent).map(|text| parse_agent(&text)).transpose()?,
            token_file: self.token_file.filter(|path| !path.as_os_str().is_empty()),
            json: self.json,
            verbosity: match (self.quiet, self.verbose) {
                (true, _) => Verbosity::Quiet,
                (false, 0) => Verbosity::Normal,
                (false, 1) => Verbosity::Verbose,
                (false, _) => Verbosity::Debug,
            },
            color: self.color,
        })
    }
}

/// An empty variable of the environment is none.
fn not_empty(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

fn check_endpoint(text: String) -> Result<String, UsageError> {
    let valid =
        text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).is_some_and(|rest| !rest.is_empty());
    if valid {
        Ok(text.trim_end_matches('/').to_owned())
    } else {
        Err(UsageError::new(format!("invalid endpoint \"{text}\""))
            .with_hint("write the whole URL, such as https://s3.example.com:9000"))
    }
}

fn parse_agent(text: &str) -> Result<AgentAddress, UsageError> {
    let invalid = |hint: &str| UsageError::new(format!("invalid agent \"{text}\"")).with_hint(hint);
    if let Some(path) = text.strip_prefix("unix:").or_else(|| text.starts_with('/').then_some(text)) {
        let path = Path::new(path.strip_prefix("//").unwrap_or(path));
        return if path.is_absolute() {
            Ok(AgentAddress::Socket(path.to_owned()))
        } else {
            Err(invalid("the path of a socket is absolute"))
        };
    }
    if text.starts_with("https://") {
        return Err(invalid("the agent speaks plain http; put a tunnel in front of it"));
    }
    let Some(authority) = text.strip_prefix("http://").map(|rest| rest.trim_end_matches('/')) else {
        return Err(invalid("write http://HOST:PORT, or the path of the agent's socket"));
    };
    let (host, port) = authority.rsplit_once(':').unwrap_or((authority, ""));
    let valid =
        !host.is_empty() && !host.contains(['/', '@', '?', '#']) && port.parse::<u16>().is_ok_and(|port| port > 0);
    if valid { Ok(AgentAddress::Tcp(authority.to_owned())) } else { Err(invalid("write http://HOST:PORT")) }
}

impl std::fmt::Display for AgentAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "{}", path.display()),
            Self::Tcp(authority) => write!(f, "http://{authority}"),
        }
    }
}
