//! The N/N-1 rule, proven with schemas that exist only here, before there is history.

use rkyv::{Archive, Deserialize, Serialize};

use super::{EncodeError, VersionRange, Wire};
use crate::header::Kind;

/// The layout of version 1.
#[derive(Archive, Serialize, Deserialize, Debug, PartialEq)]
struct GreetingV1 {
    name: String,
}

/// The layout of version 2: a field more.
#[derive(Archive, Serialize, Deserialize, Debug, PartialEq)]
struct Greeting {
    name: String,
    urgency: u8,
}

impl From<GreetingV1> for Greeting {
    fn from(old: GreetingV1) -> Self {
        Self { name: old.name, urgency: 0 }
    }
}

impl TryFrom<&Greeting> for GreetingV1 {
    type Error = ();

    fn try_from(new: &Greeting) -> Result<Self, ()> {
        (new.urgency == 0).then(|| Self { name: new.name.clone() }).ok_or(())
    }
}

wire_message!(GreetingV1, Kind::Hello);
wire_message!(Greeting, Kind::Hello, since 2, previous GreetingV1);

fn greeting(urgency: u8) -> Greeting {
    Greeting { name: "abc".into(), urgency }
}

#[test]
fn a_new_node_reads_an_old_one() {
    let old = GreetingV1 { name: "abc".into() };
    let body = old.to_body(1).unwrap();
    assert_eq!(Greeting::from_body(1, &body).unwrap(), greeting(0));
}

#[test]
fn a_new_node_speaks_to_an_old_one() {
    let body = greeting(0).to_body(1).unwrap();
    assert_eq!(GreetingV1::from_body(1, &body).unwrap(), GreetingV1 { name: "abc".into() });
}

#[test]
fn what_an_old_node_cannot_hear_is_an_error_and_not_a_loss() {
    assert!(matches!(greeting(9).to_body(1), Err(EncodeError::Unspeakable { version: 1, .. })));
    let body = greeting(9).to_body(2).unwrap();
    assert_eq!(Greeting::from_body(2, &body).unwrap(), greeting(9));
}

#[test]
fn peers_agree_on_the_newest_common_version() {
    let range = |min, max| VersionRange { min, max };
    assert_eq!(range(1, 2).agree(range(2, 3)), Some(2));
    assert_eq!(range(1, 1).agree(range(1, 2)), Some(1));
    assert_eq!(range(1, 1).agree(range(2, 3)), None);
    assert_eq!(range(3, 4).agree(range(1, 2)), None);
}
