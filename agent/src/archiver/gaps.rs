//! What is lost for good: remembered until the repository has a note of it, and until there is a backup behind it.
//!
//! A note is written once. Whoever notices the same loss again finds the note there; nothing here ever takes one back,
//! because a note proves nothing: WAL that turns up after all is simply there.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pitr::postgres::Lsn;
use pitr::repository::backup::{BackupId, BackupManifest};
use pitr::repository::gap::GapNote;
use pitr::repository::layout::GapKey;
use pitr::repository::{self, LineageStore};
use pitr::storage::{ErrorKind, ObjectStoreExt};
use tokio::sync::{Notify, watch};

use super::backoff::Backoff;
use crate::error_text::in_full;

const RETRY_BASE: Duration = Duration::from_millis(250);
const RETRY_CAP: Duration = Duration::from_secs(5);
const PUT_TIMEOUT: Duration = Duration::from_secs(20);
/// A gap behind which none of so many of the newest backups begins is taken for one without a backup.
const NEWEST_BACKUPS: usize = 16;

/// Shared by who notices, who writes the notes, and who takes the backup. Cheap to clone.
#[derive(Clone, Debug)]
pub struct GapBook {
    state: Arc<Mutex<State>>,
    changes: watch::Sender<u64>,
    look: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    /// Not in the repository yet.
    unwritten: Vec<GapNote>,
    /// No backup begins behind them yet.
    uncovered: Vec<GapNote>,
}

impl Default for GapBook {
    fn default() -> Self {
        Self { state: Arc::default(), changes: watch::Sender::new(0), look: Arc::default() }
    }
}

impl GapBook {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// WAL is lost. Told once, however often it is noticed.
    pub fn note(&self, note: GapNote) {
        let known = {
            let state = self.state();
            state.unwritten.iter().chain(&state.uncovered).any(|known| key(known) == key(&note))
        };
        if known {
            return;
        }
        tracing::error!(
            timeline = %note.timeline, from = %note.from_lsn, to = note.to_lsn.map(tracing::field::display),
            reason = note.reason,
            "WAL is lost: no moment in it can be restored; a backup is taken as soon as it can be"
        );
        self.change(|state| {
            // An open one is told in full by the one that says where it ends.
            if let Some(to) = note.to_lsn {
                state.uncovered.retain(|open| open.to_lsn.is_some() || open.from_lsn >= to);
            }
            state.uncovered.push(note.clone());
            state.unwritten.push(note);
        });
    }

    /// WAL comes again without a hole, and is at `position`: what was given up before it was there after all.
    pub fn came_back(&self, position: Lsn) {
        let back = |note: &GapNote| note.to_lsn.is_none() && note.from_lsn <= position;
        if self.state().uncovered.iter().any(back) {
            tracing::info!("the server still had the WAL that its slot no longer kept: nothing is lost");
            self.change(|state| state.uncovered.retain(|note| !back(note)));
        }
    }

    /// Losses without a backup behind them.
    #[must_use]
    pub fn uncovered(&self) -> Vec<GapNote> {
        self.state().uncovered.clone()
    }

    /// Whether a backup is to be taken: WAL is lost, and goes on behind it.
    #[must_use]
    pub fn wants_backup(&self) -> bool {
        self.state().uncovered.iter().any(|note| note.to_lsn.is_some())
    }

    #[must_use]
    pub fn all_written(&self) -> bool {
        self.state().unwritten.is_empty()
    }

    /// Wakes at every change.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Somebody found WAL missing in the repository.
    pub fn request_look(&self) {
        self.look.notify_one();
    }

    pub(super) async fn look_requested(&self) {
        self.look.notified().await;
    }

    /// A backup that began after these were noticed is complete.
    pub fn cover(&self, covered: &[GapNote]) {
        self.change(|state| state.uncovered.retain(|note| !covered.iter().any(|done| key(done) == key(note))));
    }

