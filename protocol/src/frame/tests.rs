//! Round trips, golden bytes and hostile bytes.

mod limits;
mod samples;

use std::fmt::Write as _;

use proptest::prelude::*;

use super::{Frame, Message, decode, encode};
use crate::code::ErrorCode;
use crate::header::{Header, Kind};
use crate::ids::{DeviceIndex, NodeId, Place, RequestId};
use crate::limits::*;
use crate::message::*;
use crate::trace::TraceContext;
use crate::units::{Bytes, Micros, Tokens};
use crate::wire::{DecodeError, EncodeError, WIRE_VERSION};
use samples::*;

/// The committed wire form of [`samples`]: one line a frame, in hexadecimal.
const GOLDEN: &str = include_str!("../../golden/v1.txt");

fn wire(message: Message) -> Vec<u8> {
    let mut out = Vec::new();
    encode(&message.into(), WIRE_VERSION, &mut out).unwrap();
    out
}

/// Splits a frame's bytes as a reader of the stream does.
fn read(bytes: &[u8]) -> Result<Frame, DecodeError> {
    let (header, body) = bytes.split_first_chunk::<{ Header::BYTES }>().unwrap();
    decode(&Header::decode(header)?, body)
}

#[test]
fn every_kind_has_a_sample_and_comes_back() {
    let samples = samples();
    let kinds: Vec<Kind> = samples.iter().map(Message::kind).collect();
    assert_eq!(kinds, Kind::ALL);
    for message in samples.into_iter().chain(more_samples()) {
        assert_eq!(read(&wire(message.clone())).unwrap(), message.into());
    }
}

/// A change of these bytes is a change of the protocol: raise `WIRE_VERSION`, keep the old layout as `previous`,
/// and commit a new file beside this one.
#[test]
fn golden_bytes_of_version_1() {
    let mut now = String::new();
    for message in samples().into_iter().chain(more_samples()) {
        write!(now, "{:?} ", message.kind()).unwrap();
        wire(message).iter().for_each(|byte| write!(now, "{byte:02x}").unwrap());
        now.push('\n');
    }
    assert_eq!(now, GOLDEN, "the wire form changed; it is now:\n{now}");
}

#[track_caller]
fn refused(message: Message) {
    let kind = message.kind();
    let read = read(&wire(message));
    assert!(matches!(&read, Err(DecodeError::Limit { kind: at, .. }) if *at == kind), "{read:?}");
}

#[test]
fn a_token_does_not_tell_its_secret_to_a_log() {
    let told = format!("{:?}", token());
    assert!(told.contains("spot") && !told.contains("mac") && !told.contains("nonce"), "{told}");
}

#[test]
fn a_body_of_another_length_or_version_is_refused() {
    let bytes = wire(Message::TaskRequest(request()));
    assert!(matches!(read(&bytes[..bytes.len() - 1]), Err(DecodeError::Length { .. })));
    let (header, body) = bytes.split_first_chunk::<{ Header::BYTES }>().unwrap();
    let newer = Header { schema: WIRE_VERSION + 1, ..Header::decode(header).unwrap() };
    assert!(matches!(decode(&newer, body), Err(DecodeError::Schema { .. })));
}

#[test]
fn a_frame_over_its_limit_is_not_sent() {
    let text = Input::Text("a".repeat(ITEM_TEXT_BYTES_MAX));
    let message = Message::TaskRequest(TaskRequest { items: vec![text; 5], ..request() });
    let mut out = vec![1];
    assert!(matches!(encode(&message.into(), WIRE_VERSION, &mut out), Err(EncodeError::TooLarge { .. })));
    assert_eq!(out, [1], "nothing was written");
}

#[test]
fn dense_rows_have_the_bytes_that_their_type_needs() {
    let bytes = |dtype: DenseDtype| dtype.row_bytes(9);
    assert_eq!(bytes(DenseDtype::F32), 36);
    assert_eq!(bytes(DenseDtype::F16), 18);
    assert_eq!(bytes(DenseDtype::I8), 9);
    assert_eq!(bytes(DenseDtype::U8), 9);
    assert_eq!(bytes(DenseDtype::Bits), 2);
}

proptest! {
    /// Whatever arrives, reading it returns: it never panics, and it never accepts what breaks a limit.
    #[test]
    fn damaged_frames_never_panic(
        sample in 0..samples().len() + more_samples().len(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut all = [samples(), more_samples()].concat();
        let mut bytes = wire(all.swap_remove(sample));
        let body = bytes.len() - Header::BYTES;
        for (at, value) in damage {
            bytes[Header::BYTES + at.index(body)] = value;
        }
        if let Ok(frame) = read(&bytes) {
            prop_assert!(encode(&frame, WIRE_VERSION, &mut Vec::new()).is_ok());
        }
    }

    #[test]
    fn random_bodies_never_panic(kind in 0..Kind::ALL.len(), body in prop::collection::vec(any::<u8>(), 0..512)) {
        let length = u32::try_from(body.len()).unwrap();
        let header = Header { kind: Kind::ALL[kind], schema: WIRE_VERSION, length, hops: 0 };
        let _ = decode(&header, &body);
    }

    #[test]
    fn random_headers_never_panic(bytes in any::<[u8; Header::BYTES]>()) {
        prop_assert!(Header::decode(&bytes).is_err(), "the check makes an accidental header improbable");
    }
}
