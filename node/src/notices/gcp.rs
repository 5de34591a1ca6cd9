//! Google Cloud: the metadata value `instance/preempted`, with a request that hangs until it changes ("Query VM metadata",
//! "Wait for change", "Preemptible VM instances").

use std::time::{Duration, Instant};

use super::{Answer, Ask, Cloud, Notice, Pace, Step, unexpected};

const PATH: &str = "/computeMetadata/v1/instance/preempted";
const HEADER: (&str, &str) = ("Metadata-Flavor", "Google");
/// The service answers after so long with the value as it is.
const HANG: Duration = Duration::from_secs(60);
/// A longer tag, or one with other characters than the service's, is none.
const ETAG_CHARS_MAX: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Gcp {
    /// Of the last answer: only with it is a change between two questions not missed.
    etag: Option<String>,
}

impl Cloud for Gcp {
    fn ask(&mut self, pace: &Pace, _now: Instant) -> Ask {
        match &self.etag {
            // The value as it is now: it may have changed before anybody asked.
            None => Ask::get(PATH, HEADER, pace.wait),
            Some(etag) => {
                let hang_s = HANG.as_secs();
                let query = format!("?wait_for_change=true&timeout_sec={hang_s}&last_etag={etag}");
                Ask::get(format!("{PATH}{query}"), HEADER, HANG + pace.wait)
            }
        }
    }

    fn handle_answer(&mut self, answer: &Answer, _now: Instant) -> Result<Step, String> {
        let is_tag = |tag: &&String| {
            (1..=ETAG_CHARS_MAX).contains(&tag.len()) && tag.bytes().all(|byte| byte.is_ascii_alphanumeric())
        };
        match (answer.status, answer.body.trim()) {
            (200, "TRUE") => Ok(Step::Tell(Notice::Leave("Google Cloud preempts this instance".to_owned()))),
            (200, "FALSE") => {
                let etag = answer.etag.as_ref().filter(is_tag);
                self.etag = Some(etag.ok_or("preempted: an answer without an ETag")?.clone());
                Ok(Step::Rest)
            }
            _ => Err(unexpected("preempted", answer)),
        }
    }

    fn handle_failure(&mut self) {
        self.etag = None;
    }

    fn tells_by_itself(&self) -> bool {
        true
    }
}
