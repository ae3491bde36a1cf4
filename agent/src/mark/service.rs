//! Sets and closes markers, one restore point after the other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};
use pitr::api::MarkReply;
use pitr::postgres::Lsn;
use pitr::repository::document::Document;
use pitr::repository::layout::MarkerKey;
use pitr::repository::marker::{Finish, FinishedMarker, Marker, MarkerSource, finish_point_name};
use pitr::repository::{Error, LineageStore};
use pitr::storage::ErrorKind;
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::claims::{Claim, Claims};
use super::request::{FinishOrder, MarkError, MarkOrder, check_name};
use crate::archiver::{ArchiveProgress, Landmark, LandmarkKind, WaitError};
use crate::error_text::in_full;

/// Marks that may be on their way at once; more wait at the door.
const WAITING_ORDERS: usize = 64;
/// How long a marker that nobody waits for any more goes on trying before it is reported as lost.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// How long the repository may take to tell which markers there are, for one who does not wait for anything else.
const LOOK_UP_PATIENCE: Duration = Duration::from_secs(10);

/// Markers that are read at once.
const PARALLEL_READS: usize = 16;

/// Creates restore points in the server's WAL.
#[async_trait]
pub trait RestorePoints: std::fmt::Debug + Send + Sync + 'static {
    /// The **end** of the restore point's record, as `pg_create_restore_point` returns it.
    async fn create(&self, name: &str) -> Result<Lsn, MarkError>;
}

enum Order {
    Mark(MarkOrder, oneshot::Sender<Result<MarkReply, MarkError>>),
    Finish(FinishOrder, oneshot::Sender<Result<MarkReply, MarkError>>),
}

/// The door to the service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Marks(mpsc::Sender<Order>);

impl Marks {
    /// Sets a marker and waits until it is sealed, at most as long as the order says.
    ///
    /// # Errors
    /// [`MarkError::NotSealed`] when the time is over; the marker then goes on by itself.
    pub async fn mark(&self, order: MarkOrder) -> Result<MarkReply, MarkError> {
        let (reply, answer) = oneshot::channel();
        self.0.send(Order::Mark(order, reply)).await.map_err(|_| MarkError::Stopping)?;
        answer.await.map_err(|_| MarkError::Stopping)?
    }

    /// Closes a marker and waits until that is sealed.
    ///
    /// # Errors
    /// As [`Marks::mark`]; and where no single open marker has that name.
    pub async fn finish(&self, order: FinishOrder) -> Result<MarkReply, MarkError> {
        let (reply, answer) = oneshot::channel();
        self.0.send(Order::Finish(order, reply)).await.map_err(|_| MarkError::Stopping)?;
        answer.await.map_err(|_| MarkError::Stopping)?
    }
}

/// What became of a restore point that was created: known to all who wait for it.
#[derive(Clone, Debug)]
enum Recorded {
    Pending,
    Marker(Box<FinishedMarker>),
    Failed { reason: String, hint: Option<String> },
}

/// Sets and closes markers until it is cancelled.
#[derive(Debug)]
pub struct MarkService {
    orders: mpsc::Receiver<Order>,
    shared: Shared,
}

#[derive(Clone, Debug)]
struct Shared {
    lineage: LineageStore,
    restore_points: Arc<dyn RestorePoints>,
    progress: ArchiveProgress,
    claims: Claims,
    keyed: Arc<Mutex<Keyed>>,
}

/// Orders that have a key, so that a retry finds the first: also while it is on its way.
#[derive(Debug, Default)]
struct Keyed {
    orders: BTreeMap<String, watch::Receiver<Recorded>>,
    /// Those that the repository held at the first request are among them; later ones all go through here.
    loaded: bool,
}

impl MarkService {
    #[must_use]
    pub fn new(
        lineage: LineageStore,
        restore_points: Arc<dyn RestorePoints>,
        progress: ArchiveProgress,
        claims: Claims,
    ) -> (Self, Marks) {
        let (sender, orders) = mpsc::channel(WAITING_ORDERS);
        let shared = Shared { lineage, restore_points, progress, claims, keyed: Arc::default() };
        (Self { orders, shared }, Marks(sender))
    }

