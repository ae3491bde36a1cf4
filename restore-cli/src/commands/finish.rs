//! `pitr finish`.

use pitr::api::FinishRequest;

use super::sealing::{check_sealed, is_made, map_timeout, timeout_ms};
use super::who::who;
use crate::args::FinishOrder;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::marker::{MarkDocument, UnsealedDocument};

const INTERRUPTED: &str = "the marker may have been finished, \"pitr markers\" tells";

/// # Errors
/// The agent cannot finish the marker, or that is not sealed in time.
pub async fn run(context: &Context, order: FinishOrder) -> Result<(), Failure> {
    let agent = context.settings()?.agent()?;
    let request = FinishRequest {
        name: order.marker.name,
        lsn: order.marker.lsn,
        outcome: order.outcome,
        meta: order.meta,
        who: Some(who(context.uid, &context.environment)),
        timeout_ms: timeout_ms(order.timeout),
    };
    let asked = async {
        match agent.finish(&request).await {
            Err(error) if is_made(&error, order.timeout) => Ok(None),
            Err(error) => Err(map_timeout(error, &request.name, order.timeout)),
            Ok(reply) => Ok(Some(reply)),
        }
    };
    let Some(reply) = context.interruptible(Some(INTERRUPTED), asked).await? else {
        return context.print(&UnsealedDocument::new(request.name), UnsealedDocument::finish_text);
    };
    context.print(&MarkDocument::new(&reply), MarkDocument::finish_text)?;
    check_sealed(&reply, order.timeout)
}
