//! `pitr mark`.

use pitr::api::MarkRequest;

use super::sealing::{check_sealed, is_made, map_timeout, timeout_ms};
use super::who::who;
use crate::args::MarkOrder;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::marker::{MarkDocument, UnsealedDocument};

const INTERRUPTED: &str = "the marker may have been made, \"pitr markers\" tells";

/// # Errors
/// The agent cannot make the marker, or it is not sealed in time.
pub async fn run(context: &Context, order: MarkOrder) -> Result<(), Failure> {
    let agent = context.settings()?.agent()?;
    let request = MarkRequest {
        name: order.name,
        meta: order.meta,
        key: order.key,
        who: Some(who(context.uid, &context.environment)),
        timeout_ms: timeout_ms(order.timeout),
    };
    let asked = async {
        match agent.mark(&request).await {
            Err(error) if is_made(&error, order.timeout) => Ok(None),
            Err(error) => Err(map_timeout(error, &request.name, order.timeout)),
            Ok(reply) => Ok(Some(reply)),
        }
    };
    let Some(reply) = context.interruptible(Some(INTERRUPTED), asked).await? else {
        return context.print(&UnsealedDocument::new(request.name), UnsealedDocument::mark_text);
    };
    context.print(&MarkDocument::new(&reply), MarkDocument::mark_text)?;
    check_sealed(&reply, order.timeout)
}
