//! A process that fetches ahead, for as long as one recovery asks for WAL.
//!
//! It listens on a socket in the spool directory, which only its owner can enter, and answers one request after the other, as
//! the server asks them. Segments that follow are fetched meanwhile, checked, and staged in the spool without a name that
//! anybody could take for a segment's; a request renames them into place. It ends by itself: when nothing was asked for a
//! while, or when the data directory is no longer in recovery.
//!
//! Nothing survives it. What a crash leaves in the spool is removed by the next one, never used: it may not be durable.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::delivery::{Place, move_staged, off_thread, stage};
use super::{FeedError, FeedName, FetchOutcome, WalFeed};
use crate::fs::{Action, Error as FileError, StagedFile};
use crate::postgres::SegmentName;
use crate::restore::recovery_config::RecoveryConfig;

const SOCKET: &str = "feed.sock";
const LOCK: &str = "lock";
const SPOOL_MODE: u32 = 0o700;
/// Segments in the spool, in bytes and in number.
const AHEAD_BYTES: u64 = 192 << 20;
const AHEAD_SEGMENTS: std::ops::RangeInclusive<u64> = 2..=16;
/// Segments that are being fetched, in bytes and in number: they are in memory.
const FETCHING_BYTES: u64 = 48 << 20;
const FETCHING_SEGMENTS: std::ops::RangeInclusive<u64> = 1..=4;
const MAX_REQUEST_BYTES: u64 = 64 << 10;
/// A client sends its request at once.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How often it is looked whether the recovery is over.
const TICK: Duration = Duration::from_secs(1);

/// How a resident fetcher lives.
#[derive(Clone, Debug)]
pub struct ResidentOptions {
    /// After so long without a request it ends; the next request starts another one.
    pub idle: Duration,
}

impl Default for ResidentOptions {
    fn default() -> Self {
        Self { idle: Duration::from_secs(30) }
    }
}

/// Why it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResidentEnd {
    /// Another one serves this recovery.
    AlreadyRunning,
    Idle,
    RecoveryOver,
    Cancelled,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) restore: String,
    pub(super) name: String,
    pub(super) destination: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub(super) enum Reply {
    Found {
        bytes: u64,
    },
    Absent,
    /// Whoever asks had better look for itself.
    Failed {
        message: String,
    },
}

/// The path of a file in `directory` that is short enough for a socket, however long the directory's own path is.
pub(super) fn short_path(directory: &File, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))
}

pub(super) fn socket_path(spool: &File) -> PathBuf {
    short_path(spool, SOCKET)
}

/// Serves the recovery of `config` until it is over.
///
/// # Errors
/// The spool cannot be used.
pub async fn run(
    config: &RecoveryConfig,
    feed: WalFeed,
    options: &ResidentOptions,
    cancel: &CancellationToken,
) -> Result<ResidentEnd, FeedError> {
    let spool_path = config.spool.clone();
    let Some(spool) = off_thread(move || Spool::claim(&spool_path)).await? else {
        return Ok(ResidentEnd::AlreadyRunning);
    };
    let listener = UnixListener::bind(socket_path(&spool.directory))
        .map_err(|error| FileError::new(Action::Create, config.spool.join(SOCKET), error))?;
    let mut fetcher = Fetcher::new(config, feed);
    let end = serve(&listener, &mut fetcher, config, options, cancel).await;
    drop(fetcher);
    let over = end == ResidentEnd::RecoveryOver;
    off_thread(move || {
        spool.release(over);
        Ok(())
    })
    .await?;
    Ok(end)
}

