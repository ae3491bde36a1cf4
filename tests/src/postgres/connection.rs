//! A session with a server.

use std::ops::Deref;
use std::path::Path;

use anyhow::{Context, Result};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

/// A client whose connection ends with it.
pub struct Connection {
    client: Client,
    driver: JoinHandle<()>,
}

impl Connection {
    /// Opens a session over the server's socket as the superuser of the tests.
    ///
    /// # Errors
    /// The server does not answer or refuses.
    pub async fn open(socket_directory: &Path, port: u16, database: &str) -> Result<Self> {
        let mut config = Config::new();
        config.host_path(socket_directory).port(port).user("postgres").dbname(database);
        config.connect_timeout(std::time::Duration::from_secs(5));
        let (client, connection) = config.connect(NoTls).await.context("connect to the server")?;
        let driver = tokio::spawn(async move {
            // A broken connection shows in the next query.
            let _ = connection.await;
        });
        Ok(Self { client, driver })
    }

    /// The rows of the last statement that has any, as text; NULL is the empty string.
    ///
    /// # Errors
    /// The server refuses the statement.
    pub async fn rows(&self, sql: &str) -> Result<Vec<Vec<String>>> {
        let messages = self.client.simple_query(sql).await.with_context(|| format!("run: {sql}"))?;
        let mut rows = Vec::new();
        for message in messages {
            if let SimpleQueryMessage::Row(row) = message {
                rows.push((0..row.len()).map(|column| row.get(column).unwrap_or_default().to_owned()).collect());
            }
        }
        Ok(rows)
    }

    /// The one value that a statement gives, as text.
    ///
    /// # Errors
    /// The server refuses the statement, or it gives no row.
    pub async fn value(&self, sql: &str) -> Result<String> {
        let rows = self.rows(sql).await?;
        let value = rows.into_iter().next().and_then(|row| row.into_iter().next());
        value.with_context(|| format!("no row from: {sql}"))
    }
}

impl Deref for Connection {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}
