//! The own record: versions, and changes that travel together.

use std::sync::Arc;
use std::time::Instant;

use shoal_protocol::message::{FactsDelta, NodeFacts};

use super::super::member::Life;
use super::delta::{between, normalize};
use super::interface::{FactsRefused, OwnFacts};
use super::parameters::PUBLISH_PERIOD_MIN;

/// What was published, and what will be.
#[derive(Debug)]
pub(super) struct Own {
    pub(super) record: Arc<NodeFacts>,
    next: Option<NodeFacts>,
    due: Option<Instant>,
    last: Option<Instant>,
}

impl Own {
    pub(super) fn new(life: Life) -> Self {
        let unsaid = OwnFacts::default().into_record(life, 0);
        Self { record: Arc::new(unsaid), next: None, due: None, last: None }
    }

    pub(super) fn life(&self) -> Life {
        Life { node: self.record.node, generation: self.record.generation }
    }

    /// The facts are these now.
    pub(super) fn set(&mut self, facts: OwnFacts, now: Instant) -> Result<(), FactsRefused> {
        let mut next = facts.into_record(self.life(), self.record.version);
        normalize(&mut next);
        next.check()?;
        self.next = Some(next).filter(|next| *next != *self.record || self.record.version == 0);
        let soonest = self.last.map_or(now, |last| last + PUBLISH_PERIOD_MIN);
        self.due = self.next.as_ref().map(|_| soonest.max(now));
        Ok(())
    }

    /// Goes on as `life`, with everything to be said again.
    pub(super) fn renew(&mut self, life: Life, now: Instant) {
        let said = self.next.take().or_else(|| {
            let record = self.record.as_ref();
            (record.version > 0).then(|| record.clone())
        });
        *self = Self::new(life);
        self.due = said.as_ref().map(|_| now);
        self.next = said.map(|said| NodeFacts { generation: life.generation, ..said });
    }

    /// When something is to be published.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// The next version, if it is time; `None` within where the whole record must be sent.
    pub(super) fn publish(&mut self, now: Instant) -> Option<Option<FactsDelta>> {
        self.due.take_if(|due| *due <= now)?;
        let mut next = self.next.take()?;
        next.version = self.record.version + 1;
        let delta = if self.record.version == 0 { None } else { between(&self.record, &next) };
        (self.record, self.last) = (Arc::new(next), Some(now));
        Some(delta)
    }
}
