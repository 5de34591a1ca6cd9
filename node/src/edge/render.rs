//! Vectors as JSON and as base64, straight into the reply's buffer.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use shoal_mesh::Vector;

/// Bytes of one value in JSON: sign, `0.`, nine digits and a comma; a normalised vector's values are rarely longer.
const JSON_VALUE_BYTES: usize = 14;

/// Appends `value` as JSON. Numbers come out as the shortest decimal that reads back as the same f32.
fn append<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(out, value).expect("a Vec takes every write, and numbers and strings serialise");
}

pub(super) fn text(out: &mut Vec<u8>, value: &str) {
    append(out, value);
}

pub(super) fn number(out: &mut Vec<u8>, value: u64) {
    append(out, &value);
}

/// Appends `[0.1,…]`. The vector is f32, as every vector that the edge asks for.
pub(super) fn json(out: &mut Vec<u8>, vector: &Vector) {
    append(out, vector.as_f32().unwrap_or_default().as_ref());
}

/// Bytes to set aside for [`json`].
pub(super) fn json_bytes(vector: &Vector) -> usize {
    vector.dims() as usize * JSON_VALUE_BYTES + 2
}

/// Appends `"…"`: little-endian f32, which is how vectors travel, so nothing is copied in between.
pub(super) fn base64(out: &mut Vec<u8>, vector: &Vector) {
    out.push(b'"');
    let start = out.len();
    out.resize(start + base64_bytes(vector) - 2, 0);
    let written = STANDARD.encode_slice(vector.bytes(), &mut out[start..]);
    out.truncate(start + written.expect("the room was measured"));
    out.push(b'"');
}

/// Bytes of what [`base64`] appends.
pub(super) fn base64_bytes(vector: &Vector) -> usize {
    vector.bytes().len().div_ceil(3) * 4 + 2
}
