//! The thread that asks a metadata service.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use ureq::Agent;

use super::{Answer, Ask, Notice, Pace, Watch};
use crate::clock;
use crate::config::NoticesConfig;

/// Notices that were told and not taken: a machine at risk, and its end.
const NOTICES_MAX: usize = 2;
/// Bytes of an answer; the service's are small.
const BODY_BYTES_MAX: u64 = 64 * 1024;
/// For a connection to an address that is this machine's own host.
const CONNECT_WAIT: Duration = Duration::from_secs(2);

/// Watches a metadata service on a thread of its own until this is dropped; the thread ends with its next answer.
pub struct Watcher {
    notices: mpsc::Receiver<Notice>,
    /// Ends the thread's pauses by being dropped.
    _stop: SyncSender<()>,
}

impl Watcher {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system has no thread for it.
    pub fn start(config: &NoticesConfig) -> std::io::Result<Self> {
        Self::start_at(config, Pace::default())
    }

    pub(super) fn start_at(config: &NoticesConfig, pace: Pace) -> std::io::Result<Self> {
        let (told, notices) = mpsc::channel(NOTICES_MAX);
        let (stop, stopped) = sync_channel(0);
        let watch = Watch::new(config.source, pace, clock::now());
        let base_url = config.base_url.clone();
        std::thread::Builder::new()
            .name("shoal-notices".to_owned())
            .spawn(move || run(watch, &base_url, &told, &stopped))?;
        Ok(Self { notices, _stop: stop })
    }

    /// The next notice. Never ends once the cloud has said its last word.
    pub async fn next(&mut self) -> Notice {
        match self.notices.recv().await {
            Some(notice) => notice,
            None => std::future::pending().await,
        }
    }
}

fn run(mut watch: Watch, base_url: &str, told: &mpsc::Sender<Notice>, stopped: &Receiver<()>) {
    let agent = agent();
    let mut is_troubled = false;
    while let Some((due, _)) = watch.poll_timeout() {
        if is_stopped(stopped, due) {
            return;
        }
        let Some(ask) = watch.poll_ask(clock::now()) else {
            continue;
        };
        let answer = answer(&agent, base_url, &ask);
        match watch.handle_answer(answer, clock::now()) {
            Ok(()) if is_troubled => {
                is_troubled = false;
                tracing::info!(base_url, "the metadata service answers again");
            }
            Ok(()) => {}
            Err(error) if !is_troubled => {
                is_troubled = true;
                tracing::warn!(base_url, error, "the metadata service tells no notices: trying on");
            }
            Err(error) => tracing::debug!(base_url, error, "the metadata service tells no notices"),
        }
        while let Some(notice) = watch.poll_notice() {
            if told.blocking_send(notice).is_err() {
                return;
            }
        }
    }
}

/// Waits until it is time; whether nobody listens any more.
fn is_stopped(stopped: &Receiver<()>, due: Instant) -> bool {
    let wait = due.saturating_duration_since(clock::now());
    stopped.recv_timeout(wait) == Err(RecvTimeoutError::Disconnected)
}

/// The address is this machine's own: no proxy leads there, and nothing else may be asked in its place.
fn agent() -> Agent {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .proxy(None)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .user_agent(concat!("shoal/", env!("CARGO_PKG_VERSION")))
        .timeout_connect(Some(CONNECT_WAIT));
    config.build().into()
}

fn answer(agent: &Agent, base_url: &str, ask: &Ask) -> Result<Answer, String> {
    let url = format!("{base_url}{}", ask.path);
    let (name, value) = (ask.header.0, ask.header.1.as_str());
    let wait = Some(ask.wait);
    let answered = if ask.is_put {
        agent.put(&url).header(name, value).config().timeout_global(wait).build().send_empty()
    } else {
        agent.get(&url).header(name, value).config().timeout_global(wait).build().call()
    };
    let mut response = answered.map_err(|error| error.to_string())?;
    let etag = response.headers().get("etag").and_then(|etag| etag.to_str().ok()).map(str::to_owned);
    let status = response.status().as_u16();
    let body = response.body_mut().with_config().limit(BODY_BYTES_MAX).lossy_utf8(true).read_to_string();
    Ok(Answer { status, etag, body: body.map_err(|error| error.to_string())? })
}