    /// What is wrong, in words.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let state = self.state();
        let notes: Vec<String> = state.uncovered.iter().map(in_words).collect();
        (!notes.is_empty()).then(|| notes.join("; "))
    }

    /// Reads which losses the repository tells of that no backup covers yet.
    ///
    /// # Errors
    /// The repository fails.
    pub async fn load(&self, lineage: &LineageStore) -> repository::Result<()> {
        let layout = lineage.layout();
        let listed = lineage.list(&layout.gaps()).await?;
        let keys: Vec<GapKey> = listed.iter().filter_map(|meta| layout.parse_gap(&meta.key)).collect();
        if keys.is_empty() {
            return Ok(());
        }
        let backups = newest_backups(lineage).await?;
        for key in &keys {
            let ended = |other: &GapKey| other.to.is_some() && (other.tli, other.from) == (key.tli, key.from);
            if key.to.is_none() && keys.iter().any(ended) {
                continue;
            }
            let note = match lineage.get::<GapNote>(&layout.gap(key)).await {
                Ok(note) => note,
                // It explains nothing then, and hides nothing either.
                Err(error) if error.is_corruption() || error.is_not_found() => continue,
                Err(error) => return Err(error),
            };
            if note.is_expired()
                || backups.iter().any(|backup| covers(backup, &note))
                || is_there(lineage, &note).await?
            {
                continue;
            }
            tracing::error!(
                timeline = %note.timeline, from = %note.from_lsn, reason = note.reason,
                "WAL was lost, and no backup has been taken since"
            );
            self.change(|state| {
                if !state.uncovered.iter().any(|known| self::key(known) == self::key(&note)) {
                    state.uncovered.push(note);
                }
            });
        }
        Ok(())
    }

    /// Writes notes as they come, for as long as it takes each. Never ends.
    pub(super) async fn keep_writing(&self, lineage: &LineageStore) {
        let mut changes = self.subscribe();
        let mut backoff = Backoff::new(RETRY_BASE, RETRY_CAP);
        loop {
            changes.borrow_and_update();
            let next = self.state().unwritten.first().cloned();
            let Some(note) = next else {
                // The sender lives in `self`.
                let _ = changes.changed().await;
                continue;
            };
            match tokio::time::timeout(PUT_TIMEOUT, write(lineage, &note)).await {
                Ok(Ok(())) => {
                    backoff.reset();
                    self.change(|state| state.unwritten.retain(|other| key(other) != key(&note)));
                    continue;
                }
                Ok(Err(error)) => tracing::warn!(error = in_full(&error), "the note of a gap could not be stored yet"),
                Err(_) => tracing::warn!("the note of a gap could not be stored yet: no answer"),
            }
            tokio::time::sleep(backoff.next()).await;
        }
    }
}

fn key(note: &GapNote) -> GapKey {
    GapKey { tli: note.timeline, from: note.from_lsn, to: note.to_lsn }
}

fn in_words(note: &GapNote) -> String {
    let (timeline, from, reason) = (note.timeline, note.from_lsn, &note.reason);
    match note.to_lsn {
        Some(to) => format!(
            "WAL of timeline {timeline} from {from} to {to} is lost: {reason}; a backup behind it is to come, until then \
             nothing later can be restored"
        ),
        None => format!("WAL of timeline {timeline} from {from} on is not kept any more: {reason}"),
    }
}

async fn write(lineage: &LineageStore, note: &GapNote) -> repository::Result<()> {
    match lineage.create(&lineage.layout().gap(&key(note)), note).await {
        Err(repository::Error::Storage(error)) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        created => created.map(drop),
    }
}

async fn newest_backups(lineage: &LineageStore) -> repository::Result<Vec<BackupManifest>> {
    let layout = lineage.layout();
    let children = lineage.store().list_children(&layout.backups()).await?;
    let mut ids: Vec<BackupId> = children.iter().filter_map(|child| child.name().parse().ok()).collect();
    ids.sort_unstable();
    let mut found = Vec::new();
    for id in ids.iter().rev() {
        match lineage.get::<BackupManifest>(&layout.manifest(id)).await {
            Ok(manifest) => found.push(manifest),
            Err(error) if error.is_not_found() || error.is_corruption() => {}
            Err(error) => return Err(error),
        }
        if found.len() == NEWEST_BACKUPS {
            break;
        }
    }
    Ok(found)
}

/// Whether `backup` begins behind what is lost. Positions tell that along one history; between others only time does.
fn covers(backup: &BackupManifest, note: &GapNote) -> bool {
    let end = note.to_lsn.unwrap_or_else(|| note.from_lsn.advance(1));
    (backup.timeline >= note.timeline && backup.start_lsn >= end)
        || (backup.timeline != note.timeline && backup.start_time >= note.noticed)
}

