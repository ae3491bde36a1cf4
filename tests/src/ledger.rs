//! The oracle of the end-to-end tests: writers that commit rows and remember what the server told them.
//!
//! A row's id comes from one counter, so the restored table must hold exactly the ids that had committed at the moment
//! asked for. Each transaction also updates its writer's balance, so that half a transaction would show; some roll
//! back, some use savepoints, so that ids which must never appear exist too.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, Utc};
use pitr::clock::{Clock, SystemClock};
use pitr::postgres::Lsn;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::postgres::Connection;
use crate::{Postgres, wait};

/// A commit that the server acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub id: i64,
    /// A writer commits its ids in their order.
    pub writer: u32,
    pub xid: u32,
    /// The insert position just before COMMIT was sent: the commit record starts at or after it.
    pub before: Lsn,
    /// The insert position just after COMMIT was answered: the commit record ends at or before it.
    pub after: Lsn,
    /// When the answer came, by the clock of this machine.
    pub answered: DateTime<Utc>,
    /// What `pg_xact_commit_timestamp` said, where the session lived long enough to ask.
    pub commit_time: Option<DateTime<Utc>>,
}

/// What the writers remember once they have stopped.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    entries: Vec<Entry>,
    unanswered: BTreeSet<i64>,
}

impl Ledger {
    /// Makes the tables; once a cluster.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn create(server: &Postgres) -> Result<()> {
        server
            .execute(
                "CREATE TABLE ledger (id bigint PRIMARY KEY, writer int NOT NULL, payload text NOT NULL);
                 CREATE TABLE balance (writer int PRIMARY KEY, commits bigint NOT NULL, total numeric NOT NULL);
                 INSERT INTO balance SELECT writer, 0, 0 FROM generate_series(0, 63) AS writer;",
            )
            .await
    }

    /// One that these commits would make, for tests of what is demanded of it.
    #[must_use]
    pub const fn of(entries: Vec<Entry>) -> Self {
        Self { entries, unanswered: BTreeSet::new() }
    }

    /// Acknowledged commits in the order of their ids.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Ids whose COMMIT was sent and never answered: only the server knows.
    #[must_use]
    pub const fn unanswered(&self) -> &BTreeSet<i64> {
        &self.unanswered
    }

    /// The ids of all acknowledged commits.
    #[must_use]
    pub fn acknowledged(&self) -> BTreeSet<i64> {
        self.entries.iter().map(|entry| entry.id).collect()
    }

    /// Adds what another run of writers remembers.
    pub fn extend(&mut self, other: Self) {
        self.entries.extend(other.entries);
        self.entries.sort_by_key(|entry| entry.id);
        self.unanswered.extend(other.unanswered);
    }

    /// The ids in a database, after proving that no transaction is there by half.
    ///
    /// # Errors
    /// The tables can't be read, or rows and balances do not match.
    pub async fn read(session: &Connection) -> Result<BTreeSet<i64>> {
        let torn = session
            .rows(
                "SELECT writer, commits, n, total, s FROM balance NATURAL LEFT JOIN \
                 (SELECT writer, count(*) AS n, sum(id) AS s FROM ledger GROUP BY writer) AS l \
                 WHERE commits <> coalesce(n, 0) OR total <> coalesce(s, 0)",
            )
            .await?;
        ensure!(torn.is_empty(), "rows and balances do not match: {torn:?}");
        let rows = session.rows("SELECT id FROM ledger").await?;
        let ids: BTreeSet<i64> = rows.iter().filter_map(|row| row.first()?.parse().ok()).collect();
        ensure!(ids.len() == rows.len(), "an id appears twice");
        let by_index =
            session.rows("SET enable_seqscan = off; SELECT count(*) FROM ledger WHERE id >= 0; RESET enable_seqscan");
        let by_index = by_index.await?.first().and_then(|row| row.first().cloned()).unwrap_or_default();
        ensure!(by_index == ids.len().to_string(), "the index finds {by_index} rows, the table holds {}", ids.len());
        Ok(ids)
    }
}

/// How the writers behave.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub writers: u32,
    pub seed: u64,
    /// The longest pause between two transactions of a writer.
    pub pause: Duration,
    /// Bytes in a row, at most.
    pub payload: usize,
}

impl Load {
    #[must_use]
    pub const fn new(writers: u32, seed: u64) -> Self {
        Self { writers, seed, pause: Duration::from_millis(10), payload: 3000 }
    }
}

/// Writers at work.
#[derive(Debug)]
pub struct Writers {
    stop: CancellationToken,
    count: Arc<AtomicU64>,
    failure: Arc<OnceLock<String>>,
    tasks: Vec<JoinHandle<Result<Ledger>>>,
}