    pub async fn run(mut self, cancel: CancellationToken) {
        let mut running = JoinSet::new();
        loop {
            let order = tokio::select! {
                () = cancel.cancelled() => break,
                Some(_) = running.join_next(), if !running.is_empty() => continue,
                order = self.orders.recv() => order,
            };
            let Some(order) = order else { break };
            // Each goes on by itself, also when the one who waits has given up: none waits for what another needs.
            let shared = self.shared.clone();
            running.spawn(shared.carry_out(order));
            while running.try_join_next().is_some() {}
        }
        running.shutdown().await;
    }
}

/// An order whose restore point exists.
struct Started {
    recorded: watch::Receiver<Recorded>,
    /// What still has to be recorded; none where an earlier order with the same key sees to it.
    recording: Option<Recording>,
    found: bool,
}

struct Recording {
    name: String,
    end_lsn: Lsn,
    what: What,
    sender: watch::Sender<Recorded>,
    /// Until it is recorded nobody else takes the restore point for one that was merely found.
    claim: Claim,
}

enum What {
    Marker(MarkOrder),
    Finish(FinishOrder, Marker),
}

impl Recording {
    fn new(name: &str, claim: Claim, end_lsn: Lsn, what: What) -> (Self, watch::Receiver<Recorded>) {
        let (sender, recorded) = watch::channel(Recorded::Pending);
        claim.resolve(end_lsn);
        (Self { name: name.to_owned(), end_lsn, what, sender, claim }, recorded)
    }
}

impl Shared {
    async fn carry_out(self, order: Order) {
        let asked = Instant::now();
        let (started, name, timeout, reply) = match order {
            Order::Mark(order, reply) => (self.start_mark(&order, asked).await, order.name, order.timeout, reply),
            Order::Finish(order, reply) => (self.start_finish(&order, asked).await, order.name, order.timeout, reply),
        };
        let Started { recorded, recording, found } = match started {
            Ok(started) => started,
            Err(error) => {
                drop(reply.send(Err(error)));
                return;
            }
        };
        let recording = async {
            if let Some(recording) = recording {
                self.record(recording).await;
            }
        };
        let answering = async {
            let answer = self.await_recorded(&name, recorded, asked + timeout, found).await;
            drop(reply.send(answer));
        };
        tokio::join!(recording, answering);
    }

    async fn start_mark(&self, order: &MarkOrder, asked: Instant) -> Result<Started, MarkError> {
        check_name(&order.name)?;
        let Some(key) = &order.key else {
            let (recording, recorded) = self.create(order).await?;
            return Ok(Started { recorded, recording: Some(recording), found: false });
        };
        // One after the other: a retry with the same key must find the first.
        let known = async {
            let mut keyed = self.keyed.lock().await;
            self.load_keyed(&mut keyed).await?;
            Ok(keyed)
        };
        let mut keyed = look_up(known, asked, order.timeout, &order.name, "set").await?;
        keyed.orders.retain(|_, recorded| !matches!(*recorded.borrow(), Recorded::Failed { .. }));
        if let Some(recorded) = keyed.orders.get(key) {
            return Ok(Started { recorded: recorded.clone(), recording: None, found: true });
        }
        let (recording, recorded) = self.create(order).await?;
        keyed.orders.insert(key.clone(), recorded.clone());
        Ok(Started { recorded, recording: Some(recording), found: false })
    }

    async fn create(&self, order: &MarkOrder) -> Result<(Recording, watch::Receiver<Recorded>), MarkError> {
        let claim = self.claims.claim();
        let end_lsn = self.restore_points.create(&order.name).await?;
        self.progress.request_flush();
        Ok(Recording::new(&order.name, claim, end_lsn, What::Marker(order.clone())))
    }

    async fn load_keyed(&self, keyed: &mut Keyed) -> Result<(), MarkError> {
        if keyed.loaded {
            return Ok(());
        }
        for marker in self.markers(None).await? {
            if let Some(key) = marker.marker.key.clone() {
                let (_, recorded) = watch::channel(Recorded::Marker(Box::new(marker)));
                keyed.orders.entry(key).or_insert(recorded);
            }
        }
        keyed.loaded = true;
        Ok(())
    }

