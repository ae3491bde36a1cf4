//! The byte stream to the server: a socket, TCP, or TLS over TCP, made by the rules of libpq.
//!
//! Both the SQL session and the replication connection stand on it, so hosts, timeouts, encryption and its fallbacks are
//! decided in one place.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use pitr::secret::Secret;
use postgres_protocol::message::frontend;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::conninfo::{self, ConnInfo, Endpoint, SslMode};
use super::error::{Attempted, Error, Result};
use super::tls;

/// How long a silent peer may stay so before the kernel asks whether it lives, and between its questions.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_COUNT: u32 = 3;

#[derive(Debug)]
enum Stream {
    Socket(UnixStream),
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// An open stream on which nothing was said but what TLS needs.
#[derive(Debug)]
pub(crate) struct Transport {
    stream: Stream,
    server_end_point: Option<Vec<u8>>,
}

/// What is needed to log in, and to say what was tried.
#[derive(Clone, Debug)]
pub(crate) struct Login {
    pub endpoint: Endpoint,
    pub attempted: Attempted,
    pub password: Option<Secret<String>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encryption {
    None,
    /// Where the server has it.
    Offered,
    Demanded,
}

/// What the connection is for: the passfile, `pg_hba.conf` and messages tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Sql,
    Replication,
}

/// Opens a stream to the first server that lets us in, and logs in by `log_in`.
///
/// # Errors
/// The error of the last server that was tried.
pub(crate) async fn connect<T, F, L>(conninfo: &ConnInfo, purpose: Purpose, log_in: L) -> Result<T>
where
    L: Fn(Transport, Login) -> F,
    F: Future<Output = Result<T>>,
{
    let tls = tls_config(conninfo).await?;
    let mut last = Error::Closed(None);
    for endpoint in &conninfo.endpoints {
        let login = Login {
            endpoint: endpoint.clone(),
            attempted: Attempted {
                server: endpoint.to_string(),
                user: conninfo.user.clone(),
                replication: purpose == Purpose::Replication,
            },
            password: password(conninfo, endpoint, purpose).await?,
        };
        for encryption in encryptions(conninfo.sslmode, endpoint) {
            let attempt = async {
                let transport = Transport::open(endpoint, *encryption, tls.as_ref()).await?;
                log_in(transport, login.clone()).await
            };
            let timeout = conninfo.connect_timeout;
            let outcome = tokio::time::timeout(timeout, attempt)
                .await
                .unwrap_or_else(|_| Err(Error::TimedOut { server: endpoint.to_string(), seconds: timeout.as_secs() }));
            match outcome {
                Ok(connected) => return Ok(connected),
                Err(error) => {
                    let try_other = error.is_refusal();
                    // That a server is not the one that is wanted says less than why the wanted one cannot be reached.
                    if !matches!((&error, &last), (Error::Unwanted { .. }, Error::Unreachable { .. })) {
                        last = error;
                    }
                    if !try_other {
                        break;
                    }
                }
            }
        }
        if !last.is_passing() {
            break;
        }
    }
    Err(last)
}

fn encryptions(mode: SslMode, endpoint: &Endpoint) -> &'static [Encryption] {
    match mode {
        _ if endpoint.is_socket() => &[Encryption::None],
        SslMode::Disable => &[Encryption::None],
        SslMode::Allow => &[Encryption::None, Encryption::Demanded],
        SslMode::Prefer => &[Encryption::Offered, Encryption::None],
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => &[Encryption::Demanded],
    }
}

async fn tls_config(conninfo: &ConnInfo) -> Result<Option<Arc<ClientConfig>>> {
    let unused = conninfo.sslmode == SslMode::Disable || conninfo.endpoints.iter().all(Endpoint::is_socket);
    if unused {
        return Ok(None);
    }
    let conninfo = conninfo.clone();
    let config = blocking(move || tls::client_config(&conninfo)).await??;
    Ok(Some(Arc::new(config)))
}

async fn password(conninfo: &ConnInfo, endpoint: &Endpoint, purpose: Purpose) -> Result<Option<Secret<String>>> {
    if conninfo.password.is_some() {
        return Ok(conninfo.password.clone());
    }
    let Some(path) = conninfo.passfile.clone() else { return Ok(None) };
    let database = match purpose {
        Purpose::Sql => conninfo.dbname.clone(),
        Purpose::Replication => "replication".to_owned(),
    };
    let (endpoint, user) = (endpoint.clone(), conninfo.user.clone());
    let found = blocking(move || conninfo::find_password(&path, &endpoint, &database, &user)).await?;
    found.map_err(|error| Error::Credentials { reason: error.to_string(), source: None })
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Error::Protocol(error.to_string()))
}

impl Transport {
    async fn open(endpoint: &Endpoint, encryption: Encryption, tls: Option<&Arc<ClientConfig>>) -> Result<Self> {
        let server = endpoint.to_string();
        let unreachable = |source| Error::Unreachable { server: server.clone(), source };
        if let Some(path) = endpoint.socket_path() {
            let stream = UnixStream::connect(path).await.map_err(unreachable)?;
            return Ok(Self { stream: Stream::Socket(stream), server_end_point: None });
        }
        let mut stream = match endpoint.hostaddr {
            Some(address) => TcpStream::connect((address, endpoint.port)).await,
            None => TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await,
        }
        .map_err(unreachable)?;
        keep_alive(&stream).map_err(unreachable)?;
        let insecure = |reason: &str| Error::Tls { server: server.clone(), reason: reason.to_owned(), source: None };
        match (encryption, tls) {
            (Encryption::None, _) => {}
            (_, None) => return Err(insecure("TLS is not configured")),
            (_, Some(config)) => {
                if request_tls(&mut stream).await.map_err(unreachable)? {
                    return Self::secure(stream, endpoint, Arc::clone(config)).await;
                }
                if encryption == Encryption::Demanded {
                    return Err(insecure("the server has TLS switched off"));
                }
            }
        }
        Ok(Self { stream: Stream::Plain(stream), server_end_point: None })
    }

    async fn secure(stream: TcpStream, endpoint: &Endpoint, config: Arc<ClientConfig>) -> Result<Self> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| Error::Tls {
            server: endpoint.to_string(),
            reason: source.to_string(),
            source: None,
        };
        let name = ServerName::try_from(endpoint.host.clone()).map_err(|error| failed(error.into()))?;
        let stream = TlsConnector::from(config).connect(name, stream).await.map_err(|error| failed(error.into()))?;
        let (_, session) = stream.get_ref();
        let certificate = session.peer_certificates().and_then(<[_]>::first);
        let server_end_point = certificate.and_then(tls::server_end_point);
        Ok(Self { stream: Stream::Tls(Box::new(stream)), server_end_point })
    }

    #[must_use]
    pub(crate) fn is_encrypted(&self) -> bool {
        matches!(self.stream, Stream::Tls(_))
    }

    /// What SCRAM binds itself to.
    #[must_use]
    pub(crate) fn server_end_point(&self) -> Option<&[u8]> {
        self.server_end_point.as_deref()
    }
}

/// Whether the server goes on with TLS.
async fn request_tls(stream: &mut TcpStream) -> io::Result<bool> {
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).await?;
    match stream.read_u8().await? {
        b'S' => Ok(true),
        b'N' => Ok(false),
        other => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("byte {other} in answer to the request for TLS: is this a PostgreSQL server?"),
        )),
    }
}

/// A peer that vanished without a word must be noticed within a minute.
fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_COUNT)?;
    Ok(())
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Socket(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stream {
            Stream::Socket(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Socket(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Socket(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
