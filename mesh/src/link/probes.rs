//! Datagrams on a client's connection: probes, answered at once or not at all.

use std::time::{Duration, Instant};

use quinn::Connection;
use shoal_protocol::{Message, encode};

use super::frames::{FrameError, FrameSource};
use super::reply::Service;

/// Probes of one connection in the long run: one in this time. A client asks two or three devices for each request that
/// has no fresh answer in its pool, so that this is far beyond what a node can serve of one client.
const INTERVAL: Duration = Duration::from_micros(250);
/// Probes of one connection at once.
const BURST: u32 = 256;

/// How many probes a connection may send: the generic cell rate algorithm (ITU-T I.371). Probes beyond it are not
/// answered, as if they were lost.
#[derive(Debug, Default)]
pub(super) struct ProbeAllowance {
    whole_at: Option<Instant>,
}

impl ProbeAllowance {
    /// Takes one probe; says whether it is answered.
    fn take(&mut self, now: Instant) -> bool {
        let whole_at = self.whole_at.map_or(now, |at| at.max(now));
        let may = whole_at.saturating_duration_since(now) <= INTERVAL * (BURST - 1);
        self.whole_at = Some(if may { whole_at + INTERVAL } else { whole_at });
        may
    }
}

/// Answers what a datagram asks.
///
/// # Errors
/// It is no probe: the client speaks another language.
pub(super) fn answer(
    connection: &Connection,
    version: u16,
    datagram: &[u8],
    service: &dyn Service,
    allowance: &mut ProbeAllowance,
    now: Instant,
) -> Result<(), FrameError> {
    let may = allowance.take(now);
    if !may {
        return Ok(()); // unread: a flood costs as little as can be
    }
    let frame = FrameSource::datagram(datagram)?;
    let Message::LoadProbe(probe) = frame.message else {
        return Err(FrameError::Misplaced(frame.message.kind()));
    };
    let Some(reply) = service.probe(&probe) else {
        return Ok(());
    };
    let mut bytes = Vec::new();
    if encode(&Message::LoadReply(reply).into(), version, &mut bytes).is_ok() {
        // Lost where there is no room: the client goes by what it knows.
        let _ = connection.send_datagram(bytes.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant to start from")]
    fn a_connection_has_a_burst_and_then_a_rate() {
        let (mut allowance, now) = (ProbeAllowance::default(), Instant::now());
        assert_eq!((0..10_000).filter(|_| allowance.take(now)).count(), BURST as usize);
        let later = now + 10 * INTERVAL;
        assert_eq!((0..10_000).filter(|_| allowance.take(later)).count(), 10);
        let much_later = now + Duration::from_secs(60);
        assert_eq!((0..10_000).filter(|_| allowance.take(much_later)).count(), BURST as usize);
    }
}
