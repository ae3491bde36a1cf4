//! A protected server under the load, and what has to be equal.

use anyhow::{Context, Result, bail, ensure};
use pitr::repository::backup::{BackupId, CopyMethod, StoredPath};
use pitr_tests::pages::{self, Difference, Shelf, StoredBackup, Tolerance};
use pitr_tests::workload::{self, Workload};
use pitr_tests::{Agent, Postgres, PostgresOptions, Scene, StopMode, Store};
use rand::RngExt;

/// Words that an environment variable sets, for runs that are longer than usual.
pub fn number(key: &str, default: u32) -> u32 {
    std::env::var(key).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

pub struct Proof {
    pub scene: Scene,
    pub load: Workload,
    pub shelf: Shelf,
    pub tolerance: Tolerance,
}

/// A server for the load. Checkpoints come when they are asked for, so that a seed says where.
pub fn options(major: u32, checksums: bool) -> PostgresOptions {
    let options = PostgresOptions::of(major)
        .conf("autovacuum = off")
        .conf("max_prepared_transactions = 10")
        .conf("checkpoint_timeout = 1h")
        .conf("lock_timeout = 20s")
        .conf("max_wal_size = 4GB");
    if checksums { options } else { options.without_checksums() }
}

impl Proof {
    /// With an agent that looks at no page for sampling's sake: what WAL does not tell must not be found by chance.
    pub async fn start(options: PostgresOptions, store: Store, seed: u64, tolerance: Tolerance) -> Result<Self> {
        let server = Postgres::start(options).await?;
        let load = Workload::prepare(&server, seed).await?;
        let agent = store.options(&server).set("backup", "sample = \"0B\"");
        let scene = Scene::of(server, store, Agent::start(&agent).await?)?;
        let place = if matches!(scene.store, Store::Local(_)) { "repository" } else { "pitr" };
        let shelf = Shelf::open(scene.store.open(place, None).await?).await?;
        Ok(Self { scene, load, shelf, tolerance })
    }

    /// So many acts, with crashes, restarts and backups between them.
    pub async fn acts(&mut self, count: u32) -> Result<()> {
        for _ in 0..count {
            match self.load.chance().random_range(0..100) {
                0..3 => self.crash().await?,
                3..5 => self.restart(StopMode::Immediate).await?,
                5..6 => self.restart(StopMode::Fast).await?,
                6..8 => self.kill_agent()?,
                8..11 => self.backup_under_load().await?,
                11..12 => self.interrupted_backup().await?,
                _ => drop(self.load.step(&self.scene.server).await?),
            }
        }
        Ok(())
    }

    /// All processes of the server are killed at once, and recovery follows.
    pub async fn crash(&mut self) -> Result<()> {
        self.load.note("kill -9 of the server");
        self.load.forget_open();
        self.scene.server.crash().await?;
        self.scene.server.run().await
    }

    pub async fn restart(&mut self, mode: StopMode) -> Result<()> {
        self.load.note(format!("restart, {mode:?}"));
        self.load.forget_open();
        self.scene.server.restart(mode).await
    }

    pub fn kill_agent(&mut self) -> Result<()> {
        self.load.note("kill -9 of the agent");
        self.scene.agent.kill()?;
        self.scene.agent.run()
    }

    /// A backup whose pages change while they are copied.
    pub async fn backup_under_load(&mut self) -> Result<()> {
        self.ready().await?;
        self.load.note("a backup begins under load");
        let Self { scene, load, .. } = self;
        let (run, acted) = tokio::join!(scene.cli().run(["backup"]), async {
            for _ in 0..6 {
                load.step(&scene.server).await?;
            }
            anyhow::Ok(())
        });
        acted?;
        run?.success()?;
        self.load.note("it is complete");
        Ok(())
    }

    /// One that ends with its agent.
    async fn interrupted_backup(&mut self) -> Result<()> {
        self.ready().await?;
        self.load.note("a backup begins and is killed");
        self.scene.cli().run(["backup", "--no-wait"]).await?.success()?;
        self.load.step(&self.scene.server).await?;
        self.kill_agent()
    }

    /// Waits until the agent streams: it may just have been started, or lost its server.
    async fn ready(&mut self) -> Result<()> {
        self.scene.seal().await.map(drop)
    }

    /// From here on nobody changes a page: what readers of the catalogs (the agent is one) may still hint at is hinted.
    pub async fn quiet(&mut self) -> Result<()> {
        self.ready().await?;
        self.hint().await
    }

    /// As above, without an agent.
    pub async fn hint(&mut self) -> Result<()> {
        self.load.note("quiet");
        let catalogs = "SELECT c.oid::regclass FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                        WHERE n.nspname = 'pg_catalog' AND c.relkind = 'r'";
        for _ in 0..2 {
            let session = self.scene.server.connect().await?;
            for row in session.rows(catalogs).await? {
                session.rows(&format!("SELECT count(*) FROM {}", row.concat())).await?;
            }
        }
        Ok(())
    }

    /// Takes a backup; gives it with its pages.
    pub async fn backup(&mut self, arguments: &[&str]) -> Result<StoredBackup> {
        let all = ["backup"].iter().chain(arguments);
        let job = self.scene.cli().json(all).await.with_context(|| self.scene.agent.log())?;
        let id: BackupId = job.get("id").and_then(serde_json::Value::as_str).context("no id")?.parse()?;
        self.load.note(format!("backup {id} {arguments:?}"));
        let backup = self.shelf.backup(&id).await?;
        ensure!(backup.manifest.corrupt_pages.is_empty(), "{:?}", backup.manifest.corrupt_pages);
        Ok(backup)
    }

    /// As [`Self::prove_by`], by what WAL says.
    pub async fn prove(&mut self) -> Result<StoredBackup> {
        self.prove_by(CopyMethod::Summaries).await
    }

    /// An ordinary backup, which has found what changed in this way, and one that shares nothing, both of this moment, have the
    /// same pages, and those are on the disk.
    pub async fn prove_by(&mut self, method: CopyMethod) -> Result<StoredBackup> {
        self.quiet().await?;
        let ordinary = self.backup(&[]).await?;
        let sharing = &ordinary.manifest.sharing;
        ensure!(sharing.method == method, "{sharing:?} where {method:?} was expected\n{}", self.scene.agent.log());
        ensure!(ordinary.shared_bytes() > 0 || method == CopyMethod::Whole, "nothing is shared");
        let fresh = self.backup(&["--fresh"]).await?;
        ensure!(fresh.shared_bytes() == 0, "a fresh backup shares {} bytes", fresh.shared_bytes());
        let differences = pages::compare(&mut self.shelf, &ordinary, &fresh, self.tolerance)?;
        self.none(&differences, &ordinary, &format!("{} and {}", ordinary.manifest.id, fresh.manifest.id)).await?;
        let data = self.scene.server.data_directory();
        let differences = pages::compare_with_disk(&mut self.shelf, &ordinary, data, self.tolerance)?;
        self.none(&differences, &ordinary, &format!("{} and the disk", ordinary.manifest.id)).await?;
        Ok(ordinary)
    }

    /// Every backup from now on is what the disk is, however it came to be; gives those that there are, with the newest ordered
    /// here.
    pub async fn prove_whatever(&mut self) -> Result<Vec<StoredBackup>> {
        self.quiet().await?;
        let newest = self.backup(&[]).await?;
        let data = self.scene.server.data_directory();
        let found = pages::compare_with_disk(&mut self.shelf, &newest, data, self.tolerance)?;
        self.none(&found, &newest, "the newest backup and the disk").await?;
        let info = self.scene.agent.info().await?;
        let listed = info.get("backups").and_then(serde_json::Value::as_array).cloned().unwrap_or_default();
        let mut all = Vec::new();
        for backup in listed {
            let id: BackupId = backup.get("id").and_then(serde_json::Value::as_str).context("no id")?.parse()?;
            all.push(self.shelf.backup(&id).await?);
        }
        Ok(all)
    }

    pub async fn none(&self, differences: &[Difference], backup: &StoredBackup, what: &str) -> Result<()> {
        if differences.is_empty() {
            return Ok(());
        }
        let relations = "SELECT relfilenode, relname, relkind, relpersistence FROM pg_class WHERE relfilenode <> 0";
        let relations = self.scene.server.connect().await?.rows(relations).await?;
        let name_of = |path: &str| {
            let file = path.rsplit('/').next().unwrap_or_default();
            let number = file.split(['.', '_']).next().unwrap_or_default();
            relations.iter().find(|row| row.first().is_some_and(|found| found == number)).map(|row| row.join(" "))
        };
        let told: Vec<String> =
            differences.iter().map(|found| format!("{found} ({:?})", name_of(&found.path))).collect();
        bail!(
            "{what} differ ({} shared bytes, parent {:?}):\n{}",
            backup.shared_bytes(),
            backup.manifest.parent,
            told.join("\n")
        )
    }

    /// A restore of this backup says what the origin says, and is in order.
    pub async fn restores(&mut self, backup: &StoredBackup) -> Result<()> {
        self.scene.seal().await?;
        let spaces = pitr_tests::Scratch::new()?;
        let into = spaces.path().join("spaces").display().to_string();
        let id = backup.manifest.id.to_string();
        let restored = self.scene.restore(&["--latest", "--backup", &id, "--tablespaces-into", &into]).await?;
        let major = self.scene.server.major();
        for database in self.load.databases() {
            let origin = workload::fingerprint(&self.scene.server.connect_to(&database).await?).await?;
            let copy = restored.server.connect_to(&database).await?;
            self.same(&origin, &workload::fingerprint(&copy).await?).with_context(|| database.clone())?;
            // To `pg_check_visible` a transaction of any database is one that rows must be visible to.
            for row in copy.rows("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()").await? {
                copy.batch_execute(&format!("ROLLBACK PREPARED '{}'", row.concat())).await?;
            }
            workload::check(&copy, major).await.with_context(|| database.clone())?;
        }
        Ok(())
    }

    fn same(&self, origin: &[String], copy: &[String]) -> Result<()> {
        let lost: Vec<&String> = origin.iter().filter(|line| !copy.contains(line)).collect();
        let new: Vec<&String> = copy.iter().filter(|line| !origin.contains(line)).collect();
        ensure!(lost.is_empty() && new.is_empty(), "only in the origin {lost:#?}\nonly in the copy {new:#?}");
        Ok(())
    }
}

/// The path of a relation's first file, as a backup names it.
pub async fn path_of(server: &Postgres, relation: &str) -> Result<StoredPath> {
    let path = server.value(&format!("SELECT pg_relation_filepath('{relation}')")).await?;
    Ok(path.try_into()?)
}

impl Proof {
    /// What failed, with what was done before.
    pub fn told<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| anyhow::anyhow!("{error:#}\n\nwhat was done:\n{}", self.load.history()))
    }
}
