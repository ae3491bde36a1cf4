//! Acts on whole databases.

use anyhow::Result;
use rand::RngExt;

use super::{Table, Workload};
use crate::Postgres;

const DATABASES: usize = 3;
/// From which OID on databases are made whose OID is chosen.
const FIRST_OID: u32 = 70_000;

#[derive(Debug, Clone)]
pub(super) struct Database {
    pub(super) name: String,
    oid: u32,
    space: &'static str,
}

impl Workload {
    pub(super) async fn create_database(&mut self, server: &Postgres) -> Result<()> {
        if self.databases.len() >= DATABASES {
            self.drop_database(server).await?;
        }
        let number = self.number();
        let database = Database { name: format!("d{number}"), oid: FIRST_OID + number, space: self.space() };
        self.make(server, database).await
    }

    async fn make(&mut self, server: &Postgres, database: Database) -> Result<()> {
        // Of another one of ours where there is one: more than the template's files.
        let other = self.databases.len();
        let template = if other > 0 && self.rng.random_bool(0.4) {
            self.databases[self.rng.random_range(0..other)].name.clone()
        } else {
            "template1".to_owned()
        };
        let (name, oid, space) = (&database.name, database.oid, database.space);
        let strategy = if self.rng.random_bool(0.5) { "WAL_LOG" } else { "FILE_COPY" };
        let options = if self.major >= 15 { format!(" STRATEGY {strategy} OID {oid}") } else { String::new() };
        let sql = format!("CREATE DATABASE {name} TEMPLATE {template} TABLESPACE {space}{options}");
        self.run(server, "postgres", &sql).await?;
        let name = name.clone();
        self.databases.push(database);
        if template == "template1" {
            self.run(server, &name, "CREATE TABLE inside (id int PRIMARY KEY, t text)").await?;
        }
        self.fill(server, &name).await
    }

    async fn fill(&mut self, server: &Postgres, name: &str) -> Result<()> {
        let (salt, rows) = (self.salt() % 1_000_000, [5, 800][self.rng.random_range(0..2)]);
        let sql = format!(
            "INSERT INTO inside SELECT (SELECT coalesce(max(id), 0) FROM inside) + g, md5(g::text || '{salt}') \
             FROM generate_series(1, {rows}) g"
        );
        self.run(server, name, &sql).await
    }

    fn database(&mut self) -> Option<usize> {
        let count = self.databases.len();
        (count > 0).then(|| self.rng.random_range(0..count))
    }

    pub(super) async fn drop_database(&mut self, server: &Postgres) -> Result<()> {
        let Some(index) = self.database() else { return Ok(()) };
        let database = self.databases.remove(index);
        self.run(server, "postgres", &format!("DROP DATABASE {}", database.name)).await
    }

    pub(super) async fn reuse_database(&mut self, server: &Postgres) -> Result<()> {
        let Some(index) = self.database() else { return Ok(()) };
        let database = self.databases.remove(index);
        self.run(server, "postgres", &format!("DROP DATABASE {}", database.name)).await?;
        if self.rng.random_bool(0.3) {
            self.run(server, "postgres", "CHECKPOINT").await?;
        }
        self.make(server, database).await
    }

    pub(super) async fn move_database(&mut self, server: &Postgres, and_back: bool) -> Result<()> {
        let Some(index) = self.database() else { return Ok(()) };
        let (name, from, to) = (self.databases[index].name.clone(), self.databases[index].space, self.space());
        if from == to {
            return Ok(());
        }
        self.run(server, "postgres", &format!("ALTER DATABASE {name} SET TABLESPACE {to}")).await?;
        self.databases[index].space = to;
        self.fill(server, &name).await?;
        if and_back {
            self.run(server, "postgres", &format!("ALTER DATABASE {name} SET TABLESPACE {from}")).await?;
            self.databases[index].space = from;
        }
        Ok(())
    }

    pub(super) async fn use_database(&mut self, server: &Postgres) -> Result<()> {
        let Some(index) = self.database() else { return self.create_database(server).await };
        let Database { name, space, .. } = self.databases[index].clone();
        match self.rng.random_range(0..6) {
            0 => self.run(server, &name, "TRUNCATE inside").await?,
            1 => {
                self.run(server, &name, "DELETE FROM inside WHERE id % 3 = 0; UPDATE inside SET t = 'x' || id").await?;
            }
            2 => self.run(server, &name, "VACUUM FULL inside").await?,
            3 => self.run(server, &name, "VACUUM").await?,
            4 => {
                let (table, salt) = (format!("o{}", self.number()), self.salt() % 1000);
                let made = Table { name: table.clone(), logged: true }.create(&mut self.rng, space);
                let rows = Table::rows(300, salt);
                let sql = format!("{made} INSERT INTO {table} (k, pad, words, spot, big) {rows}");
                self.run(server, &name, &sql).await?;
            }
            _ => {}
        }
        self.fill(server, &name).await
    }
}
