//! Acts that change rows.

use anyhow::Result;
use rand::RngExt;
use rand::seq::IndexedRandom;

use super::{Table, Workload};
use crate::Postgres;

const COLUMNS: &str = "(k, pad, words, spot, big)";

impl Workload {
    pub(super) async fn insert(&mut self, server: &Postgres) -> Result<()> {
        let (table, salt) = (self.table()?, self.salt() % 1_000_000);
        let rows = [1, 30, 400, 2500][self.rng.random_range(0..4)];
        let sql = format!("INSERT INTO {} {COLUMNS} {}", table.name, Table::rows(rows, salt));
        self.run(server, "postgres", &sql).await
    }

    /// Out of one table into a file, and into another.
    pub(super) async fn copy(&mut self, server: &Postgres) -> Result<()> {
        let (from, to, file) = (self.table()?, self.table()?, self.file());
        let sql = format!(
            "COPY (SELECT k, pad, words, spot, big FROM {} ORDER BY id LIMIT 1500) TO '{file}'; \
             COPY {} {COLUMNS} FROM '{file}'",
            from.name, to.name
        );
        self.run(server, "postgres", &sql).await
    }

    pub(super) async fn copy_frozen(&mut self, server: &Postgres) -> Result<()> {
        let (from, file) = (self.table()?, self.file());
        let to = Table { name: format!("t{}", self.number()), logged: true };
        let (space, number) = (self.space(), self.tables.len());
        let create = to.create(&mut self.rng, space);
        let sql = format!(
            "COPY (SELECT k, pad, words, spot, big FROM {} ORDER BY id LIMIT 1500) TO '{file}'; \
             BEGIN; {create} COPY {} {COLUMNS} FROM '{file}' (FREEZE); COMMIT",
            from.name, to.name
        );
        self.run(server, "postgres", &sql).await?;
        self.tables.push(to);
        if number >= 8 { self.drop_table(server).await } else { Ok(()) }
    }

    fn file(&mut self) -> String {
        let number = self.number();
        self.spaces.path().join(format!("rows-{number}")).display().to_string()
    }

    /// Rows by range or all over the table.
    fn some_rows(&mut self, of: u32) -> String {
        match self.rng.random_range(0..4) {
            0 => format!("id % {of} = {}", self.rng.random_range(0..of)),
            1 => format!(
                "id BETWEEN (SELECT min(id) + {0} FROM {1}) AND (SELECT min(id) + {0} + 300 FROM {1})",
                of * 10,
                "pick"
            ),
            2 => "id > (SELECT max(id) - 100 FROM pick)".to_owned(),
            _ => format!("k < {}", 9973 / of),
        }
    }

    pub(super) async fn update(&mut self, server: &Postgres, in_place: bool) -> Result<()> {
        let (table, salt) = (self.table()?, self.salt());
        let of = [2, 7, 40][self.rng.random_range(0..3)];
        let rows = self.some_rows(of).replace("pick", &table.name);
        let set = if in_place {
            format!("big = 'u{salt}'")
        } else {
            [
                "k = (k * 31 + 7) % 9973".to_owned(),
                format!("pad = md5(pad || '{salt}')"),
                format!("words = ARRAY[{}, k % 19], spot = point(k % 311, k % 17)", salt % 103),
                "id = nextval(pg_get_serial_sequence('pick', 'id'))".replace("pick", &table.name),
            ]
            .choose(&mut self.rng)
            .cloned()
            .unwrap_or_default()
        };
        self.run(server, "postgres", &format!("UPDATE {} SET {set} WHERE {rows}", table.name)).await
    }

    pub(super) async fn widen(&mut self, server: &Postgres) -> Result<()> {
        let (table, salt) = (self.table()?, self.salt() % 1000);
        let rows = self.some_rows(40).replace("pick", &table.name);
        let sql = format!(
            "UPDATE {0} SET big = (SELECT string_agg(md5(({0}.id * i + {salt})::text), '') FROM generate_series(1, 120) i) \
             WHERE id IN (SELECT id FROM {0} WHERE {rows} ORDER BY id LIMIT 120)",
            table.name
        );
        self.run(server, "postgres", &sql).await
    }

    pub(super) async fn upsert(&mut self, server: &Postgres) -> Result<()> {
        let (table, salt) = (self.table()?.name, self.salt() % 1_000_000);
        let sql = format!(
            "INSERT INTO {table} (id, k, pad) SELECT g * 3, g, md5(g::text || '{salt}') FROM generate_series(1, 200) g \
             ON CONFLICT (id) DO UPDATE SET pad = EXCLUDED.pad"
        );
        // The sequence goes on behind what came without it.
        let sequence = format!(
            "SELECT setval(pg_get_serial_sequence('{table}', 'id'), greatest((SELECT max(id) FROM {table}), \
             nextval(pg_get_serial_sequence('{table}', 'id'))))"
        );
        self.run(server, "postgres", &format!("{sql}; {sequence}")).await
    }

    /// An update of a row that the same transaction has locked before its subtransaction makes a multixact of both.
    pub(super) async fn lock(&mut self, server: &Postgres) -> Result<()> {
        let (table, salt) = (self.table()?.name, self.salt());
        let rows = self.some_rows(7).replace("pick", &table);
        let end = if self.rng.random_bool(0.3) { "ROLLBACK" } else { "COMMIT" };
        let sql = format!(
            "BEGIN; SELECT count(*) FROM (SELECT 1 FROM {table} WHERE {rows} FOR KEY SHARE) l; SAVEPOINT s; \
             UPDATE {table} SET big = 'm{salt}' WHERE {rows} AND id % 3 = 0; \
             SELECT count(*) FROM (SELECT 1 FROM {table} WHERE {rows} FOR NO KEY UPDATE) l; {end}"
        );
        self.run(server, "postgres", &sql).await
    }

    pub(super) async fn delete(&mut self, server: &Postgres) -> Result<()> {
        let table = self.table()?;
        let of = [2, 5, 30][self.rng.random_range(0..3)];
        let rows = self.some_rows(of).replace("pick", &table.name);
        self.run(server, "postgres", &format!("DELETE FROM {} WHERE {rows}", table.name)).await
    }

    pub(super) async fn cut_tail(&mut self, server: &Postgres) -> Result<()> {
        let table = self.table()?.name;
        let (part, salt) = (self.rng.random_range(2..5), self.salt() % 1_000_000);
        let tail = format!("ctid >= ('(' || pg_relation_size('{table}') / 8192 / {part} || ',0)')::tid");
        self.run(server, "postgres", &format!("DELETE FROM {table} WHERE {tail}")).await?;
        self.run(server, "postgres", &format!("VACUUM {table}")).await?;
        if self.rng.random_bool(0.5) {
            let rows = Table::rows([50, 2000][self.rng.random_range(0..2)], salt);
            self.run(server, "postgres", &format!("INSERT INTO {table} {COLUMNS} {rows}")).await?;
        }
        Ok(())
    }

    pub(super) async fn truncate(&mut self, server: &Postgres) -> Result<()> {
        let (table, salt) = (self.table()?.name, self.salt() % 1_000_000);
        let restart = if self.rng.random_bool(0.3) { " RESTART IDENTITY" } else { "" };
        let mut sql = format!("TRUNCATE {table}{restart};");
        if self.rng.random_bool(0.8) {
            let rows = Table::rows([20, 700, 3000][self.rng.random_range(0..3)], salt);
            sql.push_str(&format!(" INSERT INTO {table} {COLUMNS} {rows}"));
        }
        self.run(server, "postgres", &sql).await
    }
}
