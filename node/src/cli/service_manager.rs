//! Telling systemd how the service stands: one datagram to the socket that it names
//! (`sd_notify(3)`). Without such a socket nothing is sent.

use std::os::unix::net::UnixDatagram;

/// Sends `state`, for example `READY=1`. A failure is logged: the service works all the same, but systemd may give up
/// on it.
pub(super) fn notify(state: &str) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET").and_then(|socket| socket.into_string().ok()) else {
        return;
    };
    if let Err(error) = send(&socket, state) {
        tracing::warn!(socket, state, %error, "cannot tell the service manager");
    }
}

fn send(socket: &str, state: &str) -> std::io::Result<()> {
    let datagram = UnixDatagram::unbound()?;
    match socket.strip_prefix('@') {
        None => datagram.send_to(state.as_bytes(), socket)?,
        #[cfg(target_os = "linux")]
        Some(name) => {
            use std::os::linux::net::SocketAddrExt;
            let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
            datagram.send_to_addr(state.as_bytes(), &address)?
        }
        #[cfg(not(target_os = "linux"))]
        Some(_) => return Err(std::io::ErrorKind::Unsupported.into()),
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_arrives() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).expect("bind");
        send(path.to_str().expect("UTF-8"), "READY=1").expect("sends");
        let mut buffer = [0; 16];
        let count = manager.recv(&mut buffer).expect("receives");
        assert_eq!(&buffer[..count], b"READY=1");
        assert!(send("/nonexistent/notify", "READY=1").is_err());
    }
}
