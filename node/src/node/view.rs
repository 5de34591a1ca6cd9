//! What the HTTP edge asks of a node beside serving requests.

use std::sync::Arc;

use shoal_mesh::BoxFuture;
use shoal_protocol::NodeId;
use shoal_protocol::message::{Input, Truncate};

use crate::actors::service::NodeService;
use crate::edge::{NodeView, Readiness};
use crate::tasks::count::count_tokens;

/// The node as probes see it: answers from memory.
#[derive(Clone)]
pub struct View {
    pub(super) service: Arc<NodeService>,
}

impl NodeView for View {
    fn node(&self) -> NodeId {
        self.service.facts.node
    }

    fn readiness(&self) -> Readiness {
        Readiness { reasons: self.service.reasons_not_ready() }
    }

    fn count_tokens(
        &self,
        model: &str,
        items: Arc<[Input]>,
        truncate: Truncate,
        tokens_max: u64,
    ) -> BoxFuture<'static, Option<u64>> {
        let (service, model) = (Arc::clone(&self.service), model.to_owned());
        Box::pin(async move {
            let front = service.fronts.make(&model).await.ok()?;
            let tokenizer = Arc::clone(&front.tokenizer);
            count_tokens(&service.tokenizers, tokenizer, items, truncate, tokens_max).await
        })
    }
}
