//! Any bytes: reading them returns, and what was accepted can be said again and reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shoal_protocol::{Header, Kind, WIRE_VERSION, decode, encode};

fuzz_target!(|bytes: &[u8]| {
    // A random header never passes its check, so the first byte picks the kind and the rest is the body.
    let Some((kind, body)) = bytes.split_first() else { return };
    let kind = Kind::ALL[usize::from(*kind) % Kind::ALL.len()];
    let Ok(length) = u32::try_from(body.len()) else { return };
    let Ok(header) = Header::decode(&Header { kind, schema: WIRE_VERSION, length, hops: 0 }.encode()) else { return };
    let Ok(frame) = decode(&header, body) else { return };
    let mut again = Vec::new();
    encode(&frame, WIRE_VERSION, &mut again).expect("what was accepted is within the limits");
    let (head, body) = again.split_first_chunk::<{ Header::BYTES }>().expect("a whole frame");
    let header = Header::decode(head).expect("a sound header");
    assert_eq!(decode(&header, body).expect("a sound body"), frame);
});
