//! The `archive_command` client. It has no runtime, no log and no store: it starts, asks the agent, and ends.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use pitr::api::{ApiError, WalPushReply, WalPushRequest};
use pitr::config::{Environment, SocketKeys, SocketPlaces, client_socket, locate, parse_duration};
use pitr::repository::layout::ClusterName;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::exit;

/// Where configurations are looked for when none is named.
const CONFIG_DIRECTORY: &str = "/etc/pitr";
/// A server that stops waits for its archiver, so it must not wait for ever.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
/// The agent answers before we give up, so that the reason is told.
const ANSWER_MARGIN: Duration = Duration::from_secs(2);
/// Between two tries to connect to an agent whose queue is full.
const CONNECT_PAUSE: Duration = Duration::from_millis(5);
/// No answer of the agent is larger.
const MAX_ANSWER_BYTES: u64 = 1 << 20;

pub const USAGE: &str =
    "usage: pitr-agent wal-push [--config FILE | --cluster CLUSTER | --socket PATH] [--timeout TIME] PATH";

/// Why the file is not known to be durable.
#[derive(Debug, thiserror::Error)]
enum PushFailure {
    #[error("{0}; {USAGE}")]
    Usage(String),
    #[error("{what}: {error}")]
    File { what: String, error: io::Error },
    #[error("{0}")]
    Configuration(String),
    #[error("could not reach the agent at \"{}\": {error}", socket.display())]
    Unreachable { socket: PathBuf, error: io::Error },
    #[error("\"{}\" is not served by the agent of this user but by user {uid}", socket.display())]
    Impostor { socket: PathBuf, uid: u32 },
    #[error("the agent did not answer within {} s", .0.as_secs_f64())]
    TimedOut(Duration),
    #[error("the connection to the agent broke: {0}")]
    Broken(io::Error),
    #[error("the agent's answer makes no sense: {0}")]
    Senseless(String),
    #[error("{}{}", .0.message, .0.hint.as_ref().map_or_else(String::new, |hint| format!(" (hint: {hint})")))]
    Refused(Box<ApiError>),
}

/// Runs the command with the arguments that follow its name. Says why it failed in one line on stderr, and nothing on
/// stdout: whoever reads that may have gone.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let begun = Instant::now();
    let failure = match Order::parse(arguments).and_then(|order| order.carry_out(begun)) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(failure) => failure,
    };
    let text = failure.to_string().replace('\n', ", ");
    drop(writeln!(io::stderr(), "pitr-agent: not archived: {text}"));
    exit::code(exit::FAILED)
}

#[derive(Debug, PartialEq, Eq)]
enum SocketChoice {
    Socket(PathBuf),
    Config(PathBuf),
    Cluster(ClusterName),
    /// By `PITR_CONFIG`, else the only configuration there is.
    Default,
}

#[derive(Debug, PartialEq, Eq)]
struct Order {
    path: PathBuf,
    socket: SocketChoice,
    timeout: Duration,
}

impl Order {
    fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, PushFailure> {
        let usage = |text: String| PushFailure::Usage(text);
        let (mut path, mut socket, mut timeout) = (None, SocketChoice::Default, DEFAULT_TIMEOUT);
        let mut arguments = arguments.into_iter();
        let mut options = true;
        while let Some(argument) = arguments.next() {
            let text = argument.to_string_lossy().into_owned();
            if !options || !text.starts_with("--") {
                if path.replace(PathBuf::from(argument)).is_some() {
                    return Err(usage(format!("unexpected argument \"{text}\"")));
                }
                continue;
            }
            if text == "--" {
                options = false;
                continue;
            }
            let (name, value) = match text.split_once('=') {
                Some((name, value)) => (name, Some(OsString::from(value))),
                None => (text.as_str(), None),
            };
            if !["--config", "--cluster", "--socket", "--timeout"].contains(&name) {
                return Err(usage(format!("unexpected option \"{name}\"")));
            }
            let value = value.or_else(|| arguments.next()).filter(|value| !value.is_empty());
            let value = value.ok_or_else(|| usage(format!("{name} needs a value")))?;
            let word = || value.to_string_lossy().into_owned();
            match name {
                "--config" => socket = SocketChoice::Config(value.into()),
                "--socket" => socket = SocketChoice::Socket(value.into()),
                "--cluster" => {
                    socket = SocketChoice::Cluster(word().parse().map_err(|error| usage(format!("{error}")))?);
                }
                _ => timeout = parse_duration(&word()).map_err(|error| usage(error.to_string()))?,
            }
        }
        match path {
            Some(path) if !path.as_os_str().is_empty() => Ok(Self { path, socket, timeout }),
            _ => Err(usage("no file is named".to_owned())),
        }
    }