async fn serve(
    listener: &UnixListener,
    fetcher: &mut Fetcher,
    config: &RecoveryConfig,
    options: &ResidentOptions,
    cancel: &CancellationToken,
) -> ResidentEnd {
    let mut last_request = Instant::now();
    loop {
        let accepted = tokio::select! {
            () = cancel.cancelled() => return ResidentEnd::Cancelled,
            accepted = timeout(TICK.min(options.idle), listener.accept()) => accepted,
        };
        match accepted {
            Ok(Ok((client, _))) => {
                tokio::select! {
                    () = cancel.cancelled() => return ResidentEnd::Cancelled,
                    () = fetcher.answer(client) => {}
                }
                last_request = Instant::now();
            }
            // A client that is gone already, or too many open files: the client looks for itself.
            Ok(Err(error)) => tracing::debug!(%error, "could not accept a request for WAL"),
            Err(_) if !in_recovery(&config.data_directory) => return ResidentEnd::RecoveryOver,
            Err(_) if last_request.elapsed() >= options.idle => return ResidentEnd::Idle,
            Err(_) => {}
        }
    }
}

/// The server removes its signal file when recovery ends.
fn in_recovery(data_directory: &Path) -> bool {
    ["recovery.signal", "standby.signal"].iter().any(|signal| data_directory.join(signal).exists())
}

/// The directory of one recovery's fetcher, locked.
struct Spool {
    path: PathBuf,
    directory: File,
    _lock: File,
}

impl Spool {
    /// None where another process has it. What that process's predecessors left behind is removed.
    fn claim(path: &Path) -> Result<Option<Self>, FeedError> {
        use std::os::unix::fs::DirBuilderExt as _;
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |error: std::io::Error| FileError::new(action, path, error)
        };
        let mut builder = std::fs::DirBuilder::new();
        match builder.mode(SPOOL_MODE).create(path) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            made => made.map_err(failed(Action::Create, path))?,
        }
        let lock_path = path.join(LOCK);
        let mut open = File::options();
        let lock = open.create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.map_err(failed(Action::Open, &lock_path))?;
        if rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(None);
        }
        for entry in std::fs::read_dir(path).map_err(failed(Action::Read, path))? {
            let entry = entry.map_err(failed(Action::Read, path))?;
            if entry.file_name() != LOCK {
                std::fs::remove_file(entry.path()).map_err(failed(Action::Remove, &entry.path()))?;
            }
        }
        let directory = File::open(path).map_err(failed(Action::Open, path))?;
        Ok(Some(Self { path: path.to_owned(), directory, _lock: lock }))
    }

    /// Best effort: what stays is removed by the next one.
    fn release(&self, for_good: bool) {
        let mut removed = std::fs::remove_file(self.path.join(SOCKET));
        if for_good {
            removed = std::fs::remove_dir_all(&self.path);
        }
        if let Err(error) = removed {
            tracing::debug!(%error, "could not clean up the spool");
        }
    }
}

type Staging = AbortOnDropHandle<Result<Option<StagedFile>, FeedError>>;

/// Answers requests, and fetches what comes next.
struct Fetcher {
    restore: String,
    spool: PathBuf,
    feed: WalFeed,
    ahead: usize,
    fetching: Arc<Semaphore>,
    staged: HashMap<SegmentName, Staging>,
    /// Delivered just now; what follows it is still to be fetched.
    asked: Option<SegmentName>,
}

impl Fetcher {
    fn new(config: &RecoveryConfig, feed: WalFeed) -> Self {
        let size = feed.segment_size().as_u64();
        let count = |bytes: u64, range: std::ops::RangeInclusive<u64>| {
            usize::try_from((bytes / size).clamp(*range.start(), *range.end())).unwrap_or(1)
        };
        Self {
            restore: config.restore.to_string(),
            spool: config.spool.clone(),
            feed,
            ahead: count(AHEAD_BYTES, AHEAD_SEGMENTS),
            fetching: Arc::new(Semaphore::new(count(FETCHING_BYTES, FETCHING_SEGMENTS))),
            staged: HashMap::new(),
            asked: None,
        }
    }

