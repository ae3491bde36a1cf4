//! Whether a database is in order, and what it says.

use anyhow::{Result, ensure};

use crate::postgres::Connection;

/// Permanent relations of one kind of access method or more, without the server's own temporary ones.
const PERMANENT: &str = "c.relpersistence = 'p' AND c.relkind";

/// What all permanent tables of a database say, and which relations there are; equal where two databases are.
///
/// # Errors
/// The server refuses.
pub async fn fingerprint(session: &Connection) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    let relations = "SELECT oid, relname, relkind, relfilenode, reltablespace FROM pg_class \
                     WHERE relpersistence <> 't' AND relnamespace NOT IN ('pg_toast'::regnamespace) ORDER BY oid";
    lines.extend(session.rows(relations).await?.into_iter().map(|row| row.join(" ")));
    let tables = format!(
        "SELECT c.oid::regclass FROM pg_class c WHERE {PERMANENT} = 'r' AND c.relnamespace = 'public'::regnamespace \
         ORDER BY c.relname"
    );
    for row in session.rows(&tables).await? {
        let table = row.concat();
        let sums =
            format!("SELECT count(*), coalesce(sum(hashtextextended(r::text, 0)), 0), '{table}' FROM {table} AS r");
        lines.extend(session.rows(&sums).await?.into_iter().map(|row| row.join(" ")));
    }
    let objects = "SELECT count(*), sum(hashtextextended(encode(data, 'hex'), pageno)) FROM pg_largeobject";
    lines.extend(session.rows(objects).await?.into_iter().map(|row| row.join(" ")));
    let prepared = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database() ORDER BY gid";
    lines.extend(session.rows(prepared).await?.into_iter().map(|row| row.join(" ")));
    Ok(lines)
}

/// All that PostgreSQL's own checkers say of a database.
///
/// # Errors
/// One of them finds something.
pub async fn check(session: &Connection, major: u32) -> Result<()> {
    session
        .batch_execute("CREATE EXTENSION IF NOT EXISTS amcheck; CREATE EXTENSION IF NOT EXISTS pg_visibility")
        .await?;
    let indexes = |method: &str| {
        format!(
            "FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid JOIN pg_am a ON a.oid = c.relam \
             WHERE a.amname = '{method}' AND {PERMANENT} = 'i' AND i.indisvalid AND i.indisready"
        )
    };
    session.rows(&format!("SELECT bt_index_parent_check(c.oid, true, true) {}", indexes("btree"))).await?;
    if major >= 18 {
        session.rows(&format!("SELECT gin_index_check(c.oid) {}", indexes("gin"))).await?;
    }
    let heaps = format!("FROM pg_class c, LATERAL %s AS bad WHERE {PERMANENT} IN ('r', 'm', 't')");
    let mut checks = vec!["pg_check_visible(c.oid)", "pg_check_frozen(c.oid)"];
    if major >= 14 {
        checks.push("verify_heapam(c.oid, check_toast => true)");
    }
    for call in checks {
        let bad = session.rows(&format!("SELECT c.oid::regclass, bad {}", heaps.replace("%s", call))).await?;
        ensure!(bad.is_empty(), "{call} finds {bad:?}");
    }
    every_index_finds_what_a_scan_finds(session).await
}

/// For the kinds of indexes that have no checker.
async fn every_index_finds_what_a_scan_finds(session: &Connection) -> Result<()> {
    let tables = format!(
        "SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'spot' \
         WHERE {PERMANENT} = 'r' AND c.relnamespace = 'public'::regnamespace"
    );
    let conditions = [
        "id BETWEEN 50 AND 900",
        "words @> ARRAY[5]",
        "words @> ARRAY[33]",
        "spot <@ box '((10,10),(120,100))'",
        "spot ~= point(20, 31)",
        "pad >= 'a' AND pad < 'b'",
        "k = ANY (ARRAY(SELECT generate_series(0, 9973, 7)))",
        "k = 77",
    ];
    const BY_INDEX: &str = "SET enable_seqscan = off; SET enable_indexscan = on; SET enable_bitmapscan = on; \
                            SET enable_indexonlyscan = on";
    const BY_SCAN: &str = "SET enable_seqscan = on; SET enable_indexscan = off; SET enable_bitmapscan = off; \
                           SET enable_indexonlyscan = off";
    for row in session.rows(&tables).await? {
        let table = row.concat();
        let parts: Vec<String> =
            conditions.iter().map(|condition| format!("(SELECT count(*) FROM {table} WHERE {condition})")).collect();
        let query = format!("SELECT {}", parts.join(", "));
        session.batch_execute(BY_INDEX).await?;
        let by_index = session.rows(&query).await?;
        session.batch_execute(BY_SCAN).await?;
        let by_scan = session.rows(&query).await?;
        session.batch_execute("RESET ALL").await?;
        ensure!(by_index == by_scan, "{table}: by index {by_index:?}, by scan {by_scan:?}, of {conditions:?}");
    }
    Ok(())
}
