//! Takes the orders of clients, one after the other as a server's archiver gives them.

use std::time::Duration;

use pitr::api::{WalPushReply, WalPushRequest};
use pitr::postgres::SegmentName;
use tokio::sync::{mpsc, oneshot, watch};

use super::ahead::hash_ahead;
use super::deposit::{Deposit, Deposited};
use super::error::PushError;
use crate::archiver::{Place, Problems};
use crate::error_text::in_full;

/// Orders that wait. An archiver has one; more come from clients that outlived it.
const WAITING_ORDERS: usize = 16;

struct Order {
    request: WalPushRequest,
    reply: oneshot::Sender<Result<WalPushReply, PushError>>,
}

/// The door to the service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Pushes(mpsc::Sender<Order>);

impl Pushes {
    /// Archives a file; returns once it is durable. When the caller goes, it is given up.
    ///
    /// # Errors
    /// It is not known to be durable.
    pub async fn push(&self, request: WalPushRequest) -> Result<WalPushReply, PushError> {
        let waited = Duration::from_millis(request.timeout_ms);
        let name = request.name.clone();
        let (reply, answer) = oneshot::channel();
        let answered = async {
            self.0.send(Order { request, reply }).await.map_err(|_| PushError::Stopping)?;
            answer.await.map_err(|_| PushError::Stopping)?
        };
        tokio::time::timeout(waited, answered).await.unwrap_or(Err(PushError::TimedOut { name, waited }))
    }
}

/// Archives what clients ask for, for as long as the lease is ours.
#[derive(Debug)]
pub struct PushService {
    orders: mpsc::Receiver<Order>,
    /// The last file that was not archived, and whether that needs a person.
    failed: Option<(String, bool)>,
}

impl PushService {
    #[must_use]
    pub fn new() -> (Self, Pushes) {
        let (sender, orders) = mpsc::channel(WAITING_ORDERS);
        (Self { orders, failed: None }, Pushes(sender))
    }

    /// Never ends but with its caller.
    pub(crate) async fn serve(&mut self, deposit: &Deposit, problems: &Problems) {
        let (pushed, last_pushed) = watch::channel(None);
        tokio::select! {
            () = self.take_orders(deposit, problems, &pushed) => {}
            () = hash_ahead(deposit, last_pushed), if deposit.arrivals.is_none() => {}
        }
    }

    async fn take_orders(
        &mut self,
        deposit: &Deposit,
        problems: &Problems,
        pushed: &watch::Sender<Option<SegmentName>>,
    ) {
        while let Some(Order { request, mut reply }) = self.orders.recv().await {
            let outcome = tokio::select! {
                () = reply.closed() => {
                    tracing::info!(file = request.name, "the client that pushed a WAL file went away");
                    continue;
                }
                outcome = deposit.push(&request) => outcome,
            };
            self.note(&request.name, &outcome, problems);
            match outcome {
                Ok(Deposited { found, arrival }) => {
                    if let Some(arrival) = &arrival {
                        pushed.send_replace(Some(arrival.name));
                    }
                    drop(reply.send(Ok(WalPushReply { name: request.name, durable: true, found })));
                    if let (Some(arrival), Some(arrivals)) = (arrival, &deposit.arrivals) {
                        // Whoever follows the WAL ends together with this.
                        drop(arrivals.send(arrival).await);
                    }
                }
                Err(error) => drop(reply.send(Err(error))),
            }
        }
        // All doors are gone: the process is about to end.
        std::future::pending::<()>().await;
    }

    fn note(&mut self, name: &str, outcome: &Result<Deposited, PushError>, problems: &Problems) {
        match outcome {
            Ok(deposited) => {
                tracing::debug!(file = name, found = deposited.found, "a pushed WAL file is durable");
                // Another file's success says nothing of one that a person must look at.
                let cleared = self.failed.as_ref().is_some_and(|(failed, lasting)| !lasting || failed == name);
                if cleared {
                    self.failed = None;
                    problems.clear(Place::Push);
                }
            }
            Err(error) => {
                let text = in_full(error);
                if error.is_lasting() {
                    tracing::error!(file = name, error = %text, hint = error.hint(), "a pushed WAL file was refused");
                } else {
                    tracing::warn!(file = name, error = %text, hint = error.hint(), "a pushed WAL file was not archived");
                }
                if error.is_lasting() || self.failed.as_ref().is_none_or(|(_, lasting)| !lasting) {
                    self.failed = Some((name.to_owned(), error.is_lasting()));
                    problems.set(Place::Push, Some(format!("archive_command: {text}")));
                }
            }
        }
    }
}
