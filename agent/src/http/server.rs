//! Listening: the socket's folder and file, and serving until the agent stops.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use axum::Router;
use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;

/// `sizeof(sockaddr_un.sun_path)` less the final zero.
const MAX_SOCKET_PATH_BYTES: usize = 107;

/// Why the agent cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("the socket path \"{}\" has {} bytes, at most {MAX_SOCKET_PATH_BYTES} are possible", path.display(), path.as_os_str().len())]
    PathTooLong { path: PathBuf },
    #[error("another agent answers on the socket \"{}\"", path.display())]
    InUse { path: PathBuf },
    #[error("\"{}\" stands where the socket should be, and is no socket", path.display())]
    NotASocket { path: PathBuf },
    #[error("the folder \"{}\" of the socket belongs to another user, or others can write to it", path.display())]
    UnsafeFolder { path: PathBuf },
    #[error("could not listen on \"{at}\"")]
    Listen { at: String, source: io::Error },
    #[error("the HTTP server failed")]
    Serve(#[source] io::Error),
}

/// Listens on a unix socket that only its owner can use. What a dead agent left there is removed.
///
/// # Errors
/// Another agent answers there, or the folder is not safe.
pub fn bind_socket(path: &Path) -> Result<UnixListener, ServerError> {
    if path.as_os_str().len() > MAX_SOCKET_PATH_BYTES {
        return Err(ServerError::PathTooLong { path: path.to_owned() });
    }
    let listen = |source| ServerError::Listen { at: path.display().to_string(), source };
    if let Some(folder) = path.parent() {
        secure_folder(folder)?;
    }
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(ServerError::NotASocket { path: path.to_owned() });
        }
        Ok(_) if UnixStream::connect(path).is_ok() => return Err(ServerError::InUse { path: path.to_owned() }),
        Ok(_) => std::fs::remove_file(path).map_err(listen)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(listen(error)),
    }
    let listener = UnixListener::bind(path).map_err(listen)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(listen)?;
    Ok(listener)
}

/// In a folder that others can write to, somebody else could put their socket in the agent's place.
fn secure_folder(folder: &Path) -> Result<(), ServerError> {
    let listen = |source| ServerError::Listen { at: folder.display().to_string(), source };
    if !folder.exists() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(listen)?;
    }
    let metadata = std::fs::metadata(folder).map_err(listen)?;
    let ours = metadata.uid() == rustix::process::geteuid().as_raw() || metadata.uid() == 0;
    let others_write = metadata.mode() & 0o022 != 0 && metadata.mode() & 0o1000 == 0;
    if ours && !others_write { Ok(()) } else { Err(ServerError::UnsafeFolder { path: folder.to_owned() }) }
}

/// Who is at the other end of the socket, as the kernel says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(Option<u32>);

impl Peer {
    /// Ourselves, or root.
    pub(super) fn is_ours(self) -> bool {
        self.0.is_some_and(|uid| uid == rustix::process::geteuid().as_raw() || uid == 0)
    }
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self(stream.io().peer_cred().ok().map(|credentials| credentials.uid()))
    }
}

/// Serves until cancelled, and removes the socket.
///
/// # Errors
/// The listener fails.
pub async fn serve_socket(
    listener: UnixListener,
    path: PathBuf,
    router: Router,
    cancel: CancellationToken,
) -> Result<(), ServerError> {
    let service = router.into_make_service_with_connect_info::<Peer>();
    let served = axum::serve(listener, service).with_graceful_shutdown(grace(cancel)).await;
    drop(std::fs::remove_file(&path));
    served.map_err(ServerError::Serve)
}

/// Serves on TCP until cancelled.
///
/// # Errors
/// The address cannot be listened on, or the listener fails.
pub async fn serve_tcp(address: SocketAddr, router: Router, cancel: CancellationToken) -> Result<(), ServerError> {
    let listener =
        TcpListener::bind(address).await.map_err(|source| ServerError::Listen { at: address.to_string(), source })?;
    axum::serve(listener, router).with_graceful_shutdown(grace(cancel)).await.map_err(ServerError::Serve)
}

async fn grace(cancel: CancellationToken) {
    cancel.cancelled().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn takes_over_the_socket_of_a_dead_agent_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("main.sock");
        let first = bind_socket(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(matches!(bind_socket(&path), Err(ServerError::InUse { .. })));
        drop(first);
        drop(bind_socket(&path).unwrap());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "a file").unwrap();
        assert!(matches!(bind_socket(&path), Err(ServerError::NotASocket { .. })));
    }

    #[tokio::test]
    async fn makes_its_folder_for_itself_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pitr-1/main.sock");
        drop(bind_socket(&path).unwrap());
        assert_eq!(std::fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
        std::fs::set_permissions(path.parent().unwrap(), Permissions::from_mode(0o777)).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(bind_socket(&path), Err(ServerError::UnsafeFolder { .. })));
    }
}
