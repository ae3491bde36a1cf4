//! Acts that give relations other files.

use anyhow::Result;
use rand::RngExt;
use rand::seq::IndexedRandom;

use super::{Table, Workload};
use crate::Postgres;

/// More tables than this are not made.
const TABLES: usize = 9;

impl Workload {
    pub(super) async fn create_table(&mut self, server: &Postgres) -> Result<()> {
        if self.tables.len() >= TABLES {
            self.drop_table(server).await?;
        }
        let table = Table { name: format!("t{}", self.number()), logged: self.rng.random_bool(0.85) };
        let (space, salt) = (self.space(), self.salt() % 1_000_000);
        let mut sql = table.create(&mut self.rng, space);
        let rows = Table::rows([10, 900, 2500][self.rng.random_range(0..3)], salt);
        sql.push_str(&format!("INSERT INTO {} (k, pad, words, spot, big) {rows}", table.name));
        self.run(server, "postgres", &sql).await?;
        self.tables.push(table);
        Ok(())
    }

    pub(super) async fn drop_table(&mut self, server: &Postgres) -> Result<()> {
        if self.tables.len() < 3 {
            return Ok(());
        }
        let index = self.rng.random_range(0..self.tables.len());
        let table = self.tables.remove(index);
        self.run(server, "postgres", &format!("DROP TABLE {}", table.name)).await
    }

    pub(super) async fn drop_and_create(&mut self, server: &Postgres) -> Result<()> {
        self.drop_table(server).await?;
        self.create_table(server).await
    }

    pub(super) async fn vacuum(&mut self, server: &Postgres, options: &[&str]) -> Result<()> {
        let option = options.choose(&mut self.rng).copied().unwrap_or_default();
        let table = match (self.rng.random_bool(0.15), option.contains("FULL")) {
            (false, _) => self.table()?.name,
            // The whole database, with the catalogs.
            (true, false) => String::new(),
            // A mapped catalog: `pg_filenode.map` is written.
            (true, true) => "pg_class".to_owned(),
        };
        self.run(server, "postgres", &format!("VACUUM {option} {table}")).await
    }

    pub(super) async fn cluster(&mut self, server: &Postgres) -> Result<()> {
        let table = self.table()?.name;
        self.run(server, "postgres", &format!("CLUSTER {table} USING {table}_id")).await
    }

    pub(super) async fn reindex(&mut self, server: &Postgres) -> Result<()> {
        let table = self.table()?.name;
        // Waits for all older transactions.
        let concurrently = self.open.is_none() && self.prepared.is_empty() && self.rng.random_bool(0.3);
        let sql = match (concurrently, self.rng.random_range(0..4)) {
            (true, _) => format!("REINDEX TABLE CONCURRENTLY {table}"),
            // The mapped catalogs: `pg_filenode.map` is written.
            (_, 0) if self.open.is_none() => "REINDEX TABLE pg_class; REINDEX TABLE pg_database".to_owned(),
            _ => format!("REINDEX TABLE {table}"),
        };
        self.run(server, "postgres", &sql).await
    }

    pub(super) async fn move_table(&mut self, server: &Postgres) -> Result<()> {
        let (table, to) = (self.table()?.name, self.space());
        let sql = if self.rng.random_bool(0.7) {
            format!("ALTER TABLE {table} SET TABLESPACE {to}")
        } else {
            format!("ALTER INDEX {table}_id SET TABLESPACE {to}")
        };
        self.run(server, "postgres", &sql).await
    }

    pub(super) async fn flip_logged(&mut self, server: &Postgres) -> Result<()> {
        let index = self.rng.random_range(0..self.tables.len());
        self.flip(server, index).await
    }

    pub(super) async fn flip_and_back(&mut self, server: &Postgres) -> Result<()> {
        let index = self.rng.random_range(0..self.tables.len());
        self.flip(server, index).await?;
        let (name, salt) = (self.tables[index].name.clone(), self.salt() % 1_000_000);
        let rows = Table::rows(200, salt);
        self.run(server, "postgres", &format!("INSERT INTO {name} (k, pad, words, spot, big) {rows}")).await?;
        self.flip(server, index).await
    }

    async fn flip(&mut self, server: &Postgres, index: usize) -> Result<()> {
        let table = &mut self.tables[index];
        table.logged = !table.logged;
        let (name, to) = (table.name.clone(), if table.logged { "LOGGED" } else { "UNLOGGED" });
        self.run(server, "postgres", &format!("ALTER TABLE {name} SET {to}")).await
    }

    pub(super) async fn rewrite(&mut self, server: &Postgres) -> Result<()> {
        let table = self.table()?.name;
        let sql = format!("ALTER TABLE {table} ALTER k TYPE bigint; ALTER TABLE {table} ALTER k TYPE int");
        self.run(server, "postgres", &sql).await
    }

    pub(super) async fn build_index(&mut self, server: &Postgres) -> Result<()> {
        let table = self.table()?.name;
        let kinds =
            ["hash (k)", "gin (words)", "gist (spot)", "brin (id)", "spgist (spot)", "btree (pad, k)", "spgist (pad)"];
        let kind = kinds.choose(&mut self.rng).copied().unwrap_or("btree (k)");
        // Waits for all older transactions.
        let waits = self.open.is_none() && self.prepared.is_empty();
        let concurrently = if waits && self.rng.random_bool(0.4) { "CONCURRENTLY" } else { "" };
        let drop = format!("DROP INDEX IF EXISTS {table}_built");
        self.run(server, "postgres", &drop).await?;
        let sql = format!("CREATE INDEX {concurrently} {table}_built ON {table} USING {kind}");
        self.run(server, "postgres", &sql).await
    }

    pub(super) async fn materialize(&mut self, server: &Postgres) -> Result<()> {
        let view = "CREATE MATERIALIZED VIEW IF NOT EXISTS seen AS SELECT n, count(*) AS c, max(t) AS t FROM held GROUP BY n; \
                    CREATE UNIQUE INDEX IF NOT EXISTS seen_n ON seen (n); ";
        let how = if self.rng.random_bool(0.5) { "CONCURRENTLY" } else { "" };
        self.run(server, "postgres", &format!("{view} REFRESH MATERIALIZED VIEW {how} seen")).await
    }
}