    async fn answer(&mut self, client: UnixStream) {
        // The directory's mode keeps others out; this keeps them out where somebody changed it.
        let own = rustix::process::geteuid().as_raw();
        if !client.peer_cred().is_ok_and(|peer| peer.uid() == own) {
            return;
        }
        let (read, mut write) = client.into_split();
        let mut line = String::new();
        let mut reader = BufReader::new(read.take(MAX_REQUEST_BYTES));
        if !matches!(timeout(REQUEST_TIMEOUT, reader.read_line(&mut line)).await, Ok(Ok(_))) {
            return;
        }
        let reply = match serde_json::from_str::<Request>(&line) {
            Ok(request) if request.restore == self.restore => self.handle(&request).await,
            Ok(_) => Err(FeedError::Internal("it serves another restore".to_owned())),
            Err(error) => Err(FeedError::Internal(error.to_string())),
        };
        let reply = match reply {
            Ok(FetchOutcome::Found { bytes }) => Reply::Found { bytes },
            Ok(FetchOutcome::Absent) => Reply::Absent,
            Err(error) => Reply::Failed { message: error.to_string() },
        };
        if let Ok(mut text) = serde_json::to_vec(&reply) {
            text.push(b'\n');
            // A client that went away asks again, or another one does.
            let _ = write.write_all(&text).await;
        }
        drop(write);
        if let Some(segment) = self.asked.take() {
            self.fetch_ahead(segment);
        }
    }

    async fn handle(&mut self, request: &Request) -> Result<FetchOutcome, FeedError> {
        if let Some(FeedName::Segment(segment)) = FeedName::parse(&request.name) {
            // What is here already is delivered before anything else takes the CPU.
            let ready = self.is_staged(segment);
            if !ready {
                self.fetch_ahead(segment);
            }
            let delivered = self.deliver_staged(segment, &request.destination).await;
            if ready {
                self.asked = Some(segment);
            }
            if let Some(bytes) = delivered? {
                return Ok(FetchOutcome::Found { bytes });
            }
        }
        self.feed.fetch(&request.name, &request.destination).await
    }

    fn is_staged(&self, segment: SegmentName) -> bool {
        self.staged.get(&segment).is_some_and(AbortOnDropHandle::is_finished)
    }

    /// Begins to fetch what follows `segment`, and lets go of what does not.
    fn fetch_ahead(&mut self, segment: SegmentName) {
        let following = self.feed.following(segment, self.ahead);
        self.staged.retain(|staged, _| *staged == segment || following.contains(staged));
        for next in following {
            let (feed, spool, fetching) = (self.feed.clone(), self.spool.clone(), Arc::clone(&self.fetching));
            self.staged.entry(next).or_insert_with(|| {
                AbortOnDropHandle::new(tokio::task::spawn(
                    async move { stage_segment(&feed, next, spool, &fetching).await },
                ))
            });
        }
    }

    /// Its size, if the segment was fetched ahead and is in its place now.
    async fn deliver_staged(&mut self, segment: SegmentName, destination: &Path) -> Result<Option<u64>, FeedError> {
        let Some(staging) = self.staged.remove(&segment) else { return Ok(None) };
        let mut staged = match staging.await {
            Ok(Ok(Some(staged))) => staged,
            // It is fetched again, and that tells what is wrong.
            Ok(Ok(None) | Err(_)) | Err(_) => return Ok(None),
        };
        let place = Place::new(destination)?;
        let moved = off_thread(move || move_staged(&mut staged, &place)).await?;
        Ok(moved.then_some(self.feed.segment_size().as_u64()))
    }
}

async fn stage_segment(
    feed: &WalFeed,
    segment: SegmentName,
    spool: PathBuf,
    fetching: &Semaphore,
) -> Result<Option<StagedFile>, FeedError> {
    let Ok(_permit) = fetching.acquire().await else { return Ok(None) };
    let failed = |source| FeedError::Repository { name: segment.to_string(), source };
    let Some(bytes) = feed.whole_segment(segment).await.map_err(failed)? else { return Ok(None) };
    let size = feed.segment_size().as_u64();
    off_thread(move || stage(&spool, &bytes, size)).await.map(Some)
}
