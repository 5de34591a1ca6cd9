//! The node's identity at work: kept renewed, and certified to others where its directory holds an issuer.

use std::net::SocketAddr;

use shoal_mesh::{
    Identity, Issuer, JoinServer, JoinServerOptions, LiveIdentity, Registrar, Renewing, RenewingOptions,
    Standing, TokioNet,
};
use shoal_protocol::NodeId;
use tokio::sync::watch;

use super::membership::NodeMembership;
use super::reach::Reach;
use super::{StartError, membership};
use crate::clock;
use crate::config::{MeshConfig, QuicConfig};

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
    pub(super) fn start(quic: &QuicConfig, net: Option<&TokioNet>) -> Result<Self, StartError> {
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
        if let Some(net) = net {
            options = options.net(net.clone());
        }
        let generation = membership::next_generation(dir)?;
        Ok(Self { live, generation, renewing: Renewing::start(options)?, joins: None })
    }

    /// Opens the port for newcomers, where the directory holds an issuer, and notes its address for tokens. New nodes are
    /// told to start from the members of `mesh`.
    pub(super) fn listening(
        mut self,
        quic: &QuicConfig,
        reach: Reach,
        mesh: Option<&NodeMembership>,
        net: Option<TokioNet>,
    ) -> Result<Self, StartError> {
        let dir = &quic.identity_dir;
        if !Issuer::is_in(dir) {
            return Ok(self);
        }
        let others = self.live.current().issuers().to_vec();
        let registrar = Registrar::open(dir, others, clock::unix_time().as_secs())?;
        let mut options = JoinServerOptions::new(quic.join_addr, self.live.clone());
        if let Some(mesh) = mesh {
            options = options.seeds(mesh.seeds());
        }
        if let Some(net) = net {
            options = options.net(net);
        }
        let joins = JoinServer::bind(options, registrar)?;
        let advertised = quic.advertise.map(|callers| SocketAddr::new(callers.ip(), 0));
        let address = reach.of(joins.local_addr(), advertised);
        Issuer::save_address(dir, &address.to_string())?;
        tracing::info!(%address, "an issuer: newcomers with a token get certificates here");
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

    /// As those see this machine that it will meet.
    pub(super) fn reach(&self, mesh: Option<&MeshConfig>) -> Reach {
        let identity = self.live.current();
        let seeds = mesh.into_iter().flat_map(|mesh| &mesh.seeds);
        Reach::towards(seeds.chain(identity.seeds()).chain(identity.issuers()))
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
