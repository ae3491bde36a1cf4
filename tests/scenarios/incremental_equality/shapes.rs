//! What WAL tells of in a way of its own, or not at all, each between a backup and the next.

use anyhow::{Context, Result};
use pitr_tests::pages::Tolerance;
use pitr_tests::{Account, Scratch, StopMode, Store, skip};

use super::proof::{Proof, number, options};

/// A name, what is there before the first backup, and what is done behind it.
const SHAPES: &[(&str, &str, &str)] = &[
    (
        "the visibility map is cleared, and nothing says of which block",
        "CREATE TABLE seen_by_all AS SELECT g AS n FROM generate_series(1, 5000) g; VACUUM seen_by_all",
        "DELETE FROM seen_by_all WHERE n = 4321",
    ),
    (
        "vacuum marks pages as visible to all",
        "CREATE TABLE to_be_seen AS SELECT g AS n FROM generate_series(1, 5000) g",
        "VACUUM to_be_seen",
    ),
    (
        "hint bits, and nothing else",
        "CREATE TABLE hinted AS SELECT g AS n, md5(g::text) AS t FROM generate_series(1, 5000) g; \
         CREATE INDEX hinted_n ON hinted (n); DELETE FROM hinted WHERE n % 7 = 0",
        "SELECT count(*) FROM hinted; SET enable_seqscan = off; SELECT count(*) FROM hinted WHERE n > 0; \
         SELECT count(*) FROM hinted WHERE n > 0",
    ),
    (
        "shrunk and grown to the same size",
        "CREATE TABLE regrown AS SELECT g AS n, repeat('a', 100) AS t FROM generate_series(1, 6000) g",
        "DELETE FROM regrown WHERE n > 900; VACUUM regrown; \
         INSERT INTO regrown SELECT g, repeat('b', 100) FROM generate_series(901, 6000) g",
    ),
    (
        "truncated, and shorter than it was",
        "CREATE TABLE emptied AS SELECT g AS n, repeat('a', 100) AS t FROM generate_series(1, 6000) g",
        "TRUNCATE emptied; INSERT INTO emptied SELECT g, 'c' FROM generate_series(1, 100) g",
    ),
    (
        "truncated, and the transaction rolled back",
        "CREATE TABLE kept AS SELECT g AS n FROM generate_series(1, 3000) g",
        "BEGIN; TRUNCATE kept; INSERT INTO kept SELECT generate_series(1, 9000); ROLLBACK; \
         UPDATE kept SET n = n + 1 WHERE n < 100",
    ),
    (
        "created and filled under the same subtransaction, several times",
        "CREATE TABLE partly (n int)",
        "BEGIN; CREATE TABLE part_a AS SELECT 1 AS n; SAVEPOINT a; CREATE TABLE part_b AS SELECT generate_series(1, 999) AS n; \
         ROLLBACK TO a; CREATE TABLE part_c AS SELECT generate_series(1, 777) AS n; COMMIT",
    ),
    (
        "unlogged becomes logged, and the other way",
        "CREATE UNLOGGED TABLE to_logged AS SELECT g AS n FROM generate_series(1, 3000) g; \
         CREATE TABLE to_unlogged AS SELECT g AS n FROM generate_series(1, 3000) g; \
         CREATE TABLE there_and_back AS SELECT g AS n FROM generate_series(1, 3000) g",
        "ALTER TABLE to_logged SET LOGGED; ALTER TABLE to_unlogged SET UNLOGGED; \
         ALTER TABLE there_and_back SET UNLOGGED; INSERT INTO there_and_back VALUES (0); \
         ALTER TABLE there_and_back SET LOGGED",
    ),
    (
        "indexes of every kind, built and grown",
        "CREATE TABLE grown AS SELECT g AS n, point(g % 97, g % 89) AS p, ARRAY[g % 31, g % 7] AS a, md5(g::text) AS t \
         FROM generate_series(1, 4000) g; CREATE INDEX ON grown USING gist (p); CREATE INDEX ON grown USING gin (a)",
        "CREATE INDEX ON grown USING hash (n); CREATE INDEX ON grown USING brin (n); CREATE INDEX ON grown USING spgist (t); \
         CREATE INDEX ON grown USING spgist (p); INSERT INTO grown SELECT g, point(g, g), ARRAY[g], 'x' || g \
         FROM generate_series(5000, 6000) g; VACUUM grown",
    ),
    (
        "sequences, and a catalog's row that is written in place",
        "CREATE SEQUENCE counted; SELECT nextval('counted')",
        "SELECT nextval('counted') FROM generate_series(1, 100); ANALYZE grown; VACUUM (FREEZE) pg_class",
    ),
    (
        "mapped catalogs get other files",
        "SELECT 1",
        "VACUUM FULL pg_class; REINDEX TABLE pg_database; CLUSTER pg_proc USING pg_proc_oid_index",
    ),
];

