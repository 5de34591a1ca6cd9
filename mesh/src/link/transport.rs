//! QUIC's settings, and TLS 1.3 with certificates on both sides.

use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, EndpointConfig, ServerConfig, TransportConfig, VarInt};
use quinn_proto::HashedConnectionIdGenerator;
use ring::hmac;
use rustls::client::Resumption;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, version::TLS13};

use shoal_protocol::message::Role;

use crate::identity::{Identity, LiveIdentity};

/// What an endpoint is for. Each has its own ALPN and, in a node, its own port, so that a flood of clients cannot touch
/// membership.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Door {
    /// Attempts, from any certificate of the mesh: nodes submit work too, for their HTTP callers.
    #[default]
    Clients,
    /// Members among themselves: nodes only.
    Members,
}

impl Door {
    fn alpn(self) -> Vec<u8> {
        match self {
            Self::Clients => b"shoal-client/1".to_vec(),
            Self::Members => b"shoal-node/1".to_vec(),
        }
    }

    /// Whether a peer with this role may come in.
    pub(super) fn admits(self, role: Role) -> bool {
        match self {
            Self::Clients => true,
            Self::Members => role == Role::Node,
        }
    }
}

/// After this much silence the peer counts as gone. Nothing else in QUIC notices a peer that vanished.
pub(crate) const IDLE_MAX: Duration = Duration::from_secs(5);
/// Three of these fit into [`IDLE_MAX`], so that one lost packet does not end a quiet connection.
const KEEP_ALIVE: Duration = Duration::from_millis(1500);
/// The same between members, whom membership watches: a connection that outlives its peer does no harm, because a new life
/// of the peer dials, and what it says replaces the connection. As long as a mesh says nothing else, two of
/// [`MEMBER_KEEP_ALIVE`] may be lost.
pub(crate) const MEMBER_IDLE_MAX: Duration = Duration::from_secs(40);
/// Members tell each other their load every second in a small mesh and every ten in one of 512 (`LoadGossip`), which keeps
/// the connection alive: this is for those that have nothing to tell yet. At 1.5 s as for clients it would be most of what
/// a large mesh sends.
const MEMBER_KEEP_ALIVE: Duration = Duration::from_secs(12);
/// Until the round trip is measured. QUIC's default of 333 ms makes the first retransmission a second late, and with
/// it 3 of 1,120 lossy handshakes idled out; at 100 ms none did. A wrong guess costs a duplicate packet.
const INITIAL_RTT: Duration = Duration::from_millis(50);
/// Unread bytes of one stream: the bandwidth-delay product of 1 Gb/s at 8 ms.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// Unread bytes of one connection.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// Bytes sent and not yet acknowledged on one connection.
const SEND_WINDOW_BYTES: u64 = 16 << 20;
/// Streams that a client may have open at once. Above the limit on attempts, so that the attempts beyond that get a
/// typed answer instead of a silent wait.
const STREAMS_MAX: u32 = 2048;

/// Bytes of datagrams that wait in one direction of a connection: more than a member has to say in a minute, or than a
/// client may ask at once. The oldest give way, because what is said next replaces them.
pub(crate) const DATAGRAMS_BYTES_MAX: usize = 64 << 10;

const _: () = assert!(IDLE_MAX.as_millis() > 3 * KEEP_ALIVE.as_millis());
const _: () = assert!(MEMBER_IDLE_MAX.as_millis() > 3 * MEMBER_KEEP_ALIVE.as_millis());

/// TLS or QUIC could not be set up with this identity.
#[derive(Debug, thiserror::Error)]
#[error("identity cannot be used for TLS: {0}")]
pub struct SetupError(String);

pub(crate) fn setup(error: impl std::fmt::Display) -> SetupError {
    SetupError(error.to_string())
}

pub(super) fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES))
        .send_window(SEND_WINDOW_BYTES)
        .initial_rtt(INITIAL_RTT)
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(IDLE_MAX.try_into().ok())
        .datagram_receive_buffer_size(None);
    transport
}

