//! Backups whose files are read from a standby.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use pitr_tests::ledger::{Load, Writers};
use pitr_tests::{Account, AgentOptions, Ledger, Postgres, PostgresOptions, Scene, Store, wait};

/// A file that only the standby has.
const MARK: &str = "read_from_the_standby";

struct Pair {
    primary: Postgres,
    standby: Postgres,
    store: Store,
}

impl Pair {
    async fn start(major: u32) -> Result<Self> {
        let primary = Postgres::start(PostgresOptions::of(major).conf("wal_keep_size = '1GB'")).await?;
        Ledger::create(&primary).await?;
        let standby = primary.standby().await?;
        let mark = standby.data_directory().join(MARK);
        fs::write(&mark, "yes")?;
        Account::of_servers()?.own(&mark)?;
        Ok(Self { primary, standby, store: Store::local()? })
    }

    fn options(&self) -> AgentOptions {
        let standby = self.standby.connection_string();
        self.store.options(&self.primary).set("backup", format!("standby = \"{standby}\""))
    }
}

async fn restores_what_was_copied_from_a_standby(major: u32) -> Result<()> {
    let pair = Pair::start(major).await?;
    let options = pair.options();
    let writers = Writers::start(&pair.primary, Load::new(3, 61)).await?;
    writers.more(60).await?;
    pair.primary
        .execute("CREATE TABLE filled AS SELECT g AS id, repeat('x', 400) AS v FROM generate_series(1, 20000) g")
        .await?;
    let scene = Scene::with(pair.primary, pair.store, &options).await?;
    writers.more(60).await?;
    // The second one shares pages with the first.
    scene.server.execute("UPDATE filled SET v = 'y' WHERE id % 1000 = 0; DELETE FROM filled WHERE id > 19000").await?;
    scene.cli().run(["backup"]).await?.success()?;
    writers.more(60).await?;
    let ledger = writers.stop().await?;
    scene.seal().await?;
    let restored = scene.restore(&["--latest"]).await?;
    assert_eq!(Ledger::read(&restored.server.connect().await?).await?, ledger.acknowledged());
    let session = restored.server.connect().await?;
    assert_eq!(session.value(&format!("SELECT pg_read_file('{MARK}')")).await?, "yes");
    assert_eq!(
        session.value("SELECT count(*) || ' ' || count(*) FILTER (WHERE v = 'y') FROM filled").await?,
        "19000 19"
    );
    assert_eq!(session.value("SELECT pg_is_in_recovery()").await?, "f");
    drop(session);
    scene.agent.no_alarms_but(&["fsync is off", "max_slot_wal_keep_size"])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_lends_its_files_13() -> Result<()> {
    restores_what_was_copied_from_a_standby(13).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_lends_its_files_18() -> Result<()> {
    restores_what_was_copied_from_a_standby(18).await
}

/// Copied slowly, so that the promotion comes in the middle.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promotion_in_the_middle_fails_the_backup() -> Result<()> {
    let mut pair = Pair::start(17).await?;
    let Pair { primary, .. } = &pair;
    primary.execute("CREATE TABLE filled AS SELECT md5(g::text) AS v FROM generate_series(1, 200000) g").await?;
    let options = pair.options();
    let standby = std::mem::replace(&mut pair.standby, Postgres::start(PostgresOptions::of(17)).await?);
    let mut scene = Scene::with(pair.primary, pair.store, &options).await?;
    scene.agent.stop(Duration::from_mins(1)).await?;
    scene.agent.reconfigure(&options.clone().set("backup", "bandwidth_limit = \"1MiB\""))?;
    scene.agent.run()?;
    scene.seal().await?;
    let taking = async { scene.cli().run(["backup", "--fresh"]).await };
    let promoting = async {
        wait::until("the backup copies", Duration::from_mins(1), async || {
            Ok((scene.agent.log().matches("what has changed is known").count() > 1).then_some(()))
        })
        .await?;
        standby.promote().await
    };
    let (taken, promoted) = tokio::join!(taking, promoting);
    promoted?;
    taken?.code(1)?.says(&["promoted"])?;
    let info = scene.agent.info().await?;
    let backups = info.get("backups").and_then(serde_json::Value::as_array).context("no backups")?;
    assert_eq!(backups.len(), 1, "{info}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_is_no_standby() -> Result<()> {
    let mut scene = Scene::start(PostgresOptions::of(17), Store::local()?).await?;
    let primary = scene.server.connection_string();
    let options = scene.store.options(&scene.server).set("backup", format!("standby = \"{primary}\""));
    scene.agent.stop(Duration::from_mins(1)).await?;
    scene.agent.reconfigure(&options)?;
    scene.agent.run()?;
    scene.seal().await?;
    scene.cli().run(["backup"]).await?.code(1)?.says(&["backup] standby", "no standby"])?;
    Ok(())
}
