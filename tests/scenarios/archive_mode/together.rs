//! The stream and `archive_command` at once: each finds what the other has stored.

use anyhow::Result;
use pitr_tests::ledger::{Load, Writers};
use pitr_tests::{Ledger, Postgres, Scene, Store};

use super::{archiver, archiving, point_at, push, seal};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_ways_at_once_agree() -> Result<()> {
    let server = Postgres::start(archiving(18)).await?;
    let mut scene = Scene::around(server, Store::local()?).await?;
    Ledger::create(&scene.server).await?;
    point_at(&scene.server, &scene.agent).await?;
    let mut load = Load::new(3, 41);
    load.payload = 8000;
    let writers = Writers::start(&scene.server, load).await?;
    for round in 0..6 {
        writers.more(100).await?;
        scene.server.execute("SELECT pg_switch_wal()").await?;
        if round == 3 {
            scene.agent.kill()?;
            writers.more(50).await?;
            scene.agent.run()?;
        }
    }
    let ledger = writers.stop().await?;
    seal(&scene).await?;
    let last = archiver(&scene.server, "last_archived_wal").await?;
    push(&scene, std::path::Path::new(&format!("pg_wal/{last}")))?.archived()?;
    // And what only the stream has: the open segment.
    scene.server.execute("CREATE TABLE after_the_switch (n int)").await?;
    scene.seal().await?;
    let restored = scene.restore(&["--latest"]).await?;
    assert_eq!(Ledger::read(&restored.server.connect().await?).await?, ledger.acknowledged());
    assert_eq!(restored.server.value("SELECT count(*) FROM after_the_switch").await?, "0");
    let status = scene.cli().json(["status"]).await?;
    assert_eq!(status.pointer("/agent/state").and_then(serde_json::Value::as_str), Some("streaming"), "{status}");
    Ok(())
}
