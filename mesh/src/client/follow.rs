//! The client's background task: follows a node, and finds another one when that is gone.

use std::sync::Arc;
use std::time::Duration;

use shoal_protocol::message::MemberState;
use shoal_protocol::{Message, NodeId};
use tokio::sync::{oneshot, watch};
use tokio::time::{sleep, timeout};

use super::entries::{Entries, Place};
use super::shared::SharedCore;
use crate::core::{FEED_SILENCE_MAX, Feed, Following};
use crate::link::{GATHER, Linked, Links, Service, now, tell};
use crate::peer::MeshState;

/// A node that is in no mesh is asked again after this long: it may have joined one.
const ALONE_AGAIN: Duration = Duration::from_secs(10);

/// The node to which a client is connected, and the addresses that lead to it beside those in its facts.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) node: NodeId,
    pub(super) addresses: Vec<String>,
}

/// Why a feed is over.
#[derive(Debug)]
enum End {
    /// The node is in no mesh; it can be asked about everything all the same.
    Alone,
    /// The node or the way to it is gone, or the feed is of no use.
    Lost,
}

pub(super) struct Follower {
    pub(super) links: Links,
    pub(super) shared: Arc<SharedCore>,
    pub(super) given: Vec<String>,
    pub(super) entry: Arc<watch::Sender<Entry>>,
    pub(super) entries: Entries,
    pub(super) following: Following,
    /// Told once, when the first feed has told all that there was.
    pub(super) settled: Option<oneshot::Sender<()>>,
}

impl Follower {
    /// Runs until the client drops it.
    pub(super) async fn run(mut self, mut linked: Arc<Linked>) {
        loop {
            match self.follow(linked.clone()).await {
                End::Alone => {
                    self.settle();
                    // Either it is gone, or it is asked again.
                    if timeout(ALONE_AGAIN, linked.closed()).await.is_ok() {
                        linked = self.search(linked.node()).await;
                    }
                }
                End::Lost => linked = self.search(linked.node()).await,
            }
        }
    }

    fn settle(&mut self) {
        self.entries.handle_settled();
        // Who waited may have lost patience.
        let _ = self.settled.take().map(|settled| settled.send(()));
    }

    async fn follow(&mut self, linked: Arc<Linked>) -> End {
        let (node, connection) = (linked.node(), linked.id());
        let digest = Message::FactsDigest(self.following.handle_follow());
        let Ok(Ok(mut feed)) = timeout(FEED_SILENCE_MAX, linked.request(digest.into())).await else {
            self.links.suspect(connection);
            return End::Lost;
        };
        loop {
            let message = match timeout(FEED_SILENCE_MAX, feed.read()).await {
                Ok(Ok(frame)) => frame.message,
                Ok(Err(error)) => {
                    tracing::debug!(%node, %error, "the feed of the mesh broke off");
                    return End::Lost;
                }
                Err(_) => {
                    tracing::debug!(%node, "the feed of the mesh fell silent");
                    self.links.suspect(connection);
                    return End::Lost;
                }
            };
            if let Message::Failure(failure) = &message {
                tracing::debug!(%node, ?failure, "the feed of the mesh is over");
                let is_alone = failure.code == shoal_protocol::ErrorCode::Unavailable;
                return if is_alone { End::Alone } else { End::Lost };
            }
            forget_dead(&self.links, &message);
            let handled = {
                let mut core = self.shared.core();
                self.following.handle_message(message, &mut core, now())
            };
            self.shared.wake_all();
            match handled {
                Ok(true) => self.settle(),
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(%node, %error, "a feed of the mesh that does not fit; following anew");
                    return End::Lost;
                }
            }
        }
    }

    /// Finds a node to follow. Calls go on meanwhile, by what is known.
    async fn search(&mut self, lost: NodeId) -> Arc<Linked> {
        loop {
            let known = self.shared.core().view().nodes();
            let (pause, places) = self.entries.round(lost, self.links.connected(), known);
            sleep(pause).await;
            for place in places {
                let (linked, addresses) = match place {
                    Place::Given => (self.links.meet(&self.given).await, self.given.clone()),
                    Place::Node(node) => {
                        let addresses = self.shared.core().view().client_addresses(node).to_vec();
                        (self.links.linked(node, &addresses).await, addresses)
                    }
                };
                match linked {
                    Ok(linked) => {
                        let node = linked.node();
                        tracing::debug!(%node, "this node is followed now");
                        self.shared.core().handle_entry(node);
                        self.entry.send_replace(Entry { node, addresses });
                        self.shared.wake_all();
                        return linked;
                    }
                    Err(error) => tracing::debug!(?place, %error, "no entry there"),
                }
            }
        }
    }
}

/// A connection to a life that is over leads nowhere.
fn forget_dead(links: &Links, message: &Message) {
    if let Message::MeshUpdate(update) = message {
        let dead = update.members.iter().filter(|member| member.state == MemberState::Down);
        dead.for_each(|member| links.forget(member.node));
    }
}

/// Keeps the client inside of a member up to date with what the member knows, without a wire.
pub(super) async fn follow_home(service: Arc<dyn Service>, links: Links, shared: Arc<SharedCore>) {
    let Some(mut mesh) = service.mesh() else {
        return;
    };
    let mut following = Following::default();
    let mut feed = Feed::new(&following.digest());
    loop {
        let state: Arc<MeshState> = mesh.borrow_and_update().clone();
        tell(&mut feed, &state);
        while let Some(message) = feed.poll_message(now()) {
            forget_dead(&links, &message);
            if let Err(error) = following.handle_message(message, &mut shared.core(), now()) {
                tracing::error!(%error, "the node's own feed does not fit; from the start");
                feed = Feed::new(&following.digest());
            }
        }
        shared.wake_all();
        if mesh.changed().await.is_err() {
            return; // the node left the mesh, and ends
        }
        sleep(GATHER).await;
    }
}