    fn carry_out(self, begun: Instant) -> Result<(), PushFailure> {
        let deadline = begun + self.timeout;
        let failed = |what: &str| {
            let what = format!("{what} \"{}\"", self.path.display());
            move |error| PushFailure::File { what, error }
        };
        let path = std::path::absolute(&self.path).map_err(failed("could not resolve"))?;
        let found = std::fs::symlink_metadata(&path).map_err(failed("could not look at"))?;
        let name = path.file_name().and_then(|name| name.to_str());
        let (Some(name), Some(text)) = (name, path.to_str()) else {
            return Err(failed("could not send the name of")(io::ErrorKind::InvalidFilename.into()));
        };
        let request = WalPushRequest {
            name: name.to_owned(),
            path: text.to_owned(),
            bytes: found.len(),
            device: found.dev(),
            inode: found.ino(),
            timeout_ms: u64::try_from(self.timeout.saturating_sub(ANSWER_MARGIN.min(self.timeout / 4)).as_millis())
                .unwrap_or(u64::MAX),
        };
        let socket = self.socket()?;
        let mut stream = connect(&socket, deadline)?;
        check_peer(&stream, &socket, found.uid())?;
        let answer = exchange(&mut stream, &request, deadline, self.timeout)?;
        read_answer(&answer, &request)
    }

    fn socket(&self) -> Result<PathBuf, PushFailure> {
        let environment = || {
            Environment::from_iter(
                ["PITR_CONFIG", "RUNTIME_DIRECTORY", "TMPDIR"]
                    .into_iter()
                    .filter_map(|name| Some((name, std::env::var_os(name)?.into_string().ok()?))),
            )
        };
        let of_cluster = |cluster: &ClusterName| {
            let uid = rustix::process::geteuid().as_raw();
            client_socket(cluster, &SocketPlaces::of(uid, &environment()))
        };
        let config = match &self.socket {
            SocketChoice::Socket(socket) => return Ok(socket.clone()),
            SocketChoice::Config(config) => config.clone(),
            SocketChoice::Cluster(cluster) => {
                let config = locate(Some(cluster), Path::new(CONFIG_DIRECTORY));
                let Ok(config) = config else { return Ok(of_cluster(cluster)) };
                config
            }
            SocketChoice::Default => match environment().get("PITR_CONFIG") {
                Some(config) => PathBuf::from(config),
                None => locate(None, Path::new(CONFIG_DIRECTORY))
                    .map_err(|error| PushFailure::Configuration(format!("{error} ({})", error.hint())))?,
            },
        };
        let text = std::fs::read_to_string(&config)
            .map_err(|error| PushFailure::File { what: format!("could not read \"{}\"", config.display()), error })?;
        let keys = SocketKeys::read(&text)
            .map_err(|error| PushFailure::Configuration(format!("\"{}\": {error}", config.display())))?;
        Ok(keys.socket().map_or_else(|| of_cluster(&keys.cluster), Path::to_owned))
    }
}

/// `connect` to a unix socket blocks while the queue of the listener is full, however long: so it is not let.
fn connect(socket: &Path, deadline: Instant) -> Result<UnixStream, PushFailure> {
    let unreachable = |error: Errno| PushFailure::Unreachable { socket: socket.to_owned(), error: error.into() };
    let address = SocketAddrUnix::new(socket).map_err(unreachable)?;
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(unreachable)?;
    loop {
        match rustix::net::connect(&fd, &address) {
            Ok(()) => break,
            Err(Errno::AGAIN | Errno::INTR) if Instant::now() < deadline => std::thread::sleep(CONNECT_PAUSE),
            Err(error) => return Err(unreachable(error)),
        }
    }
    let stream = UnixStream::from(fd);
    stream.set_nonblocking(false).map_err(PushFailure::Broken)?;
    Ok(stream)
}

/// The agent runs as ourselves, as root, or as the owner of the server's files.
fn check_peer(stream: &UnixStream, socket: &Path, owner: u32) -> Result<(), PushFailure> {
    let peer = rustix::net::sockopt::socket_peercred(stream).map_err(|error| PushFailure::Broken(error.into()))?;
    let uid = peer.uid.as_raw();
    if [rustix::process::geteuid().as_raw(), owner, 0].contains(&uid) {
        Ok(())
    } else {
        Err(PushFailure::Impostor { socket: socket.to_owned(), uid })
    }
}

