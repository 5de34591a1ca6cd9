//! Faults of the kind that the rules are there for, planted on purpose: a rule that never caught one may be no rule.

/// What is wrong with every process of a run ([`Scenario::bug`](super::Scenario::bug)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Clients send to who is dead for so long that everybody knows.
    BindsToTheDead,
    /// Clients send to a dead node until they are told that it is dead.
    NeverDoubts,
    /// A node that does not hold a model loads it, and asks others for the same.
    EverybodyLoads,
    /// A node that is told to leave ends what waits.
    DrainsAway,
    /// It leaves while it works.
    LeavesAtOnce,
    /// Holders give copies back although there is room.
    GivesBackUnpressed,
    /// A node tells its followers no changes of facts.
    FeedsNoChanges,
    /// It hands nothing over that only it holds.
    LeavesSoleCopies,
    /// Devices hold more models than they say.
    HoldsTooMuch,
    /// Devices queue more than they say.
    QueuesTooMuch,
}