async fn all_shapes(major: u32, checksums: bool) -> Result<()> {
    let tolerance = if checksums { Tolerance::Exact } else { Tolerance::Hints };
    let mut proof = Proof::start(options(major, checksums), Store::local()?, 0, tolerance).await?;
    for (_, before, _) in SHAPES {
        each(&proof, before).await?;
    }
    each(&proof, "CREATE DATABASE moved; CREATE TABLE held_back (n int); CREATE TABLE dropped_later (n int)").await?;
    proof
        .scene
        .server
        .connect_to("moved")
        .await?
        .batch_execute("CREATE TABLE inside AS SELECT generate_series(1, 900) AS n")
        .await?;
    each(&proof, "INSERT INTO dropped_later SELECT generate_series(1, 3000)").await?;
    // Begun before the first backup, ended behind it: one that fills what it made, and one that drops.
    let open = proof.scene.server.connect().await?;
    open.batch_execute("BEGIN; TRUNCATE held_back; INSERT INTO held_back SELECT generate_series(1, 2000)").await?;
    each(&proof, "BEGIN; DROP TABLE dropped_later; PREPARE TRANSACTION 'drops'").await?;
    proof.quiet().await?;
    let first = proof.backup(&[]).await?;

    for (name, _, behind) in SHAPES {
        proof.load.note(*name);
        each(&proof, behind).await.context(*name)?;
    }
    open.batch_execute("COMMIT").await?;
    each(&proof, "COMMIT PREPARED 'drops'; ALTER DATABASE moved SET TABLESPACE space_a").await?;
    let inside = proof.scene.server.connect_to("moved").await?;
    inside.batch_execute("INSERT INTO inside SELECT generate_series(1, 300); TRUNCATE inside").await?;
    drop(inside);
    each(&proof, "ALTER DATABASE moved SET TABLESPACE pg_default").await?;
    let ordinary = proof.prove().await?;
    assert_ne!(first.manifest.id, ordinary.manifest.id);

    // Once more, with recovery between, which writes what it likes.
    each(&proof, "INSERT INTO held_back SELECT generate_series(1, 9000); DELETE FROM regrown WHERE n % 2 = 0").await?;
    proof.crash().await?;
    proof.prove().await?;
    proof.restart(StopMode::Fast).await?;
    each(&proof, "UPDATE emptied SET t = 'after'").await?;
    let last = proof.prove().await?;
    proof.restores(&last).await
}