    async fn start_finish(&self, order: &FinishOrder, asked: Instant) -> Result<Started, MarkError> {
        check_name(&order.name)?;
        let marker = self.marker_to_finish(order);
        let marker = look_up(marker, asked, order.timeout, &order.name, "finished").await?;
        let claim = self.claims.claim();
        let end_lsn = self.restore_points.create(&finish_point_name(&order.name)).await?;
        self.progress.request_flush();
        let (recording, recorded) = Recording::new(&order.name, claim, end_lsn, What::Finish(order.clone(), marker));
        Ok(Started { recorded, recording: Some(recording), found: false })
    }

    async fn await_recorded(
        &self,
        name: &str,
        mut recorded: watch::Receiver<Recorded>,
        deadline: Instant,
        found: bool,
    ) -> Result<MarkReply, MarkError> {
        let not_sealed = || MarkError::NotSealed { name: name.to_owned() };
        let sealed = async {
            let outcome = recorded.wait_for(|r| !matches!(r, Recorded::Pending)).await;
            let outcome = outcome.map_err(|_| MarkError::Stopping)?.clone();
            match outcome {
                Recorded::Pending => Err(MarkError::Stopping),
                Recorded::Failed { reason, hint } => Err(MarkError::Repository { reason, hint }),
                Recorded::Marker(marker) if found && marker.marker.name != name => {
                    Err(MarkError::KeyTaken { name: marker.marker.name })
                }
                Recorded::Marker(marker) => {
                    let end_lsn = marker.finish.as_ref().map_or(marker.marker.end_lsn, |finish| finish.end_lsn);
                    self.wait_sealed(end_lsn).await?;
                    Ok(MarkReply { marker: *marker, sealed: true, found })
                }
            }
        };
        tokio::time::timeout_at(deadline, sealed).await.unwrap_or_else(|_| Err(not_sealed()))
    }

    async fn wait_sealed(&self, lsn: Lsn) -> Result<(), MarkError> {
        self.progress.request_flush();
        self.progress.wait_sealed(lsn, PATIENCE).await.map(drop).map_err(|_| MarkError::Stopping)
    }

    async fn record(&self, recording: Recording) {
        let Recording { name, end_lsn, what, sender, claim } = recording;
        let recorded = match self.write(end_lsn, what).await {
            Ok(marker) => {
                tracing::info!(marker = name, lsn = %marker.marker.lsn, tli = %marker.marker.timeline, "marker recorded");
                Recorded::Marker(Box::new(marker))
            }
            Err(error) => {
                let (reason, hint) = (in_full(&error), error.hint());
                tracing::error!(marker = name, %end_lsn, reason, "marker was not recorded");
                Recorded::Failed { reason, hint }
            }
        };
        drop(claim);
        sender.send_replace(recorded);
    }

    async fn write(&self, end_lsn: Lsn, what: What) -> Result<FinishedMarker, MarkError> {
        let (landmark, time) = self.restore_point(end_lsn).await.map_err(|_| MarkError::Stopping)?;
        let (timeline, lsn) = (landmark.timeline, landmark.start_lsn);
        let layout = self.lineage.layout();
        match what {
            What::Marker(order) => {
                let MarkOrder { name, meta, key, who, .. } = order;
                let source = MarkerSource::Mark;
                let object = MarkerKey { tli: timeline, lsn, name: name.clone(), finish: false };
                let marker = Marker { name, timeline, lsn, end_lsn, time, source, who, key, meta };
                let written = self.lineage.create(&layout.marker(&object), &marker).await;
                written.map_err(|error| repository_error(&error))?;
                Ok(FinishedMarker { marker, finish: None })
            }
            What::Finish(order, marker) => {
                let FinishOrder { outcome, meta, who, .. } = order;
                let finish = Finish { marker: Some(marker.name()), outcome, timeline, lsn, end_lsn, time, who, meta };
                let object =
                    MarkerKey { tli: marker.timeline, lsn: marker.lsn, name: marker.name.clone(), finish: true };
                match self.lineage.create(&layout.marker(&object), &finish).await {
                    Ok(_) => Ok(FinishedMarker { marker, finish: Some(finish) }),
                    Err(Error::Storage(error)) if error.kind() == ErrorKind::AlreadyExists => {
                        Err(MarkError::AlreadyFinished { name: marker.name })
                    }
                    Err(error) => Err(repository_error(&error)),
                }
            }
        }
    }

