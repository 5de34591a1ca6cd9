//! AWS: IMDSv2, `spot/instance-action` and the rebalance recommendation. Paths, headers and bodies as in the EC2 user
//! guide ("Spot Instance interruption notices", "EC2 instance rebalance recommendations") and in AWS's own
//! aws-node-termination-handler, `pkg/ec2metadata/ec2metadata.go`.

use std::time::{Duration, Instant};

use serde::Deserialize;

use super::{Answer, Ask, Cloud, Notice, Pace, Step, unexpected};

const TOKEN_PATH: &str = "/latest/api/token";
const TOKEN_TTL_HEADER: &str = "X-aws-ec2-metadata-token-ttl-seconds";
const TOKEN_HEADER: &str = "X-aws-ec2-metadata-token";
const ACTION_PATH: &str = "/latest/meta-data/spot/instance-action";
const REBALANCE_PATH: &str = "/latest/meta-data/events/recommendations/rebalance";
/// The longest that the service gives.
const TOKEN_TTL_S: u64 = 21_600;
/// A longer one, or one with other characters, is none.
const TOKEN_CHARS_MAX: usize = 1024;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Question {
    Token,
    #[default]
    Action,
    Rebalance,
}

#[derive(Debug, Default)]
pub(super) struct Aws {
    /// With the time of the next one: at half of its life.
    token: Option<(String, Instant)>,
    /// Whether the token was taken once: a new one that is refused is not simply over.
    token_works: bool,
    asked: Question,
    /// What to ask once there is a token.
    next: Question,
    /// The recommendation that was told, by its time.
    told: Option<String>,
}

#[derive(Deserialize)]
struct InstanceAction {
    action: String,
    time: String,
}

#[derive(Deserialize)]
struct Rebalance {
    #[serde(rename = "noticeTime")]
    notice_time: String,
}

impl Cloud for Aws {
    fn ask(&mut self, pace: &Pace, now: Instant) -> Ask {
        let token =
            self.token.as_ref().filter(|(_, renew_at)| now < *renew_at).map(|(token, _)| token.as_str());
        let path = match self.next {
            Question::Rebalance => REBALANCE_PATH,
            Question::Token | Question::Action => ACTION_PATH,
        };
        if let Some(token) = token {
            self.asked = self.next;
            return Ask::get(path, (TOKEN_HEADER, token), pace.wait);
        }
        self.asked = Question::Token;
        Ask { is_put: true, ..Ask::get(TOKEN_PATH, (TOKEN_TTL_HEADER, &TOKEN_TTL_S.to_string()), pace.wait) }
    }

    fn handle_answer(&mut self, answer: &Answer, now: Instant) -> Result<Step, String> {
        match (self.asked, answer.status) {
            (Question::Token, 200) => {
                let token = answer.body.trim();
                let is_token = (1..=TOKEN_CHARS_MAX).contains(&token.len())
                    && token.bytes().all(|byte| byte.is_ascii_graphic());
                if !is_token {
                    return Err("what it gives as a token is none".to_owned());
                }
                self.token = Some((token.to_owned(), now + Duration::from_secs(TOKEN_TTL_S / 2)));
                self.token_works = false;
                Ok(Step::Ask)
            }
            (Question::Token, _) => {
                Err(unexpected("no token (in a container the hop limit of the service must be 2)", answer))
            }
            (_, 401) if self.token_works => {
                self.token = None;
                Ok(Step::Ask)
            }
            (Question::Action, 404) => Ok(self.none(Question::Rebalance, Step::Ask)),
            (Question::Rebalance, 404) => Ok(self.none(Question::Action, Step::Rest)),
            (Question::Action, 200) => {
                let told: InstanceAction = parse(ACTION_PATH, answer)?;
                Ok(Step::Tell(Notice::Leave(format!(
                    "AWS will {} this instance at {}",
                    told.action, told.time
                ))))
            }
            (Question::Rebalance, 200) => {
                let Rebalance { notice_time } = parse(REBALANCE_PATH, answer)?;
                let step = self.none(Question::Action, Step::Rest);
                if self.told.as_ref() == Some(&notice_time) {
                    return Ok(step);
                }
                let words = format!("AWS recommends to rebalance, since {notice_time}");
                self.told = Some(notice_time);
                Ok(Step::Tell(Notice::AtRisk(words)))
            }
            (_, _) => Err(unexpected("spot notices", answer)),
        }
    }

    fn handle_failure(&mut self) {
        // A token that was refused from the start is given up too.
        if !self.token_works {
            self.token = None;
        }
        self.next = Question::Action;
    }

    fn tells_by_itself(&self) -> bool {
        false
    }
}

impl Aws {
    /// The token was taken, and there is no notice of the kind that was asked for.
    fn none(&mut self, next: Question, step: Step) -> Step {
        self.token_works = true;
        self.next = next;
        step
    }
}

fn parse<'a, T: Deserialize<'a>>(what: &str, answer: &'a Answer) -> Result<T, String> {
    serde_json::from_str(&answer.body).map_err(|error| format!("{}: {error}", unexpected(what, answer)))
}
