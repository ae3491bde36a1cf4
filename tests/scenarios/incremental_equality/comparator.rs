//! The comparison finds what it is for.

use anyhow::{Context, Result};
use pitr_tests::pages::{self, Tolerance};
use pitr_tests::{StopMode, Store};

use super::proof::{Proof, options, path_of};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_page_that_differs_is_found() -> Result<()> {
    let mut proof = Proof::start(options(15, false), Store::local()?, 1, Tolerance::Hints).await?;
    proof
        .scene
        .server
        .execute("CREATE TABLE victim AS SELECT g, md5(g::text) AS t FROM generate_series(1, 9000) g")
        .await?;
    proof.quiet().await?;
    let before = proof.backup(&[]).await?;
    let path = path_of(&proof.scene.server, "victim").await?;
    let file = before.files.get(&path).context("the table is not in the backup")?;
    assert!(file.size > 3 * 8192, "{file:?}");

    // Behind the server's back, as a broken disk would.
    proof.scene.server.stop(StopMode::Fast).await?;
    let disk = proof.scene.server.data_directory().join(path.to_path());
    let handle = std::fs::File::options().read(true).write(true).open(disk)?;
    let at = 3 * 8192 + 8000;
    let mut byte = [0];
    std::os::unix::fs::FileExt::read_exact_at(&handle, &mut byte, at)?;
    std::os::unix::fs::FileExt::write_all_at(&handle, &[byte[0] ^ 1], at)?;
    drop(handle);
    proof.scene.server.run().await?;
    let data = proof.scene.server.data_directory().to_owned();
    let on_disk = pages::compare_with_disk(&mut proof.shelf, &before, &data, Tolerance::Hints)?;
    assert_eq!(on_disk.iter().map(|found| found.path.as_str()).filter(|found| *found == path.as_str()).count(), 1);
    assert!(
        on_disk.iter().any(|found| found.what.starts_with("block 3: 1 bytes differ, first at 8000;")),
        "{on_disk:#?}"
    );

    proof.quiet().await?;
    let after = proof.backup(&["--fresh"]).await?;
    let found = pages::compare(&mut proof.shelf, &before, &after, Tolerance::Hints)?;
    assert!(found.iter().any(|found| found.path == path.as_str() && found.what.starts_with("block 3: ")), "{found:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_gone_or_longer_is_found() -> Result<()> {
    let mut proof = Proof::start(options(17, true), Store::local()?, 2, Tolerance::Exact).await?;
    proof.scene.server.execute("CREATE TABLE short AS SELECT 1 AS n; CREATE TABLE gone AS SELECT 1 AS n").await?;
    let (short, gone) = (path_of(&proof.scene.server, "short").await?, path_of(&proof.scene.server, "gone").await?);
    proof.quiet().await?;
    let before = proof.backup(&[]).await?;
    proof.scene.server.execute("INSERT INTO short SELECT generate_series(1, 2000); DROP TABLE gone").await?;
    proof.quiet().await?;
    let after = proof.backup(&[]).await?;
    let found = pages::compare(&mut proof.shelf, &before, &after, Tolerance::Exact)?;
    let what = |path: &str| found.iter().find(|found| found.path == path).map(|found| found.what.clone());
    assert_eq!(what(gone.as_str()).as_deref(), Some("only in the first"), "{found:#?}");
    assert!(what(short.as_str()).is_some_and(|what| what.starts_with("8192 bytes")), "{found:#?}");
    Ok(())
}
