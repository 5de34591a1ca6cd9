//! A request to leave.

use std::sync::atomic::Ordering;
use std::time::Duration;

use shoal_mesh::{Peer, Reply};
use shoal_protocol::message::{DrainRequest, Role};
use shoal_protocol::{ErrorCode, Message};
use tokio::sync::watch;

use super::NodeService;

/// Somebody who may asked the node to leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DrainAsked {
    /// Who, for the log.
    pub(crate) by: String,
    /// Time to finish in, where that is less than the node would take.
    pub(crate) grace: Option<Duration>,
}

/// Where whoever runs the node hears that it is to leave; the first request counts.
#[derive(Debug)]
pub(crate) struct DrainBell(watch::Sender<Option<DrainAsked>>);

impl Default for DrainBell {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl DrainBell {
    /// Waits until somebody asks.
    pub(crate) async fn rung(&self) -> DrainAsked {
        let mut asked = self.0.subscribe();
        match asked.wait_for(Option::is_some).await.map(|asked| asked.clone()) {
            Ok(Some(asked)) => asked,
            // The sender is this bell's own.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    fn ring(&self, asked: DrainAsked) {
        self.0.send_if_modified(|first| {
            let is_first = first.is_none();
            first.get_or_insert(asked);
            is_first
        });
    }
}

/// Answers with the status at once: the node leaves by itself from here on.
pub(super) async fn serve(service: &NodeService, peer: &Peer, request: DrainRequest, reply: Reply) {
    let is_own = peer.node == Some(service.facts.node);
    if peer.role != Role::Operator && !is_own {
        let what = "only an operator, or the node's own identity, may drain a node: `shoal mesh token --role operator`";
        // The caller may have gone; the same holds below.
        let _ = reply.fail(ErrorCode::Forbidden, what).await;
        return;
    }
    let by = if is_own { "its own identity".to_owned() } else { format!("operator {}", peer.name) };
    service.drain_bell.ring(DrainAsked { by, grace: request.grace_us.map(Duration::from) });
    service.is_draining.store(true, Ordering::Release);
    let status = service.status(false).await;
    let _ = reply.end(Message::Status(Box::new(status))).await;
}
