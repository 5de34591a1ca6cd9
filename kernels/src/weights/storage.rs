//! Element types that a safetensors file may hold, and the three that become f32.

use half::{f16, slice::HalfFloatSliceExt};

/// The element types of the format that have whole bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Storage {
    F32,
    F16,
    Bf16,
    /// Known to the format and never a weight of ours: its name and its bytes per element.
    Other(&'static str, u64),
}

const OTHERS: [(&str, u64); 13] = [
    ("BOOL", 1),
    ("U8", 1),
    ("I8", 1),
    ("F8_E4M3", 1),
    ("F8_E5M2", 1),
    ("I16", 2),
    ("U16", 2),
    ("I32", 4),
    ("U32", 4),
    ("F64", 8),
    ("I64", 8),
    ("U64", 8),
    ("C64", 8),
];

impl Storage {
    pub(crate) fn parse(name: &str) -> Option<Self> {
        match name {
            "F32" => Some(Self::F32),
            "F16" => Some(Self::F16),
            "BF16" => Some(Self::Bf16),
            _ => OTHERS
                .iter()
                .find(|(other, _)| *other == name)
                .map(|&(other, bytes)| Self::Other(other, bytes)),
        }
    }

    pub(crate) const fn bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Other(_, bytes) => bytes,
        }
    }
}

/// Converts little-endian elements to f32. The bytes need no alignment: a header may have any length.
///
/// `bytes` holds exactly `out.len()` elements of a type that [`super::Tensor`] has admitted.
pub(crate) fn to_f32(storage: Storage, bytes: &[u8], out: &mut [f32]) {
    debug_assert_eq!(bytes.len() as u64, out.len() as u64 * storage.bytes());
    match storage {
        Storage::F32 => {
            for (value, raw) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *value = f32::from_le_bytes(*raw);
            }
        }
        Storage::F16 => convert_f16(bytes, out),
        // The upper half of an f32; that it keeps the payload of a NaN, which `half` quiets, lets it be vectorised.
        Storage::Bf16 => {
            for (value, raw) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *value = f32::from_bits(u32::from(u16::from_le_bytes(*raw)) << 16);
            }
        }
        Storage::Other(name, _) => unreachable!("{name} is refused before its bytes are read"),
    }
}

/// Goes through an aligned block so that the conversion is vectorised by `half` where the chip can.
fn convert_f16(bytes: &[u8], out: &mut [f32]) {
    const BLOCK: usize = 64;
    let mut block = [f16::ZERO; BLOCK];
    for (out, bytes) in out.chunks_mut(BLOCK).zip(bytes.chunks(2 * BLOCK)) {
        for (half, raw) in block.iter_mut().zip(bytes.as_chunks::<2>().0) {
            *half = f16::from_le_bytes(*raw);
        }
        block[..out.len()].convert_to_f32_slice(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    #[test]
    fn the_three_formats_convert_exactly() {
        let values = (0..150).map(|i| (i as f32 - 75.0) / 8.0).collect::<Vec<_>>();
        let convert = |storage, bytes: Vec<u8>| {
            let mut out = vec![f32::NAN; values.len()];
            // An odd offset: the source is never assumed to be aligned.
            let shifted = [vec![0], bytes].concat();
            to_f32(storage, &shifted[1..], &mut out);
            out
        };
        assert_eq!(convert(Storage::F32, values.iter().flat_map(|v| v.to_le_bytes()).collect()), values);
        let f16_bytes = values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect();
        assert_eq!(convert(Storage::F16, f16_bytes), values);
        let bf16_bytes = values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect();
        assert_eq!(convert(Storage::Bf16, bf16_bytes), values);
    }

    #[test]
    fn every_known_type_has_a_width() {
        for (name, bytes) in OTHERS.into_iter().chain([("F32", 4), ("F16", 2), ("BF16", 2)]) {
            let storage = Storage::parse(name).expect("a known type");
            assert_eq!(storage.bytes(), bytes);
        }
        assert_eq!(Storage::parse("F4"), None);
    }
}
