//! The node's identity at work: kept renewed, and certified to others where its directory holds an issuer.

use std::net::SocketAddr;

use shoal_mesh::{
    Identity, Issuer, JoinServer, JoinServerOptions, LiveIdentity, Registrar, Renewing, RenewingOptions,
    Standing,
};
use shoal_protocol::NodeId;
use tokio::sync::watch;

use super::{StartError, membership};
use crate::clock;
use crate::config::QuicConfig;

/// An identity, the task that renews it, and the port for newcomers if it is an issuer's.
pub(super) struct NodeIdentity {
    live: LiveIdentity,
    generation: u64,
    renewing: Renewing,
    joins: Option<JoinServer>,
}

impl NodeIdentity {
    /// Reads the identity and starts to keep it renewed. An issuer makes its own certificate anew where half of its
    /// life is over: the node may have been switched off for longer than that.
    pub(super) fn start(quic: &QuicConfig) -> Result<Self, StartError> {
        let dir = &quic.identity_dir;
        let mut identity = Identity::load(dir)?;
        let issuer = if Issuer::is_in(dir) { Some(Issuer::load(dir)?) } else { None };
        let now_unix_s = clock::unix_time().as_secs();
        if let Some(issuer) = &issuer
            && now_unix_s >= identity.lease().half_unix_s()
        {
            identity = issuer.renew(&identity, now_unix_s)?;
            identity.save_certificate(dir)?;
        }
        if now_unix_s >= identity.lease().until_unix_s {
            return Err(StartError::Expired { dir: dir.clone() });
        }
        let live = LiveIdentity::from(identity);
        let mut options = RenewingOptions::new(live.clone(), dir.clone());
        if let Some(issuer) = issuer {
            options = options.own_issuer(issuer);
        }
        let generation = membership::next_generation(dir)?;
        Ok(Self { live, generation, renewing: Renewing::start(options)?, joins: None })
    }

    /// Opens the port for newcomers, where the directory holds an issuer, and notes its address for tokens.
    pub(super) fn listening(mut self, quic: &QuicConfig) -> Result<Self, StartError> {
        let dir = &quic.identity_dir;
        if !Issuer::is_in(dir) {
            return Ok(self);
        }
        let others = self.live.current().issuers().to_vec();
        let registrar = Registrar::open(dir, others, clock::unix_time().as_secs())?;
        let joins = JoinServer::bind(JoinServerOptions::new(quic.join_addr, self.live.clone()), registrar)?;
        let listening = joins.local_addr();
        let ip = quic.advertise.unwrap_or(quic.join_addr).ip();
        if ip.is_unspecified() {
            tracing::info!(%listening, "an issuer: tokens need its address, `shoal mesh token --issuer HOST:PORT`");
        } else {
            Issuer::save_address(dir, &SocketAddr::new(ip, listening.port()).to_string())?;
            tracing::info!(%listening, "an issuer: newcomers with a token get certificates here");
        }
        self.joins = Some(joins);
        Ok(self)
    }

    pub(super) fn node_id(&self) -> NodeId {
        self.live.current().node_id()
    }

    /// Above every former one of this identity.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn live(&self) -> LiveIdentity {
        self.live.clone()
    }

    pub(super) fn standing(&self) -> watch::Receiver<Standing> {
        self.renewing.standing()
    }

    /// Where newcomers are answered.
    pub(super) fn join_addr(&self) -> Option<SocketAddr> {
        self.joins.as_ref().map(JoinServer::local_addr)
    }

    /// Stops at once: a newcomer that is cut off asks again.
    pub(super) async fn shutdown(self) {
        if let Some(joins) = self.joins {
            joins.shutdown().await;
        }
    }
}
