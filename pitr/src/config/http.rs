//! `[http]`: the agent's API.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::SecretSource;
use super::document::Section;
use super::socket::check_length;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpConfig {
    /// Address for metrics and page; none: only the socket.
    pub listen: Option<SocketAddr>,
    /// Path of the unix socket; none: [`default_socket`](super::default_socket).
    pub socket: Option<PathBuf>,
    /// Whoever knows it may write through `listen` too.
    pub token: Option<SecretSource>,
}

impl HttpConfig {
    pub(super) fn read(section: &mut Section<'_, '_>) -> Self {
        let http = Self {
            listen: section.parsed("listen", parse_listen).flatten(),
            socket: section.get("socket"),
            token: section.get("token"),
        };
        if let Some(Err(message)) = http.socket.as_deref().map(check_length) {
            section.problem("socket", message);
        }
        if http.token.is_some() && http.listen.is_none() {
            section.problem("token", "has a meaning with listen only: the socket needs none");
        }
        http
    }
}

fn parse_listen(text: &str) -> Result<Option<SocketAddr>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        format!("invalid address \"{text}\", expected an IP address and a port such as \"127.0.0.1:8432\"")
    })
}
