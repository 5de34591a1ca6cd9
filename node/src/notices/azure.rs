//! Azure: scheduled events ("Azure Metadata Service: Scheduled Events for Linux VMs"). They are told to every machine of a
//! scale set or availability set, so the machine asks for its own name first. An event is never approved from here: that
//! would let it begin before this node has left.

use std::time::{Duration, Instant};

use serde::Deserialize;

use super::{Answer, Ask, Cloud, Notice, Pace, Step, unexpected};

const NAME_PATH: &str = "/metadata/instance/compute/name?api-version=2021-02-01&format=text";
const EVENTS_PATH: &str = "/metadata/scheduledevents?api-version=2020-07-01";
const HEADER: (&str, &str) = ("Metadata", "true");
/// The first question turns the service on, which takes up to two minutes.
const FIRST_WAIT: Duration = Duration::from_secs(120);
/// A longer name is none.
const NAME_CHARS_MAX: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Azure {
    name: Option<String>,
    /// Whether the service has answered once.
    is_on: bool,
}

#[derive(Deserialize)]
struct Document {
    #[serde(rename = "Events")]
    events: Vec<Event>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Event {
    event_type: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    not_before: String,
}

impl Event {
    /// A freeze of some seconds is none: the node is back before anybody could do better.
    fn ends_the_node(&self) -> bool {
        ["Preempt", "Terminate", "Reboot", "Redeploy"].contains(&self.event_type.as_str())
    }

    fn is_for(&self, name: &str) -> bool {
        self.resources.is_empty() || self.resources.iter().any(|resource| resource.eq_ignore_ascii_case(name))
    }
}

impl Cloud for Azure {
    fn ask(&mut self, pace: &Pace, _now: Instant) -> Ask {
        match self.name {
            None => Ask::get(NAME_PATH, HEADER, pace.wait),
            Some(_) => Ask::get(EVENTS_PATH, HEADER, if self.is_on { pace.wait } else { FIRST_WAIT }),
        }
    }

    fn handle_answer(&mut self, answer: &Answer, _now: Instant) -> Result<Step, String> {
        if answer.status != 200 {
            return Err(unexpected("scheduled events", answer));
        }
        let Some(name) = &self.name else {
            let name = answer.body.trim();
            if !(1..=NAME_CHARS_MAX).contains(&name.len()) {
                return Err("the machine's own name is not told".to_owned());
            }
            self.name = Some(name.to_owned());
            return Ok(Step::Ask);
        };
        let document: Document = serde_json::from_str(&answer.body)
            .map_err(|error| format!("{}: {error}", unexpected("scheduled events", answer)))?;
        self.is_on = true;
        let ours = document.events.iter().find(|event| event.ends_the_node() && event.is_for(name));
        Ok(ours.map_or(Step::Rest, |event| {
            let words = format!("Azure schedules a {} not before {:?}", event.event_type, event.not_before);
            Step::Tell(Notice::Leave(words))
        }))
    }

    fn handle_failure(&mut self) {}

    fn tells_by_itself(&self) -> bool {
        false
    }
}
