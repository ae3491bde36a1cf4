//! Asks a restored server through its socket.

use std::time::Duration;

use async_trait::async_trait;
use pitr::restore::server::{SqlEndpoint, SqlProbe, SqlProbeError};
use tokio_postgres::{Config, NoTls, SimpleQueryMessage};

/// A server that was just promoted answers at once.
const TIMEOUT: Duration = Duration::from_secs(30);

/// One connection for each question.
#[derive(Debug, Clone, Copy)]
pub struct TokioPostgresProbe;

#[async_trait]
impl SqlProbe for TokioPostgresProbe {
    async fn query(&self, endpoint: &SqlEndpoint, sql: &str) -> Result<Option<String>, SqlProbeError> {
        match tokio::time::timeout(TIMEOUT, ask(endpoint, sql)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(SqlProbeError(in_words(&error))),
            Err(_) => Err(SqlProbeError(format!("no answer within {} s", TIMEOUT.as_secs()))),
        }
    }
}

async fn ask(endpoint: &SqlEndpoint, sql: &str) -> Result<Option<String>, tokio_postgres::Error> {
    let (client, connection) = Config::new()
        .host_path(&endpoint.socket_directory)
        .port(endpoint.port)
        .user(&endpoint.user)
        .dbname(&endpoint.database)
        .application_name("pitr")
        .connect(NoTls)
        .await?;
    let asking = async {
        let messages = client.simple_query(sql).await?;
        let row = messages.into_iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        Ok(row.and_then(|row| row.try_get(0).ok().flatten().map(str::to_owned)))
    };
    // The connection moves only while it is polled.
    let mut asking = std::pin::pin!(asking);
    tokio::select! {
        answer = &mut asking => return answer,
        ended = connection => ended?,
    }
    asking.await
}

fn in_words(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(error) => error.message().to_owned(),
        None => {
            let mut text = error.to_string();
            if let Some(source) = std::error::Error::source(error) {
                text += &format!(": {source}");
            }
            text
        }
    }
}
