//! Membership datagrams: the one door through which they come in, and their layout.
//!
//! ```text
//! format u8 | source: id, incarnation u16 | destination: node 16, generation u48 | message u8 and its fields
//! then, for messages that carry rumours: count u16, and as many of: id, incarnation u16, state u8
//! id = node 16, generation u48, family u8 (4 or 6), address 4 or 16, port u16;  numbers are big-endian
//! ```

use std::net::{IpAddr, SocketAddr};

use bytes::{Buf, BufMut, TryGetError};
use foca::{Header, Member, Message, State};
use shoal_protocol::NodeId;

use super::super::member::Life;
use super::member_id::MemberId;

/// First byte of a membership datagram and the version of its layout. A frame starts with `S`, so that one look at
/// the first byte tells them apart.
pub const MEMBERSHIP_FORMAT: u8 = 1;
/// Bytes of the longest id (IPv6).
const ID_BYTES_MAX: usize = 16 + GENERATION_BYTES + 1 + 16 + 2;
const GENERATION_BYTES: usize = 6;
/// The bytes before the rumours when every part is at its longest.
const HEADER_BYTES_MAX: usize = 1 + ID_BYTES_MAX + 2 + (16 + GENERATION_BYTES) + 1 + ID_BYTES_MAX + 1;

/// Why bytes are no membership datagram. Nothing of them was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MalformedDatagram {
    /// It ends before what it announces.
    #[error("the datagram ends early")]
    Short,
    /// It goes on after what it announces.
    #[error("the datagram has bytes left over")]
    Long,
    /// Another layout: the sender is newer or older than the versions that live side by side.
    #[error("unknown format {0}")]
    Format(u8),
    /// A tag that stands for nothing.
    #[error("unknown {what} {value}")]
    Tag {
        /// Which field.
        what: &'static str,
        /// What it holds.
        value: u8,
    },
    /// No room for the whole item. Happens when encoding only, and says that the datagram is full.
    #[error("no room")]
    Full,
}

impl From<TryGetError> for MalformedDatagram {
    fn from(_: TryGetError) -> Self {
        Self::Short
    }
}

type Read<T> = Result<T, MalformedDatagram>;

fn get_life(buf: &mut impl Buf) -> Read<Life> {
    let mut node = [0; 16];
    buf.try_copy_to_slice(&mut node)?;
    Ok(Life { node: NodeId(node), generation: buf.try_get_uint(GENERATION_BYTES)? })
}

fn get_id(buf: &mut impl Buf) -> Read<MemberId> {
    let life = get_life(buf)?;
    let ip = match buf.try_get_u8()? {
        4 => IpAddr::from(buf.try_get_u32()?.to_be_bytes()),
        6 => IpAddr::from(buf.try_get_u128()?.to_be_bytes()),
        value => return Err(MalformedDatagram::Tag { what: "address family", value }),
    };
    Ok(MemberId { life, address: SocketAddr::new(ip, buf.try_get_u16()?) })
}

fn get_message(buf: &mut impl Buf) -> Read<Message<MemberId>> {
    Ok(match buf.try_get_u8()? {
        0 => Message::Ping(buf.try_get_u8()?),
        1 => Message::Ack(buf.try_get_u8()?),
        2 => Message::PingReq { target: get_id(buf)?, probe_number: buf.try_get_u8()? },
        3 => Message::IndirectPing { origin: get_id(buf)?, probe_number: buf.try_get_u8()? },
        4 => Message::IndirectAck { target: get_id(buf)?, probe_number: buf.try_get_u8()? },
        5 => Message::ForwardedAck { origin: get_id(buf)?, probe_number: buf.try_get_u8()? },
        6 => Message::Announce,
        7 => Message::Feed,
        8 => Message::Gossip,
        9 => Message::TurnUndead,
        value => return Err(MalformedDatagram::Tag { what: "message", value }),
    })
}

fn get_header(buf: &mut impl Buf) -> Read<Header<MemberId>> {
    match buf.try_get_u8()? {
        MEMBERSHIP_FORMAT => {}
        other => return Err(MalformedDatagram::Format(other)),
    }
    let (src, src_incarnation, life) = (get_id(buf)?, buf.try_get_u16()?, get_life(buf)?);
    // Ids are equal when their lives are, so the destination's address need not travel.
    let dst = MemberId { life, address: SocketAddr::new(IpAddr::from([0; 4]), 0) };
    Ok(Header { src, src_incarnation, dst, message: get_message(buf)? })
}

fn get_member(buf: &mut impl Buf) -> Read<Member<MemberId>> {
    let (id, incarnation) = (get_id(buf)?, buf.try_get_u16()?);
    let state = match buf.try_get_u8()? {
        0 => State::Alive,
        1 => State::Suspect,
        2 => State::Down,
        value => return Err(MalformedDatagram::Tag { what: "state", value }),
    };
    Ok(Member::new(id, incarnation, state))
}

fn put_life(life: Life, buf: &mut impl BufMut) {
    buf.put_slice(&life.node.0);
    buf.put_uint(life.generation, GENERATION_BYTES);
}

