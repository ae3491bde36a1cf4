//! Services and their common end.
//!
//! A service runs until it is told to stop. One that ends before, by an error, a panic or by itself, ends all others: the
//! process then exits with an error, and systemd starts it again. Nothing runs that is not listed here.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// What one service is called in messages.
pub type ServiceName = &'static str;

/// A service ended although nobody asked it to.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    #[error("the {service} failed")]
    Failed {
        service: ServiceName,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("the {service} ended unexpectedly")]
    Ended { service: ServiceName },
    #[error("the {service} crashed: {panic}")]
    Crashed { service: ServiceName, panic: String },
    #[error("{} did not stop in time", services.join(", "))]
    Stuck { services: Vec<ServiceName> },
}

type Ended = (ServiceName, Result<(), Box<dyn std::error::Error + Send + Sync>>);

/// Runs services until one of them ends or all are told to stop.
#[derive(Default)]
pub struct Supervisor {
    tasks: JoinSet<Ended>,
    names: Vec<(tokio::task::Id, ServiceName)>,
    cancel: CancellationToken,
}

impl fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Supervisor").field("services", &self.names).finish_non_exhaustive()
    }
}

impl Supervisor {
    #[must_use]
    pub fn new(cancel: CancellationToken) -> Self {
        Self { cancel, ..Self::default() }
    }

    /// Starts a service; it watches the token it was made with.
    pub fn spawn<E>(&mut self, service: ServiceName, run: impl Future<Output = Result<(), E>> + Send + 'static)
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let handle = self.tasks.spawn(async move { (service, run.await.map_err(Into::into)) });
        self.names.push((handle.id(), service));
    }

    /// Waits until the token is cancelled or a service ends, then for all services to stop, at most `patience`.
    ///
    /// # Errors
    /// The first service that ended by itself; or those that did not stop.
    pub async fn run(mut self, patience: Duration) -> Result<(), SupervisorError> {
        let first = tokio::select! {
            // First: a service that is quick to obey has not ended by itself.
            biased;
            () = self.cancel.cancelled() => None,
            ended = self.tasks.join_next_with_id() => ended.and_then(|ended| self.verdict(ended)),
        };
        self.cancel.cancel();
        let stopped = tokio::time::timeout(patience, self.drain(first)).await;
        match stopped {
            Ok(outcome) => outcome,
            Err(_) => Err(SupervisorError::Stuck { services: self.names.iter().map(|(_, name)| *name).collect() }),
        }
    }

    async fn drain(&mut self, mut first: Option<SupervisorError>) -> Result<(), SupervisorError> {
        while let Some(ended) = self.tasks.join_next_with_id().await {
            let verdict = self.verdict(ended);
            // While stopping, an end without an error is what was asked for.
            if first.is_none() && !matches!(verdict, Some(SupervisorError::Ended { .. })) {
                first = verdict;
            }
        }
        first.map_or(Ok(()), Err)
    }

    fn verdict(&mut self, ended: Result<(tokio::task::Id, Ended), tokio::task::JoinError>) -> Option<SupervisorError> {
        let id = match &ended {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let service = self.names.iter().find(|(known, _)| *known == id).map_or("service", |(_, name)| *name);
        self.names.retain(|(known, _)| *known != id);
        match ended {
            Ok((_, (_, Ok(())))) => Some(SupervisorError::Ended { service }),
            Ok((_, (_, Err(source)))) => Some(SupervisorError::Failed { service, source }),
            Err(error) if error.is_cancelled() => None,
            Err(error) => Some(SupervisorError::Crashed { service, panic: panic_text(error) }),
        }
    }
}

fn panic_text(error: tokio::task::JoinError) -> String {
    match error.try_into_panic() {
        Ok(payload) => payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "unknown".to_owned()),
        Err(_) => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    async fn obedient(cancel: CancellationToken) -> io::Result<()> {
        cancel.cancelled().await;
        Ok(())
    }

    #[tokio::test]
    async fn whoever_obeys_at_once_has_not_ended_by_itself() {
        // Which of two that are ready is met first would be left to chance.
        for _ in 0..64 {
            let cancel = CancellationToken::new();
            let mut supervisor = Supervisor::new(cancel.clone());
            supervisor.spawn("one", obedient(cancel.clone()));
            tokio::task::yield_now().await;
            cancel.cancel();
            tokio::task::yield_now().await;
            assert!(supervisor.run(Duration::from_secs(5)).await.is_ok());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn stops_all_when_told() {
        let cancel = CancellationToken::new();
        let mut supervisor = Supervisor::new(cancel.clone());
        supervisor.spawn("one", obedient(cancel.clone()));
        supervisor.spawn("two", obedient(cancel.clone()));
        cancel.cancel();
        assert!(supervisor.run(Duration::from_secs(5)).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn first_end_ends_all_and_is_told() {
        let failing = async { Err(io::Error::other("no more WAL")) };
        let crashing = async {
            if true {
                panic!("a bug");
            }
            Ok::<(), io::Error>(())
        };
        let cancel = CancellationToken::new();
        let mut supervisor = Supervisor::new(cancel.clone());
        supervisor.spawn("one", obedient(cancel.clone()));
        supervisor.spawn("archiver", failing);
        let error = supervisor.run(Duration::from_secs(5)).await.unwrap_err();
        assert!(matches!(error, SupervisorError::Failed { service: "archiver", .. }), "{error}");

        let cancel = CancellationToken::new();
        let mut supervisor = Supervisor::new(cancel.clone());
        supervisor.spawn("one", obedient(cancel.clone()));
        supervisor.spawn("backups", crashing);
        let error = supervisor.run(Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(error.to_string(), "the backups crashed: a bug");

        let cancel = CancellationToken::new();
        let mut supervisor = Supervisor::new(cancel.clone());
        supervisor.spawn("one", obedient(cancel.clone()));
        supervisor.spawn("two", async { Ok::<(), io::Error>(()) });
        let error = supervisor.run(Duration::from_secs(5)).await.unwrap_err();
        assert!(matches!(error, SupervisorError::Ended { service: "two" }), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn names_what_does_not_stop() {
        let cancel = CancellationToken::new();
        let mut supervisor = Supervisor::new(cancel.clone());
        supervisor.spawn("deaf", std::future::pending::<io::Result<()>>());
        cancel.cancel();
        let error = supervisor.run(Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(error.to_string(), "deaf did not stop in time");
    }
}
