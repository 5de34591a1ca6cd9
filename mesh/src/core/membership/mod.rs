//! Who is there: the members of the mesh, as SWIM sees them.

mod codec;
mod interface;
mod join;
mod machine;
mod member_id;
mod outputs;
mod parameters;
mod rebirth;
mod roster;
mod timers;

pub use codec::{MEMBERSHIP_FORMAT, MalformedDatagram};
pub use interface::{
    DatagramRefused, MembershipCounters, MembershipEvent, MembershipOptions, MembershipTransmit,
};
pub use machine::Membership;
pub use parameters::{DATAGRAM_BYTES_MAX, GENERATION_MAX, REMOVE_DOWN_AFTER};
pub use roster::MemberSeen;

#[cfg(test)]
mod tests;
