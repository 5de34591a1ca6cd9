//! A follower's stream, from the node's end.

use std::time::Duration;

use shoal_protocol::ErrorCode;
use shoal_protocol::message::FactsDigest;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::codes::Code;
use super::net::now;
use super::reply::{LinkError, Reply, Service};
use crate::core::{Feed, MemberState};
use crate::peer::MeshState;

/// What changes within this time travels together: a follower's turn costs a look at everything that is known.
pub(crate) const GATHER: Duration = Duration::from_millis(50);
/// How long a follower may leave a message unread once its window is full. Then it is cut off, and follows anew from
/// what it holds.
const SLOW_MAX: Duration = Duration::from_secs(5);
/// When to look again where there is no timer.
const IDLE: Duration = Duration::from_secs(3600);

/// Tells a follower about the mesh until it goes, is too slow, or the node leaves.
pub(super) async fn serve(
    service: &dyn Service,
    holds: &FactsDigest,
    mut reply: Reply,
    mut stopping: watch::Receiver<bool>,
) -> Result<(), LinkError> {
    let Some(mut mesh) = service.mesh() else {
        return reply.fail(ErrorCode::Unavailable, "this node is in no mesh").await;
    };
    let (mut feed, gone) = (Feed::new(holds), reply.cancelled());
    tokio::pin!(gone);
    loop {
        let state = mesh.borrow_and_update().clone();
        tell(&mut feed, &state);
        drop(state);
        while let Some(message) = feed.poll_message(now()) {
            match timeout(SLOW_MAX, reply.send(message)).await {
                Ok(sent) => sent?,
                Err(_) => {
                    reply.cut(Code::Slow);
                    return Ok(());
                }
            }
        }
        let due = feed.poll_timeout().map_or_else(|| Instant::now() + IDLE, |(at, _)| Instant::from_std(at));
        let is_over = tokio::select! {
            changed = mesh.changed() => changed.is_err(),
            () = sleep_until(due) => false,
            () = &mut gone => return Err(LinkError::Gone),
            _ = stopping.wait_for(|stopping| *stopping) => true,
        };
        if is_over {
            return reply.fail(ErrorCode::Draining, "the node is leaving the mesh").await;
        }
        sleep(GATHER).await;
    }
}

/// Hands a feed all that is known now.
pub(crate) fn tell(feed: &mut Feed, mesh: &MeshState) {
    feed.handle_member(mesh.life, MemberState::Alive);
    mesh.members.iter().for_each(|seen| feed.handle_member(seen.life, seen.state));
    mesh.facts.values().for_each(|record| feed.handle_facts(record));
    let loads = mesh.loads.iter();
    loads.for_each(|((node, _), heard)| feed.handle_load(*node, &heard.record, heard.at));
    let is_member = |node| mesh.members.binary_search_by_key(&node, |seen| seen.life.node).is_ok();
    let is_known = |node| mesh.life.node == node || mesh.facts.contains_key(&node) || is_member(node);
    feed.forget(is_known);
}