    /// The decoded record that ends at `end_lsn`, and its time.
    async fn restore_point(&self, end_lsn: Lsn) -> Result<(Landmark, chrono::DateTime<chrono::Utc>), WaitError> {
        let landmark = self.progress.wait_landmark(end_lsn, PATIENCE).await?;
        match landmark.kind.clone() {
            LandmarkKind::RestorePoint { time, .. } => Ok((landmark, time)),
            // The server said that a restore point ends here: anything else means that its history was replaced.
            LandmarkKind::BackupEnd { .. } => Err(WaitError::Stopping),
        }
    }

    /// Of one name, or all.
    async fn markers(&self, name: Option<&str>) -> Result<Vec<FinishedMarker>, MarkError> {
        load_markers(&self.lineage, name).await.map_err(|error| repository_error(&error))
    }

    async fn marker_to_finish(&self, order: &FinishOrder) -> Result<Marker, MarkError> {
        let mut named: Vec<FinishedMarker> = self.markers(Some(&order.name)).await?;
        named.retain(|m| order.lsn.is_none_or(|lsn| m.marker.lsn == lsn));
        let open: Vec<FinishedMarker> = named.iter().filter(|m| m.finish.is_none()).cloned().collect();
        match (open.as_slice(), named.is_empty()) {
            ([one], _) => Ok(one.marker.clone()),
            ([], true) => Err(MarkError::NotFound { name: order.name.clone() }),
            ([], false) => Err(MarkError::AlreadyFinished { name: order.name.clone() }),
            _ => Err(MarkError::Ambiguous { name: order.name.clone(), markers: open }),
        }
    }
}

/// Waits for what must be known before anything is created, as long as the one who asks does.
async fn look_up<T>(
    known: impl Future<Output = Result<T, MarkError>>,
    asked: Instant,
    timeout: Duration,
    name: &str,
    what: &'static str,
) -> Result<T, MarkError> {
    let patience = if timeout.is_zero() { LOOK_UP_PATIENCE } else { timeout };
    let in_time = tokio::time::timeout_at(asked + patience, known).await;
    in_time.unwrap_or_else(|_| Err(MarkError::NotLookedUp { name: name.to_owned(), what }))
}

fn repository_error(error: &Error) -> MarkError {
    MarkError::Repository { reason: in_full(error), hint: error.hint().map(str::to_owned) }
}

/// Markers of the lineage, in the order of their LSN within each timeline.
async fn load_markers(lineage: &LineageStore, name: Option<&str>) -> Result<Vec<FinishedMarker>, Error> {
    let layout = lineage.layout();
    let listed = lineage.list(&layout.markers()).await?;
    let keys = listed.iter().filter_map(|object| layout.parse_marker(&object.key));
    let wanted: Vec<MarkerKey> = keys.filter(|key| name.is_none_or(|name| key.name == name)).collect();
    let (finishes, markers): (Vec<MarkerKey>, Vec<MarkerKey>) = wanted.into_iter().partition(|key| key.finish);
    let markers = read_all::<Marker>(lineage, &markers).await?;
    let finishes = read_all::<Finish>(lineage, &finishes).await?;
    let finished = |(place, marker): (Place, Marker)| (place, FinishedMarker { marker, finish: None });
    let mut found: BTreeMap<Place, FinishedMarker> = markers.into_iter().map(finished).collect();
    for (place, finish) in finishes {
        if let Some(marker) = found.get_mut(&place) {
            marker.finish = Some(finish);
        }
    }
    Ok(found.into_values().collect())
}

/// Timeline, start of the record, name: what a marker and its finish share.
type Place = (u32, Lsn, String);

async fn read_all<T: Document>(lineage: &LineageStore, keys: &[MarkerKey]) -> Result<Vec<(Place, T)>, Error> {
    let mut reads = Vec::with_capacity(keys.len());
    for key in keys {
        let place = (key.tli.as_u32(), key.lsn, key.name.clone());
        let object = lineage.layout().marker(key);
        reads.push(async move { Ok((place, lineage.get::<T>(&object).await?)) });
    }
    stream::iter(reads).buffered(PARALLEL_READS).try_collect().await
}
