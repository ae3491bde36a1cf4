//! A load that does to a cluster whatever a server can do to its files, by chance that can be repeated.
//!
//! One session acts at a time, so a seed gives the same acts again; `history` tells them. Data and shape follow from the
//! seed, not from the time, and whatever must not meet (a table that an open transaction holds) is kept apart, so an act
//! that fails is a finding.

mod act;
mod check;
mod databases;
mod rows;
mod structure;
mod table;
mod transactions;

use std::collections::VecDeque;

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

pub use act::Act;
pub use check::{check, fingerprint};
use databases::Database;
use table::Table;

use crate::postgres::Connection;
use crate::{Postgres, Scratch};

/// Acts that are remembered to be told.
const REMEMBERED: usize = 400;
/// Where transactions that stay open write, which nothing else locks.
const HELD: &str = "held";

/// The state of the load: what there is to act on.
pub struct Workload {
    rng: StdRng,
    major: u32,
    tables: Vec<Table>,
    databases: Vec<Database>,
    prepared: Vec<String>,
    large_objects: Vec<u32>,
    /// A transaction that stays open over other acts.
    open: Option<Connection>,
    spaces: Scratch,
    next: u32,
    history: VecDeque<String>,
}

impl Workload {
    /// Makes tablespaces and the first tables.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn prepare(server: &Postgres, seed: u64) -> Result<Self> {
        let mut load = Self {
            rng: StdRng::seed_from_u64(seed),
            major: server.major(),
            tables: Vec::new(),
            databases: Vec::new(),
            prepared: Vec::new(),
            large_objects: Vec::new(),
            open: None,
            spaces: Scratch::new()?,
            next: 0,
            history: VecDeque::new(),
        };
        for name in ["space_a", "space_b"] {
            let path = load.spaces.directory(name)?;
            server.execute(&format!("CREATE TABLESPACE {name} LOCATION '{}'", path.display())).await?;
        }
        server.execute(&format!("CREATE TABLE {HELD} (n int, t text)")).await?;
        for _ in 0..4 {
            load.act(server, Act::CreateTable).await?;
        }
        for _ in 0..2 {
            load.act(server, Act::Insert).await?;
        }
        Ok(load)
    }

    /// One act by chance.
    ///
    /// # Errors
    /// The server refuses, which it never should.
    pub async fn step(&mut self, server: &Postgres) -> Result<Act> {
        let act = Act::choose(&mut self.rng);
        self.act(server, act).await?;
        Ok(act)
    }

    /// This act, on what chance chooses; nothing where there is nothing to act on.
    ///
    /// # Errors
    /// The server refuses, which it never should.
    pub async fn act(&mut self, server: &Postgres, act: Act) -> Result<()> {
        self.note(format!("{act:?}"));
        match act {
            Act::Insert => self.insert(server).await,
            Act::Copy => self.copy(server).await,
            Act::CopyFrozen => self.copy_frozen(server).await,
            Act::UpdateInPlace => self.update(server, true).await,
            Act::UpdateKeys => self.update(server, false).await,
            Act::Widen => self.widen(server).await,
            Act::Upsert => self.upsert(server).await,
            Act::Lock => self.lock(server).await,
            Act::Delete => self.delete(server).await,
            Act::CutTail => self.cut_tail(server).await,
            Act::Truncate => self.truncate(server).await,
            Act::CreateTable => self.create_table(server).await,
            Act::DropAndCreate => self.drop_and_create(server).await,
            Act::Vacuum => self.vacuum(server, &["", "(FREEZE)", "(ANALYZE)", "(INDEX_CLEANUP false)"]).await,
            Act::VacuumFull => self.vacuum(server, &["(FULL)", "(FULL, FREEZE)"]).await,
            Act::Cluster => self.cluster(server).await,
            Act::Reindex => self.reindex(server).await,
            Act::MoveTable => self.move_table(server).await,
            Act::FlipLogged => self.flip_logged(server).await,
            Act::FlipAndBack => self.flip_and_back(server).await,
            Act::Rewrite => self.rewrite(server).await,
            Act::BuildIndex => self.build_index(server).await,
            Act::Materialize => self.materialize(server).await,
            Act::CreateDatabase => self.create_database(server).await,
            Act::DropDatabase => self.drop_database(server).await,
            Act::ReuseDatabase => self.reuse_database(server).await,
            Act::MoveDatabase => self.move_database(server, false).await,
            Act::MoveDatabaseAndBack => self.move_database(server, true).await,
            Act::UseDatabase => self.use_database(server).await,
            Act::LargeObjects => self.large_objects(server).await,
            Act::Prepare => self.prepare_transaction(server).await,
            Act::FinishPrepared => self.finish_prepared(server).await,
            Act::Subtransactions => self.subtransactions(server).await,
            Act::Abort => self.abort(server).await,
            Act::OpenTransaction => self.open_transaction(server).await,
            Act::EndTransaction => self.end_transaction().await,
            Act::Sequences => self.sequences(server).await,
            Act::ReadAll => self.read_all(server).await,
            Act::Checkpoint => self.run(server, "postgres", "CHECKPOINT").await,
            Act::SwitchWal => self.run(server, "postgres", "SELECT pg_switch_wal()").await,
        }
        .with_context(|| format!("{act:?}"))
    }

    /// What was done last, one act or statement a line.
    #[must_use]
    pub fn history(&self) -> String {
        self.history.iter().fold(String::new(), |all, line| all + line + "\n")
    }

    /// Notes something that others did.
    pub fn note(&mut self, what: impl Into<String>) {
        if self.history.len() == REMEMBERED {
            self.history.pop_front();
        }
        self.history.push_back(what.into());
    }

    /// The server has crashed or was restarted: open transactions are gone.
    pub fn forget_open(&mut self) {
        self.open = None;
    }

    /// Chance for what is done around the load.
    pub const fn chance(&mut self) -> &mut StdRng {
        &mut self.rng
    }

    /// The databases that exist, `postgres` first.
    #[must_use]
    pub fn databases(&self) -> Vec<String> {
        let others = self.databases.iter().map(|database| database.name.clone());
        std::iter::once("postgres".to_owned()).chain(others).collect()
    }

    async fn run(&mut self, server: &Postgres, database: &str, sql: &str) -> Result<()> {
        let line: String = sql.chars().take(160).collect();
        self.note(format!("  {database}: {line}"));
        let session = server.connect_to(database).await?;
        session.batch_execute(sql).await.with_context(|| format!("in {database}: {line}"))
    }

    fn number(&mut self) -> u32 {
        self.next += 1;
        self.next
    }

    fn salt(&mut self) -> u32 {
        self.rng.random()
    }

    /// A table by chance.
    fn table(&mut self) -> Result<Table> {
        self.tables.choose(&mut self.rng).cloned().context("no table")
    }

    fn space(&mut self) -> &'static str {
        ["pg_default", "space_a", "space_b"].choose(&mut self.rng).copied().unwrap_or("pg_default")
    }
}
