//! Sound, unsound and random headers.

use proptest::prelude::*;

use super::*;

/// A file of the given header text and `data` zero bytes.
fn file(json: &str, data: usize) -> Vec<u8> {
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(json.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

fn parse(bytes: &[u8]) -> Result<Header, HeaderError> {
    Header::read(&mut &bytes[..], bytes.len() as u64).expect("the claimed length bounds every read")
}

fn refusal(json: &str, data: usize) -> String {
    parse(&file(json, data)).expect_err("the header is not sound").to_string()
}

const TWO: &str = r#"{"__metadata__":{"format":"pt"},"b":{"dtype":"F16","shape":[2,3],"data_offsets":[8,20]},
    "a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}   "#;

#[test]
fn a_sound_header_is_read_in_any_order() {
    let header = parse(&file(TWO, 20)).expect("a sound file");
    let start = 8 + TWO.len() as u64;
    let a = &header.tensors["a"];
    assert_eq!((a.storage, a.shape.as_slice(), a.range.clone()), (Storage::F32, &[2][..], start..start + 8));
    assert_eq!(header.tensors["b"].range, start + 8..start + 20);
}

#[test]
fn scalars_and_empty_tensors_are_sound() {
    let json = r#"{"s":{"dtype":"F32","shape":[],"data_offsets":[0,4]},
        "e":{"dtype":"F32","shape":[0,7],"data_offsets":[4,4]}}"#;
    assert_eq!(parse(&file(json, 4)).expect("sound").tensors.len(), 2);
    assert_eq!(parse(&file("{}", 0)).expect("sound").tensors.len(), 0);
}

#[test]
fn lengths_are_bounded_before_anything_is_allocated() {
    assert_eq!(parse(&[1, 2, 3]), Err(HeaderError::TooShort { file_bytes: 3 }));
    assert_eq!(
        parse(&[0xff; 64]),
        Err(HeaderError::TooLong { header_bytes: u64::MAX, max: HEADER_BYTES_MAX })
    );
    let mut short = file(TWO, 0);
    short.truncate(40);
    assert_eq!(parse(&short), Err(HeaderError::Truncated { header_bytes: TWO.len() as u64, file_bytes: 40 }));
}

#[test]
fn what_is_not_a_header_is_refused_with_its_place() {
    assert!(refusal("[1]", 0).contains("expected an object of tensors"));
    assert!(refusal("{", 0).contains("line 1"));
    let missing = refusal(r#"{"w":{"dtype":"F32","shape":[1]}}"#, 4);
    assert!(missing.contains(r#"tensor "w": missing field `data_offsets`"#), "{missing}");
    let negative = refusal(r#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}}"#, 4);
    assert!(negative.contains(r#"tensor "w""#) && negative.contains("-4"), "{negative}");
    let huge = refusal(r#"{"w":{"dtype":"F32","shape":[99999999999999999999],"data_offsets":[0,4]}}"#, 4);
    assert!(huge.contains(r#"tensor "w""#), "{huge}");
    let field = refusal(r#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1}}"#, 4);
    assert!(field.contains("unknown field `x`"), "{field}");
    let twice = r#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},
        "w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    assert!(refusal(twice, 4).contains(r#""w" occurs twice"#));
    assert!(refusal(r#"{"__metadata__":{},"__metadata__":{}}"#, 0).contains("occurs twice"));
    assert!(refusal(&"[".repeat(100_000), 0).contains("expected an object"));
}

#[test]
fn tensors_must_tile_the_data() {
    let pair = |a: [u64; 2], b: [u64; 2]| {
        format!(
            r#"{{"a":{{"dtype":"F32","shape":[2],"data_offsets":{a:?}}},"b":{{"dtype":"F32","shape":[2],"data_offsets":{b:?}}}}}"#
        )
    };
    let named = |error| match error {
        Err(HeaderError::NotContiguous { tensor, begin, expected }) => (tensor, begin, expected),
        other => panic!("not refused for its tiling: {other:?}"),
    };
    assert_eq!(named(parse(&file(&pair([0, 8], [4, 12]), 12))), ("b".into(), 4, 8), "overlap");
    assert_eq!(named(parse(&file(&pair([0, 8], [12, 20]), 20))), ("b".into(), 12, 8), "gap");
    assert_eq!(named(parse(&file(&pair([8, 16], [16, 24]), 24))), ("a".into(), 8, 0), "gap at the start");
    let reversed = parse(&file(&pair([0, 8], [16, 8]), 16));
    assert!(matches!(reversed, Err(HeaderError::Reversed { .. } | HeaderError::NotContiguous { .. })));
    for data in [15, 17] {
        let error = parse(&file(&pair([0, 8], [8, 16]), data));
        assert_eq!(error, Err(HeaderError::DataLength { tensors_end: 16, data_bytes: data as u64 }));
    }
}

#[test]
fn shapes_and_types_must_fit_the_bytes() {
    let one = |dtype: &str, shape: &str| {
        refusal(&format!(r#"{{"w":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,8]}}}}"#), 8)
    };
    assert_eq!(one("F32", "[3]"), r#"tensor "w" needs 12 bytes for its shape and dtype and is given 8"#);
    assert_eq!(one("Q4_0", "[2]"), r#"tensor "w" has the unknown dtype "Q4_0""#);
    assert!(one("F32", "[4611686018427387904,4]").contains("overflows"));
    assert!(one("F32", "[9223372036854775808,2,0]").contains("overflows"));
}

proptest! {
    /// Whatever is done to a sound file, the answer is a header or a typed error, and a header's ranges lie inside.
    #[test]
    fn damage_is_never_a_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        keep in any::<prop::sample::Index>(),
        cut in any::<bool>(),
    ) {
        let mut bytes = file(TWO, 20);
        for (place, value) in edits {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        if cut {
            bytes.truncate(keep.index(bytes.len()));
        }
        if let Ok(header) = parse(&bytes) {
            for info in header.tensors.values() {
                prop_assert!(info.range.start <= info.range.end && info.range.end <= bytes.len() as u64);
            }
        }
    }

    #[test]
    fn garbage_is_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut framed = (bytes.len() as u64).to_le_bytes().to_vec();
        framed.extend_from_slice(&bytes);
        prop_assert!(parse(&framed).is_err(), "200 random bytes are no header");
        let _ = parse(&bytes);
    }
}
