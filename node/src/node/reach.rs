//! Where others reach this machine, where its configuration does not say.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// Nobody's addresses (RFC 5737, RFC 3849): the way to them is the default route. Nothing is sent there.
const FAR: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];

/// The address that this machine shows on its way to others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reach(IpAddr);

impl Reach {
    /// As those see it that are named (addresses with ports; host names say nothing here), or the internet. A machine
    /// without any way reaches itself only.
    pub(super) fn towards<'a>(named: impl IntoIterator<Item = &'a String>) -> Self {
        let named = named.into_iter().filter_map(|address| address.parse().ok());
        let far = FAR.map(|ip| SocketAddr::new(ip, 9));
        let own = named.chain(far).find_map(|to| source_of(to).ok());
        Self(own.unwrap_or(Ipv4Addr::LOCALHOST.into()))
    }

    /// What others dial for a socket that listens at `listening`. Port 0 in `advertise` stands for its real port.
    pub(super) fn of(self, listening: SocketAddr, advertise: Option<SocketAddr>) -> SocketAddr {
        let address = advertise.unwrap_or(listening);
        let ip = if address.ip().is_unspecified() { self.0 } else { address.ip() };
        let port = if address.port() == 0 { listening.port() } else { address.port() };
        SocketAddr::new(ip, port)
    }
}

/// What this machine itself dials.
pub(super) fn nearby(listening: SocketAddr) -> SocketAddr {
    let ip = match listening.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listening.port())
}

/// The source address of datagrams to `to`. Connecting a UDP socket asks the routing table and sends nothing.
fn source_of(to: SocketAddr) -> std::io::Result<IpAddr> {
    let any = if to.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(to)?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_reached_where_its_datagrams_come_from() {
        let near = Reach::towards(&["nowhere:1".to_owned(), "127.0.0.1:7002".to_owned()]);
        let of = |listening: &str, advertise: Option<&str>| {
            let advertise = advertise.map(|address| address.parse().unwrap());
            near.of(listening.parse().unwrap(), advertise).to_string()
        };
        assert_eq!(of("0.0.0.0:7000", None), "127.0.0.1:7000");
        assert_eq!(of("10.0.0.5:7000", None), "10.0.0.5:7000");
        assert_eq!(of("10.0.0.5:7000", Some("203.0.113.7:0")), "203.0.113.7:7000");
        assert_eq!(of("0.0.0.0:7000", Some("203.0.113.7:9000")), "203.0.113.7:9000");
        assert_eq!(nearby("[::]:7000".parse().unwrap()).to_string(), "[::1]:7000");
        // Whatever this machine's network is, its own address is one that can be dialed.
        let own = Reach::towards(&[]).of("0.0.0.0:7000".parse().unwrap(), None);
        assert!(!own.ip().is_unspecified());
    }
}