/// Sends the request and takes everything up to the end of the connection.
fn exchange(
    stream: &mut UnixStream,
    request: &WalPushRequest,
    deadline: Instant,
    timeout: Duration,
) -> Result<Vec<u8>, PushFailure> {
    let body = serde_json::to_vec(request).map_err(|error| PushFailure::Senseless(error.to_string()))?;
    let head = format!(
        "POST /v1/wal HTTP/1.1\r\nHost: agent\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let left = || match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(PushFailure::TimedOut(timeout)),
        left => Ok(left),
    };
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => PushFailure::TimedOut(timeout),
        _ => PushFailure::Broken(error),
    };
    stream.set_write_timeout(Some(left()?)).map_err(failed)?;
    stream.write_all(&[head.as_bytes(), &body].concat()).map_err(failed)?;
    let mut answer = Vec::new();
    let mut piece = [0_u8; 4096];
    loop {
        stream.set_read_timeout(Some(left()?)).map_err(failed)?;
        match stream.read(&mut piece) {
            Ok(0) => return Ok(answer),
            Ok(bytes) => answer.extend_from_slice(piece.get(..bytes).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
        if answer.len() as u64 > MAX_ANSWER_BYTES {
            return Err(PushFailure::Senseless("it does not end".to_owned()));
        }
    }
}

/// Success is one answer only: a whole one, with status 200, that says that this very file is durable.
fn read_answer(answer: &[u8], request: &WalPushRequest) -> Result<(), PushFailure> {
    let senseless = |text: &str| PushFailure::Senseless(text.to_owned());
    if answer.is_empty() {
        return Err(senseless("the connection ended without one"));
    }
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").ok_or_else(|| senseless("it is cut short"))?;
    let (head, body) = answer.split_at_checked(end + 4).ok_or_else(|| senseless("it is cut short"))?;
    let head = std::str::from_utf8(head).map_err(|_| senseless("its head is not text"))?;
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")).and_then(|line| line.get(..3));
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    if length != Some(body.len()) {
        return Err(senseless("it is cut short"));
    }
    if status == Some("200") {
        let reply: WalPushReply = serde_json::from_slice(body).map_err(|error| senseless(&error.to_string()))?;
        return if reply.durable && reply.name == request.name {
            Ok(())
        } else {
            Err(senseless("it is about another file"))
        };
    }
    match serde_json::from_slice::<ApiError>(body) {
        Ok(error) => Err(PushFailure::Refused(Box::new(error))),
        Err(_) => Err(senseless(&format!("status {}", status.unwrap_or("unknown")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Order, String> {
        Order::parse(arguments.iter().map(OsString::from)).map_err(|failure| failure.to_string())
    }

    #[test]
    fn options_in_both_spellings_and_one_path() {
        let order = parse(&["--config", "/c.toml", "--timeout=5s", "pg_wal/0 1"]).unwrap();
        assert_eq!(
            order,
            Order {
                path: "pg_wal/0 1".into(),
                socket: SocketChoice::Config("/c.toml".into()),
                timeout: Duration::from_secs(5)
            }
        );
        assert_eq!(parse(&["--", "--odd"]).unwrap().path, Path::new("--odd"));
        assert_eq!(parse(&["--cluster=main", "x"]).unwrap().socket, SocketChoice::Cluster("main".parse().unwrap()));
        assert_eq!(parse(&["x"]).unwrap().timeout, DEFAULT_TIMEOUT);
    }

    #[test]
    fn anything_else_is_refused() {
        for arguments in [&[][..], &[""], &["a", "b"], &["--help"], &["--config"], &["--socket="], &["--cluster", ".."]]
        {
            assert!(parse(arguments).is_err(), "{arguments:?} was accepted");
        }
    }

    fn answer(status: &str, body: &str) -> Vec<u8> {
        format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())
            .into_bytes()
    }

    fn request() -> WalPushRequest {
        WalPushRequest { name: "a".to_owned(), path: "/a".to_owned(), bytes: 1, device: 1, inode: 1, timeout_ms: 1 }
    }

    #[test]
    fn only_a_whole_answer_about_this_file_is_success() {
        let good = answer("200 OK", r#"{"name":"a","durable":true,"found":false}"#);
        read_answer(&good, &request()).unwrap();
        for length in 0..good.len() {
            assert!(read_answer(&good[..length], &request()).is_err(), "{length} bytes were enough");
        }
        for (status, body) in [
            ("200 OK", r#"{"name":"b","durable":true,"found":false}"#),
            ("200 OK", r#"{"name":"a","durable":false,"found":false}"#),
            ("200 OK", "{}"),
            ("200 OK", ""),
            ("201 Created", r#"{"name":"a","durable":true,"found":false}"#),
            ("404 Not Found", "{}"),
        ] {
            assert!(read_answer(&answer(status, body), &request()).is_err(), "{status} {body}");
        }
        let refused = read_answer(
            &answer("409 Conflict", r#"{"kind":"conflict","message":"it differs","hint":"stop one"}"#),
            &request(),
        );
        assert_eq!(refused.unwrap_err().to_string(), "it differs (hint: stop one)");
    }
}
