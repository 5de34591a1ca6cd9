//! Raw model outputs to the vectors that a caller asked for.

use half::f16;
use shoal_protocol::message::DenseDtype;

/// What a caller wants of each vector, resolved against the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VectorForm {
    /// Values that are kept, from the front (Matryoshka).
    pub(crate) dims: u32,
    /// Whether the kept values are scaled to unit length.
    pub(crate) normalize: bool,
    /// Element type on the wire.
    pub(crate) dtype: DenseDtype,
}

impl VectorForm {
    /// Appends one row to `data`: cut, scaled, converted. `scratch` is reused between rows.
    pub(crate) fn append_row(self, row: &[f32], scratch: &mut Vec<f32>, data: &mut Vec<u8>) {
        let kept = &row[..row.len().min(self.dims as usize)];
        if self.normalize {
            scratch.clear();
            scratch.extend_from_slice(kept);
            normalize_l2(scratch);
            append_as(self.dtype, scratch, data);
        } else {
            append_as(self.dtype, kept, data);
        }
    }
}

/// Scales to unit length; the zero vector stays zero, as `torch.nn.functional.normalize` leaves it.
pub(super) fn normalize_l2(values: &mut [f32]) {
    let square: f64 = values.iter().map(|value| f64::from(*value).powi(2)).sum();
    let scale = square.sqrt().max(1e-12).recip();
    for value in values {
        #[expect(clippy::cast_possible_truncation, reason = "the result is an f32 by definition")]
        {
            *value = (f64::from(*value) * scale) as f32;
        }
    }
}

fn append_as(dtype: DenseDtype, values: &[f32], data: &mut Vec<u8>) {
    match dtype {
        DenseDtype::F32 => data.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        DenseDtype::F16 => {
            data.extend(values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()));
        }
        DenseDtype::I8 => data.extend(values.iter().map(|value| quantized(*value).to_le_bytes()[0])),
        DenseDtype::U8 => data.extend(values.iter().map(|value| quantized(*value).to_le_bytes()[0] ^ 0x80)),
        DenseDtype::Bits => data.extend(values.chunks(8).map(|eight| {
            let bits = eight.iter().enumerate();
            bits.fold(0, |byte, (bit, value)| byte | u8::from(*value > 0.0) << (7 - bit))
        })),
    }
}

/// `round(127 x)`, clamped to what the signed byte and its unsigned twin (plus 128) hold.
#[expect(clippy::cast_possible_truncation, reason = "clamped before the cast; NaN becomes 0")]
fn quantized(value: f32) -> i8 {
    (value * 127.0).round().clamp(-128.0, 127.0) as i8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(dims: u32, normalize: bool, dtype: DenseDtype) -> VectorForm {
        VectorForm { dims, normalize, dtype }
    }

    fn bytes(form: VectorForm, row: &[f32]) -> Vec<u8> {
        let (mut scratch, mut data) = (Vec::new(), Vec::new());
        form.append_row(row, &mut scratch, &mut data);
        assert_eq!(data.len(), form.dtype.row_bytes(form.dims));
        data
    }

    #[test]
    fn floats_are_little_endian() {
        let row = [1.0, -0.5, 0.25];
        assert_eq!(
            bytes(form(3, false, DenseDtype::F32), &row),
            [0, 0, 0x80, 0x3f, 0, 0, 0, 0xbf, 0, 0, 0x80, 0x3e]
        );
        assert_eq!(bytes(form(3, false, DenseDtype::F16), &row), [0, 0x3c, 0, 0xb8, 0, 0x34]);
    }

    #[test]
    fn bytes_round_and_clamp() {
        let row = [1.0, -1.0, 0.5, 0.004, 7.0, -7.0, f32::NAN];
        let signed: Vec<i8> =
            bytes(form(7, false, DenseDtype::I8), &row).into_iter().map(u8::cast_signed).collect();
        assert_eq!(signed, [127, -127, 64, 1, 127, -128, 0]);
        let unsigned = bytes(form(7, false, DenseDtype::U8), &row);
        assert_eq!(unsigned, [255, 1, 192, 129, 255, 0, 128]);
    }

    #[test]
    fn bits_are_the_signs_most_significant_first() {
        let row = [1.0, -1.0, 0.0, 0.5, -0.0, 2.0, 3.0, -4.0, 0.1];
        assert_eq!(bytes(form(9, false, DenseDtype::Bits), &row), [0b1001_0110, 0b1000_0000]);
    }

    #[test]
    fn cutting_normalises_what_is_left() {
        let row = [3.0, 4.0, 12.0];
        let data = bytes(form(2, true, DenseDtype::F32), &row);
        let values: Vec<f32> = data
            .chunks_exact(4)
            .map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]))
            .collect();
        assert_eq!(values, [0.6, 0.8]);
        let zeros = bytes(form(2, true, DenseDtype::F32), &[0.0, 0.0, 1.0]);
        assert_eq!(zeros, [0; 8]);
    }
}
