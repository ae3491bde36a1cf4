//! Acts about transactions, and what belongs to no table.

use anyhow::Result;
use rand::RngExt;

use super::{HELD, Table, Workload};
use crate::Postgres;

impl Workload {
    pub(super) async fn prepare_transaction(&mut self, server: &Postgres) -> Result<()> {
        if self.prepared.len() >= 3 {
            return self.finish_prepared(server).await;
        }
        let name = format!("p{}", self.number());
        let sql = format!(
            "BEGIN; INSERT INTO {HELD} SELECT g, md5(g::text) FROM generate_series(1, 300) g; \
             SAVEPOINT s; INSERT INTO {HELD} VALUES (-1, '{name}'); RELEASE s; PREPARE TRANSACTION '{name}'"
        );
        self.run(server, "postgres", &sql).await?;
        self.prepared.push(name);
        Ok(())
    }

    pub(super) async fn finish_prepared(&mut self, server: &Postgres) -> Result<()> {
        if self.prepared.is_empty() {
            return Ok(());
        }
        let index = self.rng.random_range(0..self.prepared.len());
        let name = self.prepared.remove(index);
        let how = if self.rng.random_bool(0.6) { "COMMIT" } else { "ROLLBACK" };
        self.run(server, "postgres", &format!("{how} PREPARED '{name}'")).await
    }

    /// More than fit into a session's shared memory, some of them rolled back.
    pub(super) async fn subtransactions(&mut self, server: &Postgres) -> Result<()> {
        let count = [3, 90][self.rng.random_range(0..2)];
        let sql = format!(
            "DO $$ BEGIN FOR n IN 1..{count} LOOP BEGIN INSERT INTO {HELD} VALUES (n, repeat('s', n)); \
             IF n % 3 = 0 THEN RAISE EXCEPTION 'no'; END IF; EXCEPTION WHEN raise_exception THEN NULL; END; END LOOP; END $$"
        );
        self.run(server, "postgres", &sql).await
    }

    /// Files that are made and go with the transaction, and pages that stay.
    pub(super) async fn abort(&mut self, server: &Postgres) -> Result<()> {
        let name = format!("a{}", self.number());
        let Table { name: table, logged } = self.table()?;
        // Where a crash takes the record of the rollback along, a server does not start again that has left the empty file of an
        // unlogged relation's rolled back truncation.
        let truncate = if logged { format!("TRUNCATE {table};") } else { String::new() };
        let sql = format!(
            "BEGIN; CREATE TABLE {name} AS SELECT g, md5(g::text) FROM generate_series(1, 500) g; \
             UPDATE {table} SET k = 0 WHERE id % 9 = 1; {truncate} ROLLBACK"
        );
        self.run(server, "postgres", &sql).await
    }

    pub(super) async fn open_transaction(&mut self, server: &Postgres) -> Result<()> {
        let session = server.connect().await?;
        let sql = format!("BEGIN; INSERT INTO {HELD} SELECT g, 'open' FROM generate_series(1, 400) g");
        self.note(format!("  (stays open) {sql}"));
        session.batch_execute(&sql).await?;
        self.open = Some(session);
        Ok(())
    }

    pub(super) async fn end_transaction(&mut self) -> Result<()> {
        let Some(session) = self.open.take() else { return Ok(()) };
        let how = if self.rng.random_bool(0.6) { "COMMIT" } else { "ROLLBACK" };
        self.note(format!("  (the open one) {how}"));
        Ok(session.batch_execute(how).await?)
    }

    pub(super) async fn sequences(&mut self, server: &Postgres) -> Result<()> {
        let table = self.table()?.name;
        let sequence = format!("pg_get_serial_sequence('{table}', 'id')");
        let sql = match self.rng.random_range(0..3) {
            0 => format!("SELECT count(nextval({sequence})) FROM generate_series(1, 100)"),
            1 => format!("SELECT setval({sequence}, (SELECT coalesce(max(id), 0) + 5 FROM {table}))"),
            _ => format!("ALTER SEQUENCE {table}_id_seq CACHE {}", self.rng.random_range(1..40)),
        };
        self.run(server, "postgres", &sql).await
    }

    pub(super) async fn large_objects(&mut self, server: &Postgres) -> Result<()> {
        let count = self.large_objects.len();
        if count >= 5 || (count > 0 && self.rng.random_bool(0.4)) {
            let index = self.rng.random_range(0..count);
            let oid = self.large_objects[index];
            let sql = if self.rng.random_bool(0.5) {
                self.large_objects.remove(index);
                format!("SELECT lo_unlink({oid})")
            } else {
                let at = self.rng.random_range(0..40_000);
                format!("SELECT lo_put({oid}, {at}, decode(repeat('c0ffee', 1500), 'hex'))")
            };
            return self.run(server, "postgres", &sql).await;
        }
        let oid = 900_000 + self.number();
        let salt = self.salt() % 1000;
        let sql = format!(
            "SELECT lo_from_bytea({oid}, (SELECT string_agg(decode(md5((i + {salt})::text), 'hex'), ''::bytea) \
             FROM generate_series(1, 3000) i))"
        );
        self.large_objects.push(oid);
        self.run(server, "postgres", &sql).await
    }

    /// By index and by scan, so that heap and index pages get their hints.
    pub(super) async fn read_all(&mut self, server: &Postgres) -> Result<()> {
        let names: Vec<String> = self.tables.iter().map(|table| table.name.clone()).collect();
        for name in names {
            let sql = format!(
                "SELECT count(*), sum(k) FROM {name}; SET enable_seqscan = off; \
                 SELECT sum(k) FROM {name} WHERE id >= 0; SELECT sum(k) FROM {name} WHERE k = 77; \
                 SELECT count(*) FROM {name} WHERE spot <@ box '((0,0),(400,400))'; \
                 SELECT count(*) FROM {name} WHERE pad >= '0'"
            );
            self.run(server, "postgres", &sql).await?;
        }
        Ok(())
    }
}