/// Whether the first segment of the gap is whole by now.
async fn is_there(lineage: &LineageStore, note: &GapNote) -> repository::Result<bool> {
    let size = lineage.lineage().wal_segment_size;
    let name = size.segment_of(note.from_lsn).name(note.timeline, size);
    Ok(lineage.store().exists(&lineage.layout().segment(name)).await?)
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use pitr::clock::ManualClock;
    use pitr::postgres::{ServerVersion, SystemIdentifier, TimelineId, WalSegmentSize};
    use pitr::repository::Repository;
    use pitr::repository::gap::GapCause;
    use pitr::repository::lineage::{Lineage, LineageId};
    use pitr::storage::fault::{Fault, FaultRule, Faulty};
    use pitr::storage::{MemoryStore, ObjectStore, Operation};

    use super::*;

    async fn lineage() -> (LineageStore, Arc<Faulty>) {
        let clock = ManualClock::new(DateTime::UNIX_EPOCH);
        let store = Arc::new(Faulty::new(Arc::new(MemoryStore::new()), 1));
        let shared = Arc::clone(&store) as Arc<dyn ObjectStore>;
        let repository = Repository::open_or_create(shared, &clock).await.unwrap();
        let lineage = Lineage {
            cluster: "main".parse().unwrap(),
            lineage: LineageId::new(SystemIdentifier::new(7), 1),
            postgres_version: ServerVersion::new(150_018),
            wal_segment_size: WalSegmentSize::DEFAULT,
            created: DateTime::UNIX_EPOCH,
            restore: None,
        };
        (repository.ensure_lineage(&lineage).await.unwrap(), store)
    }

    fn note(from: u64, to: Option<u64>) -> GapNote {
        GapNote {
            timeline: TimelineId::FIRST,
            from_lsn: Lsn::new(from),
            to_lsn: to.map(Lsn::new),
            cause: GapCause::SlotGivenUp,
            reason: "given up".to_owned(),
            noticed: DateTime::UNIX_EPOCH,
            who: "db1/1".to_owned(),
        }
    }

    async fn stored(lineage: &LineageStore) -> usize {
        lineage.list(&lineage.layout().gaps()).await.unwrap().len()
    }

    #[tokio::test(start_paused = true)]
    async fn a_loss_is_written_once_however_often_it_is_noticed_and_however_long_it_takes() {
        let (lineage, store) = lineage().await;
        store
            .add(FaultRule::new(Fault::ErrorBefore(ErrorKind::Unavailable)).on(Operation::Put).keys("*/gaps/*").nth(1));
        for _ in 0..2 {
            let book = GapBook::default();
            book.note(note(100, Some(200)));
            book.note(note(100, Some(200)));
            let written = async {
                let mut changes = book.subscribe();
                while !book.all_written() {
                    changes.changed().await.unwrap();
                }
            };
            tokio::select! {
                () = book.keep_writing(&lineage) => {}
                () = written => {}
            }
            assert_eq!(stored(&lineage).await, 1);
        }
        assert!(!store.struck().is_empty());
        let after_a_restart = GapBook::default();
        after_a_restart.load(&lineage).await.unwrap();
        assert!(after_a_restart.wants_backup() && after_a_restart.all_written());
        after_a_restart.cover(&after_a_restart.uncovered());
        assert_eq!((after_a_restart.wants_backup(), after_a_restart.problem()), (false, None));
    }

    #[test]
    fn what_was_given_up_is_lost_only_where_archiving_begins_behind_it() {
        let book = GapBook::default();
        book.note(note(100, None));
        assert!(!book.wants_backup() && book.problem().is_some());
        book.came_back(Lsn::new(99));
        assert!(book.problem().is_some(), "nothing has come yet");
        book.came_back(Lsn::new(100));
        assert_eq!(book.problem(), None);

        book.note(note(300, None));
        book.note(note(290, Some(400)));
        assert_eq!(book.uncovered(), [note(290, Some(400))], "the one with an end tells it all");
        book.came_back(Lsn::new(500));
        assert!(book.wants_backup());
    }
}
