//! Every kind of target, on every version and store: a restored database holds exactly the commits that it should.

use anyhow::{Context, Result};
use chrono::{SecondsFormat, TimeDelta};
use pitr::postgres::Lsn;
use pitr_tests::ledger::{Load, Writers};
use pitr_tests::skip::left_out;
use pitr_tests::wal_oracle::WalOracle;
use pitr_tests::{Expected, Ledger, Moment, PostgresOptions, Scene, Store, seed};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// A cluster with a history that is known in every detail.
struct Past {
    scene: Scene,
    ledger: Ledger,
    oracle: Option<WalOracle>,
    from: Lsn,
    to: Lsn,
}

impl Past {
    async fn make(major: u32, store: Store, seed: u64) -> Result<Self> {
        let options = PostgresOptions::of(major).conf("wal_keep_size = '8GB'");
        let scene = Scene::start(options, store).await?;
        Ledger::create(&scene.server).await?;
        let from = scene.server.insert_lsn().await?;
        let writers = Writers::start(&scene.server, Load::new(3, seed)).await?;
        writers.more(100).await?;
        // The second backup runs under load, and most targets lie around it.
        let backup = scene.cli().run(["backup"]);
        let (more, backup) = tokio::join!(writers.more(200), backup);
        more?;
        backup?.success()?;
        scene.cli().run(["mark", "release-42", "--meta", "sha=1f3a9c2"]).await?.success()?;
        writers.more(100).await?;
        let ledger = writers.stop().await?;
        let to = scene.seal().await?;
        let oracle =
            if WalOracle::exists_for(major) { Some(WalOracle::read(&scene.server, from).await?) } else { None };
        Ok(Self { scene, ledger, oracle, from, to })
    }

    async fn check(&self, target: &[&str], moment: &Moment) -> Result<()> {
        let restored = self.scene.restore(target).await?;
        let found = Ledger::read(&restored.server.connect().await?).await?;
        Expected::at(moment, &self.ledger, self.oracle.as_ref())
            .check(&found)
            .with_context(|| format!("{target:?}, {moment:?}\ncertificate: {:#}", restored.certificate))
    }

    /// Two random targets of each kind.
    async fn check_random_targets(&self, rng: &mut StdRng) -> Result<()> {
        for _ in 0..2 {
            let entry = &self.ledger.entries()[rng.random_range(0..self.ledger.entries().len())];
            let xid = entry.xid.to_string();
            self.check(&["--xid", &xid], &Moment::Xid(entry.xid)).await?;
            self.check(&["--xid", &xid, "--exclusive"], &Moment::BeforeXid(entry.xid)).await?;
            let lsn = Lsn::new(rng.random_range(self.from.as_u64()..self.to.as_u64()));
            self.check(&["--lsn", &lsn.to_string()], &Moment::Lsn(lsn)).await?;
            self.check(&["--lsn", &entry.after.to_string()], &Moment::Lsn(entry.after)).await?;
            let time = entry.commit_time.context("no commit time")?;
            for time in [time, time - TimeDelta::microseconds(1)] {
                let text = time.to_rfc3339_opts(SecondsFormat::Micros, true);
                self.check(&["--time", &text], &Moment::Time(time)).await?;
            }
        }
        Ok(())
    }

    /// The targets that need no number.
    async fn check_named_targets(&self) -> Result<()> {
        self.check(&["--latest"], &Moment::Lsn(self.to)).await?;
        let info = self.scene.agent.info().await?;
        let marker = self.oracle.as_ref().and_then(|oracle| oracle.restore_point("release-42"));
        let told = info.pointer("/markers/0/lsn").and_then(|lsn| lsn.as_str()).context("no marker in info")?;
        let told: Lsn = told.parse()?;
        assert_eq!(marker.unwrap_or(told), told, "a marker's LSN is where its record starts");
        self.check(&["--before", "release-42"], &Moment::Lsn(told)).await?;
        let backups = info.get("backups").and_then(|backups| backups.as_array()).context("no backups in info")?;
        let stop = backups.last().and_then(|backup| backup.get("stop_lsn")?.as_str()).context("no stop_lsn")?;
        self.check(&["--immediate"], &Moment::Lsn(stop.parse()?)).await
    }
}

async fn targets_hold_what_they_should(major: u32, store: Store) -> Result<()> {
    let seed = seed::of_this_run();
    let past = Past::make(major, store, seed).await?;
    past.check_named_targets().await?;
    past.check_random_targets(&mut StdRng::seed_from_u64(seed)).await
}

macro_rules! on_each_version {
    ($($local:ident, $s3:ident: $major:literal;)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $local() -> Result<()> {
            if left_out($major) {
                return Ok(());
            }
            targets_hold_what_they_should($major, Store::local()?).await
        }

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $s3() -> Result<()> {
            if left_out($major) {
                return Ok(());
            }
            targets_hold_what_they_should($major, Store::s3().await?).await
        }
    )*};
}

on_each_version! {
    every_target_on_13_local, every_target_on_13_s3: 13;
    every_target_on_14_local, every_target_on_14_s3: 14;
    every_target_on_15_local, every_target_on_15_s3: 15;
    every_target_on_16_local, every_target_on_16_s3: 16;
    every_target_on_17_local, every_target_on_17_s3: 17;
    every_target_on_18_local, every_target_on_18_s3: 18;
}
