//! Asks every member of a mesh the same question, directly: nobody speaks for another node.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use shoal_mesh::{Client, ClientError};
use shoal_protocol::NodeId;
use shoal_protocol::message::{MemberState, MemberStatus, ModelState, ModelStatus, Status};
use tokio::time::{Instant, timeout_at};

use super::exit::Stop;

/// Members asked at a time.
const ASKED_AT_ONCE_MAX: usize = 32;
/// For all members together. Who has not answered by then is told as such.
const TIME_MAX: Duration = Duration::from_secs(10);

/// A member of the mesh and what it says of itself.
pub(super) struct Heard {
    /// As the entry node sees it.
    pub(super) member: MemberStatus,
    /// Its own word, or why there is none.
    pub(super) status: Result<Status, String>,
}

/// Everybody's word at one moment, the entry node first.
pub(super) struct Census {
    pub(super) entry: NodeId,
    pub(super) heard: Vec<Heard>,
}

impl Census {
    /// Asks the entry node for the members, and those that are not down for their status.
    pub(super) async fn take(client: &Client, histograms: bool) -> Result<Self, Stop> {
        let entry = client.status(histograms).await?;
        let others: Vec<_> =
            entry.members.iter().filter(|member| member.node != entry.node).cloned().collect();
        let answers =
            ask(client, &others, async |client, node| client.status_of(node, histograms).await).await;
        let others = others.into_iter().zip(answers).map(|(member, status)| Heard { member, status });
        let node = entry.node;
        let first = Heard { member: member_of(&entry), status: Ok(entry) };
        Ok(Self { entry: node, heard: std::iter::once(first).chain(others).collect() })
    }

    /// The models in memory, by name, each with the nodes that hold it.
    pub(super) fn hot_models(&self) -> BTreeMap<&str, Vec<(NodeId, &ModelStatus)>> {
        hot_models(self.answers())
    }

    /// Those that answered.
    pub(super) fn answers(&self) -> impl Iterator<Item = &Status> {
        self.heard.iter().filter_map(|heard| heard.status.as_ref().ok())
    }
}

/// The models in the memory of these nodes, by name.
pub(super) fn hot_models<'a>(
    answers: impl IntoIterator<Item = &'a Status>,
) -> BTreeMap<&'a str, Vec<(NodeId, &'a ModelStatus)>> {
    let mut hot: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for status in answers {
        for model in status.models.iter().filter(|model| model.state == ModelState::Ready) {
            hot.entry(&model.name).or_default().push((status.node, model));
        }
    }
    hot
}

/// The entry node as a member; one that is alone is a mesh of one.
pub(super) fn member_of(entry: &Status) -> MemberStatus {
    let own = entry.members.iter().find(|member| member.node == entry.node);
    own.cloned().unwrap_or_else(|| MemberStatus {
        node: entry.node,
        generation: entry.generation,
        address: String::new(),
        state: MemberState::Alive,
        draining: entry.draining,
        models_ready: 0,
    })
}

/// Puts a question to members, in their order, with bounded concurrency and in bounded time. The dead are not asked.
pub(super) async fn ask<T>(
    client: &Client,
    members: &[MemberStatus],
    question: impl AsyncFn(&Client, NodeId) -> Result<T, ClientError>,
) -> Vec<Result<T, String>> {
    let until = Instant::now() + TIME_MAX;
    let question = &question;
    let answers = members.iter().map(|member| async move {
        if member.state == MemberState::Down {
            return Err("it is down".to_owned());
        }
        match timeout_at(until, question(client, member.node)).await {
            Ok(answer) => answer.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer: the members had {} s together", TIME_MAX.as_secs())),
        }
    });
    stream::iter(answers).buffered(ASKED_AT_ONCE_MAX).collect().await
}