impl Writers {
    /// Starts them; ids go on after the highest one in the table.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn start(server: &Postgres, load: Load) -> Result<Self> {
        let highest: i64 = server.value("SELECT coalesce(max(id), 0) FROM ledger").await?.parse()?;
        // Ids that rolled back before are not in the table; the gap keeps them apart.
        let next = Arc::new(AtomicI64::new(highest + 1000));
        let (stop, count) = (CancellationToken::new(), Arc::new(AtomicU64::new(0)));
        let failure = Arc::new(OnceLock::new());
        let mut tasks = Vec::new();
        for number in 0..load.writers {
            let writer = Writer {
                session: server.connect().await?,
                number,
                rng: StdRng::seed_from_u64(load.seed ^ u64::from(number) << 32),
                load,
                next: Arc::clone(&next),
                count: Arc::clone(&count),
                ledger: Ledger::default(),
            };
            let (run, failure) = (writer.run(stop.clone()), Arc::clone(&failure));
            tasks.push(tokio::spawn(async move {
                let result = run.await;
                if let Err(error) = &result {
                    failure.get_or_init(|| format!("{error:#}"));
                }
                result
            }));
        }
        Ok(Self { stop, count, failure, tasks })
    }

    /// Commits acknowledged so far.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Waits until `more` further commits were acknowledged.
    ///
    /// # Errors
    /// They were not within two minutes.
    pub async fn more(&self, more: u64) -> Result<()> {
        let goal = self.commits() + more;
        wait::until(format!("{more} more commits"), Duration::from_mins(2), async || {
            if let Some(failure) = self.failure.get() {
                anyhow::bail!("a writer failed: {failure}");
            }
            Ok((self.commits() >= goal).then_some(()))
        })
        .await
    }

    /// Ends the load and gives what was committed.
    ///
    /// # Errors
    /// A writer failed for another reason than a lost connection.
    pub async fn stop(mut self) -> Result<Ledger> {
        self.stop.cancel();
        let mut ledger = Ledger::default();
        for task in std::mem::take(&mut self.tasks) {
            ledger.extend(task.await.context("a writer panicked")??);
        }
        Ok(ledger)
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Whether the server ended the session: it says so a moment before it closes the connection.
fn says_goodbye(error: &anyhow::Error) -> bool {
    let answer = error.chain().find_map(|cause| cause.downcast_ref::<tokio_postgres::Error>());
    answer.and_then(tokio_postgres::Error::as_db_error).is_some_and(|error| error.severity() == "FATAL")
}

struct Writer {
    session: Connection,
    number: u32,
    rng: StdRng,
    load: Load,
    next: Arc<AtomicI64>,
    count: Arc<AtomicU64>,
    ledger: Ledger,
}

impl Writer {
    async fn run(mut self, stop: CancellationToken) -> Result<Ledger> {
        while !stop.is_cancelled() {
            let id = self.next.fetch_add(1, Ordering::Relaxed);
            let result = match self.rng.random_range(0..10) {
                0 => self.roll_back(id).await,
                1 => self.commit(id, true).await,
                _ => self.commit(id, false).await,
            };
            match result {
                Ok(()) => {}
                // The server went away, which a test may want; what was not answered is remembered as such.
                Err(error) if self.session.is_closed() || says_goodbye(&error) => return Ok(self.ledger),
                Err(error) => return Err(error),
            }
            let pause = self.rng.random_range(Duration::ZERO..=self.load.pause);
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
        Ok(self.ledger)
    }

    async fn commit(&mut self, id: i64, savepoint: bool) -> Result<()> {
        let sql = self.transaction(id, savepoint);
        self.session.batch_execute(&sql).await?;
        let row = self.session.rows("SELECT pg_current_xact_id(), pg_current_wal_insert_lsn()").await?;
        let row = row.first().context("no transaction id")?;
        // The epoch is above 32 bits, and never reached here.
        let (xid, before): (u32, Lsn) = (row[0].parse()?, row[1].parse()?);
        self.ledger.unanswered.insert(id);
        self.session.batch_execute("COMMIT").await?;
        self.ledger.unanswered.remove(&id);
        let answered = SystemClock.now();
        self.count.fetch_add(1, Ordering::Relaxed);
        // Until the position after it is known, the commit may lie anywhere.
        let entry = Entry { id, writer: self.number, xid, before, after: Lsn::MAX, answered, commit_time: None };
        self.ledger.entries.push(entry);
        let row = self
            .session
            .rows(&format!(
                "SELECT pg_current_wal_insert_lsn(), \
                 to_char(pg_xact_commit_timestamp('{xid}'::xid), 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
            ))
            .await?;
        let row = row.first().context("no position after the commit")?;
        let (after, commit_time) = (row[0].parse()?, row[1].parse().ok());
        if let Some(entry) = self.ledger.entries.last_mut() {
            (entry.after, entry.commit_time) = (after, commit_time);
        }
        Ok(())
    }

    async fn roll_back(&mut self, id: i64) -> Result<()> {
        let sql = self.transaction(id, false);
        self.session.batch_execute(&format!("{sql}; ROLLBACK")).await?;
        Ok(())
    }

    fn transaction(&mut self, id: i64, savepoint: bool) -> String {
        let (writer, bytes) = (self.number, self.rng.random_range(0..=self.load.payload));
        // Text that does not compress away, from the database itself.
        let insert = |id: i64| {
            format!(
                "INSERT INTO ledger VALUES ({id}, {writer}, (SELECT left(coalesce(string_agg(md5('{id}-' || n), ''), ''), {bytes}) \
                 FROM generate_series(0, {bytes} / 32) AS n))"
            )
        };
        let detour = if savepoint { format!("SAVEPOINT s; {}; ROLLBACK TO s; ", insert(-id)) } else { String::new() };
        format!(
            "BEGIN; {detour}{}; UPDATE balance SET commits = commits + 1, total = total + {id} WHERE writer = {writer}",
            insert(id)
        )
    }
}