/// Statements that cannot share a transaction: each alone, but for what is between BEGIN and its end.
async fn each(proof: &Proof, statements: &str) -> Result<()> {
    let session = proof.scene.server.connect().await?;
    for statement in statements.split("; ") {
        session.batch_execute(statement).await.with_context(|| statement.to_owned())?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_wal_says_on_13_in_its_own_way_is_in_the_next_backup() -> Result<()> {
    if skip::left_out(13) { Ok(()) } else { all_shapes(13, false).await }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_wal_says_on_15_in_its_own_way_is_in_the_next_backup() -> Result<()> {
    all_shapes(15, false).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_wal_says_on_18_in_its_own_way_is_in_the_next_backup() -> Result<()> {
    all_shapes(18, true).await
}

/// A relation of more than one file, whose last file goes, and comes back with other content; its files are sparse.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relation_that_loses_a_file_and_grows_again_is_as_it_is() -> Result<()> {
    let mut proof = Proof::start(options(15, false), Store::local()?, 0, Tolerance::Hints).await?;
    proof.scene.server.execute("CREATE TABLE long AS SELECT 1 AS n, repeat('x', 500) AS t").await?;
    let path = super::proof::path_of(&proof.scene.server, "long").await?;
    proof.scene.server.stop(StopMode::Fast).await?;
    let first = proof.scene.server.data_directory().join(path.to_path());
    let segment_bytes = 1 << 30;
    std::fs::File::options().write(true).open(&first)?.set_len(segment_bytes)?;
    let second = first.with_extension("1");
    std::fs::File::create(&second)?.set_len(64 * 8192)?;
    std::fs::set_permissions(&second, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    pitr_tests::Account::of_servers()?.own(&second)?;
    proof.scene.server.run().await?;
    // Behind all zeros: a few pages of the second file.
    let fill = "INSERT INTO long SELECT g, repeat('y', 500) FROM generate_series(1, 300) g";
    proof.scene.server.execute(fill).await?;
    proof.prove().await?;

    // The end is cut off, far into the first file, and grows over the border again.
    each(&proof, "DELETE FROM long WHERE t LIKE 'y%'; VACUUM long").await?;
    assert!(std::fs::metadata(&second)?.len() == 0, "the second file is cut off");
    proof.scene.server.execute(fill).await?;
    let rounds = number("PITR_EQUALITY_ROUNDS", 1);
    for _ in 0..rounds {
        proof.prove().await?;
        proof.scene.server.execute("UPDATE long SET t = 'z' WHERE n % 9 = 0").await?;
    }
    let last = proof.prove().await?;
    proof.restores(&last).await
}

/// A tablespace in place, `pg_wal` behind a symbolic link, and what changes between two backups in both.
async fn unusual_places(major: u32) -> Result<()> {
    let options = options(major, true).conf("allow_in_place_tablespaces = on");
    let mut proof = Proof::start(options, Store::local()?, 0, Tolerance::Exact).await?;
    let elsewhere = Scratch::new()?;
    let server = &mut proof.scene.server;
    server.stop(StopMode::Fast).await?;
    let (wal, moved) = (server.data_directory().join("pg_wal"), elsewhere.path().join("wal"));
    let mut command = Account::of_servers()?.command("sh");
    let status = command.args(["-c", "mv \"$0\" \"$1\" && ln -s \"$1\" \"$0\""]).arg(&wal).arg(&moved).status()?;
    assert!(status.success() && wal.is_symlink());
    server.run().await?;
    each(&proof, "CREATE TABLESPACE inside LOCATION ''").await?;
    each(&proof, "CREATE TABLE placed TABLESPACE inside AS SELECT g AS n FROM generate_series(1, 9000) g").await?;
    proof.prove().await?;
    each(&proof, "UPDATE placed SET n = -n WHERE n % 700 = 0; CREATE DATABASE there TABLESPACE inside").await?;
    let last = proof.prove().await?;
    proof.restores(&last).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tablespace_in_place_and_pg_wal_elsewhere_are_as_they_are_on_15() -> Result<()> {
    unusual_places(15).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tablespace_in_place_and_pg_wal_elsewhere_are_as_they_are_on_18() -> Result<()> {
    unusual_places(18).await
}

/// Many relations, of which few change: the backup behind costs little.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn few_of_many_relations_change() -> Result<()> {
    let relations = number("PITR_EQUALITY_RELATIONS", 2000);
    let options = options(15, true).conf("max_locks_per_transaction = 2000");
    let mut proof = Proof::start(options, Store::local()?, 0, Tolerance::Exact).await?;
    for first in (0..relations).step_by(1000) {
        let last = (first + 999).min(relations - 1);
        let make = format!(
            "DO $$ BEGIN FOR n IN {first}..{last} LOOP EXECUTE format('CREATE TABLE many_%s AS SELECT %s AS n', n, n); \
             END LOOP; END $$"
        );
        proof.scene.server.execute(&make).await?;
    }
    proof.prove().await?;
    for table in (0..relations).step_by(250) {
        proof.scene.server.execute(&format!("UPDATE many_{table} SET n = -1")).await?;
    }
    let last = proof.prove().await?;
    let read = last.manifest.pages_read;
    assert!(read < u64::from(relations), "{read} pages read of {relations} relations");
    Ok(())
}