fn with_datagrams() -> TransportConfig {
    let mut transport = transport();
    transport
        .datagram_receive_buffer_size(Some(DATAGRAMS_BYTES_MAX))
        .datagram_send_buffer_size(DATAGRAMS_BYTES_MAX);
    transport
}

/// Between members, who are equals: datagrams, and a stream of frames in either direction. The one stream of two
/// directions is the dialer's hello.
fn between_members() -> TransportConfig {
    let mut transport = with_datagrams();
    transport
        .max_concurrent_uni_streams(VarInt::from_u32(1))
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .keep_alive_interval(Some(MEMBER_KEEP_ALIVE))
        .max_idle_timeout(MEMBER_IDLE_MAX.try_into().ok());
    transport
}

/// For dialing nodes as a client, or as a member.
pub(crate) fn client_config(identity: &LiveIdentity, door: Door) -> Result<ClientConfig, SetupError> {
    let mut config = dial_config(identity, door.alpn())?;
    config.transport_config(Arc::new(match door {
        Door::Members => between_members(),
        Door::Clients => {
            let mut transport = with_datagrams();
            transport.max_concurrent_bidi_streams(VarInt::from_u32(0)); // a node opens none to a client
            transport
        }
    }));
    Ok(config)
}

/// For dialing with the own certificate.
pub(super) fn dial_config(identity: &LiveIdentity, alpn: Vec<u8>) -> Result<ClientConfig, SetupError> {
    let mut tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(setup)?
        .with_root_certificates(roots(&identity.current())?)
        .with_client_cert_resolver(Arc::new(identity.clone()));
    tls.alpn_protocols = vec![alpn];
    dialing(tls)
}

/// What all that dial have in common. Session tickets are off: a handshake costs a millisecond, and every connection
/// proves its certificates anew.
pub(super) fn dialing(mut tls: rustls::ClientConfig) -> Result<ClientConfig, SetupError> {
    tls.resumption = Resumption::disabled();
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).map_err(setup)?));
    let mut transport = transport();
    transport.max_concurrent_bidi_streams(VarInt::from_u32(0)); // a node opens none to a client
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// For serving clients, or members.
pub(crate) fn server_config(identity: &LiveIdentity, door: Door) -> Result<ServerConfig, SetupError> {
    let roots = Arc::new(roots(&identity.current())?);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(setup)?
        .with_client_cert_verifier(verifier.build().map_err(setup)?)
        .with_cert_resolver(Arc::new(identity.clone()));
    tls.alpn_protocols = vec![door.alpn()];
    tls.send_tls13_tickets = 0;
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).map_err(setup)?));
    let transport = match door {
        Door::Members => between_members(),
        Door::Clients => {
            let mut transport = with_datagrams();
            transport.max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_MAX));
            transport
        }
    };
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// Keys that follow from the identity, so that a restarted node still recognises its former connections and resets
/// them at once; else its peers would wait out [`IDLE_MAX`].
pub(crate) fn endpoint_config(identity: &Identity) -> EndpointConfig {
    let own = hmac::Key::new(hmac::HMAC_SHA256, identity.key.secret_pkcs8_der());
    let reset = hmac::sign(&own, b"shoal stateless reset key, version 1");
    let ids = hmac::sign(&own, b"shoal connection id key, version 1");
    let mut id_key = [0; 8];
    id_key.copy_from_slice(&ids.as_ref()[..8]);
    let id_key = u64::from_le_bytes(id_key);
    let reset = hmac::Key::new(hmac::HMAC_SHA256, reset.as_ref());
    let mut config = EndpointConfig::new(Arc::new(reset));
    config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(id_key)));
    config
}

pub(super) fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

pub(super) fn roots(identity: &Identity) -> Result<RootCertStore, SetupError> {
    let mut roots = RootCertStore::empty();
    roots.add(identity.authority.clone()).map_err(setup)?;
    Ok(roots)
}
