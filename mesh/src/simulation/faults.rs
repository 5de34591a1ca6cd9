//! What goes wrong: processes that die, stop and leave, links that are cut, and how the others notice.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::connection::{Connection, Said};
use super::member::{Event, Member, Power};
use super::members::Members;
use super::network::Peer;
use crate::link::transport::MEMBER_IDLE_MAX;
use crate::peer::links::LinkId;

/// From a leaving member's farewell to its end.
const FAREWELL_WAIT: Duration = Duration::from_millis(200);

impl Members {
    /// The process is gone at once (`SIGKILL`).
    pub fn kill(&mut self, number: u16) {
        let now = self.now();
        if let Some(member) = self.member_mut(number)
            && !matches!(member.power, Power::Dead { .. })
        {
            member.power = Power::Dead { since: now };
            self.fall_silent(number, true);
        }
    }

    /// The process is stopped (`SIGSTOP`): what reaches it waits.
    pub fn stop(&mut self, number: u16) {
        let since = self.now();
        if let Some(member) = self.member_mut(number).filter(|member| member.is_running()) {
            member.power = Power::Stopped { since, waiting: Vec::new() };
            self.fall_silent(number, false);
        }
    }

    /// It goes on (`SIGCONT`), and reads first what arrived meanwhile.
    pub fn resume(&mut self, number: u16) {
        let Some(member) = self.member_mut(number) else {
            return;
        };
        if let Power::Stopped { waiting, .. } = &mut member.power {
            let waiting = std::mem::take(waiting);
            member.power = Power::Running;
            let (timers, read): (Vec<_>, Vec<_>) =
                waiting.into_iter().partition(|event| matches!(event, Event::Wake(_)));
            read.into_iter().chain(timers).for_each(|event| self.happen(event));
            self.after(number);
        }
    }

    /// It says farewell and ends.
    pub fn leave(&mut self, number: u16) {
        let local = self.local(number);
        if let Some(member) = self.member_mut(number).filter(|member| member.is_running()) {
            member.machines.membership.handle_leave(local);
            self.after(number);
            self.timeline.plan(self.now() + FAREWELL_WAIT, Event::Left(number));
        }
    }

    /// From now on everything that reaches it waits so long for its CPU.
    pub fn set_lag(&mut self, number: u16, lag: Duration) {
        if let Some(member) = self.member_mut(number) {
            member.lag = lag;
        }
    }

    /// Nothing gets from the first to the second any more.
    pub fn cut(&mut self, from: Peer, to: Peer) {
        self.network.cut(from, to);
        if let (Peer::Node(from), Peer::Node(to)) = (from, to) {
            self.cuts.insert((from, to), self.timeline.now());
            self.expect_silence(from, Some(to));
        }
    }

    /// Undoes every cut: what waited at them goes on.
    pub fn heal(&mut self) {
        self.network.heal();
        self.cuts.clear();
        let stalled = |(link, connection): (&LinkId, &mut Connection)| -> Vec<(u16, LinkId, VecDeque<Said>)> {
            connection.take_stalled().map(|(from, said)| (from, *link, said)).collect()
        };
        let stalled: Vec<_> = self.connections.iter_mut().flat_map(stalled).collect();
        for (from, link, said) in stalled {
            said.into_iter().for_each(|said| self.stream(from, link, said));
        }
    }

    /// A process says nothing any more; its own ends are closed where it `died`.
    pub(super) fn fall_silent(&mut self, number: u16, died: bool) {
        self.expect_silence(number, None);
        for link in self.links_of(number).into_iter().filter(|_| died) {
            let connection = self.connections.get_mut(&link);
            connection.map(|connection| connection.set_open(number, false));
        }
    }

    /// The others look for a silent member, or one of them does, when their patience is over.
    pub(super) fn expect_silence(&mut self, silent: u16, only: Option<u16>) {
        let at = self.now() + MEMBER_IDLE_MAX;
        for link in self.links_of(silent) {
            let other = self.connections[&link].other(silent);
            if only.is_none_or(|only| only == other) {
                self.timeline.plan(at, Event::Idle { at: other, link });
            }
        }
    }

    /// Closes a connection on which nothing was heard for too long: the other end finds out as this one did.
    pub(super) fn look_for_silence(&mut self, number: u16, link: LinkId) {
        let now = self.now();
        let Some(connection) = self.connections.get(&link).filter(|own| own.is_open_at(number)) else {
            return;
        };
        let other = connection.other(number);
        let is_over = |since: &Instant| now.saturating_duration_since(*since) >= MEMBER_IDLE_MAX;
        let silent = self.member(other).and_then(Member::silent_since);
        let cut = self.cuts.get(&(other, number)).copied();
        if !connection.is_open_at(other) || silent.filter(is_over).or(cut.filter(is_over)).is_some() {
            self.lose(number, link);
            self.timeline.plan(now + MEMBER_IDLE_MAX, Event::Idle { at: other, link });
        }
    }

    /// A member that said farewell ends: its connections are closed.
    pub(super) fn end(&mut self, number: u16) {
        if !self.is_running(number) {
            return;
        }
        self.links_of(number).into_iter().for_each(|link| self.close(number, link));
        let since = self.now();
        if let Some(member) = self.member_mut(number) {
            member.power = Power::Dead { since };
        }
    }
}
