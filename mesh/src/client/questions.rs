//! What operators ask of one node: its status, and why a request ran where it did.

use std::time::Duration;

use shoal_protocol::message::{DrainRequest, ExplainRequest, Explanation, Status, StatusRequest};
use shoal_protocol::{Message, Micros, NodeId, RequestId};

use super::api::Client;
use crate::core::{AttemptFailure, ClientError, Target};

/// How long a node may take to answer.
const ANSWER_WAIT: Duration = Duration::from_secs(5);

impl Client {
    /// The entry node's status; with histograms it is some hundred kilobytes.
    ///
    /// # Errors
    /// When the node cannot be reached, refuses, or does not answer within 5 s.
    pub async fn status(&self, histograms: bool) -> Result<Status, ClientError> {
        self.status_of(self.entry(), histograms).await
    }

    /// The status of one node, asked itself, through the entry node where it is not reached directly: nobody speaks for another.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub async fn status_of(&self, node: NodeId, histograms: bool) -> Result<Status, ClientError> {
        let question = StatusRequest { histograms, to: self.named(node) };
        match self.ask(node, Message::StatusRequest(question)).await? {
            Message::Status(status) => Ok(*status),
            other => Err(misplaced(&other)),
        }
    }

    /// What one node remembers of a request; no attempts where it never had the request or has forgotten it.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub async fn explain_at(&self, node: NodeId, request_id: RequestId) -> Result<Explanation, ClientError> {
        let question = ExplainRequest { request_id, to: self.named(node) };
        match self.ask(node, Message::ExplainRequest(question)).await? {
            Message::Explanation(explanation) => Ok(*explanation),
            other => Err(misplaced(&other)),
        }
    }

    /// Asks a node to leave, in at most `grace` if that is given, and gives its status, which says that it is draining.
    /// For operators, and for the node's own identity.
    ///
    /// # Errors
    /// As [`status`](Self::status); `forbidden` for anybody else.
    pub async fn drain(&self, node: NodeId, grace: Option<Duration>) -> Result<Status, ClientError> {
        let request = DrainRequest { grace_us: grace.map(Micros::from) };
        match self.ask(node, Message::DrainRequest(request)).await? {
            Message::Status(status) => Ok(*status),
            other => Err(misplaced(&other)),
        }
    }

    /// How a question names the node: not at all where it is in this process, which may have no name.
    fn named(&self, node: NodeId) -> Option<NodeId> {
        self.inner.core().view().has_detour(node).then_some(node)
    }

    async fn ask(&self, node: NodeId, question: Message) -> Result<Message, ClientError> {
        // The others act on the node that gets them.
        let may_forward = matches!(
            &question,
            Message::StatusRequest(StatusRequest { to: Some(_), .. })
                | Message::ExplainRequest(ExplainRequest { to: Some(_), .. })
        );
        let asking = async {
            let direct = Target { node, device: None, via: None };
            let mut exchange = match self.inner.send(direct, question.clone().into()).await {
                Err(AttemptFailure::Unreachable(_)) if may_forward => {
                    let detour = Target { via: Some(self.entry()), ..direct };
                    self.inner.send(detour, question.into()).await?
                }
                sent => sent?,
            };
            Ok(exchange.read().await?.message)
        };
        let answer = tokio::time::timeout(ANSWER_WAIT, asking)
            .await
            .map_err(|_| ClientError::DeadlineExceeded { answered: 0 })?;
        match answer {
            Ok(Message::Failure(failure)) => Err(ClientError::Refused {
                code: failure.code,
                message: failure.message,
                retry_after: failure.retry_after_us.map(Duration::from),
            }),
            Ok(answer) => Ok(answer),
            Err(AttemptFailure::Unreachable(what)) => Err(ClientError::Unreachable { what }),
            Err(AttemptFailure::Lost(what)) => Err(ClientError::Lost { attempts: 1, what }),
            Err(AttemptFailure::Refused(code, message)) => {
                Err(ClientError::Refused { code, message, retry_after: None })
            }
        }
    }
}

/// A node that answers another question than it was asked.
fn misplaced(answer: &Message) -> ClientError {
    ClientError::Lost { attempts: 1, what: format!("{:?} is no answer to what was asked", answer.kind()) }
}