fn put_id(id: &MemberId, buf: &mut impl BufMut) {
    put_life(id.life, buf);
    match id.address.ip() {
        IpAddr::V4(ip) => {
            buf.put_u8(4);
            buf.put_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            buf.put_u8(6);
            buf.put_slice(&ip.octets());
        }
    }
    buf.put_u16(id.address.port());
}

fn put_message(message: &Message<MemberId>, buf: &mut impl BufMut) {
    let mut tagged = |tag: u8, about: Option<&MemberId>, number: Option<u8>| {
        buf.put_u8(tag);
        if let Some(id) = about {
            put_id(id, buf);
        }
        if let Some(number) = number {
            buf.put_u8(number);
        }
    };
    match message {
        Message::Ping(number) => tagged(0, None, Some(*number)),
        Message::Ack(number) => tagged(1, None, Some(*number)),
        Message::PingReq { target, probe_number } => tagged(2, Some(target), Some(*probe_number)),
        Message::IndirectPing { origin, probe_number } => tagged(3, Some(origin), Some(*probe_number)),
        Message::IndirectAck { target, probe_number } => tagged(4, Some(target), Some(*probe_number)),
        Message::ForwardedAck { origin, probe_number } => tagged(5, Some(origin), Some(*probe_number)),
        Message::Announce => tagged(6, None, None),
        Message::Feed => tagged(7, None, None),
        // Custom broadcasts are not used; one would be gossip without rumours.
        Message::Gossip | Message::Broadcast => tagged(8, None, None),
        Message::TurnUndead => tagged(9, None, None),
    }
}

fn put_member(member: &Member<MemberId>, buf: &mut impl BufMut) {
    put_id(member.id(), buf);
    buf.put_u16(member.incarnation());
    buf.put_u8(match member.state() {
        State::Alive => 0,
        State::Suspect => 1,
        State::Down => 2,
    });
}

/// foca's view of the layout.
pub(super) struct DatagramCodec;

impl foca::Codec<MemberId> for DatagramCodec {
    type Error = MalformedDatagram;

    fn encode_header(&mut self, header: &Header<MemberId>, mut buf: impl BufMut) -> Read<()> {
        if buf.remaining_mut() < HEADER_BYTES_MAX {
            return Err(MalformedDatagram::Full);
        }
        buf.put_u8(MEMBERSHIP_FORMAT);
        put_id(&header.src, &mut buf);
        buf.put_u16(header.src_incarnation);
        put_life(header.dst.life, &mut buf);
        put_message(&header.message, &mut buf);
        Ok(())
    }

    fn decode_header(&mut self, mut buf: impl Buf) -> Read<Header<MemberId>> {
        get_header(&mut buf)
    }

    fn encode_member(&mut self, member: &Member<MemberId>, mut buf: impl BufMut) -> Read<()> {
        if buf.remaining_mut() < ID_BYTES_MAX + 3 {
            return Err(MalformedDatagram::Full);
        }
        put_member(member, &mut buf);
        Ok(())
    }

    fn decode_member(&mut self, mut buf: impl Buf) -> Read<Member<MemberId>> {
        get_member(&mut buf)
    }
}

/// A whole datagram, validated.
#[derive(Debug)]
pub(super) struct Datagram<'a> {
    pub(super) header: Header<MemberId>,
    header_bytes: &'a [u8],
    /// `None`: the message carries no list at all.
    rumours: Option<Vec<Member<MemberId>>>,
}

impl<'a> Datagram<'a> {
    /// Reads all of `bytes`, so that what is wrong anywhere refuses the whole.
    pub(super) fn read(bytes: &'a [u8]) -> Read<Self> {
        let mut rest = bytes;
        let header = get_header(&mut rest)?;
        let header_bytes = &bytes[..bytes.len() - rest.len()];
        let rumours = if rest.is_empty() {
            None
        } else {
            let count = rest.try_get_u16()?;
            Some((0..count).map(|_| get_member(&mut rest)).collect::<Read<Vec<_>>>()?)
        };
        if !rest.is_empty() || (rumours.is_some() && header.message == Message::Announce) {
            return Err(MalformedDatagram::Long);
        }
        Ok(Self { header, header_bytes, rumours })
    }

    pub(super) fn rumours(&self) -> &[Member<MemberId>] {
        self.rumours.as_deref().unwrap_or_default()
    }

    /// Every life that it speaks of.
    pub(super) fn lives(&self) -> impl Iterator<Item = Life> {
        let about = match &self.header.message {
            Message::PingReq { target: id, .. }
            | Message::IndirectPing { origin: id, .. }
            | Message::IndirectAck { target: id, .. }
            | Message::ForwardedAck { origin: id, .. } => Some(id.life),
            _ => None,
        };
        let rumours = self.rumours().iter().map(|rumour| rumour.id().life);
        rumours.chain(about).chain([self.header.src.life])
    }

    /// The same datagram with only those rumours that `keep` holds for.
    pub(super) fn retain(&self, keep: impl Fn(&MemberId) -> bool) -> Vec<u8> {
        let mut out = self.header_bytes.to_vec();
        let kept: Vec<_> = self.rumours().iter().filter(|rumour| keep(rumour.id())).collect();
        // No more than were read, and their number fitted.
        out.put_u16(u16::try_from(kept.len()).unwrap_or(u16::MAX));
        kept.into_iter().for_each(|rumour| put_member(rumour, &mut out));
        out
    }
}
