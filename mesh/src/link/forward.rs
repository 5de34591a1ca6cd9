//! What a client cannot bring to its node directly, an attempt or a question, goes through the node that it follows, once.

use std::time::{Duration, Instant};

use shoal_protocol::limits::HOPS_MAX;
use shoal_protocol::message::TaskRequest;
use shoal_protocol::{ErrorCode, Frame, Message, Micros, NodeId};

use super::codes::Code;
use super::links::Links;
use super::net::now;
use super::reply::{LinkError, Reply, Service};
use crate::core::AttemptFailure;

/// How long a connection to the other node may take: less than what the client waits for a first frame.
const REACH_WAIT: Duration = Duration::from_secs(1);

/// The other node that a request is for and that this one can forward it to. What was forwarded once is not again.
pub(super) fn destination(
    frame: &Frame,
    own: NodeId,
    service: &dyn Service,
) -> Option<(NodeId, Vec<String>)> {
    let node = match &frame.message {
        Message::TaskRequest(request) => request.to?.node,
        Message::StatusRequest(request) => request.to?,
        Message::ExplainRequest(request) => request.to?,
        _ => return None,
    };
    if node == own || frame.hops >= HOPS_MAX {
        return None;
    }
    let mesh = service.mesh()?;
    let addresses = mesh.borrow().facts.get(&node)?.client_addresses.clone();
    Some((node, addresses))
}

/// Passes a request on and its answer back, frame by frame: what the caller does not read is not read from the node, and
/// whoever goes first, the other end hears of it.
pub(super) async fn serve(
    links: &Links,
    (node, addresses): (NodeId, Vec<String>),
    mut frame: Frame,
    mut reply: Reply,
    arrived: Instant,
) -> Result<(), LinkError> {
    frame.hops += 1;
    let gone = reply.cancelled();
    tokio::pin!(gone);
    let sending = async {
        let linked = links.linked(node, &addresses).await?;
        if let Message::TaskRequest(TaskRequest { deadline_us: Some(left), .. }) = &mut frame.message {
            *left = left.saturating_sub(Micros::from(now().saturating_duration_since(arrived)));
        }
        linked.request(frame).await
    };
    let sent = tokio::select! {
        sent = tokio::time::timeout(REACH_WAIT, sending) => sent,
        () = &mut gone => return Err(LinkError::Gone),
    };
    let mut exchange = match sent {
        Ok(Ok(exchange)) => exchange,
        Ok(Err(AttemptFailure::Refused(code, what))) => return reply.fail(code, what).await,
        Ok(Err(AttemptFailure::Unreachable(what) | AttemptFailure::Lost(what))) => {
            return reply.fail(ErrorCode::Unavailable, what).await;
        }
        Err(_) => {
            let what = format!("node {node} is not reached from here either");
            return reply.fail(ErrorCode::Unavailable, what).await;
        }
    };
    loop {
        let read = tokio::select! {
            read = exchange.read() => read,
            () = &mut gone => return Err(LinkError::Gone),
        };
        match read {
            Ok(frame) if frame.message.kind().is_terminal() => return reply.end(frame.message).await,
            Ok(frame) => reply.send(frame.message).await?,
            Err(error) => {
                tracing::debug!(%node, %error, "a forwarded attempt was lost");
                reply.cut(Code::Lost);
                return Ok(());
            }
        }
    }
}
