//! Keeps an identity renewed: drives [`Renewal`] with the clock, chance and the network.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::super::net::Net;
use super::super::server::{BindError, net_or_callers};
use super::ask::{JoinError, renew};
use crate::core::{Renewal, Standing};
use crate::identity::{Identity, Issuer, LiveIdentity, WallClock, unix_time_s};

/// The clock is read at least so often: wall time jumps when a machine sleeps or its clock is set.
const CLOCK_CHECK: Duration = Duration::from_secs(60);

/// Which identity is kept renewed, and how.
pub struct RenewingOptions {
    identity: LiveIdentity,
    dir: PathBuf,
    own_issuer: Option<Issuer>,
    net: Option<Arc<dyn Net>>,
    clock: WallClock,
}

impl RenewingOptions {
    /// Renews `identity` at the issuers that it names, and stores each certificate in `dir`.
    #[must_use]
    pub fn new(identity: LiveIdentity, dir: PathBuf) -> Self {
        Self { identity, dir, own_issuer: None, net: None, clock: Arc::new(unix_time_s) }
    }

    /// Renews with an issuer at hand; nobody else is asked then.
    #[must_use]
    pub fn own_issuer(mut self, issuer: Issuer) -> Self {
        self.own_issuer = Some(issuer);
        self
    }

    /// Another clock than the system's, in seconds since the Unix epoch.
    #[must_use]
    pub fn clock(mut self, clock: WallClock) -> Self {
        self.clock = clock;
        self
    }

    /// Where sockets and tasks come from; by default the operating system and the caller's runtime.
    #[must_use]
    pub fn net(self, net: impl Net) -> Self {
        self.shared_net(Arc::new(net))
    }

    pub(crate) fn shared_net(mut self, net: Arc<dyn Net>) -> Self {
        self.net = Some(net);
        self
    }
}

/// A task that keeps an identity renewed; it ends when this is dropped.
pub struct Renewing {
    standing: watch::Receiver<Standing>,
    _task: JoinSet<()>,
}

impl Renewing {
    /// Starts the task.
    ///
    /// # Errors
    /// [`BindError::NoRuntime`] outside of a runtime.
    pub fn start(options: RenewingOptions) -> Result<Self, BindError> {
        let net = net_or_callers(options.net.clone())?;
        let (told, standing) = watch::channel(Standing::Good);
        let mut task = JoinSet::new();
        task.spawn_on(run(options, net.clone(), told), &net.tasks());
        Ok(Self { standing, _task: task })
    }

    /// How the certificate stands.
    #[must_use]
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.clone()
    }
}

async fn run(options: RenewingOptions, net: Arc<dyn Net>, told: watch::Sender<Standing>) {
    let RenewingOptions { identity, dir, own_issuer, clock, .. } = options;
    let current = identity.current();
    let issuers = if own_issuer.is_some() { 1 } else { current.issuers().len() };
    let mut renewal = Renewal::new(current.lease(), issuers, chance());
    loop {
        tell(&told, renewal.standing(clock()));
        if let Some(number) = renewal.poll_request(clock()) {
            let next = match &own_issuer {
                Some(issuer) => issuer.renew(&identity.current(), clock()).map_err(JoinError::from),
                None => renew(&identity, &current.issuers()[number], Some(net.clone())).await,
            };
            let lease = next.and_then(|next| adopt(&identity, next, &dir));
            match lease {
                Ok(lease) => {
                    tracing::info!(until_unix_s = lease.until_unix_s, "certificate renewed");
                    renewal.handle_granted(lease, chance());
                }
                Err(error) => {
                    tracing::warn!(%error, "certificate not renewed");
                    renewal.handle_failed(clock(), chance());
                }
            }
            continue;
        }
        let due = renewal.poll_timeout().map_or(u64::MAX, |(due, _)| due);
        let wait = Duration::from_secs(due.saturating_sub(clock()).max(1));
        tokio::time::sleep(wait.min(CLOCK_CHECK)).await;
    }
}

/// Shows the next certificate and stores it. One that cannot be stored still works until the restart.
fn adopt(
    identity: &LiveIdentity,
    next: Identity,
    dir: &std::path::Path,
) -> Result<crate::core::Lease, JoinError> {
    let lease = next.lease();
    let stored = next.save_certificate(dir);
    identity.replace(next)?;
    if let Err(error) = stored {
        tracing::warn!(%error, "the renewed certificate is not stored and will be missing after a restart");
    }
    Ok(lease)
}

fn tell(told: &watch::Sender<Standing>, standing: Standing) {
    let changed = told.send_if_modified(|last| std::mem::replace(last, standing) != standing);
    if !changed {
        return;
    }
    match standing {
        Standing::Good => tracing::info!("the certificate is renewed again"),
        Standing::Unrenewed { failures, until_unix_s } => {
            tracing::warn!(
                failures,
                until_unix_s,
                "no issuer renews the certificate; it works until it expires"
            );
        }
        Standing::Expired { .. } => {
            tracing::error!("the certificate has expired: connections are refused; join again with a token");
        }
    }
}

fn chance() -> u64 {
    let mut bytes = [0; 8];
    // Without randomness there is no jitter; without it TLS would have failed long before.
    let _ = SystemRandom::new().fill(&mut bytes);
    u64::from_le_bytes(bytes)
}
